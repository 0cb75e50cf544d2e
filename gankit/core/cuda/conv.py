"""Convolutions with resampling, and the modulated convolutions of StyleGAN2 and StyleGAN3.

Orientation: layers that enlarge use `flip_weight=False` (true convolution), all others correlate like `F.conv2d`.
With a transposed convolution this means an unflipped kernel.

Modulation scales activations and shares one kernel, `conv(x * s) * d` (equations 1 to 3 of StyleGAN2 with the factors
taken out of the sum): grouped convolutions with a kernel for each sample are slow on CPUs and in double backward.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.cuda.bias_act import activate, activation, bias_act
from gankit.core.cuda.upfirdn2d import Pair, filter_size, padding4, symmetric, upfirdn2d
from gankit.core.precision import at_least_float32, without_autocast


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    groups: int = 1,
    flip_weight: bool = True,
    b: Tensor | None = None,
) -> Tensor:
    """Upsample by `up`, convolve with `w`, downsample by `down`; the FIR filter `f` guards both resampling steps.

    Args:
        x: [N, I, H, W].
        w: [O, I / groups, kh, kw].
        f: filter from `setup_filter`; None is an impulse.
        up: enlargement before the convolution.
        down: reduction after it.
        padding: zeros around the upsampled image: all sides, (x, y) or (x0, x1, y0, y1).
        groups: of input channels.
        flip_weight: correlate (True) or convolve (False).
        b: bias [O] of the result.
    """
    kh, kw = w.shape[2:]
    nx, ny = filter_size(f)
    x0, x1, y0, y1 = padding4(padding)
    if up > 1:
        x0, x1 = x0 + (nx + up - 1) // 2, x1 + (nx - up) // 2
        y0, y1 = y0 + (ny + up - 1) // 2, y1 + (ny - up) // 2
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
        return F.conv2d(x, w, b, padding=same, groups=groups)
    if up == 1 and pointwise:
        return F.conv2d(upfirdn2d(x, f, down=down, padding=pad), w, b, groups=groups)
    if up == 1:
        return F.conv2d(upfirdn2d(x, f, padding=pad), w, b, stride=down, groups=groups)
    if pointwise and down == 1:
        x = upfirdn2d(F.conv2d(x, w, groups=groups), f, up=up, padding=pad, gain=up**2)
    else:
        x0, x1, y0, y1 = x0 - (kw - 1), x1 - (kw - up), y0 - (kh - 1), y1 - (kh - up)
        cut_x, cut_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
        w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        x = F.conv_transpose2d(x, w, stride=up, padding=(cut_y, cut_x), groups=groups)
        x = upfirdn2d(x, f, padding=(x0 + cut_x, x1 + cut_x, y0 + cut_y, y1 + cut_y), gain=up**2)
        if down > 1:
            x = upfirdn2d(x, f, down=down)
    return x if b is None else x + b.to(x.dtype).view(-1, 1, 1)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    input_gain: Tensor | float | None = None,
    normalize: bool = False,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = 1,
    clamp: float | None = None,
) -> Tensor:
    """`bias_act(conv(x, weight * styles, demodulated) + noise)`.

    Args:
        x: [N, I, H, W].
        weight: [O, I, kh, kw].
        styles: [N, I], one factor for each input channel.
        noise: [N, 1, H', W'] or [H', W'], added before the bias.
        up: enlargement, as in `conv2d_resample`.
        down: reduction, as in `conv2d_resample`.
        padding: as in `conv2d_resample`.
        resample_filter: filter from `setup_filter`.
        demodulate: scale each output channel to the variance that it has for white input.
        flip_weight: correlate (True) or convolve (False).
        input_gain: factor on the input that demodulation does not cancel: one number, [I] or [N, I].
        normalize: with demodulation, scale `weight` to a root mean square of 1 for each output channel and `styles`
            over the whole batch, as StyleGAN3 does; this shows only where the 1e-8 of demodulation does.
        b: bias [O].
        act: activation, with `alpha`, `gain` and `clamp` as in `bias_act`.
        alpha: see `bias_act`.
        gain: see `bias_act`.
        clamp: see `bias_act`.
    """
    spec = activation(act)
    alpha = spec.alpha if alpha is None else alpha
    gain = spec.gain if gain is None else gain
    scale = None
    if demodulate:
        with without_autocast(x):
            weight, styles = at_least_float32(weight), at_least_float32(styles)
            if x.dtype == torch.float16:  # against overflow; demodulation cancels both factors
                weight = weight / (weight[0].numel() ** 0.5 * weight.abs().amax((1, 2, 3), keepdim=True))
                styles = styles / styles.abs().amax(1, keepdim=True)
            energy = weight.square().sum((2, 3))
            if normalize:  # of the weight by factors on the result, instead of a pass over the weight
                styles = styles * styles.square().mean().rsqrt()
                unit = (energy.mean(1) / weight[0, 0].numel()).rsqrt()
                energy = energy * unit.square()[:, None]
            scale = torch.rsqrt(styles.square() @ energy.t() + 1e-8)
            scale = scale * unit if normalize else scale
    if input_gain is not None:
        styles = styles * input_gain

    weight = weight.to(x.dtype)
    styles = styles.to(x.dtype)
    if not demodulate and weight.shape[2:] == (1, 1) and up == down == 1 and padding == 0:
        y = _modulated_pointwise(x, weight[:, :, 0, 0], styles)
    else:
        x = x * styles[:, :, None, None]
        y = conv2d_resample(x, weight, resample_filter, up, down, padding, flip_weight=flip_weight)

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
        y = torch.bmm(x.permute(0, 2, 3, 1).flatten(1, 2), weights.transpose(1, 2))
        return y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    return torch.bmm(weights, x.flatten(2)).unflatten(2, x.shape[2:])
