"""Base classes of engines, which speed up sampling, and of exporters, which write generators to files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn


class Engine(ABC):
    """Compiles a generator's synthesis for fast sampling on a device. `__init__(self, *, options)`."""

    fixed_batch: ClassVar[bool] = (
        False  # True if each batch size needs a set-up of its own; short batches are then padded
    )
    draws_noise: ClassVar[bool] = (
        False  # True if its graphs may draw random numbers; else random noise is an input
    )
    dtypes: ClassVar[tuple[str, ...]] = ("fp32",)  # supported dtypes, of 'fp32', 'bf16'
    casts: ClassVar[bool] = False  # True if it computes in `dtype` by itself; else the given module does
    dtype: str = "fp32"  # the requested dtype; gankit sets it before `obstacle` and `prepare`

    def obstacle(self, device: torch.device) -> str | None:
        """Reason why this engine cannot run on a device, with a remedy ('openvino is not installed; ...'), or None."""
        return None

    @abstractmethod
    def prepare(
        self, module: nn.Module, inputs: Mapping[str, Tensor]
    ) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """Compile a module; returns a fast `lambda inputs: module(**inputs)`, without gradients.

        Args:
            module: function of tensors without graph breaks; returns images [B, C, H, W] in float32. If `dtype` is
                'bf16', it computes in bfloat16 inside, unless the engine `casts`.
            inputs: example inputs, none in half precision; axis 0 of each is the batch. The returned function must take
                other batch sizes too.

        May raise any exception: gankit then warns and samples with torch alone, as it does if the images are not those
        of the module."""

    def forget(self) -> None:
        """Drop caches of this process, so that the next `prepare` takes as long as in a new process."""


class Exporter(ABC):
    """Writes generators to files of one format, and runs such files. `__init__(self, *, options)`."""

    suffix: ClassVar[str]  # suffix of the file, such as '.onnx'; further files have the same stem

    def obstacle(self) -> str | None:
        """Reason why this exporter cannot work here, with a remedy ('onnx is not installed; ...'), or None."""
        return None

    @abstractmethod
    def write(self, program: torch.export.ExportedProgram, path: Path) -> None:
        """Write a program with keyword inputs and one output, the images; axis 0 of the inputs is dynamic."""

    @abstractmethod
    def open(self, path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
        """Load a written file; returns a function from inputs by name to images [B, C, H, W]."""
