"""`gankit class-table`: mean features of classes and tags, and what starts from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import write_images
from safetensors.torch import load_file

from gankit.core.config import options
from gankit.core.config import recipe as recipes
from gankit.core.data.images import from_uint8
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.models.warm_start import condition_axes
from gankit.errors import GankitError
from gankit.evaluation.class_table import write_class_table

FEATURE = {"name": "timm-cnn", "model": "test_efficientnet.r160_in1k", "pretrained": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), count=10)


def page(images: Path, **sections):
    data = {"path": str(images), "size": [32, 32]}
    return recipes.parse({"data": data, "train": {"workers": 0}, **sections}, "the test")


def features(images: Path, cls: str) -> torch.Tensor:
    network = options.build("feature", FEATURE)
    rows = []
    for file in sorted((images / cls).glob("*.png")):
        pixels = np.asarray(Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
        rows.append(
            network(from_uint8(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]))[-1].mean((2, 3))
        )
    return torch.cat(rows)


def test_rows_are_the_means_of_the_classes(images, tmp_path):
    """Whatever the batch; each image counts once although batches do not divide their number."""
    tables = []
    for batch in (3, 10):
        out = tmp_path / "deep" / f"{batch}.safetensors"
        shape = write_class_table(
            page(images, conditioner="class"), out, feature=FEATURE, side=64, batch=batch, device="cpu"
        )
        (table,) = load_file(out).values()
        assert list(table.shape) == shape
        tables.append(table)
    torch.testing.assert_close(*tables)
    means = torch.stack([features(images, cls).mean(0) for cls in ("round", "square")])
    # resized by another route than the data pipeline's, hence near rather than equal; the classes differ far more
    assert (tables[0] - means).norm() < 0.2 * (means[0] - means[1]).norm()
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"3.safetensors", "10.safetensors"}


def test_networks_start_from_it(images, tmp_path):
    out = tmp_path / "table.safetensors"
    rows, width = write_class_table(
        page(images, conditioner="tags"), out, feature=FEATURE, side=64, device="cpu"
    )
    (table,) = load_file(out).values()
    given = {"embed_dim": width, "class_table": str(out)}
    conformance = {
        kind: options.registry().load(kind, "stylegan-xl").conformance
        for kind in ("generator", "discriminator")
    }
    shape, cond = (3, 32, 32), CondSpec(rows)
    G = options.build("generator", {"name": "stylegan-xl", **conformance["generator"], **given}, shape, cond)
    D = options.build(
        "discriminator", {"name": "stylegan-xl", **conformance["discriminator"], **given}, shape, cond
    )
    assert torch.equal(G.mapping.embed.weight, table)
    assert all(torch.equal(head.embed.weight, table.T) for head in D.heads())
    for kind, name in (
        ("generator", "mapping.embed.weight"),
        ("discriminator", "discriminators.vit.mini_discs.0.embed.weight"),
    ):
        spec = {"name": "stylegan-xl", **conformance[kind], **given}
        axes = condition_axes(
            lambda other, kind=kind, spec=spec: options.build(kind, spec, shape, other), cond
        )
        assert name in axes


def test_command(images, tmp_path, gankit_cli, monkeypatch):
    done = gankit_cli(
        "class-table", "stylegan2-class", "--data", images, "--out", tmp_path / "t.safetensors", "--num", "4",
        "--side", "64", "--set", "train.workers=0",
    )  # fmt: skip
    if done.code:
        assert "no weights for" in done.message
        pytest.skip(done.message)
    assert "2 rows of 320 numbers" in done.out
    assert load_file(tmp_path / "t.safetensors")["table"].shape == (2, 320)


@pytest.mark.parametrize(
    ("sections", "arguments", "message"),
    [
        ({"conditioner": "none"}, {}, "'none' does not give classes or tags alone"),
        ({"conditioner": "class"}, {"num": 0}, "num = 0"),
        ({"conditioner": "class"}, {"out": "table.pt"}, "must end in .safetensors"),
        ({"conditioner": "class", "data": {"size": [32, 32]}}, {}, "no data"),
    ],
)
def test_mistakes(sections, arguments, message, images, tmp_path):
    out = tmp_path / arguments.pop("out", "table.safetensors")
    with pytest.raises(GankitError, match=message):
        write_class_table(page(images, **sections), out, feature=FEATURE, side=64, device="cpu", **arguments)
    assert not any(tmp_path.iterdir())
