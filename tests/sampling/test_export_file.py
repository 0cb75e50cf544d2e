"""Generators as files of other frameworks: what they draw, with every input, and what users are told."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import broken_plugins
import numpy as np
import pytest
import torch
from runs import Result
from tiny_models import opener, write_model, write_models

import gankit
from gankit import GankitError
from gankit.core.config import options
from gankit.core.runtime.random import Supply, supplied
from gankit.sampling.export_file import export_file

FORMATS = ("torch-export", "onnx", "openvino")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("generator", ["stylegan2", "stylegan-t"])
@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_draws_what_the_model_draws(
    format_: str, generator: str, folders: dict[Any, Path], tmp_path: Path
) -> None:
    exporter = opener(format_)
    path = export_file(str(folders[generator, True]), tmp_path / "file", format_)
    assert path == tmp_path / f"file{exporter.suffix}"
    pipe, draw = gankit.load(folders[generator, True], device="cpu"), exporter.open(path)
    labels = [pipe.label(cls=cls) for cls in ("round", "square", "round", "square")]
    cond = pipe.conditioner.encode(labels)
    for count, psi in ((1, 0.5), (4, 0.8), (4, 1.0)):
        z = pipe.latents(range(count))
        drawn = draw(
            {"z": z.numpy(), "psi": np.asarray(psi, np.float32), "c": cond.embedding[:count].numpy()}
        )
        with torch.no_grad():
            for i in range(count):
                ws = pipe.mapping(z[i : i + 1], cond[i : i + 1], psi=psi)
                image = pipe.generator.synthesis(ws, cond[i : i + 1], noise_mode="const")
                assert abs(drawn[i] - image[0].numpy()).max() < 1e-4 * (1 + image.abs().max().item())
    page = json.loads((tmp_path / f"{path.name}.json").read_text())
    assert page["inputs"]["z"]["shape"] == ["batch", 8]
    assert page["inputs"].keys() == {"z", "psi", "c"}
    assert page["condition"] == ["cls:round", "cls:square"]
    assert page["outputs"]["images"]["shape"] == ["batch", 3, 8, 16]


@pytest.mark.parametrize("center", ["condition", "global"])
def test_noise_is_an_input(center: str, folders: dict[Any, Path], tmp_path: Path) -> None:
    exporter = opener("torch-export")
    path = export_file(
        str(folders["stylegan2", False]), tmp_path / "f.pt2", "torch-export", noise="input", center=center
    )
    pipe = gankit.load(folders["stylegan2", False], device="cpu")
    numbers = 4 * 8 + 2 * 8 * 16  # the coarsest block has one layer, the other two
    page = json.loads((tmp_path / "f.pt2.json").read_text())
    assert page["inputs"]["noise"]["shape"] == ["batch", numbers]
    z, noise = pipe.latents([1, 2]), torch.randn(2, numbers)
    images = exporter.open(path)({"z": z.numpy(), "psi": np.asarray(0.5, np.float32), "noise": noise.numpy()})
    cond = pipe.conditioner.encode([pipe.label()])
    with torch.no_grad(), supplied(Supply(noise)):
        expected = pipe.generator.synthesis(
            pipe.mapping(z, cond, psi=0.5, center=center), noise_mode="random"
        )
    assert abs(images - expected.numpy()).max() < 1e-4
    other = exporter.open(path)({"z": z.numpy(), "psi": np.asarray(0.5, np.float32), "noise": -noise.numpy()})
    assert abs(images - other).max() > 1e-3


def test_a_file_that_draws_other_images_is_not_kept(
    folders: dict[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = type(options.build("exporter", "torch-export"))
    opened = target.open
    monkeypatch.setattr(target, "open", lambda self, path: lambda inputs: opened(self, path)(inputs) + 0.1)
    with pytest.raises(GankitError, match=r"draws other images than the model \(off by 0\.1.*not kept"):
        export_file(str(folders["stylegan2", True]), tmp_path / "f", "torch-export")
    monkeypatch.setattr(target, "open", lambda self, path: lambda inputs: opened(self, path)({}))
    with pytest.raises(GankitError, match="the written file does not run"):
        export_file(str(folders["stylegan2", True]), tmp_path / "f", "torch-export")

    def broken(self: Any, program: Any, path: Path) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(target, "write", broken)
    with pytest.raises(GankitError, match=r"cannot hold this network \(RuntimeError: no such operator\)"):
        export_file(str(folders["stylegan2", True]), tmp_path / "f", "torch-export")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_sentence(
    folders: dict[Any, Path],
    tmp_path: Path,
    gankit_cli: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = gankit_cli("export", folders["stylegan2", True], tmp_path / "x", "--format", "onnx")
    assert done.code == 2
    assert "onnxscript" in done.message
    assert done.message.endswith("run: pip install 'gankit[onnx]'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--format onxx", "unknown exporter 'onxx'; did you mean 'onnx'"),
        ("--format torch-export --noise loud", "unknown --noise 'loud'"),
        ("--format torch-export --center middle", "unknown --center 'middle'"),
        ("--format torch-export --dtype fp16", "--dtype fp16 is for model folders"),
        ("--format torch-export --set deep=1", "unknown option of exporter 'torch-export': 'deep'"),
        ("--noise input", "--noise is for files such as --format onnx"),
    ],
)
def test_mistakes(
    arguments: str, message: str, folders: dict[Any, Path], tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    done = gankit_cli("export", folders["stylegan2", True], tmp_path / "x", *arguments.split())
    assert done.code == 2
    assert message in done.message
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(
    folders: dict[Any, Path], tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    (tmp_path / "x.pt2.json").write_text("mine")
    done = gankit_cli("export", folders["stylegan2", True], tmp_path / "x", "--format", "torch-export")
    assert done.code == 2
    assert "x.pt2.json exists already" in done.message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "LenOfBatch",
            "tracing for export fixed the batch size at .*py:\\d+ `return .*`: `len\\(ws\\)` is a constant",
        ),
        ("Branches", "tracing for export failed at .*py:\\d+ `if images.mean\\(\\) > 0:` "),
    ],
)
def test_a_network_that_cannot_be_traced_is_one_sentence(
    target: str, message: str, gankit_cli: Callable[..., Result], tmp_path: Path
) -> None:
    with broken_plugins.registered("generator", target):
        write_model(tmp_path / "model", "mine")
        result = gankit_cli("export", tmp_path / "model", tmp_path / "file", "--format", "torch-export")
    assert result.code == 2
    assert re.search(message, result.message)
