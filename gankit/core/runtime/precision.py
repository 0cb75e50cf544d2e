"""Where automatic mixed precision must not reach."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from gankit.errors import GankitError

DRAWN_IN = ("fp32", "bf16")  # what pictures can be drawn in


def check_dtype(dtype: str) -> str:
    """`dtype`; raises GankitError unless it is one of DRAWN_IN."""
    if dtype not in DRAWN_IN:
        raise GankitError(f"dtype {str(dtype)!r} is not known to sampling; choose {' or '.join(DRAWN_IN)}")
    return dtype


def autocast_enabled(x: Tensor) -> bool:
    """Whether autocast is on where `x` is; never on the meta device, of which torch's own function knows nothing."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A region in which autocast is off on the device of `x`; nothing at all where it is off already."""
    if autocast_enabled(x):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()  # keeps exported and compiled graphs free of autocast regions


def as_half(x: Tensor, like: Tensor) -> Tensor:
    """`x` in the half precision of `like`, if `like` has one: how a network follows the dtype of its input."""
    return x.to(like.dtype) if like.dtype in (torch.float16, torch.bfloat16) else x


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
