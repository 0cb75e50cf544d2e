"""The engine of OpenVINO draws the same images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_cases import same_images
from tiny_models import write_model

from gankit.core.config import options


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


def test_openvino_images(folder: Path) -> None:
    if reason := options.build("engine", "openvino").obstacle(torch.device("cpu")):
        pytest.skip(reason)
    same_images(folder, "openvino")
