"""The exporter 'onnx': files for ONNX Runtime, TensorRT, browsers and many others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from gankit.plugins.exporters.packages import missing
from gankit.sampling.engine import Exporter


class ONNXExporter(Exporter):
    """ONNX, checked with ONNX Runtime.

    Args:
        opset: version of the operator set; None is torch's choice.
    """

    suffix = ".onnx"

    def __init__(self, *, opset: int | None = None) -> None:
        self.opset = opset

    def obstacle(self) -> str | None:
        return missing("onnx", "onnx", "onnxscript", "onnxruntime")

    def write(self, program: torch.export.ExportedProgram, path: Path) -> None:
        size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
        torch.onnx.export(
            program,
            f=str(path),
            dynamo=True,
            verbose=False,
            opset_version=self.opset,
            output_names=["images"],
            external_data=size > 2**31 - 2**27,  # more does not fit one file: weights go to NAME.onnx.data
        )

    def open(self, path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(["images"], dict(inputs))[0]
