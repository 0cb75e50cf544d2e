"""The products that composites are made of: torch's, but in float32 where a CPU has none in half precision.

For some CPUs, such as those with AVX2 alone, oneDNN has no products in half precision, and torch's own take 3 to 100
times as long as in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.runtime.devices import multiplies


def multiplies_like(x: Tensor) -> bool:
    """True if products of `x` should be computed in its dtype, see `devices.multiplies`; always so in graphs."""
    return torch.compiler.is_compiling() or multiplies(x.dtype, x.device)


def conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, stride: int, padding: Sequence[int], groups: int
) -> Tensor:
    """`F.conv2d` of x [N, I, H, W] with w [O, I / groups, kh, kw] and b [O]; `padding` is (y, x)."""
    if not multiplies_like(x):
        b = None if b is None else b.float()
        return conv2d(x.float(), w.float(), b, stride, padding, groups).to(x.dtype)
    return F.conv2d(x, w, b, stride, padding, groups=groups)


def conv_transpose2d(x: Tensor, w: Tensor, stride: int, padding: Sequence[int], groups: int) -> Tensor:
    """`F.conv_transpose2d` of x [N, I, H, W] with w [I, O / groups, kh, kw]; `padding`, (y, x), cuts the result."""
    if not multiplies_like(x):
        return conv_transpose2d(x.float(), w.float(), stride, padding, groups).to(x.dtype)
    return F.conv_transpose2d(x, w, None, stride, padding, groups=groups)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """`torch.bmm` of a [N, I, K] and b [N, K, J]."""
    return torch.bmm(a, b) if multiplies_like(a) else torch.bmm(a.float(), b.float()).to(a.dtype)


@dataclass(frozen=True)
class Convolutions:
    """The two convolutions that a composite is made of; an op backend may bring its own, of the same signatures."""

    conv2d: Callable[[Tensor, Tensor, Tensor | None, int, Sequence[int], int], Tensor] = conv2d
    conv_transpose2d: Callable[[Tensor, Tensor, int, Sequence[int], int], Tensor] = conv_transpose2d


PLAIN = Convolutions()
