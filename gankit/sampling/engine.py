"""The contracts of engines, which speed up drawing on a device, and of exporters, which write generators to files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np


class Engine(ABC):
    """`__init__(self, *, options)`; makes a generator's synthesis fast on a device, for sampling."""

    fixed_batch: ClassVar[bool] = (
        False  # another batch size costs the set-up anew; short batches are filled up
    )
    draws_noise: ClassVar[bool] = (
        False  # its graphs may draw random numbers; else random noise is one of the inputs
    )
    dtypes: ClassVar[tuple[str, ...]] = ("fp32",)  # precisions that it draws in: 'fp32', 'bf16'
    casts: ClassVar[bool] = False  # it computes in `dtype` by itself; else the module that it prepares does
    dtype: str = "fp32"  # the one that is wanted; gankit sets it before `obstacle` and `prepare`

    def obstacle(self, device: torch.device) -> str | None:
        """What keeps this engine from running on a device, with the way out ('openvino is not installed; ...')."""
        return None

    @abstractmethod
    def prepare(
        self, module: nn.Module, inputs: Mapping[str, Tensor]
    ) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """A fast `lambda inputs: module(**inputs)`, without gradients.

        Args:
            module: a function of tensors without graph breaks; returns images [B, C, H, W], in float32. If `dtype` is
                'bf16', it has bfloat16 inside, unless the engine `casts`.
            inputs: an example; axis 0 is the batch in all of them. What is returned takes other batch sizes too. None
                is in half precision.

        May raise anything: gankit then draws with torch alone, after a warning."""

    def forget(self) -> None:
        """Drop what this process has prepared, so that the next set-up takes as long as a new process's."""


class Exporter(ABC):
    """`__init__(self, *, options)`; writes generators to files of one format, and opens these to check them."""

    suffix: ClassVar[str]  # of the file, such as '.onnx'; companions have the same stem

    def obstacle(self) -> str | None:
        """What keeps it from working here, with the way out ('onnx is not installed; ...')."""
        return None

    @abstractmethod
    def write(self, program: torch.export.ExportedProgram, path: Path) -> None:
        """Write a program of keyword inputs, whose one output are the images; axis 0 of its inputs is dynamic."""

    @abstractmethod
    def open(self, path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
        """The written file as a user runs it: inputs by name -> images."""
