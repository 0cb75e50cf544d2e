"""Discriminators on frozen networks in snapshots: what they learned comes along, or one sentence says why not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pickle_utils import PICKLES
from projected_snapshots import filled, planned, record, shapes

from gankit.errors import GankitError
from gankit.interop.import_foreign import convert, import_network
from gankit.interop.torch_files import ForeignNetwork, Module, open_foreign
from gankit.plugins.importers.projected import DEIT, LITE0

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
