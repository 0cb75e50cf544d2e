"""Resampling with FIR filters: zero insertion, padding, filtering, decimation (StyleGAN2, appendix B).

Upsampling is a depthwise transposed convolution, the rest a depthwise convolution; no zeros are inserted. On a CPU
in channels-last these are bound by memory, so a dense 4x4 kernel beats two separable passes (8 against 17 ms forward
and backward at 16x64x65x65 on two cores); products with banded matrices and sums of shifted slices are slower still.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.cuda.arguments import Pair, padding4, pair
from gankit.core.cuda.primitives import multiplies_like
from gankit.core.runtime.precision import without_autocast


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """`operators.upfirdn2d` without checks."""
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
        if not multiplies_like(x):
            more = stride, padding, transposed, output_padding
            return _Depthwise.compute(x.float(), weight.float(), *more).to(x.dtype)
        with without_autocast(x):  # the result has the dtype of x
            if transposed and x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
                return _insert_zeros_and_filter(x, weight, stride, padding, output_padding)
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


def _insert_zeros_and_filter(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_padding: tuple[int, int],
) -> Tensor:
    """A transposed depthwise convolution the long way: oneDNN's own is ten times slower in half precision."""
    (n, c, h, w), (sy, sx), (kh, kw) = x.shape, stride, weight.shape[2:]
    h, w = (h - 1) * sy + 1, (w - 1) * sx + 1
    y = x.new_zeros(n, h + output_padding[0], w + output_padding[1], c).permute(0, 3, 1, 2)
    y[:, :, :h:sy, :w:sx] = x
    pad_x, pad_y = kw - 1 - padding[1], kh - 1 - padding[0]
    y, around = symmetric(y, (pad_x, pad_x, pad_y, pad_y))
    return F.conv2d(y, weight.flip([2, 3]), None, 1, around, groups=c)


def symmetric(x: Tensor, padding: tuple[int, int, int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Pad or crop where a convolution cannot; returns the (y, x) padding of all sides that is left to it."""
    x0, x1, y0, y1 = padding
    pad_x, pad_y = max(min(x0, x1), 0), max(min(y0, y1), 0)
    return pad_or_crop(x, (x0 - pad_x, x1 - pad_x, y0 - pad_y, y1 - pad_y)), (pad_y, pad_x)


def pad_or_crop(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Zeros around the map; negative sides crop, after the others have padded."""
    x0, x1, y0, y1 = padding
    if (min(x0, x1) < 0 and x.shape[3] <= -min(x0, x1)) or (min(y0, y1) < 0 and x.shape[2] <= -min(y0, y1)):
        x = F.pad(x, [max(side, 0) for side in padding])  # nothing of the map may be left
        padding = (min(x0, 0), min(x1, 0), min(y0, 0), min(y1, 0))
    return F.pad(x, padding) if any(padding) else x
