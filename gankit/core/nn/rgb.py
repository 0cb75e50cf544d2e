"""Conversion of images to the three channels, and choice of the input size, of a frozen RGB network."""

from __future__ import annotations

from torch import Tensor

from gankit.core.runtime.random import rand


def to_rgb(images: Tensor) -> Tensor:
    """[B, 1 | 3 | 4, H, W] -> [B, 3, H, W], all in [-1, 1].

    Grey is repeated. RGBA is composited over a random colour per image: a fixed background would hide the alpha channel
    from the network wherever the colour beneath equals that background.
    """
    if images.shape[1] == 3:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    colour, alpha = images[:, :3], images[:, 3:] * 0.5 + 0.5
    background = rand(len(images), 3, 1, 1, device=images.device).to(images.dtype) * 2 - 1
    return background + (colour - background) * alpha


def entry_size(height: int, width: int, side: int, multiple: int) -> tuple[int, int]:
    """Input size (H, W): shorter side `side`, aspect ratio kept, both sides rounded to multiples of `multiple`."""
    scale = side / min(height, width)
    rounded = [max(1, round(length * scale / multiple)) * multiple for length in (height, width)]
    return rounded[0], rounded[1]
