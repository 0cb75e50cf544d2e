"""Large convolutions with gradients in float32 on a CPU, where torch's lose time.

A convolution, its transpose and the gradient by the weight are the three sides of one trilinear form: the derivatives
of each are the other two. So second derivatives, as R1 and the path length take, cost no more than first ones, where
torch's take a convolution with a kernel as large as the picture, of maps with N and C exchanged. With stride 1 all
three take half of the products (see `winograd_rows`). Gradients by the weight with a larger stride, for which oneDNN
took up to 2.4 times as long, are put together from such of every other row and column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.interfaces import ops
from gankit_cpu import onednn, winograd_rows

# Below, torch's own are as fast. N has no say, so that micro-batches of any size go one way
FEWEST_CHANNELS, FEWEST_VALUES = 128, 2**18  # with stride 1: of the fewer channels, in all pixels
FEWEST_STRIDED_CHANNELS, FEWEST_STRIDED_PIXELS = 64, 2**14  # else: of the larger maps


def conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, stride: int, padding: Sequence[int], groups: int
) -> Tensor:
    """As `ops.conv2d`."""
    if not ops.multiplies_like(x):
        b = None if b is None else b.float()
        return conv2d(x.float(), w.float(), b, stride, padding, groups).to(x.dtype)
    sizes = zip(x.shape[2:], w.shape[2:], padding)
    narrow = tuple((size + 2 * pad - taps) // stride + 1 for size, taps, pad in sizes)
    y = _product(x, w, tuple(x.shape[2:]), narrow, stride, padding, False) if groups == 1 else None
    if y is None:
        return F.conv2d(x, w, b, stride, padding, groups=groups)
    return y if b is None else y.add_(b.view(-1, 1, 1))


def conv_transpose2d(x: Tensor, w: Tensor, stride: int, padding: Sequence[int], groups: int) -> Tensor:
    """As `ops.conv_transpose2d`."""
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
    if a.dtype != torch.float32 or w.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return None
    if (
        not ops.values_only(a, ())
        or type(w) not in (Tensor, torch.nn.Parameter)
        or not len(a)
        or min(*wide, *narrow) < 1
        or any(pad >= taps for pad, taps in zip(padding, w.shape[2:]))
    ):
        return None
    form = Form(wide, narrow, tuple(w.shape[2:]), stride, tuple(padding))  # type: ignore[arg-type]
    return Product.apply(a, w, form, transposed) if form.pays(w) else None  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Form:
    """A convolution of wide maps [N, I, H, W] with weights [O, I, kh, kw] to narrow ones [N, O, h, w].

    Its transpose takes narrow maps to wide ones. Pairs are (y, x).
    """

    wide: tuple[int, int]
    narrow: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]

    @property
    def lost(self) -> list[int]:
        """Rows and columns at the end of wide maps that no kernel reaches."""
        sizes = zip(self.wide, self.narrow, self.kernel, self.padding)
        return [large - ((small - 1) * self.stride + taps - 2 * pad) for large, small, taps, pad in sizes]

    def pays(self, w: Tensor) -> bool:
        """True if this is faster than torch's own, in sum with the gradients."""
        channels = min(w.shape[:2])
        if self.stride == 1:
            enough = channels >= FEWEST_CHANNELS and channels * math.prod(self.narrow) >= FEWEST_VALUES
            return enough and self.kernel[0] == winograd_rows.TAPS
        enough = channels >= FEWEST_STRIDED_CHANNELS and math.prod(self.wide) >= FEWEST_STRIDED_PIXELS
        return enough and max(self.padding) == 0

    def narrowed(self, x: Tensor, w: Tensor) -> Tensor:
        """Narrow maps of wide ones."""
        if self.stride > 1:
            return F.conv2d(x, w, None, self.stride)
        return filtered_convolution(x, w, self.padding)

    def widened(self, y: Tensor, w: Tensor) -> Tensor:
        """Wide maps of narrow ones."""
        if self.stride == 1:
            rest = [taps - 1 - pad for taps, pad in zip(self.kernel, self.padding)]
            return filtered_convolution(y, w.flip([2, 3]).transpose(0, 1), rest)
        return F.conv_transpose2d(y, w, None, self.stride, 0, self.lost)

    def by_weight(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient by the weight, [O, I, kh, kw], of wide and narrow maps, one of them being a gradient."""
        if self.stride == 1:
            return winograd_rows.weight_gradient(x, y, self.padding, self.kernel[1])
        shape = (y.shape[1], x.shape[1], *self.kernel)
        dw = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for top in range(min(self.stride, self.kernel[0])):
            for left in range(min(self.stride, self.kernel[1])):
                part = dw[:, :, top :: self.stride, left :: self.stride]
                h, w = (small + taps - 1 for small, taps in zip(self.narrow, part.shape[2:]))
                some = x[:, :, top :: self.stride, left :: self.stride][:, :, :h, :w]
                some = some.contiguous(memory_format=torch.channels_last)
                part.copy_(winograd_rows.direct_weight_gradient(some, y, part.shape))
        return dw


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


def filtered_convolution(x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """The convolution of a channels-last map in float32 by `winograd_rows`, without gradients.

    Of a weight in training, nothing is kept from call to call. `padding` is (y, x).
    """
    h, w = (size + 2 * pad - taps + 1 for size, pad, taps in zip(x.shape[2:], padding, weight.shape[2:]))
    cut = [0, padding[1]]
    ready: list[Tensor] = []

    def kernel(point: int, t: Tensor) -> Tensor:
        if not ready or (ready[0].is_mkldnn and onednn.failures):
            ready[:] = [onednn.reorder(part, t, 1, cut) for part in winograd_rows.kernels(weight)]
        return ready[point]

    def product(point: int, t: Tensor) -> Tensor:
        return onednn.convolve(t, partial(kernel, point, t), None, 1, cut)

    shape = (len(x), len(weight), h, w)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for i, top, t in winograd_rows.blocks(
        x, None, winograd_rows.block_rows(weight, (h, w)), padding, product
    ):
        y[i : i + 1, :, top : top + t.shape[2]] = t
    return y
