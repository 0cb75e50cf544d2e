"""Helpers for mixed precision: regions without autocast, casts, and the dtypes of sampling."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from gankit.errors import GankitError

DRAWN_IN = ("fp32", "bf16")  # dtypes of sampling


def check_dtype(dtype: str) -> str:
    """`dtype`; raises GankitError unless it is one of DRAWN_IN."""
    if dtype not in DRAWN_IN:
        raise GankitError(f"dtype {str(dtype)!r} is not known to sampling; choose {' or '.join(DRAWN_IN)}")
    return dtype


def autocast_enabled(x: Tensor) -> bool:
    """True if autocast is on for the device of `x`; False on the meta device, which torch's own function rejects."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Context manager that turns autocast off on the device of `x`; a null context where it is off already."""
    if autocast_enabled(x):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()  # so that exported and compiled graphs have no autocast regions


def as_half(x: Tensor, like: Tensor) -> Tensor:
    """`x` cast to the dtype of `like` if that is float16 or bfloat16; else `x` unchanged."""
    return x.to(like.dtype) if like.dtype in (torch.float16, torch.bfloat16) else x


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it is float16 or bfloat16; else unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
