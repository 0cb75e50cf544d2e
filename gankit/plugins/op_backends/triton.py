"""Kernels in Triton, which torch for CUDA brings along, for NVIDIA GPUs of compute capability 8.0 and later."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gankit.core.interfaces.op_backend import OpBackend

# Elements below which `auto` leaves tensors on a GPU to plain torch: a call of a custom operator keeps the host busy
# for two to three times as long, which decides where the GPU has little to do.
SMALL = 2**22


class Triton(OpBackend):
    """The kernels of `gankit.core.cuda.triton`."""

    devices = ("cuda",)
    smallest = dict.fromkeys(("bias_act", "upfirdn2d", "conv2d_resample", "modulated_conv2d"), SMALL)
    uses = ("triton",)

    def obstacle(self, device: torch.device) -> str | None:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if device.type != "cuda" and not (interpreted and device.type == "cpu"):
            return "it needs an NVIDIA GPU, or TRITON_INTERPRET=1 for Triton's interpreter on a CPU"
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            return f"{torch.cuda.get_device_name(device)} has a compute capability below 8.0"
        try:
            kernels()
        except ImportError as error:
            return f"Triton cannot be imported ({error})"
        return None

    def failures(self) -> Sequence[str]:
        failed = importlib.import_module("gankit.core.cuda.triton.launch").FAILED
        return [f"{type(error).__name__}: {error}" for error in failed.values()]

    def bias_act(self, *arguments: Any) -> Tensor:
        return kernels().bias_act(*arguments)  # type: ignore[no-any-return]

    def upfirdn2d(self, *arguments: Any) -> Tensor:
        return kernels().upfirdn2d(*arguments)  # type: ignore[no-any-return]

    def filtered_lrelu(self, *arguments: Any) -> Tensor:
        return kernels().filtered_lrelu(*arguments)  # type: ignore[no-any-return]

    def conv2d_resample(self, *arguments: Any) -> Tensor:
        return kernels().conv2d_resample(*arguments)  # type: ignore[no-any-return]

    def modulated_conv2d(self, *arguments: Any) -> Tensor:
        return kernels().modulated_conv2d(*arguments)  # type: ignore[no-any-return]


def kernels() -> ModuleType:
    """The package of Triton kernels; ImportError where Triton is missing."""
    return importlib.import_module("gankit.core.cuda.triton")
