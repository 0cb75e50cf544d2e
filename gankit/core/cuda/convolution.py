"""Large convolutions with gradients on a CPU, where torch's lose time.

A convolution, its transpose and the gradient by the weight are the three sides of one trilinear form: the derivatives
of each are the other two. So second derivatives, as R1 and the path length take, cost no more than first ones, where
torch's take a convolution with a kernel as large as the picture, of maps with N and C exchanged. With stride 1 all
three take half of the products (see `winograd.py`). Gradients by the weight with a larger stride, for which oneDNN took
up to 2.4 times as long, are put together from such of every other row and column.

That is in float32. In bfloat16, a kernel of `native` is the convolution and its transpose, with 16 or 25 of 36
products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.cuda import inference, native, winograd
from gankit.core.cuda.onednn import multiplies_like
from gankit.core.runtime.devices import bf16_units
from gankit.core.runtime.precision import without_autocast

# Below, torch's own are as fast. N has no say, so that micro-batches of any size go one way
FEWEST_CHANNELS, FEWEST_VALUES = 128, 2**18  # with stride 1: of the fewer channels, in all pixels
FEWEST_STRIDED_CHANNELS, FEWEST_STRIDED_PIXELS = 64, 2**14  # else: of the larger maps
FEWEST_HALF_CHANNELS, FEWEST_HALF_PIXELS = 32, 2**10  # in bfloat16: of the smaller maps


@dataclass(frozen=True)
class _Form:
    """A convolution of wide maps [N, I, H, W] with weights [O, I, kh, kw] to narrow ones [N, O, h, w]."""

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

    def product(self, a: Tensor, w: Tensor, transposed: bool, b: Tensor | None = None) -> Tensor:
        """Differentiable: wide maps to narrow ones, or if `transposed` narrow ones to wide ones; plus `b`, [O]."""
        shape = (len(a), w.shape[1], *self.wide) if transposed else (len(a), w.shape[0], *self.narrow)
        biases = None if b is None else b.view(-1, 1, 1).expand(shape)
        to_weight = None
        if torch.is_grad_enabled() and w.requires_grad:
            to_weight = _ToWeight.apply(w, [a], self, transposed, shape)
        return _Product.apply(a, w, biases, to_weight, self, transposed)  # type: ignore[no-any-return]

    def pays(self, w: Tensor) -> bool:
        """Whether this is faster than torch's own, in sum with the gradients."""
        channels = min(w.shape[:2])
        if self.stride == 1:
            enough = channels >= FEWEST_CHANNELS and channels * math.prod(self.narrow) >= FEWEST_VALUES
            return enough and self.kernel[0] == winograd.TAPS
        enough = channels >= FEWEST_STRIDED_CHANNELS and math.prod(self.wide) >= FEWEST_STRIDED_PIXELS
        return enough and max(self.padding) == 0

    def narrowed(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        if self.stride > 1:
            return F.conv2d(x, w, b, self.stride)
        y = inference.filtered_convolution(x, w, self.padding)
        return y if b is None else y.add_(b.view(-1, 1, 1))

    def widened(self, y: Tensor, w: Tensor) -> Tensor:
        if self.stride == 1:
            rest = [taps - 1 - pad for taps, pad in zip(self.kernel, self.padding)]
            return inference.filtered_convolution(y, w.flip([2, 3]).transpose(0, 1), rest)
        return F.conv_transpose2d(y, w, None, self.stride, 0, self.lost)

    def by_weight(self, x: Tensor, y: Tensor) -> Tensor:
        """[O, I, kh, kw], from wide maps and a gradient by narrow ones, or the other way round."""
        if self.stride == 1:
            return winograd.weight_gradient(x, y, self.padding, self.kernel[1])
        shape = (y.shape[1], x.shape[1], *self.kernel)
        dw = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for top in range(min(self.stride, self.kernel[0])):
            for left in range(min(self.stride, self.kernel[1])):
                part = dw[:, :, top :: self.stride, left :: self.stride]
                h, w = (small + taps - 1 for small, taps in zip(self.narrow, part.shape[2:]))
                some = x[:, :, top :: self.stride, left :: self.stride][:, :, :h, :w]
                some = some.contiguous(memory_format=torch.channels_last)
                part.copy_(winograd.direct_weight_gradient(some, y, part.shape))
        return dw


class _Half(_Form):
    """In bfloat16."""

    def pays(self, w: Tensor) -> bool:
        enough = min(w.shape[:2]) >= FEWEST_HALF_CHANNELS and math.prod(self.narrow) >= FEWEST_HALF_PIXELS
        known = self.stride == 1 or (self.stride == 2 and self.padding == (0, 0))
        return enough and known and self.kernel == (3, 3) and _kernels_pay()

    def narrowed(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y = self._by_kernel(x, w, b, self.padding, self.narrow) if self.stride == 1 else None
        return F.conv2d(x, w, b, self.stride, self.padding) if y is None else y

    def widened(self, y: Tensor, w: Tensor) -> Tensor:
        x = None
        if self.stride == 1:
            rest = (2 - self.padding[0], 2 - self.padding[1])
            x = self._by_kernel(y, w.flip([2, 3]).transpose(0, 1), None, rest, self.wide)
        elif not any(self.lost):
            x = self._by_kernel(y, w.transpose(0, 1), None, (0, 0), self.wide)
        return F.conv_transpose2d(y, w, None, self.stride, self.padding, self.lost) if x is None else x

    def by_weight(self, x: Tensor, y: Tensor) -> Tensor:
        return winograd.direct_weight_gradient(
            x, y, (y.shape[1], x.shape[1], *self.kernel), self.padding, self.stride
        )

    def _by_kernel(
        self, x: Tensor, w: Tensor, b: Tensor | None, padding: tuple[int, int], size: tuple[int, int]
    ) -> Tensor | None:
        """[N, O, *size], from weights [O, I, 3, 3]; with a stride, of the transposed convolution."""
        kernels = native.load("winograd")
        if kernels is None:
            return None
        return native.attempt(  # type: ignore[no-any-return]
            "gankit::conv2d", kernels.plain, x, w, b, padding, size, self.stride > 1
        )


def _kernels_pay() -> bool:
    """As for sampling; but where a CPU multiplies bfloat16 in float32, training is in that."""
    return bf16_units() == ["AVX512_BF16"] and not native.watched()


def conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, stride: int, padding: Sequence[int], groups: int
) -> Tensor:
    """As torch's, but in float32 where the CPU has no products in half precision."""
    if not multiplies_like(x):
        b = None if b is None else b.float()
        return conv2d(x.float(), w.float(), b, stride, padding, groups).to(x.dtype)
    sizes = zip(x.shape[2:], w.shape[2:], padding)
    narrow = tuple((size + 2 * pad - taps) // stride + 1 for size, taps, pad in sizes)
    y = _product(x, w, b, tuple(x.shape[2:]), narrow, stride, padding, False) if groups == 1 else None
    return F.conv2d(x, w, b, stride, padding, groups=groups) if y is None else y


def conv_transpose2d(x: Tensor, w: Tensor, stride: int, padding: Sequence[int], groups: int) -> Tensor:
    """As torch's, with the same exception."""
    if not multiplies_like(x):
        return conv_transpose2d(x.float(), w.float(), stride, padding, groups).to(x.dtype)
    sizes = zip(x.shape[2:], w.shape[2:], padding)
    wide = tuple((size - 1) * stride + taps - 2 * pad for size, taps, pad in sizes)
    y = _product(x, w, None, wide, tuple(x.shape[2:]), stride, padding, True) if groups == 1 else None
    return F.conv_transpose2d(x, w, None, stride, padding, groups=groups) if y is None else y


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """As torch's, with the same exception."""
    return torch.bmm(a, b) if multiplies_like(a) else torch.bmm(a.float(), b.float()).to(a.dtype)


def _product(
    a: Tensor, w: Tensor, b: Tensor | None, wide: tuple[int, ...], narrow: tuple[int, ...], stride: int,
    padding: Sequence[int], transposed: bool,
) -> Tensor | None:  # fmt: skip
    if (
        not inference.undisturbed(a, ())
        or type(w) not in (Tensor, torch.nn.Parameter)
        or not len(a)
        or min(*wide, *narrow) < 1
        or any(pad >= taps for pad, taps in zip(padding, w.shape[2:]))
    ):
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else a.dtype
    kinds = {torch.float32: _Form, torch.bfloat16: _Half}
    if dtype not in kinds or not {a.dtype, w.dtype} <= {dtype, torch.float32}:
        return None
    form = kinds[dtype](wide, narrow, tuple(w.shape[2:]), stride, tuple(padding))  # type: ignore[arg-type]
    if not form.pays(w):
        return None
    with without_autocast(a):
        return form.product(a.to(dtype), w.to(dtype), transposed, None if b is None else b.to(dtype))


class _Product(torch.autograd.Function):
    """Its gradient by the weight is left to `to_weight`, a node of its own, as torch asks a node for all gradients that
    may be wanted, and R1 wants that by the maps alone. The biases, too, come in the shape of the result."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, w: Tensor, biases: Tensor | None, to_weight: Tensor | None, form: _Form, transposed: bool
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(w)
        ctx.form, ctx.transposed = form, transposed
        a = a.contiguous(memory_format=torch.channels_last)
        if transposed:
            return form.widened(a, w)
        return form.narrowed(a, w, None if biases is None else biases[0, :, 0, 0])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (w,), needs = ctx.saved_tensors, ctx.needs_input_grad
        da = ctx.form.product(dy, w, not ctx.transposed) if needs[0] else None
        return da, None, dy if needs[2] else None, dy if needs[3] else None, None, None


class _ToWeight(torch.autograd.Function):
    """The way back to the weight. What it returns has the shape of the result, for its gradient, and no values. The
    maps come in a list, as no gradient goes to them from here."""

    @staticmethod
    def forward(
        ctx: Any, w: Tensor, maps: list[Tensor], form: _Form, transposed: bool, shape: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(*maps)
        ctx.form, ctx.transposed = form, transposed
        return w.new_empty(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None, None]:
        (a,) = ctx.saved_tensors
        x, y = (dy, a) if ctx.transposed else (a, dy)
        return _ByWeight.apply(x, y, ctx.form), None, None, None, None


class _ByWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, form: _Form) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.form = form
        return form.by_weight(*(t.contiguous(memory_format=torch.channels_last) for t in (x, y)))

    @staticmethod
    def backward(ctx: Any, dw: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, y), form = ctx.saved_tensors, ctx.form
        dx = form.product(y, dw, True) if ctx.needs_input_grad[0] else None
        dy = form.product(x, dw, False) if ctx.needs_input_grad[1] else None
        return dx, dy, None
