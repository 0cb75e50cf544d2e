"""The public operators. Each checks its arguments, fills in defaults and hands over to an implementation.

Every one takes `impl`: 'auto', 'reference', 'composite' or the name of an op backend, see `dispatch`. All raise
ValueError for tensors of a wrong shape, type or device and for sizes that leave nothing, with one wording for all
implementations.
Filters come from `setup_filter` and get no gradient; everything else is differentiable twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gankit.core.cuda import arguments, dispatch
from gankit.core.cuda.activations import ACTIVATIONS
from gankit.core.cuda.arguments import Pair
from gankit.core.cuda.dispatch import function


def setup_filter(
    f: Any,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
    impl: str = "auto",
) -> Tensor:
    """Filter taps -> the float32 tensor on the CPU that the other operators take; `f` itself is never changed.

    Args:
        f: None or a number (an impulse), 1-D taps, or a 2-D kernel.
        normalize: divide by the sum, so that constants are kept.
        flip_filter: reverse every axis.
        gain: gain of the 2-D filter; a 1-D one carries its square root.
        separable: keep a 1-D filter 1-D, to be applied along x and then y; None does so from 8 taps on, shorter ones
            become the outer product with themselves.
        impl: for the sake of symmetry; all implementations share this one.

    Raises:
        ValueError: `f` has no taps or more than two axes, or is to be normalized and sums to 0.
    """
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device="cpu").detach().clone()
    dispatch.request(impl)
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(
            f"setup_filter: f must have one or two axes and at least one tap, not the shape {list(taps.shape)}"
        )
    if taps.ndim == 0:
        taps = taps[None]
    if taps.ndim == 1 and not (len(taps) >= 8 if separable is None else separable):
        taps = torch.outer(taps, taps)
    if normalize:
        total = taps.sum()
        if not torch.compiler.is_compiling() and total == 0:
            raise ValueError(
                f"setup_filter: f {taps.tolist()} sums to 0 and cannot be normalized; use normalize=False"
            )
        taps /= total
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return taps * gain ** (taps.ndim / 2)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """`clamp(gain * act(x + b))` (StyleGAN2, Karras et al. 2020, appendix B).

    Args:
        x: input of any shape and floating type; the result has both.
        b: bias, 1-D, broadcast along `dim`.
        dim: the axis of `x` that `b` belongs to.
        act: name of the activation: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: slope of lrelu for negative inputs; None is 0.2.
        gain: factor after the activation; None is the activation's own (sqrt 2 for relu, lrelu, swish, else 1).
        clamp: bound on the magnitude of the result; None is no bound.
        impl: see `dispatch`.
    """
    arguments.bias_act(x, b, dim, act, clamp)
    spec = ACTIVATIONS[act]
    alpha = spec.alpha if alpha is None else alpha
    gain = spec.gain if gain is None else gain
    return function("bias_act", x, impl)(x, b, dim % max(x.ndim, 1), act, alpha, gain, clamp)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Insert zeros, pad, filter and decimate each channel of `x` [N, C, H, W] (StyleGAN2, appendix B).

    Args:
        x: images or feature maps; the memory format is kept.
        f: 2-D kernel, 1-D taps for both axes, or None for an impulse.
        up: factor, or (x, y).
        down: factor, or (x, y).
        padding: zeros around the upsampled grid: all sides, (x, y) or (x0, x1, y0, y1); negative ones crop.
        flip_filter: correlate instead of convolving.
        gain: factor on the result.
        impl: see `dispatch`.

    Returns:
        [N, C, (H * up + y0 + y1 - taps) // down + 1, ...].
    """
    factors = arguments.upfirdn2d(x, f, up, down, padding)
    return function("upfirdn2d", x, impl)(x, f, *factors, flip_filter, gain)


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """`upfirdn2d` that keeps the size; `padding` is added to the zeros that this needs."""
    factors = arguments.upfirdn2d(x, f, 1, 1, padding, "filter2d", lambda n, up, down: (n // 2, (n - 1) // 2))
    return function("upfirdn2d", x, impl)(x, f, *factors, flip_filter, gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """`upfirdn2d` to `up` times the size with the mean of the interior kept; `padding` counts pixels of the result."""
    up, down, padding = arguments.upsampling(x, f, up, padding)
    return function("upfirdn2d", x, impl)(x, f, up, down, padding, flip_filter, gain * up[0] * up[1])


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """`upfirdn2d` to a `down`-th of the size; `padding` counts pixels of the input."""
    factors = arguments.upfirdn2d(
        x, f, 1, down, padding, "downsample2d", lambda n, up, down: ((n - down + 1) // 2, (n - down) // 2)
    )
    return function("upfirdn2d", x, impl)(x, f, *factors, flip_filter, gain)


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Bias, upsampling, leaky ReLU with gain and clamp, downsampling of `x` [N, C, H, W] (StyleGAN3, section 3.2).

    Args:
        x: feature maps; the memory format is kept.
        fu: filter of the upsampling, 2-D kernel or 1-D taps for both axes; None is an impulse.
        fd: filter of the downsampling.
        b: bias [C], added before the upsampling.
        up: factor.
        down: factor.
        padding: zeros around the upsampled grid, before `fu`: all sides, (x, y) or (x0, x1, y0, y1).
        gain: positive factor after the leaky ReLU.
        slope: of the leaky ReLU for negative values.
        clamp: bound on the magnitude, at the high rate; None is no bound.
        flip_filter: correlate instead of convolving, in both filters.
        impl: see `dispatch`.

    Returns:
        [N, C, (H * up + y0 + y1 - (taps of fu - 1) - taps of fd) // down + 1, ...].
    """
    padding = arguments.filtered_lrelu(x, fu, fd, b, up, down, padding, gain, clamp)
    return function("filtered_lrelu", x, impl)(
        x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter
    )


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
    impl: str = "auto",
) -> Tensor:
    """Upsample by `up`, convolve with `w`, downsample by `down`; the FIR filter `f` guards both resampling steps.

    Args:
        x: [N, I, H, W].
        w: [O, I / groups, kh, kw], used in the dtype of x.
        f: filter from `setup_filter`; None is an impulse.
        up: enlargement before the convolution.
        down: reduction after it.
        padding: zeros around the upsampled image, besides those that the filters need: all sides, (x, y) or
            (x0, x1, y0, y1).
        groups: of input channels.
        flip_weight: correlate (True) or convolve (False). The layers of StyleGAN2 that enlarge convolve.
        b: bias [O] of the result.
        impl: see `dispatch`.
    """
    sides, _ = arguments.conv2d_resample(x, w, f, up, down, padding, groups, b)
    return function("conv2d_resample", x, impl)(x, w, f, up, down, sides, groups, flip_weight, b)


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
    impl: str = "auto",
) -> Tensor:
    """Convolution with weights scaled for each sample, then noise and `bias_act`.

    The form of StyleGAN2 (equations 1 to 3; Karras et al. 2020, section 2.2) is the default; that of StyleGAN3
    (Karras et al. 2021, appendix F) has `normalize`, `input_gain` and no noise.

    Args:
        x: [N, I, H, W].
        weight: [O, I, kh, kw].
        styles: [N, I], one factor for each input channel.
        noise: [N or 1, 1, H', W'] or [H', W'] as the result, added before the bias.
        up: enlargement, as in `conv2d_resample`.
        down: reduction, as in `conv2d_resample`.
        padding: as in `conv2d_resample`.
        resample_filter: filter from `setup_filter`.
        demodulate: scale each output channel to the variance that it has for white input.
        flip_weight: correlate (True) or convolve (False).
        input_gain: factor on x after demodulation, which would cancel it: a number, [I] or [N, I].
        normalize: where `demodulate`, first divide weights by their root mean square, for each output channel, and
            styles by theirs, over the whole batch.
        b: bias [O].
        act: activation, with `alpha`, `gain` and `clamp` as in `bias_act`.
        alpha: see `bias_act`.
        gain: see `bias_act`.
        clamp: see `bias_act`.
        impl: see `dispatch`.
    """
    sides = arguments.modulated_conv2d(
        x, weight, styles, noise, up, down, padding, resample_filter, input_gain, b, act, clamp
    )
    spec = ACTIVATIONS[act]
    alpha = spec.alpha if alpha is None else alpha
    gain = spec.gain if gain is None else gain
    return function("modulated_conv2d", x, impl)(
        x, weight, styles, noise, up, down, sides, resample_filter, demodulate, flip_weight, input_gain, normalize,
        b, act, alpha, gain, clamp,
    )  # fmt: skip


def add_rgb(
    img: Tensor | None,
    f: Tensor | None,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    b: Tensor | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """A level of an image made of skip connections (Karras et al. 2020, section 4.1): the levels so far, enlarged, plus
    what a modulated 1x1 convolution without demodulation makes of feature maps.

    Args:
        img: [N, O, H / 2, W / 2], float32; None at the first level.
        f: filter from `setup_filter`, for `upsample2d` of `img`.
        x: [N, I, H, W].
        weight: [O, I, 1, 1].
        styles: [N, I].
        b: bias [O].
        clamp: of this level, see `bias_act`.
        impl: see `dispatch`.

    Returns:
        [N, O, H, W], float32 or better.
    """
    arguments.add_rgb(img, f, x, weight, styles, b, clamp)
    return function("add_rgb", x, impl)(img, f, x, weight, styles, b, clamp)
