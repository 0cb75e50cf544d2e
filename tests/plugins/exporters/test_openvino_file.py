"""Files of OpenVINO: weights in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import opener, write_models

from gankit.plugins.exporters.openvino_file import OpenVINOExporter


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def test_fp16_weights_of_openvino_are_half_the_size(folders: dict[Any, Path], tmp_path: Path) -> None:
    opener("openvino")
    sizes = []
    for fp16 in (False, True):
        path = tmp_path / f"{fp16}.xml"
        exporter = OpenVINOExporter(fp16=fp16)
        module = torch.nn.Linear(64, 64).eval()
        program = torch.export.export(module, (), {"input": torch.zeros(2, 64)}, strict=False)
        exporter.write(program, path)
        sizes.append(path.with_suffix(".bin").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
