"""Layouts, launches and the fallback to plain torch, shared by all Triton kernels."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

INT32_LIMIT = 2**31 - 2**20  # of element offsets; the rest is room for a block that reaches past the end

# Operators whose kernel failed in this process -> why. They compute in plain torch from then on.
FAILED: dict[str, Exception] = {}


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels-last where `x` is that and nothing else, else contiguous; the layout of results, too."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def is_channels_last(x: Tensor) -> bool:
    return memory_format(x) is torch.channels_last


def dense(x: Tensor) -> Tensor:
    """`x` without gaps, in one of the two memory formats."""
    return x.contiguous(memory_format=memory_format(x))


def empty_like(x: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """A fresh tensor of the dtype and memory format of `x`."""
    shape = tuple(x.shape) if shape is None else shape
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def launch(kernel: Any, programs: int, device: torch.device, *arguments: Any, **constants: Any) -> None:
    """Run `programs` instances on the device that holds the tensors, which need not be the current one."""
    if programs == 0:
        return
    here = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with here:
        kernel[(programs,)](*arguments, **constants)


def power_of_2(n: int, least: int = 1, most: int = 2**20) -> int:
    """The next power of two, within limits."""
    return max(least, min(most, triton.next_power_of_2(max(n, 1))))


def guarded(name: str, plain: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The operator `gankit::name`: if its kernel fails, warn once and compute `plain` from then on.

    Running out of memory is passed on: the plain form needs more of it.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            if name not in FAILED:
                try:
                    return function(*arguments)
                except torch.cuda.OutOfMemoryError:
                    raise
                except Exception as error:  # whatever Triton, the driver or the compiler raise
                    FAILED[name] = error
                    warnings.warn(failure(name, error, arguments), RuntimeWarning, stacklevel=2)
            return plain(*arguments)

        return call

    return decorate


def failure(name: str, error: Exception, arguments: tuple[Any, ...]) -> str:
    """The warning about a failed kernel, with all that a bug report needs: versions, device, arguments, error."""
    described = [
        f"{a.dtype}{list(a.shape)} strides {list(a.stride())}" if isinstance(a, Tensor) else repr(a)
        for a in arguments
    ]
    device = next((a.device for a in arguments if isinstance(a, Tensor)), torch.device("cpu"))
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return (
        f"the Triton kernel of {name} failed and plain torch takes its place, slower but equal. Please report: "
        f"torch {torch.__version__}, triton {triton.__version__}, {card}; arguments ({', '.join(described)}); "
        f"{type(error).__name__}: {str(error).strip()[:500]}"
    )
