"""Modulated convolutions (StyleGAN2 equations 1 to 3; StyleGAN3 appendix F) around the library's own convolution.

Activations are scaled and one kernel is shared, `conv(x * s) * d`; the scaling before is one pass and everything after
is another (`epilogue`). Normalisation and the factors d are small tensors and left to torch.
"""

from __future__ import annotations

from torch import Tensor

from gankit.core.cuda.conv2d_resample import conv2d_resample as resampled
from gankit.core.cuda.modulated_conv2d import modulation
from gankit.core.cuda.triton.epilogue import scale_bias_act
from gankit.core.cuda.triton.resample import upfirdn2d


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
    """`operators.conv2d_resample` by torch's convolution and this package's upfirdn2d."""
    return resampled(x, w, f, up, down, padding, groups, flip_weight, b, upfirdn2d)


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
    """`operators.modulated_conv2d` by torch's convolution between two kernels."""
    weight, styles, scale = modulation(x, weight, styles, demodulate, input_gain, normalize)
    x = scale_bias_act(x, styles)
    y = conv2d_resample(x, weight, resample_filter, up, down, padding, 1, flip_weight, None)
    if scale is None and noise is None and b is None and act == "linear" and gain == 1 and clamp is None:
        return y
    if noise is not None:  # the kernel reads it whole
        noise = noise.expand(*noise.shape[:-2], *y.shape[2:])
    return scale_bias_act(y, scale, noise, b, act, alpha, gain, clamp)
