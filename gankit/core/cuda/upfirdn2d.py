"""Resampling with FIR filters: zero insertion, padding, filtering, decimation (StyleGAN2, appendix B).

Zeros are never inserted: upsampling is a depthwise transposed convolution, the rest a depthwise convolution. On a CPU
in channels-last these are bound by memory, so a dense 4x4 kernel beats two separable passes (8 against 17 ms forward
and backward at 16x64x65x65 on two cores); products with banded matrices and sums of shifted slices are slower still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.precision import without_autocast

Pair = int | Sequence[int]


def setup_filter(
    f: Any,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """Filter taps -> the float32 tensor that `upfirdn2d` takes; `f` itself is never changed.

    Args:
        f: None or a number (an impulse), 1-D taps, or a 2-D kernel.
        normalize: divide by the sum, so that constants are kept.
        flip_filter: reverse every axis.
        gain: gain of the 2-D filter; a 1-D one carries its square root.
        separable: keep a 1-D filter 1-D, to be applied along x and then y; None does so from 8 taps on, shorter ones
            become the outer product with themselves.
    """
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device="cpu").clone()
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(
            f"a filter has one or two axes and at least one tap, not the shape {tuple(taps.shape)}"
        )
    if taps.ndim == 0:
        taps = taps[None]
    if taps.ndim == 1 and not (len(taps) >= 8 if separable is None else separable):
        taps = torch.outer(taps, taps)
    if normalize:
        taps /= taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return taps * gain ** (taps.ndim / 2)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Insert zeros, pad, filter and decimate each channel of `x` [N, C, H, W].

    Args:
        x: images or feature maps; the memory format is kept.
        f: 2-D kernel, 1-D taps for both axes, or None for an impulse. It gets no gradient.
        up: factor, or (x, y).
        down: factor, or (x, y).
        padding: zeros around the upsampled grid: all sides, (x, y) or (x0, x1, y0, y1); negative ones crop.
        flip_filter: correlate instead of convolving.
        gain: factor on the result.
    """
    up, down, padding = pair(up), pair(down), padding4(padding)
    kernel = x.new_ones(1, 1) if f is None else f.detach().to(x.device, x.dtype)
    if not flip_filter:
        kernel = kernel.flip(list(range(kernel.ndim)))
    if kernel.ndim == 2:
        return _filter(x, kernel * gain, up, down, padding)
    x = _filter(x, kernel[None, :] * gain, (up[0], 1), (down[0], 1), (*padding[:2], 0, 0))
    return _filter(x, kernel[:, None], (1, up[1]), (1, down[1]), (0, 0, *padding[2:]))


