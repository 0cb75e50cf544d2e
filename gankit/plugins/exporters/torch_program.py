"""The exporter 'torch-export': torch.export's own files (.pt2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from gankit.sampling.engine import Exporter


class TorchExporter(Exporter):
    """A program for `torch.export.load(FILE).module()`, which needs torch and no gankit."""

    suffix = ".pt2"

    def write(self, program: torch.export.ExportedProgram, path: Path) -> None:
        torch.export.save(program, str(path))

    def open(self, path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
        module = torch.export.load(str(path)).module()
        return lambda inputs: module(**{k: torch.from_numpy(v) for k, v in inputs.items()}).numpy()
