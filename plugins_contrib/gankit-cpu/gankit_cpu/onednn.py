"""Convolutions by the interface to oneDNN that torch's compiler uses: a weight is packed once for many calls.

Public convolutions pack it at each call. Where the interface is missing or fails, they take its place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.interfaces.ops import multiplies
from gankit_cpu.failures import note

ONE, NONE = [1, 1], [0, 0]

# Why torch's interface to oneDNN, which is private and may change, is no longer used by this process
failures: list[str] = []


def give_up(error: Exception) -> None:
    """Go on without oneDNN's own order of weights, after one warning."""
    note(failures, error, "torch's interface to oneDNN", "Its public convolutions take its place")


def packs(dtype: torch.dtype) -> bool:
    """True if weights of this dtype can be packed: torch's interface to oneDNN is there and works."""
    if failures or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    ops = torch.ops.mkldnn
    needed = ("_convolution_pointwise", "_convolution_transpose_pointwise", "_reorder_convolution_weight",
              "_reorder_convolution_transpose_weight")  # fmt: skip
    if dtype not in (torch.float32, torch.bfloat16) or not all(hasattr(ops, name) for name in needed):
        return False
    return multiplies(dtype, torch.device("cpu"))


def reorder(weight: Tensor, x: Tensor, up: int, padding: list[int]) -> Tensor:
    """The weight [O, I, kh, kw] in the dtype of `x` and in oneDNN's order for a convolution of it."""
    w = weight.to(x.dtype) if up == 1 else weight.to(x.dtype).transpose(0, 1)
    try:
        if packs(x.dtype):
            ops, size = torch.ops.mkldnn, list(x.shape)
            if up == 1:
                return ops._reorder_convolution_weight(w, padding, ONE, ONE, 1, size)  # type: ignore[no-any-return]
            return ops._reorder_convolution_transpose_weight(  # type: ignore[no-any-return]
                w, padding, NONE, [up, up], ONE, 1, size
            )
    except Exception as error:
        give_up(error)
    return w.contiguous(memory_format=torch.channels_last)


def convolve(
    x: Tensor, kernel: Callable[[], Tensor], b: Tensor | None, up: int, padding: list[int]
) -> Tensor:
    """The convolution of `x`, or its transpose of stride `up` > 1, with what `kernel` gives, see `reorder`; plus `b`.

    After a failure, `kernel` is asked again, and gives a weight for torch's public convolutions.
    """
    b, w = None if b is None else b.to(x.dtype), kernel()
    if w.is_mkldnn:
        try:
            return _packed(x, w, b, up, padding)
        except Exception as error:
            give_up(error)
            w = kernel()
    if up == 1:
        return F.conv2d(x, w, b, padding=padding)
    return F.conv_transpose2d(x, w, b, stride=up, padding=padding)


def _packed(x: Tensor, w: Tensor, b: Tensor | None, up: int, padding: list[int]) -> Tensor:
    ops = torch.ops.mkldnn
    if up == 1:
        return ops._convolution_pointwise(  # type: ignore[no-any-return]
            x, w, b, padding, ONE, ONE, 1, "none", [], ""
        )
    return ops._convolution_transpose_pointwise(  # type: ignore[no-any-return]
        x, w, b, padding, NONE, [up, up], ONE, 1, "none", [], ""
    )
