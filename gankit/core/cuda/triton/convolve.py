"""Modulated convolutions (StyleGAN2 equations 1 to 3; StyleGAN3 appendix F) around the library's own convolution.

Activations are scaled and one kernel is shared, `conv(x * s) * d`; the scaling before is one pass and everything after
is another (`epilogue`). Normalisation and the factors d are small tensors and left to torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.cuda.bias_act import activation
from gankit.core.cuda.triton.epilogue import scale_bias_act
from gankit.core.cuda.triton.resample import upfirdn2d
from gankit.core.cuda.upfirdn2d import Pair, filter_size, padding4, symmetric
from gankit.core.precision import at_least_float32, without_autocast


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
    """`bias_act(conv(x, weight * styles, demodulated) * input_gain + noise)`, as `gankit.core.cuda.modulated_conv2d`.

    Args:
        x: [N, I, H, W].
        weight: [O, I, kh, kw].
        styles: [N, I].
        noise: [N, 1, H', W'] or [H', W'], added before the bias.
        up, down, padding, resample_filter, flip_weight: as in `conv2d_resample`.
        demodulate: scale each output channel to the variance that it has for white input.
        input_gain: number, [I] or [N, I]; applied after demodulation, which would cancel it.
        normalize: divide weight and styles by their root mean square first, where `demodulate` (StyleGAN3).
        b, act, alpha, gain, clamp: as in `bias_act`.
    """
    if styles.shape != (x.shape[0], weight.shape[1]) or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x {list(x.shape)}, weight {list(weight.shape)} and styles {list(styles.shape)} do not fit: they must be "
            "[N, I, H, W], [O, I, kh, kw] and [N, I]"
        )
    spec = activation(act)
    scale = None
    if demodulate:
        with without_autocast(x):
            weight, styles = at_least_float32(weight), at_least_float32(styles)
            if normalize:
                weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
                styles = styles * styles.square().mean().rsqrt()
            elif x.dtype == torch.float16:  # against overflow; demodulation cancels both factors
                weight = weight / (weight[0].numel() ** 0.5 * weight.abs().amax((1, 2, 3), keepdim=True))
                styles = styles / styles.abs().amax(1, keepdim=True)
            scale = torch.rsqrt(styles.square() @ weight.square().sum((2, 3)).t() + 1e-8)
    if input_gain is not None:
        styles = styles * input_gain
    x = scale_bias_act(x, styles)
    y = _conv2d_resample(x, weight.to(x.dtype), resample_filter, up, down, padding, flip_weight)
    alpha, gain = spec.alpha if alpha is None else alpha, spec.gain if gain is None else gain
    if scale is None and noise is None and b is None and act == "linear" and gain == 1 and clamp is None:
        return y
    return scale_bias_act(y, scale, noise, b, act, alpha, gain, clamp)


def _conv2d_resample(
    x: Tensor, w: Tensor, f: Tensor | None, up: int, down: int, padding: Pair, flip_weight: bool
) -> Tensor:
    """`gankit.core.cuda.conv2d_resample` without groups, on this package's upfirdn2d."""
    kh, kw = w.shape[2:]
    nx, ny = filter_size(f)
    x0, x1, y0, y1 = padding4(padding)
    if up > 1:
        x0, x1 = x0 + (nx + up - 1) // 2, x1 + (nx - up) // 2
        y0, y1 = y0 + (ny + up - 1) // 2, y1 + (ny - up) // 2
    if down > 1:
        x0, x1 = x0 + (nx - down + 1) // 2, x1 + (nx - down) // 2
        y0, y1 = y0 + (ny - down + 1) // 2, y1 + (ny - down) // 2
    pad, pointwise = (x0, x1, y0, y1), kh == kw == 1
    if flip_weight == (up > 1) and not pointwise:  # a transposed convolution turns the kernel round by itself
        w = w.flip([2, 3])
    if up == 1 and down == 1:
        x, same = symmetric(x, pad)
        return F.conv2d(x, w, padding=same)
    if up == 1 and pointwise:
        return F.conv2d(upfirdn2d(x, f, down=down, padding=pad), w)
    if up == 1:
        return F.conv2d(upfirdn2d(x, f, padding=pad), w, stride=down)
    if pointwise and down == 1:
        return upfirdn2d(F.conv2d(x, w), f, up=up, padding=pad, gain=up**2)
    x0, x1, y0, y1 = x0 - (kw - 1), x1 - (kw - up), y0 - (kh - 1), y1 - (kh - up)
    cut_x, cut_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    x = F.conv_transpose2d(x, w.transpose(0, 1), stride=up, padding=(cut_y, cut_x))
    x = upfirdn2d(x, f, padding=(x0 + cut_x, x1 + cut_x, y0 + cut_y, y1 + cut_y), gain=up**2)
    return x if down == 1 else upfirdn2d(x, f, down=down)
