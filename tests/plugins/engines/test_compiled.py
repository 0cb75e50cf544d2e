"""The engine of torch.compile draws the same images, at any number of batch sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_cases import same_images
from tiny_models import write_model

import gankit
from gankit.core.config import options


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


def test_compiled_images_without_a_compiler(folder: Path) -> None:
    same_images(folder, {"name": "compile", "backend": "aot_eager"})


def test_many_batch_sizes_are_compiled(folder: Path) -> None:
    pipe = gankit.load(folder, device="cpu", engine={"name": "compile", "backend": "eager"})
    for count in range(1, 12):  # more than the graphs that torch allows by default
        pipe(cls="round", seeds=range(count), batch_size=count)
    assert pipe.engine.used == {"compile"}


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["stylegan2", "stylegan-t"])
def test_compiled_images(generator: str, tmp_path: Path) -> None:
    if reason := options.build("engine", "compile").obstacle(torch.device("cpu")):
        pytest.skip(reason)
    same_images(write_model(tmp_path / "model", generator), "compile")
