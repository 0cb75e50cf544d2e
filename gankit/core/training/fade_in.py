"""What D's view of images lacks at the beginning: blur that fades out (StyleGAN3, appendix; StyleGAN-XL, section 3.2;
StyleGAN-T) and the finest details that fade in (Karras et al. 2018, section 2). It is in front of the augmentation, for
real and generated images alike, in every phase."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.runtime.precision import at_least_float32, without_autocast


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur [B, C, H, W] by taps 2^(-(i / sigma)^2), i = -r..r with r = floor(3 sigma), zeros beyond the borders.

    The base is 2 as in the originals: the standard deviation is 0.849 sigma. Below sigma = 1/3 nothing happens."""
    radius = int(3 * sigma)
    if radius < 1:
        return images
    with without_autocast(images):
        x = at_least_float32(images)
        vertical, horizontal = (_band(size, radius, sigma, x) for size in x.shape[2:])
        return vertical @ x @ horizontal


def _band(size: int, radius: int, sigma: float, like: Tensor) -> Tensor:
    """[size, size], symmetric: the convolution as a matrix, which at these sizes is faster than convolving."""
    taps = torch.exp2(-(torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma).square())
    taps = F.pad(taps / taps.sum(), (0, 1))  # the last one stands for everything farther away
    distance = (torch.arange(size)[:, None] - torch.arange(size)) + radius
    index = torch.where((distance >= 0) & (distance <= 2 * radius), distance, len(taps) - 1)
    return taps[index].to(like)


def fade_in(images: Tensor, share: float) -> Tensor:
    """Images [B, C, H, W] with only a share of what an image of half their resolution lacks; 1 is all of it."""
    if share >= 1:
        return images
    coarse = F.interpolate(F.avg_pool2d(images, 2, ceil_mode=True), scale_factor=2, mode="nearest")
    return coarse[:, :, : images.shape[2], : images.shape[3]].lerp(images, share)