def _filter(
    x: Tensor,
    kernel: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> Tensor:
    """Upsampling, correlation with a 2-D kernel, decimation; factors as (x, y)."""
    x0, x1, y0, y1 = padding
    weight = kernel.expand(x.shape[1], 1, *kernel.shape)
    if up == (1, 1):
        x, pad = symmetric(x, padding)
        return _depthwise(x, weight, down[::-1], pad)

    # A transposed convolution gives the (size - 1) * up + taps positions of the full one; cut out those asked for.
    taps_y, taps_x = kernel.shape
    cut = (taps_x - 1 - x0, taps_x - up[0] - x1, taps_y - 1 - y0, taps_y - up[1] - y1)
    cut_x, cut_y = max(min(cut[:2]), 0), max(min(cut[2:]), 0)  # what the convolution itself can cut
    x = _depthwise(x, weight.flip([2, 3]), up[::-1], (cut_y, cut_x), transposed=True)
    x = pad_or_crop(x, (cut_x - cut[0], cut_x - cut[1], cut_y - cut[2], cut_y - cut[3]))
    return x if down == (1, 1) else x[:, :, :: down[1], :: down[0]]


def _depthwise(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    transposed: bool = False,
    output_padding: tuple[int, int] = (0, 0),
) -> Tensor:
    """Depthwise (transposed) convolution with a constant weight; pairs are (y, x)."""
    arguments = (x, weight, stride, padding, transposed, output_padding)
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        return _Depthwise.apply(*arguments)
    return _Depthwise.compute(*arguments)


class _Depthwise(torch.autograd.Function):
    """Torch differentiates this, too, but its double backward also computes the gradient of the constant weight,
    channel by channel: a fifth of the time of an R1 step."""

    @staticmethod
    def compute(
        x: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        transposed: bool,
        output_padding: tuple[int, int],
    ) -> Tensor:
        with without_autocast(x):  # the result has the dtype of x
            if transposed:
                return F.conv_transpose2d(x, weight, None, stride, padding, output_padding, groups=x.shape[1])
            return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, weight, ctx.stride, ctx.padding, ctx.transposed, _ = arguments
        ctx.size = x.shape[2:]
        ctx.save_for_backward(weight)
        return _Depthwise.compute(*arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (weight,) = gradients, ctx.saved_tensors
        rest = [0, 0]
        if not ctx.transposed:  # rows and columns at the end that the stride left out
            for i in (0, 1):
                rest[i] = (ctx.size[i] + 2 * ctx.padding[i] - weight.shape[2 + i]) % ctx.stride[i]
        dx = _depthwise(gradient, weight, ctx.stride, ctx.padding, not ctx.transposed, (rest[0], rest[1]))
        return dx, None, None, None, None, None


def symmetric(x: Tensor, padding: tuple[int, int, int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Pad or crop where a convolution cannot; returns the (y, x) padding of all sides that is left to it."""
    x0, x1, y0, y1 = padding
    pad_x, pad_y = max(min(x0, x1), 0), max(min(y0, y1), 0)
    return pad_or_crop(x, (x0 - pad_x, x1 - pad_x, y0 - pad_y, y1 - pad_y)), (pad_y, pad_x)


def pad_or_crop(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    return F.pad(x, padding) if any(padding) else x


def filter2d(
    x: Tensor, f: Tensor | None, padding: Pair = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """Filter without changing the size; `padding` is added to the zeros that this needs."""
    nx, ny = filter_size(f)
    x0, x1, y0, y1 = padding4(padding)
    padding = (x0 + nx // 2, x1 + (nx - 1) // 2, y0 + ny // 2, y1 + (ny - 1) // 2)
    return upfirdn2d(x, f, padding=padding, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Enlarge by `up`, keeping the mean of the interior; `padding` counts pixels of the result."""
    (nx, ny), (ux, uy) = filter_size(f), pair(up)
    x0, x1, y0, y1 = padding4(padding)
    padding = (x0 + (nx + ux - 1) // 2, x1 + (nx - ux) // 2, y0 + (ny + uy - 1) // 2, y1 + (ny - uy) // 2)
    return upfirdn2d(x, f, up=up, padding=padding, flip_filter=flip_filter, gain=gain * ux * uy)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Shrink by `down`; `padding` counts pixels of the input."""
    (nx, ny), (dx, dy) = filter_size(f), pair(down)
    x0, x1, y0, y1 = padding4(padding)
    padding = (x0 + (nx - dx + 1) // 2, x1 + (nx - dx) // 2, y0 + (ny - dy + 1) // 2, y1 + (ny - dy) // 2)
    return upfirdn2d(x, f, down=down, padding=padding, flip_filter=flip_filter, gain=gain)


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """Number of taps along (x, y)."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def pair(factor: Pair) -> tuple[int, int]:
    x, y = (factor, factor) if isinstance(factor, int) else factor
    if x < 1 or y < 1:
        raise ValueError(f"resampling factors must be at least 1, not {factor}")
    return x, y


def padding4(padding: Pair) -> tuple[int, int, int, int]:
    """One number, (x, y) or (x0, x1, y0, y1) -> (x0, x1, y0, y1)."""
    sides = [padding] if isinstance(padding, int) else list(padding)
    if len(sides) not in (1, 2, 4):
        raise ValueError(f"padding is one number, (x, y) or (x0, x1, y0, y1), not {padding}")
    sides = [side for side in sides for _ in range(4 // len(sides))]
    return sides[0], sides[1], sides[2], sides[3]
