"""Projected GAN's FastGAN in files: the reference's weights draw the reference's images."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_utils import load_golden

from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.models import model_folder
from gankit.errors import GankitError
from gankit.interop.import_foreign import convert, import_network
from gankit.interop.torch_files import ForeignNetwork, Module, TensorRecord
from gankit.plugins.generators.fastgan import FastGAN, FastGANLite
from gankit.plugins.importers.fastgan import FastGANImporter


def save(path: Path, **states: dict[str, torch.Tensor]) -> Path:
    torch.save({role: collections.OrderedDict(state) for role, state in states.items()}, path)
    return path


@pytest.mark.parametrize("name", ["net_fastgan_lite", "net_fastgan_lite_cond"])
def test_fastgan(name, tmp_path):
    golden = load_golden(name)
    convert(save(tmp_path / "fastgan.pt", g_ema=golden.state()), tmp_path / "model")
    model = model_folder.load_model(tmp_path / "model")
    assert isinstance(model.generator, FastGANLite)
    (case,) = golden.cases
    with torch.no_grad():
        case.check("img", model.generator.eval()(case.inputs["z"], case.inputs.get("c")))


def foreign(G: torch.nn.Module, **attributes: Any) -> ForeignNetwork:
    tensors = {name: TensorRecord.of(tensor) for name, tensor in G.state_dict().items()}
    modules = {"": Module("Generator", "pg_modules.networks_fastgan", dict(attributes))} if attributes else {}
    return ForeignNetwork("file.pkl", "G_ema", modules, tensors)


@pytest.mark.parametrize(
    ("network", "side", "c_dim"), [(FastGAN, 256, 0), (FastGAN, 512, 4), (FastGANLite, 1024, 0)]
)
def test_fastgan_of_other_sizes(network, side, c_dim):
    G = network((3, side, side), CondSpec(c_dim), z_dim=8, ngf=8)
    made = import_network(foreign(G))
    assert made.image_shape == (3, side, side)
    assert made.spec == {"name": "fastgan" if network is FastGAN else "fastgan-lite", "z_dim": 8, "ngf": 8}
    assert len(made.vocabulary.classes) == c_dim
    assert made.tensors.keys() == G.state_dict().keys()


def test_fastgan_snapshots_tell_the_number_of_classes():
    """The original's table always has 1000 rows."""
    G = FastGANLite((3, 128, 128), CondSpec(10), z_dim=8, ngf=8)
    made = import_network(foreign(G, img_resolution=128, c_dim=3))
    assert made.vocabulary == Vocabulary(classes={"0": 1, "1": 1, "2": 1})
    table = made.tensors["synthesis.embed.weight"].to_tensor()
    assert torch.equal(table, G.synthesis.embed.weight[:3])
    for attributes in ({"img_resolution": 128, "c_dim": 11}, {"img_resolution": 512, "c_dim": 3}):
        with pytest.raises(GankitError, match="not possible"):
            import_network(foreign(G, **attributes))


def test_importers_leave_each_other_alone():
    other = foreign(torch.nn.Linear(2, 2))
    assert not FastGANImporter().recognises(other)
    with pytest.raises(GankitError, match="R3GAN"):
        import_network(other)
