"""Large convolutions with gradients on a CPU, where torch's lose time.

A convolution, its transpose and the gradient by the weight are the three sides of one trilinear form, see
`convolution_forms`: the derivatives of each are the other two. So second derivatives, as R1 and the path length take,
cost no more than first ones, where torch's take a convolution with a kernel as large as the picture, of maps with N and
C exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.interfaces import ops, without_autocast
from gankit_cpu.convolution_forms import Form, HalfForm


def conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, stride: int, padding: Sequence[int], groups: int
) -> Tensor:
    """`ops.conv2d`, by minimal filtering where that pays."""
    if not ops.multiplies_like(x):
        b = None if b is None else b.float()
        return conv2d(x.float(), w.float(), b, stride, padding, groups).to(x.dtype)
    sizes = zip(x.shape[2:], w.shape[2:], padding)
    narrow = tuple((size + 2 * pad - taps) // stride + 1 for size, taps, pad in sizes)
    y = _product(x, w, tuple(x.shape[2:]), narrow, stride, padding, False) if groups == 1 else None
    if y is None:
        return F.conv2d(x, w, b, stride, padding, groups=groups)
    return y if b is None else y.add_(b.to(y.dtype).view(-1, 1, 1))


def conv_transpose2d(x: Tensor, w: Tensor, stride: int, padding: Sequence[int], groups: int) -> Tensor:
    """`ops.conv_transpose2d`, by minimal filtering where that pays."""
    if not ops.multiplies_like(x):
        return conv_transpose2d(x.float(), w.float(), stride, padding, groups).to(x.dtype)
    sizes = zip(x.shape[2:], w.shape[2:], padding)
    wide = tuple((size - 1) * stride + taps - 2 * pad for size, taps, pad in sizes)
    y = _product(x, w, wide, tuple(x.shape[2:]), stride, padding, True) if groups == 1 else None
    return F.conv_transpose2d(x, w, None, stride, padding, groups=groups) if y is None else y


def _product(
    a: Tensor, w: Tensor, wide: tuple[int, ...], narrow: tuple[int, ...], stride: int, padding: Sequence[int],
    transposed: bool,
) -> Tensor | None:  # fmt: skip
    """The convolution or its transpose, or None for a call that is torch's own."""
    if (
        not ops.values_only(a, ())
        or type(w) not in (Tensor, torch.nn.Parameter)
        or not len(a)
        or min(*wide, *narrow) < 1
        or any(pad >= taps for pad, taps in zip(padding, w.shape[2:]))
    ):
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else a.dtype
    forms = {torch.float32: Form, torch.bfloat16: HalfForm}
    if dtype not in forms or not {a.dtype, w.dtype} <= {dtype, torch.float32}:
        return None
    form = forms[dtype](wide, narrow, tuple(w.shape[2:]), stride, tuple(padding))  # type: ignore[arg-type]
    if not form.pays(w):
        return None
    with without_autocast(a):
        return Product.apply(a.to(dtype), w.to(dtype), form, transposed)  # type: ignore[no-any-return]


class Product(torch.autograd.Function):
    """Wide maps to narrow ones, or if `transposed` narrow ones to wide ones."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, w: Tensor, form: Form, transposed: bool) -> Tensor:
        ctx.save_for_backward(a, w)
        ctx.form, ctx.transposed = form, transposed
        a = a.contiguous(memory_format=torch.channels_last)
        return form.widened(a, w) if transposed else form.narrowed(a, w)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (a, w), form, transposed = ctx.saved_tensors, ctx.form, ctx.transposed
        da = Product.apply(dy, w, form, not transposed) if ctx.needs_input_grad[0] else None
        dw = (
            WeightGradient.apply(*((dy, a) if transposed else (a, dy)), form)
            if ctx.needs_input_grad[1]
            else None
        )
        return da, dw, None, None


class WeightGradient(torch.autograd.Function):
    """The gradient by the weight, of wide and narrow maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, form: Form) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.form = form
        return form.by_weight(*(t.contiguous(memory_format=torch.channels_last) for t in (x, y)))

    @staticmethod
    def backward(ctx: Any, dw: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, y), form = ctx.saved_tensors, ctx.form
        dx = Product.apply(y, dw, form, True) if ctx.needs_input_grad[0] else None
        dy = Product.apply(x, dw, form, False) if ctx.needs_input_grad[1] else None
        return dx, dy, None
