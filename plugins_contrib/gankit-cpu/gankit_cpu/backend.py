"""The op backend `cpu`: kernels without gradients by LLVM and oneDNN, and convolutions for training."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gankit.interfaces import ops
from gankit_cpu import filtered, kernels, modulated_sampling, onednn, training

CONVOLUTIONS = ops.Convolutions(training.conv2d, training.conv_transpose2d)
# The composites, by these convolutions
resampled = partial(ops.conv2d_resample, convolutions=CONVOLUTIONS)
modulated = partial(ops.modulated_conv2d, convolutions=CONVOLUTIONS)


class CPUKernels(ops.OpBackend):
    """Kernels for CPUs by LLVM, oneDNN and Winograd's minimal filtering.

    What it has no kernel for is computed by gankit's composites, as is everything after a kernel has failed.
    """

    devices = ("cpu",)
    self_test = False  # a kernel that fails is replaced; a test would compile what a process may never need
    uses = ("llvmlite",)

    def obstacle(self, device: torch.device) -> str | None:
        return None if device.type == "cpu" else "its kernels are for CPUs"

    def failures(self) -> Sequence[str]:
        return [*kernels.failures(), *onednn.failures]

    def summary(self) -> str:
        reason = kernels.obstacle()
        if reason:
            return f"no kernels by LLVM: {reason}"
        return f"LLVM by llvmlite {importlib.metadata.version('llvmlite')}"

    def filtered_lrelu(self, *arguments: Any) -> Tensor:
        return filtered.filtered_lrelu(*arguments)

    def conv2d_resample(self, *arguments: Any) -> Tensor:
        return resampled(*arguments)

    def modulated_conv2d(self, *arguments: Any) -> Tensor:
        y = modulated_sampling.modulated_conv2d(*arguments)
        return modulated(*arguments) if y is NotImplemented else y

    def add_rgb(self, *arguments: Any) -> Tensor:
        y = modulated_sampling.add_rgb(*arguments)
        if y is not None:
            return y
        of_parts = partial(ops.add_rgb, modulated_conv2d=self.modulated_conv2d, upfirdn2d=ops.upfirdn2d)
        return of_parts(*arguments)
