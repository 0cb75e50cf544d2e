"""Convolutions with resampling, and the modulated convolutions of StyleGAN2 and StyleGAN3.

Orientation: layers that enlarge use `flip_weight=False` (true convolution), all others correlate like `F.conv2d`.
With a transposed convolution this means an unflipped kernel.

Modulation scales activations and shares one kernel, `conv(x * s) * d` (equations 1 to 3 of StyleGAN2 with the factors
taken out of the sum): grouped convolutions with a kernel for each sample are slow on CPUs and in double backward.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gankit.core.cuda import inference
from gankit.core.cuda.activations import ACTIVATIONS
from gankit.core.cuda.arguments import filter_size
from gankit.core.cuda.bias_act import activate, bias_act
from gankit.core.cuda.convolution import bmm, conv2d, conv_transpose2d
from gankit.core.cuda.upfirdn2d import symmetric, upfirdn2d
from gankit.core.runtime.precision import at_least_float32, without_autocast

ONE, NONE = (1, 1), (0, 0, 0, 0)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    groups: int = 1,
    flip_weight: bool = True,
    b: Tensor | None = None,
    resample: Callable[..., Tensor] = upfirdn2d,
) -> Tensor:
    """As `gankit.core.cuda.conv2d_resample`, unchecked; `resample` is the upfirdn2d to use."""
    w = w.to(x.dtype)
    b = None if b is None else b.to(x.dtype)
    kh, kw = w.shape[2:]
    nx, ny = filter_size(f)
    x0, x1, y0, y1 = padding
    if down > 1:
        x0, x1 = x0 + (nx - down + 1) // 2, x1 + (nx - down) // 2
        y0, y1 = y0 + (ny - down + 1) // 2, y1 + (ny - down) // 2
    pad = (x0, x1, y0, y1)
    pointwise = kh == kw == 1
    turned = up > 1  # a transposed convolution turns the kernel round by itself
    if flip_weight == turned and not pointwise:
        w = w.flip([2, 3])

    if up == 1 and down == 1:
        x, same = symmetric(x, pad)
        return conv2d(x, w, b, 1, same, groups)
    if up == 1 and pointwise:
        return conv2d(resample(x, f, ONE, (down, down), pad, False, 1), w, b, 1, (0, 0), groups)
    if up == 1:
        return conv2d(resample(x, f, ONE, ONE, pad, False, 1), w, b, down, (0, 0), groups)
    if pointwise and down == 1:
        pad = (x0 + (nx + up - 1) // 2, x1 + (nx - up) // 2, y0 + (ny + up - 1) // 2, y1 + (ny - up) // 2)
        x = resample(conv2d(x, w, None, 1, (0, 0), groups), f, (up, up), ONE, pad, False, up**2)
    else:
        cut, rest = transposed_padding(pad, (nx, ny), (kw, kh), up)
        w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        x = conv_transpose2d(x, w, up, cut, groups)
        x = resample(x, f, ONE, ONE, rest, False, up**2)
        if down > 1:
            x = resample(x, f, ONE, (down, down), (0, 0, 0, 0), False, 1)
    return x if b is None else x + b.view(-1, 1, 1)


def transposed_padding(
    padding: tuple[int, int, int, int], taps: tuple[int, int], kernel: tuple[int, int], up: int
) -> tuple[list[int], tuple[int, int, int, int]]:
    """What an enlarging convolution's `padding` is for its two steps: of the transposed convolution (y, x), which cuts
    as much as it can, and of the filter after it. `taps` and `kernel` are (x, y)."""
    (nx, ny), (kw, kh), (x0, x1, y0, y1) = taps, kernel, padding
    x0, x1 = x0 + (nx + up - 1) // 2 - (kw - 1), x1 + (nx - up) // 2 - (kw - up)
    y0, y1 = y0 + (ny + up - 1) // 2 - (kh - 1), y1 + (ny - up) // 2 - (kh - up)
    cut_x, cut_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    return [cut_y, cut_x], (x0 + cut_x, x1 + cut_x, y0 + cut_y, y1 + cut_y)


def modulation(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    input_gain: Tensor | float | None,
    normalize: bool,
    energy: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weight [O, I, kh, kw], factors on the input [N, I], factors on the result [N, O]; float32 or better.

    `energy` is the sum of squares of each kernel of the weight, [O, I], where it is known.
    """
    scale = None
    if demodulate:
        with without_autocast(x):
            weight, styles = at_least_float32(weight), at_least_float32(styles)
            if x.dtype == torch.float16:  # against overflow; demodulation cancels both factors
                weight = weight / (weight[0].numel() ** 0.5 * weight.abs().amax((1, 2, 3), keepdim=True))
                styles = styles / styles.abs().amax(1, keepdim=True)
            energy = weight.square().sum((2, 3)) if energy is None else energy
            if normalize:  # of the weight by factors on the result, instead of a pass over the weight
                styles = styles * styles.square().mean().rsqrt()
                unit = (energy.mean(1) / weight[0, 0].numel()).rsqrt()
                energy = energy * unit.square()[:, None]
            scale = torch.rsqrt(styles.square() @ energy.t() + 1e-8)
            scale = scale * unit if normalize else scale
    if input_gain is not None:
        styles = styles * input_gain
    return weight, styles, scale


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
    """As `gankit.core.cuda.modulated_conv2d`, unchecked."""
    variables = (x, weight, styles, noise, b, input_gain if isinstance(input_gain, Tensor) else None)
    if inference.applies(x, variables, weight, up, down, padding, flip_weight, act, gain):
        return inference.modulated_conv2d(
            x, weight, styles, noise, up, padding, resample_filter, demodulate, input_gain, normalize, b, act, alpha,
            gain, clamp,
        )  # fmt: skip
    if (
        not demodulate
        and act == "linear"
        and gain == 1
        and noise is None
        and padding == NONE
        and up == down == 1
    ):
        y = inference.few_outputs(x, variables, weight, styles, input_gain, b, clamp)
        if y is not None:
            return y
    spec = ACTIVATIONS[act]
    weight, styles, scale = modulation(x, weight, styles, demodulate, input_gain, normalize)
    weight = weight.to(x.dtype)
    styles = styles.to(x.dtype)
    if not demodulate and weight.shape[2:] == (1, 1) and up == down == 1 and padding == NONE:
        y = _modulated_pointwise(x, weight[:, :, 0, 0], styles)
    else:
        x = x * styles[:, :, None, None]
        y = conv2d_resample(x, weight, resample_filter, up, down, padding, 1, flip_weight)

    if scale is not None:
        scale = scale.to(y.dtype)[:, :, None, None]
    if not (spec.homogeneous and gain > 0):
        y = y if scale is None else y * scale
        y = y if noise is None else y + noise.to(y.dtype)
        return bias_act(y, b, act=act, alpha=alpha, gain=gain, clamp=clamp)
    # gain * act(y * scale + b + noise) in one fresh and at most three in-place passes over the feature maps; addcmul
    # would save one of them here but adds a dearer one to its backward
    y = y * (gain if scale is None else scale * gain)
    if b is not None:
        y = y.add_(b.to(y.dtype).view(-1, 1, 1) * gain)
    if noise is not None:
        y = y.add_(noise.to(y.dtype) * gain)
    return activate(y, spec, alpha, clamp, in_place=True)


def _modulated_pointwise(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """1x1 convolution with weights [O, I] * styles [N, I] of each sample; cheaper than scaling x where O << I (RGB)."""
    weights = weight * styles[:, None, :]
    if x.is_contiguous(memory_format=torch.channels_last):
        y = bmm(x.permute(0, 2, 3, 1).flatten(1, 2), weights.transpose(1, 2))
        return y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    return bmm(weights, x.flatten(2)).unflatten(2, x.shape[2:])
