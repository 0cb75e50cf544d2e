"""R3GAN's networks in files: the reference's weights draw the reference's images."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
import torch
from golden_utils import load_golden
from safetensors.torch import load_file

from gankit.core.config import recipe as recipes
from gankit.core.models import build, model_folder
from gankit.errors import GankitError
from gankit.interop.import_foreign import convert, import_network
from gankit.interop.torch_files import ForeignNetwork, TensorRecord


def save(path: Path, **states: dict[str, torch.Tensor]) -> Path:
    torch.save({role: collections.OrderedDict(state) for role, state in states.items()}, path)
    return path


@pytest.mark.parametrize("kind", ["cond", "uncond"])
def test_r3gan(kind, tmp_path):
    g, d = load_golden(f"net_r3gan_g_{kind}"), load_golden(f"net_r3gan_d_{kind}")
    file = save(tmp_path / "r3gan.pt", g_ema=g.state(), d=d.state())
    assert convert(file, tmp_path / "model") == []
    model = model_folder.load_model(tmp_path / "model")
    (case,) = g.cases
    with torch.no_grad():
        case.check("img", model.generator(case.inputs["z"], case.inputs.get("c")))
    recipe = recipes.read(str(tmp_path / "model"))
    assert recipe.loss["name"] == "relativistic"
    D = build.build_discriminator(recipe, model.conditioner)
    D.load_state_dict(load_file(tmp_path / "model" / "training" / "discriminator.safetensors"))
    (case,) = d.cases
    with torch.no_grad():
        (logits,) = D(case.inputs["img"], case.inputs.get("c"))
    case.check("logits", logits[:, 0])


def test_r3gan_with_odd_tensors():
    state = load_golden("net_r3gan_g_uncond").state()
    for name, shape in (
        ("Model.MainLayers.0.Layers.1.LinearLayer1.Layer.weight", (47, 24, 1, 1)),
        ("Model.AggregationLayer.Layer.weight", (2, 8, 1, 1)),
        ("Model.MainLayers.0.Layers.1.LinearLayer2.Layer.weight", (48, 8, 3)),
    ):
        tensors = {k: TensorRecord.of(v) for k, v in {**state, name: torch.zeros(shape)}.items()}
        with pytest.raises(GankitError, match=r"not possible|no tensor of"):
            import_network(ForeignNetwork("file.pt", "G_ema", {}, tensors))
