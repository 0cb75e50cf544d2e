"""Convolutions with resampling: FIR filters around a plain, strided or transposed convolution.

Orientation: layers that enlarge use `flip_weight=False` (true convolution), all others correlate like `F.conv2d`.
With a transposed convolution this means an unflipped kernel.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gankit.core.cuda.arguments import filter_size
from gankit.core.cuda.primitives import PLAIN, Convolutions
from gankit.core.cuda.upfirdn2d import symmetric, upfirdn2d

ONE = (1, 1)


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
    convolutions: Convolutions = PLAIN,
) -> Tensor:
    """`operators.conv2d_resample` without checks.

    Args:
        resample: the upfirdn2d to use.
        convolutions: the convolutions to use.
    """
    conv2d = convolutions.conv2d
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
        x = convolutions.conv_transpose2d(x, w, up, cut, groups)
        x = resample(x, f, ONE, ONE, rest, False, up**2)
        if down > 1:
            x = resample(x, f, ONE, (down, down), (0, 0, 0, 0), False, 1)
    return x if b is None else x + b.view(-1, 1, 1)


def transposed_padding(
    padding: tuple[int, int, int, int], taps: tuple[int, int], kernel: tuple[int, int], up: int
) -> tuple[list[int], tuple[int, int, int, int]]:
    """Split the padding of an up-sampling convolution into that of the transposed convolution and that of the filter.

    Args:
        padding: zeros around the upsampled image, (x0, x1, y0, y1).
        taps: of the filter, (x, y).
        kernel: size of the convolution's kernel, (x, y).
        up: the factor.

    Returns:
        Rows and columns that the transposed convolution cuts off, as many as it can, [y, x]; and the padding of the
        filter after it, (x0, x1, y0, y1).
    """
    (nx, ny), (kw, kh), (x0, x1, y0, y1) = taps, kernel, padding
    x0, x1 = x0 + (nx + up - 1) // 2 - (kw - 1), x1 + (nx - up) // 2 - (kw - up)
    y0, y1 = y0 + (ny + up - 1) // 2 - (kh - 1), y1 + (ny - up) // 2 - (kh - up)
    cut_x, cut_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    return [cut_y, cut_x], (x0 + cut_x, x1 + cut_x, y0 + cut_y, y1 + cut_y)
