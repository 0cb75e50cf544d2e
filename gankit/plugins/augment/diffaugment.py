"""DiffAugment: Zhao et al. 2020 (Differentiable augmentation for data-efficient GAN training), section 3.2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.interfaces.networks import ImageShape
from gankit.core.interfaces.training import Augmentation
from gankit.core.runtime.random import rand, randint
from gankit.errors import GankitError, unknown

__all__ = ["DiffAugment"]


class DiffAugment(Augmentation):
    """Random colour, shift and cutout of each image, always on.

    Args:
        policy: comma-separated list out of color (brightness, saturation, contrast; not of an alpha channel),
            translation (by up to 1/8 of the side) and cutout (a square of 1/5 of the side), applied in this order.
    """

    def __init__(self, image_shape: ImageShape, *, policy: str = "color,translation,cutout") -> None:
        super().__init__()
        steps = {"color": _color, "translation": _translation, "cutout": _cutout}
        names = [name.strip() for name in policy.split(",")]
        for name in names:
            if name not in steps:
                raise GankitError(unknown("augmentation in diffaugment's policy:", name, steps))
        self.steps = [steps[name] for name in steps if name in names]

    def forward(self, images: Tensor) -> Tensor:
        for step in self.steps:
            images = step(images)
        return images


def _color(images: Tensor) -> Tensor:
    """Random brightness, saturation and contrast of RGB.

    x + U(-0.5, 0.5); m + (x - m) U(0, 2), m the mean of a pixel; m + (x - m) U(0.5, 1.5), m the mean of the image. The
    three are one affine map, computed as such to pass over the images once.
    """
    color = images[:, :3]
    brightness, saturation, contrast = rand(len(images), 3, 1, 1, device=images.device).split(1, dim=1)
    brightness, saturation, contrast = brightness - 0.5, saturation * 2, contrast + 0.5
    mean = color.mean((1, 2, 3), keepdim=True) * (1 - contrast) + brightness
    if color.shape[1] == 1:  # a pixel is its own mean
        color = color * contrast + mean
    else:
        grey = color.mean(1, keepdim=True) * (contrast * (1 - saturation))
        color = color * (contrast * saturation) + (grey + mean)
    return torch.cat([color, images[:, 3:]], dim=1) if images.shape[1] > 3 else color


def _translation(images: Tensor) -> Tensor:
    """Shift by random whole pixels, up to +-floor(size / 8 + 0.5) per axis, and fill with zeros."""
    batch, channels, height, width = images.shape
    reach_y, reach_x = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
    y = randint(0, 2 * reach_y + 1, (batch, 1, 1), device=images.device)
    x = randint(0, 2 * reach_x + 1, (batch, 1, 1), device=images.device)
    y = y + torch.arange(height, device=images.device)[:, None]
    x = x + torch.arange(width, device=images.device)
    padded = F.pad(images, (reach_x, reach_x, reach_y, reach_y)).flatten(2)
    index = (y * (width + 2 * reach_x) + x).flatten(1)
    return padded.gather(2, index[:, None].expand(-1, channels, -1)).view(images.shape)


def _cutout(images: Tensor) -> Tensor:
    """Zero a square of side floor(size / 5 + 0.5) whose centre is anywhere in the image."""
    inside = []
    for size in images.shape[2:]:
        side = int(size * 0.2 + 0.5)
        # An even square is centred on a grid line, of which there is one more than pixels.
        start = randint(0, size + 1 - side % 2, (len(images), 1), device=images.device) - side // 2
        position = torch.arange(size, device=images.device) - start
        inside.append((position >= 0) & (position < side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(hole, 0)
