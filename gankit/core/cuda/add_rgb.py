"""A level of an image made of skip connections (StyleGAN2, section 4.1), from the operators that it consists of."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gankit.core.cuda import arguments
from gankit.core.runtime.precision import at_least_float32


def add_rgb(
    img: Tensor | None,
    f: Tensor | None,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    b: Tensor | None,
    clamp: float | None,
    modulated_conv2d: Callable[..., Tensor],
    upfirdn2d: Callable[..., Tensor],
) -> Tensor:
    """`operators.add_rgb` without checks, made of the two operators given."""
    rest = (1, 1, (0, 0, 0, 0), None, False, True, None, False, b, "linear", 0.0, 1.0, clamp)
    rgb = at_least_float32(modulated_conv2d(x, weight, styles, None, *rest))
    if img is None:
        return rgb
    up, down, padding = arguments.upsampling(img, f, 2, 0)
    return upfirdn2d(img, f, up, down, padding, False, 4.0).add_(rgb)
