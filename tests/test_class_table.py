"""`gankit class-table`: means of features over each class, by a second path; names, bad images, bad input."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from runs import write_images
from safetensors import safe_open

from gankit.core import options
from gankit.core.data import open_source
from gankit.core.weights import find_table

NETWORK = {"name": "timm-cnn", "model": "test_efficientnet.r160_in1k", "pretrained": False}
ARGUMENTS = ["--set", f"model={NETWORK['model']}", "--set", "pretrained=false", "--side", 32]


def test_rows_are_means_over_the_class(images, tmp_path, gankit_cli):
    out = tmp_path / "new" / "table.safetensors"
    done = gankit_cli("class-table", images, out, "--batch-size", 5, *ARGUMENTS)
    assert (done.code, done.err) == (0, ""), done.err
    source, network = open_source(str(images)), options.build("feature", NETWORK)
    names = list(source.vocabulary().classes)
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["classes"]) == names == ["round", "square"]
    table = find_table(str(out), 2, network.taps[-1].channels, "x")
    for row, name in zip(table, names):
        pictures = [Image.open(path).convert("RGB") for path in sorted((images / name).glob("*.png"))]
        assert len(pictures) == 12
        pixels = np.stack([np.asarray(p.resize((32, 32), Image.Resampling.LANCZOS)) for p in pictures])
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        torch.testing.assert_close(row, network(inputs)[-1].mean((0, 2, 3)))
    assert (table[0] - table[1]).abs().max() > 1e-3 * table.abs().max()


def test_few_images_are_spread_over_the_class(images, tmp_path, gankit_cli):
    """With one image a class the rows are that image's; bad files are left out, unless nothing is left."""
    root = tmp_path / "data"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        shutil.copy(images / "round" / "000.png", root / name / "0.png")
    (root / "a" / "1.png").write_bytes(b"no image")
    out = tmp_path / "table.safetensors"
    done = gankit_cli("class-table", root, out, *ARGUMENTS)
    assert done.code == 0
    assert "is left out" in done.err
    with safe_open(out, "pt") as file:
        table = file.get_tensor("class_table")
    torch.testing.assert_close(table[0], table[1])
    gankit_cli("class-table", images, out, "--per-class", 1, *ARGUMENTS)
    with safe_open(out, "pt") as file:
        assert not torch.equal(file.get_tensor("class_table")[1], table[1])
        torch.testing.assert_close(file.get_tensor("class_table")[0], table[0])
    (root / "b" / "0.png").write_bytes(b"no image")
    assert (
        "no image of class 'b'"
        in gankit_cli("class-table", root, tmp_path / "x.safetensors", *ARGUMENTS).message
    )
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--per-class", 0], "--per-class 0"),
        (["--side", 33], "--side 33"),
        (["--feature", "timm-cn"], "unknown feature 'timm-cn'; did you mean 'timm-cnn'"),
    ],
)
def test_bad_input(images, tmp_path, gankit_cli, extra, words):
    done = gankit_cli("class-table", images, tmp_path / "t.safetensors", *ARGUMENTS, *extra)
    assert done.code == 2
    assert words in done.message


def test_data_without_classes(tmp_path, gankit_cli):
    write_images(tmp_path / "data", count=2)
    (tmp_path / "flat").mkdir()
    shutil.copy(tmp_path / "data" / "round" / "000.png", tmp_path / "flat" / "0.png")
    done = gankit_cli("class-table", tmp_path / "flat", tmp_path / "t.safetensors", *ARGUMENTS)
    assert "has no classes" in done.message
    assert (
        "must end with .safetensors"
        in gankit_cli("class-table", tmp_path / "flat", tmp_path / "t.pt").message
    )
