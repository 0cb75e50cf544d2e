"""The operators in the textbook formulation, as the original code computes them on a CPU, for comparison.

NCHW, weights of each sample in one grouped convolution, zeros inserted before FIR filters (along one axis after the
other where the filter is 1-D), bias, activation, gain and clamp in passes of their own. Signatures are those of the
implementations in `gankit.core.cuda`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.cuda import dispatch, values_only
from gankit.core.cuda.activations import ACTIVATIONS

ONE, NONE = (1, 1), (0, 0, 0, 0)


def bias_act(x, b, dim, act, alpha, gain, clamp):  # type: ignore[no-untyped-def]
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])
    x = ACTIVATIONS[act].function(x, alpha)
    x = x * gain if gain != 1 else x
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(x, f, up, down, padding, flip_filter, gain):  # type: ignore[no-untyped-def]
    (ux, uy), (dx, dy), (n, c, h, w) = up, down, x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, ux - 1, 0, 0, 0, uy - 1)).reshape(n, c, h * uy, w * ux)
    x = F.pad(x, padding)
    f = x.new_ones(1, 1) if f is None else f.to(x.dtype)
    f = f * gain ** (f.ndim / 2)
    f = f if flip_filter else f.flip(list(range(f.ndim)))
    if f.ndim == 2:
        x = F.conv2d(x, f.expand(c, 1, *f.shape), groups=c)
    else:
        x = F.conv2d(x, f[None, :].expand(c, 1, 1, -1), groups=c)
        x = F.conv2d(x, f[:, None].expand(c, 1, -1, 1), groups=c)
    return x[:, :, ::dy, ::dx]


def filtered_lrelu(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter):  # type: ignore[no-untyped-def]
    x = bias_act(x, b, 1, "linear", 0, 1, None)
    x = upfirdn2d(x, fu, (up, up), ONE, padding, flip_filter, up**2)
    x = bias_act(x, None, 1, "lrelu", slope, gain, clamp)
    return upfirdn2d(x, fd, ONE, (down, down), NONE, flip_filter, 1)


def conv2d_resample(x, w, f, up, down, padding, groups, flip_weight, b):  # type: ignore[no-untyped-def]
    kh, kw = w.shape[2:]
    ny, nx = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    x0, x1, y0, y1 = padding
    if up > 1:
        x0, x1 = x0 + (nx + up - 1) // 2, x1 + (nx - up) // 2
        y0, y1 = y0 + (ny + up - 1) // 2, y1 + (ny - up) // 2
    if down > 1:
        x0, x1 = x0 + (nx - down + 1) // 2, x1 + (nx - down) // 2
        y0, y1 = y0 + (ny - down + 1) // 2, y1 + (ny - down) // 2
    w = w.to(x.dtype)
    if up == 1:
        w = w if flip_weight else w.flip([2, 3])
        if down == 1 and x0 == x1 >= 0 and y0 == y1 >= 0:
            y = F.conv2d(x, w, padding=(y0, x0), groups=groups)
        else:
            y = upfirdn2d(x, f if down > 1 else None, ONE, ONE, (x0, x1, y0, y1), False, 1)
            y = F.conv2d(y, w, stride=down, groups=groups)
    else:
        w = w.flip([2, 3]) if flip_weight else w
        w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        x0, x1, y0, y1 = x0 - (kw - 1), x1 - (kw - up), y0 - (kh - 1), y1 - (kh - up)
        cut_x, cut_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
        y = F.conv_transpose2d(x, w, stride=up, padding=(cut_y, cut_x), groups=groups)
        y = upfirdn2d(y, f, ONE, ONE, (x0 + cut_x, x1 + cut_x, y0 + cut_y, y1 + cut_y), False, up**2)
        y = y if down == 1 else upfirdn2d(y, f, ONE, (down, down), NONE, False, 1)
    return y if b is None else y + b.to(y.dtype)[:, None, None]


def modulated_conv2d(
    x, weight, styles, noise, up, down, padding, resample_filter, demodulate, flip_weight, input_gain, normalize,
    b, act, alpha, gain, clamp,
):  # type: ignore[no-untyped-def]  # fmt: skip
    n = len(x)
    if demodulate and normalize:
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        styles = styles * styles.square().mean().rsqrt()
    w = weight * styles[:, None, :, None, None]
    if demodulate:
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if input_gain is not None:
        w = w * torch.as_tensor(input_gain).expand(styles.shape)[:, None, :, None, None]
    y = conv2d_resample(
        x.contiguous().reshape(1, -1, *x.shape[2:]), w.flatten(0, 1), resample_filter, up, down, padding, n,
        flip_weight, None,
    )  # fmt: skip
    y = y.reshape(n, -1, *y.shape[2:])
    y = y if noise is None else y.add_(noise)
    return bias_act(y, b, 1, act, alpha, gain, clamp)


OPERATORS = {
    "bias_act": bias_act,
    "upfirdn2d": upfirdn2d,
    "filtered_lrelu": filtered_lrelu,
    "conv2d_resample": conv2d_resample,
    "modulated_conv2d": modulated_conv2d,
}


@contextlib.contextmanager
def instead(operators: dict[str, dispatch.Function]) -> Iterator[None]:
    """Context in which gankit's networks compute with `operators` and composites of these, a whole batch at once."""
    before, size, asked = dict(dispatch.COMPOSITE), values_only.MAP_BYTES, dispatch.requested
    dispatch.COMPOSITE.update(operators)
    dispatch._choices.clear()
    values_only.MAP_BYTES, dispatch.requested = sys.maxsize, "composite"
    try:
        yield
    finally:
        values_only.MAP_BYTES, dispatch.requested = size, asked
        dispatch.COMPOSITE.update(before)
        dispatch._choices.clear()


def convolutions(calls: list[tuple], dtype: torch.dtype) -> list[tuple]:  # type: ignore[type-arg]
    """(function, x, w, options) of the bare convolution in each modulated one called, channels-last in `dtype`."""

    def last(t: Tensor) -> Tensor:
        return t.to(dtype).contiguous(memory_format=torch.channels_last)

    made = []
    for x, weight, _, _, up, _, padding, *_ in calls:
        data = last(torch.randn(x.shape))
        if up == 1:
            made.append(
                (F.conv2d, data, last(torch.randn(weight.shape)), {"padding": (padding[2], padding[0])})
            )
        else:
            w = last(torch.randn(weight.shape[1], weight.shape[0], *weight.shape[2:]))
            made.append((F.conv_transpose2d, data, w, {"stride": up}))
    return made
