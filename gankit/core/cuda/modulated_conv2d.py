"""The modulated convolutions of StyleGAN2 and StyleGAN3.

Modulation scales activations and shares one kernel, `conv(x * s) * d` (equations 1 to 3 of StyleGAN2 with the factors
taken out of the sum): grouped convolutions with a kernel for each sample are slow on CPUs and in double backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankit.core.cuda.activations import ACTIVATIONS
from gankit.core.cuda.bias_act import activate, bias_act
from gankit.core.cuda.conv2d_resample import conv2d_resample
from gankit.core.cuda.primitives import PLAIN, Convolutions, bmm
from gankit.core.runtime.precision import at_least_float32, without_autocast

NONE = (0, 0, 0, 0)


def modulation(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    input_gain: Tensor | float | None,
    normalize: bool,
    energy: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Turn weights of each sample into one weight and factors on maps.

    Args:
        x: the maps; only their dtype counts.
        weight: [O, I, kh, kw].
        styles: [N, I].
        demodulate: as of `gankit.core.cuda.modulated_conv2d`.
        input_gain: the same.
        normalize: the same.
        energy: sum of squares of each kernel of the weight, [O, I], where it is known.

    Returns:
        The weight [O, I, kh, kw], factors on the input [N, I] and factors on the result [N, O], or None for 1; with
        `demodulate` in float32 or better.
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
    convolutions: Convolutions = PLAIN,
) -> Tensor:
    """`operators.modulated_conv2d` without checks, by the `convolutions` given."""
    spec = ACTIVATIONS[act]
    weight, styles, scale = modulation(x, weight, styles, demodulate, input_gain, normalize)
    weight = weight.to(x.dtype)
    styles = styles.to(x.dtype)
    if not demodulate and weight.shape[2:] == (1, 1) and up == down == 1 and padding == NONE:
        y = _modulated_pointwise(x, weight[:, :, 0, 0], styles)
    else:
        x = x * styles[:, :, None, None]
        y = conv2d_resample(
            x, weight, resample_filter, up, down, padding, 1, flip_weight, convolutions=convolutions
        )

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
