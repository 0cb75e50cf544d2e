"""StyleGAN-T's snapshots: the text tower and the heads of the discriminator come along."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pickle_utils import PICKLES
from projected_snapshots import filled, planned, record, shapes
from safetensors.torch import load_file
from warm_starts import start

import gankit
from gankit.core.config import recipe as recipes
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.errors import GankitError
from gankit.interop import import_foreign
from gankit.interop.import_foreign import convert, import_network
from gankit.interop.torch_files import ForeignNetwork, open_foreign


def test_text_tower_comes_along(tmp_path: Path) -> None:
    """StyleGAN-T carries its CLIP text encoder; the reference has one whose tokens no tokenizer makes."""
    convert(PICKLES / "sgt.pkl", tmp_path / "model")
    pipe = gankit.load(tmp_path / "model", device="cpu")
    network = open_foreign(PICKLES / "sgt.pkl").networks["G_ema"]
    prefix = "mapping.clip.model."
    tower = {n.removeprefix(prefix): t for n, t in network.tensors.items() if n.startswith(prefix)}
    own = pipe.conditioner.encoder.state_dict()
    assert own.keys() == tower.keys() - {"logit_scale"}
    assert all(torch.equal(own[name], tower[name].to_tensor()) for name in own)
    assert pipe.conditioner.encode([Label()]).embedding.abs().sum() == 0
    with pytest.raises(GankitError, match="cannot take prompts"):
        pipe(prompt="a cat")


# a transformer as wide as DINO ViT-S/16, which is all that heads need, with little else
NARROW = {
    "name": "timm-vit",
    "pretrained": False,
    "model_args": {"depth": 4, "mlp_ratio": 0.1, "num_heads": 2},
}


def widened(network: ForeignNetwork) -> ForeignNetwork:
    """The reference's tiny discriminator at the official width: 384 for 8."""
    sizes = {8: 384, 72: 9 * 384}
    for i, (name, tensor) in enumerate(network.tensors.items()):
        shape = tuple(sizes.get(n, n) for n in tensor.shape)
        network.tensors[name] = filled(i, shape) if name.startswith("heads.") else record(*shape)
    network.modules["dino"].state["img_resolution"] = 224  # type: ignore[index]
    return network


def test_heads_of_stylegan_t_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors of the heads and none of DINO; a training that starts from the folder takes them up."""
    file = open_foreign(PICKLES / "sgt.pkl")
    source = widened(file.networks["D"])
    monkeypatch.setattr(import_foreign, "open_foreign", lambda path: file)
    assert convert(PICKLES / "sgt.pkl", tmp_path / "model") == []
    saved = load_file(tmp_path / "model" / "training" / "discriminator.safetensors")
    heads = {name: tensor for name, tensor in source.tensors.items() if name.startswith("heads.")}
    assert saved.keys() == heads.keys()
    assert all(torch.equal(saved[name], heads[name].to_tensor()) for name in heads)
    recipe = recipes.read(str(tmp_path / "model"))
    assert recipe.augmentation == {"name": "diffaugment", "policy": "color,translation,cutout"}
    found = recipe.discriminator
    assert found["feature"]["name"] == "timm-vit"
    assert {"side": 224, "crop_probability": 0.5, "group": 8, "cmap_dim": 64}.items() <= found.items()
    *_, D, _, report = start(
        tmp_path / "model", Vocabulary(captioned=1, total=1), discriminator__feature=NARROW
    )
    assert "discriminator from the model: 90 tensors copied, 0 resized, 0 fresh, 0 left out" in report
    state = D.state_dict()
    assert all(torch.equal(state[name], saved[name]) for name in saved)


def test_heads_without_a_condition() -> None:
    network = widened(open_foreign(PICKLES / "sgt.pkl").networks["D"])
    network.modules[""].state["c_dim"] = 0  # type: ignore[index]
    for head in range(5):
        for name in ("weight", "bias"):
            del network.tensors[f"heads.{head}.cmapper.{name}"]
        for name, shape in (("bias", (1,)), ("weight_orig", (1, 384, 1)), ("weight_u", (1,))):
            network.tensors[f"heads.{head}.cls.{name}"] = record(*shape)
    made = import_network(network)
    assert "cmap_dim" not in made.spec
    assert shapes(made.tensors) == planned(made.spec, made.image_shape, 0)
