"""The exporter 'openvino': OpenVINO's intermediate representation (.xml, .bin), for Intel's processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gankit.plugins.exporters.packages import missing
from gankit.sampling.engine import Exporter

# On a CPU with bf16 units, OpenVINO's default precision is bf16: a PSNR of 40 dB against torch's images.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
HALF = {"INFERENCE_PRECISION_HINT": "bf16"}


def to_openvino(program: torch.export.ExportedProgram) -> Any:
    """Convert an exported program to an `openvino.Model` with its input names and the output 'images'."""
    import openvino

    model = openvino.convert_model(program)
    for name, port in zip(program.graph_signature.user_inputs, model.inputs, strict=True):
        port.get_tensor().set_names({name})
    model.outputs[0].get_tensor().set_names({"images"})
    return model


class OpenVINOExporter(Exporter):
    """OpenVINO: NAME.xml and NAME.bin. To draw exactly what torch draws, compile with INFERENCE_PRECISION_HINT 'f32'.

    Args:
        fp16: store weights as fp16, half the size.
    """

    suffix = ".xml"

    def __init__(self, *, fp16: bool = False) -> None:
        self.fp16 = fp16

    def obstacle(self) -> str | None:
        return missing("openvino", "openvino")

    def write(self, program: torch.export.ExportedProgram, path: Path) -> None:
        import openvino

        openvino.save_model(to_openvino(program), str(path), compress_to_fp16=self.fp16)

    def open(self, path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
        import openvino

        model = openvino.Core().compile_model(str(path), "CPU", EXACT)
        return lambda inputs: np.array(model(dict(inputs))["images"])
