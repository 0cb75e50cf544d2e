"""Image sizes that a pyramid of factor-two blocks can make, and the channels of its levels."""

from __future__ import annotations

from gankit.errors import GankitError

START = (
    4  # nominal side of the coarsest level; the true start grid has sides of 4 to 15 and may be rectangular
)


def levels(image_shape: tuple[int, int, int]) -> tuple[tuple[int, int], int]:
    """(C, H, W) -> ((h, w), k): the start grid and the number of doublings from it to H x W.

    k is the largest number with min(H, W) / 2^k >= 4 for which 2^k divides both sides. Raises GankitError for a side
    below 4 and for a start grid of 16 or more on both sides: the learned constant and D's last layer would be larger
    than the rest of the networks.
    """
    _, height, width = image_shape
    small = min(height, width)
    if small < START:
        raise GankitError(
            f"image size {width}x{height} is too small: both sides must be at least {START} pixels"
        )
    k = 0
    while small >> (k + 1) >= START and height % 2 ** (k + 1) == 0 and width % 2 ** (k + 1) == 0:
        k += 1
    if small >> k >= 4 * START:
        step = 2
        while -(-small // step) >= 4 * START:
            step *= 2
        lower = [side - side % step for side in (width, height)]
        upper = [side + -side % step for side in (width, height)]
        raise GankitError(
            f"image size {width}x{height} cannot be halved often enough: both sides must be multiples of {step}, "
            f"for example {lower[0]}x{lower[1]} or {upper[0]}x{upper[1]}"
        )
    return (height >> k, width >> k), k


def nominal(level: int) -> int:
    """Nominal resolution of a level, used in module names: 4, 8, 16, ... from coarse to fine, for any aspect ratio."""
    return START << level


def channels(level: int, channel_base: int, channel_max: int) -> int:
    """Number of feature maps of a level: C(r) = min(channel_base // r, channel_max). Raises GankitError if it is 0."""
    count = min(channel_base // nominal(level), channel_max)
    if count < 1:
        raise GankitError(
            f"channel_base {channel_base} leaves no channels at resolution {nominal(level)}; "
            f"set it to {nominal(level)} times the wanted number of channels"
        )
    return count
