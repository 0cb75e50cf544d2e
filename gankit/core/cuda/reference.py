"""The operators as their definitions say, step by step: what every other implementation is compared with.

Zeros are inserted, each sample has its own weights, nothing is reordered or fused. Half precision is computed in
float32 and rounded once, at the end. Slow and hungry for memory on purpose. Arguments are those of the public
operators in `gankit.core.cuda`, checked and with defaults filled in; factors are (x, y), paddings (x0, x1, y0, y1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.cuda.activations import ACTIVATIONS
from gankit.core.runtime.precision import at_least_float32, without_autocast


def bias_act(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    """clamp(gain * act(x + b))."""
    y = at_least_float32(x)
    if b is not None:
        y = y + b.to(y.dtype).reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])
    y = ACTIVATIONS[act].function(y, alpha) * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return y.to(x.dtype)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """Insert zeros, pad or crop, filter each channel, scale, decimate."""
    y = at_least_float32(x)
    (ux, uy), (dx, dy), (n, c, h, w) = up, down, x.shape
    y = y.reshape(n, c, h, 1, w, 1)
    y = F.pad(y, (0, ux - 1, 0, 0, 0, uy - 1)).reshape(n, c, h * uy, w * ux)
    y = F.pad(y, [max(side, 0) for side in padding])
    y = F.pad(y, [min(side, 0) for side in padding])
    kernel = y.new_ones(1, 1) if f is None else f.detach().to(y.dtype)
    kernel = torch.outer(kernel, kernel) if kernel.ndim == 1 else kernel
    kernel = kernel if flip_filter else kernel.flip([0, 1])
    with without_autocast(x):
        y = F.conv2d(y, kernel.expand(c, 1, -1, -1), groups=c)
    return (y * gain)[:, :, ::dy, ::dx].to(x.dtype)


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    gain: float,
    slope: float,
    clamp: float | None,
    flip_filter: bool,
) -> Tensor:
    """Bias, upsampling, leaky ReLU with gain and clamp, downsampling."""
    y = bias_act(at_least_float32(x), b, 1, "linear", 0, 1, None)
    y = upfirdn2d(y, fu, (up, up), (1, 1), padding, flip_filter, up**2)
    y = bias_act(y, None, 1, "lrelu", slope, gain, clamp)
    return upfirdn2d(y, fd, (1, 1), (down, down), (0, 0, 0, 0), flip_filter, 1).to(x.dtype)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    groups: int,
    flip_weight: bool,
    b: Tensor | None,
) -> Tensor:
    """Upsample, convolve, downsample; all padding happens at the start."""
    y, w = at_least_float32(x), at_least_float32(w)
    y = _enlarge(y, f, up, down, padding)
    with without_autocast(x):
        y = F.conv2d(y, w.to(y.dtype) if flip_weight else w.to(y.dtype).flip([2, 3]), groups=groups)
    y = _reduce(y, f, down)
    return (y if b is None else y + b.to(y.dtype)[:, None, None]).to(x.dtype)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    resample_filter: Tensor | None,
    demodulate: bool,
    flip_weight: bool,
    input_gain: Tensor | float | None,
    normalize: bool,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """Convolve each sample with weights of its own, weight[o,i] * styles[n,i]; add noise; bias and activate."""
    y = at_least_float32(x)
    weight, styles = weight.to(y.dtype), styles.to(y.dtype)
    with without_autocast(x):
        if demodulate and normalize:
            weight = weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt()
            styles = styles / styles.square().mean().sqrt()
        w = weight * styles[:, None, :, None, None]  # [N, O, I, kh, kw]
        if demodulate:
            w = w / (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
        if input_gain is not None:
            per_channel = torch.as_tensor(input_gain, dtype=y.dtype, device=x.device).expand(styles.shape)
            w = w * per_channel[:, None, :, None, None]
        if not flip_weight:
            w = w.flip([3, 4])
        y = _enlarge(y, resample_filter, up, down, padding)
        size = y.shape[2] - w.shape[3] + 1, y.shape[3] - w.shape[4] + 1
        y = w.flatten(2) @ F.unfold(y, w.shape[3:])  # [N, O, I kh kw] @ [N, I kh kw, H' W']
        y = y.unflatten(2, size)
    y = _reduce(y, resample_filter, down)
    y = y if noise is None else y + noise.to(y.dtype)
    return bias_act(y, b, 1, act, alpha, gain, clamp).to(x.dtype)


def add_rgb(
    img: Tensor | None,
    f: Tensor | None,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    b: Tensor | None,
    clamp: float | None,
) -> Tensor:
    """Convolve to colours, with weights of each sample, and add the levels so far, enlarged twice."""
    rest = (1, 1, (0, 0, 0, 0), None, False, True, None, False, b, "linear", 0.0, 1.0, clamp)
    y = at_least_float32(modulated_conv2d(x, weight, styles, None, *rest))
    if img is None:
        return y
    nx, ny = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    padding = ((nx + 1) // 2, (nx - 2) // 2, (ny + 1) // 2, (ny - 2) // 2)
    return upfirdn2d(img, f, (2, 2), (1, 1), padding, False, 4) + y


def _enlarge(x: Tensor, f: Tensor | None, up: int, down: int, padding: tuple[int, int, int, int]) -> Tensor:
    """Pad a convolution's input, also for both filters, and upsample it by `up`."""
    nx, ny = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    x0, x1, y0, y1 = padding
    if up > 1:
        x0, x1, y0, y1 = (
            x0 + (nx + up - 1) // 2,
            x1 + (nx - up) // 2,
            y0 + (ny + up - 1) // 2,
            y1 + (ny - up) // 2,
        )
    if down > 1:
        x0, x1, y0, y1 = (
            x0 + (nx - down + 1) // 2,
            x1 + (nx - down) // 2,
            y0 + (ny - down + 1) // 2,
            y1 + (ny - down) // 2,
        )
    return upfirdn2d(x, f if up > 1 else None, (up, up), (1, 1), (x0, x1, y0, y1), False, up**2)


def _reduce(x: Tensor, f: Tensor | None, down: int) -> Tensor:
    """Filter a convolution's result and keep every `down`-th row and column."""
    return x if down == 1 else upfirdn2d(x, f, (1, 1), (down, down), (0, 0, 0, 0), False, 1)
