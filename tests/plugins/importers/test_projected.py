"""Discriminators on frozen networks in snapshots: what they learned comes along, or one sentence says why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pickle_utils import PICKLES
from safetensors.torch import load_file
from test_transfer import start

from gankit.core.config import options
from gankit.core.config import recipe as recipes
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.labels import Vocabulary
from gankit.core.models import stored_state
from gankit.errors import GankitError
from gankit.interop import import_foreign
from gankit.interop.import_foreign import convert, import_network
from gankit.interop.torch_files import ForeignNetwork, Module, Storage, TensorRecord, open_foreign
from gankit.plugins.importers.projected import DEIT, LITE0

# a transformer as wide as DINO ViT-S/16, which is all that heads need, with little else
NARROW = {
    "name": "timm-vit",
    "pretrained": False,
    "model_args": {"depth": 4, "mlp_ratio": 0.1, "num_heads": 2},
}


def record(*shape: int) -> TensorRecord:
    """A tensor of any size that takes no memory."""
    return TensorRecord(Storage("float32", bytes(4)), 0, shape, (0,) * len(shape))


def filled(seed: int, shape: tuple[int, ...]) -> TensorRecord:
    return TensorRecord.of(torch.rand(shape, generator=torch.Generator().manual_seed(seed)))


# --------------------------------------------------------------------------------------------------- StyleGAN-T


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


# ------------------------------------------------------------------------------- Projected GAN and StyleGAN-XL


def shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def planned(spec: dict[str, Any], shape: tuple[int, int, int], c_dim: int) -> dict[str, tuple[int, ...]]:
    """Tensors of the plugin that are saved."""
    with torch.device("meta"):
        module = options.build("discriminator", spec, shape, CondSpec(c_dim))
    return shapes(stored_state.stored_state(module))


FROZEN = {
    LITE0: ["layer0.0.weight"]
    + [f"layer{i // 5}.{i % 5}.{j}.conv_pw.weight" for i in range(8) for j in (0, 1)],
    DEIT: ["model.patch_embed.proj.weight"] + [f"model.blocks.{i}.norm1.weight" for i in range(12)],
}
FIRST = {LITE0: (32, 3, 3, 3), DEIT: (768, 3, 16, 16)}


def snapshot(
    spec: dict[str, Any], c_dim: int = 0, rows: int = 8, backbones: tuple[str, ...] = (LITE0,)
) -> ForeignNetwork:
    """The official discriminator that a plugin with these options stands for: class tables have `rows` rows, and the
    layers that re-assemble a transformer's maps are among the pretrained ones."""
    network = ForeignNetwork("file.pkl", "D")
    for i, (name, shape) in enumerate(planned(spec, (3, 32, 32), c_dim).items()):
        official = re.sub(
            r"scratch\.layer(\d)_reassemble\.(\d)",
            lambda found: f"pretrained.layer{int(found[1]) + 1}.{int(found[2]) + 3}",
            name,
        )
        table = name.endswith(".embed.weight")
        network.tensors[official] = filled(i, (rows, shape[0])) if table else record(*shape)
    several = spec["name"] == "stylegan-xl"
    for backbone in backbones:
        place = f"feature_networks.{backbone}" if several else "feature_network"
        for name in FROZEN[backbone]:
            network.tensors[f"{place}.pretrained.{name}"] = record(1)
        network.tensors[f"{place}.pretrained.{FROZEN[backbone][0]}"] = record(*FIRST[backbone])
    paths = [f"discriminators.{name}" for name in backbones] if several else ["discriminator.mini_discs"]
    network.modules = {path: Module("", "", {}) for path in (*paths, "discriminators" if several else "")}
    network.modules[""] = Module("ProjectedDiscriminator", "pg_modules.discriminator", {})
    generator = Module("Generator", "", {"c_dim": c_dim, "img_resolution": 32, "img_channels": 3})
    network.beside = {"D": network, "G_ema": ForeignNetwork("file.pkl", "G_ema", {"": generator})}
    return network


