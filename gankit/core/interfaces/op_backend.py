"""The contract of op backends, which bring kernels of the operators for some devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch


class OpBackend(ABC):
    """Kernels of some of the operators in `gankit.core.cuda`; built without options, once in a process.

    A backend has one method for each operator that it can do, by the operator's name: `bias_act`, `upfirdn2d`,
    `filtered_lrelu`, `conv2d_resample`, `modulated_conv2d` or `add_rgb`. A method takes the arguments of the public
    operator without `impl`, all by position, already checked and completed: factors are (x, y), paddings (x0, x1, y0,
    y1), activations have their `alpha` and `gain`. It returns what the operator returns, differentiable twice, or
    NotImplemented for a call that it leaves to plain torch. It is never called while a graph is compiled or exported.
    """

    devices: ClassVar[tuple[str, ...]] = ()  # types of device for which `auto` takes it: 'cpu', 'cuda', 'mps'
    smallest: ClassVar[
        Mapping[str, int]
    ] = {}  # operator -> elements of x below which `auto` takes plain torch
    self_test: ClassVar[bool] = True  # `auto` tries an operator out before it takes it, once in a process
    uses: ClassVar[tuple[str, ...]] = ()  # distributions whose versions have a say in the numbers, too

    @abstractmethod
    def obstacle(self, device: torch.device) -> str | None:
        """The reason why the backend cannot run on a device, such as 'it needs an NVIDIA GPU'; None if it can."""

    def failures(self) -> Sequence[str]:
        """Errors of kernels that the backend itself has replaced by plain torch; a self-test then counts as failed."""
        return ()

    def summary(self) -> str:
        """A few words for `gankit doctor`: versions of libraries, instructions in use."""
        return ""