@pytest.mark.parametrize("c_dim", [0, 5])
def test_discriminator_of_stylegan_xl(c_dim: int) -> None:
    """Projections and heads on both networks get their places; tables keep the rows of the classes that there are."""
    spec = {"name": "stylegan-xl", "cout": 32}
    source = snapshot(spec, c_dim, backbones=(DEIT, LITE0))
    made = import_network(source)
    assert made.kind == "discriminator"
    assert made.image_shape == (3, 32, 32)
    assert made.spec == {**spec, **({"cmap_dim": 64, "embed_dim": 320} if c_dim else {})}
    assert made.sections == {}
    source.modules[""] = Module("ProjectedDiscriminator", "pg_modules.discriminator", {"diffaug": True})
    assert import_network(source).sections == {"augmentation": {"name": "diffaugment"}}
    assert shapes(made.tensors) == planned(made.spec, made.image_shape, c_dim)
    assert f"feature_networks.{DEIT}.scratch.layer3_reassemble.1.weight" in made.tensors
    for head in range(4) if c_dim else ():
        name = f"discriminators.{DEIT}.mini_discs.{head}.embed.weight"
        table = source.tensors[name].to_tensor()
        assert torch.equal(made.tensors[name].to_tensor(), table[:c_dim].T)


def test_names_are_those_of_the_reference() -> None:
    network = open_foreign(PICKLES / "sgxl_stem.pkl").networks["D"]
    official = {name for name in network.tensors if ".pretrained." not in name}
    features = {LITE0: {"name": "timm-cnn"}}
    made = import_network(snapshot({"name": "stylegan-xl", "features": features}, 5))
    assert made.spec["features"].keys() == {LITE0}
    assert made.tensors.keys() == official


@pytest.mark.parametrize(
    ("given", "c_dim"),
    [
        ({"cout": 32}, 5),
        ({"separable": True, "expand": False}, 0),
        ({"proj_type": 1, "patch": True}, 0),
        ({"proj_type": 0}, 5),
    ],
)
def test_discriminator_of_projected_gan(given: dict[str, Any], c_dim: int) -> None:
    made = import_network(snapshot({"name": "projected", **given}, c_dim))
    assert {"name": "projected", **given}.items() <= made.spec.items()
    assert shapes(made.tensors) == planned(made.spec, made.image_shape, c_dim)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "sgt",
            "D reads a vision transformer of width 8 with 12 blocks and patches of 16 pixels, where gankit has",
        ),
        ("sgxl_stem", f"D reads a network with other layers than the published {LITE0}, which is"),
    ],
)
def test_heads_on_other_networks_are_left_out(name: str, reason: str, tmp_path: Path) -> None:
    (note,) = convert(PICKLES / f"{name}.pkl", tmp_path / "model")
    assert note.startswith("D is left out: ")
    assert reason in note
    assert note.endswith("its heads are of no use without the network that they were trained on")
    assert not (tmp_path / "model" / "training").exists()


def test_what_is_not_as_published_is_refused() -> None:
    features = {LITE0: {"name": "timm-cnn"}}
    spec = {"name": "stylegan-xl", "features": features}
    deeper, other, more = snapshot(spec), snapshot(spec), snapshot(spec, 5, rows=4)
    deeper.tensors[f"feature_networks.{LITE0}.pretrained.layer3.0.9.conv_pw.weight"] = record(1)
    other.modules["discriminators.resnet50"] = Module("", "", {})
    for network, reason in (
        (deeper, "other layers than the published"),
        (other, f"reads the network 'resnet50', without which .* gankit has {DEIT} and {LITE0} only"),
        (more, "number of classes = 5 .* not possible"),
    ):
        with pytest.raises(GankitError, match=reason):
            import_network(network)


def test_discriminator_that_does_not_fit_keeps_no_generator_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open_foreign(PICKLES / "sg2_cond.pkl")
    del file.networks["D"].tensors["b8.conv0.weight"]
    monkeypatch.setattr(import_foreign, "open_foreign", lambda path: file)
    (note,) = convert(PICKLES / "sg2_cond.pkl", tmp_path / "model")
    assert note.startswith("D is left out: ")
    assert "the tensor 'b8.conv0.weight' is missing" in note
    assert not (tmp_path / "model" / "training").exists()
