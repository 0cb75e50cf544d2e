"""Blur that fades out and fine details that fade in, applied to all images that D sees early in training.

Blur: StyleGAN3, appendix; StyleGAN-XL, section 3.2; StyleGAN-T. Fade-in: Karras et al. 2018, section 2. Both come
before the augmentation, for real and generated images, in every phase."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.runtime.precision import at_least_float32, without_autocast


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur [B, C, H, W] by taps 2^(-(i / sigma)^2), i = -r..r with r = floor(3 sigma), zero padding.

    `sigma` is in pixels. With the base 2, as in the originals, the standard deviation is 0.849 sigma. Below sigma = 1/3
    the images are returned unchanged."""
    radius = int(3 * sigma)
    if radius < 1:
        return images
    with without_autocast(images):
        x = at_least_float32(images)
        vertical, horizontal = (_band(size, radius, sigma, x) for size in x.shape[2:])
        return vertical @ x @ horizontal


def _band(size: int, radius: int, sigma: float, like: Tensor) -> Tensor:
    """The 1-D convolution as a symmetric matrix [size, size]; multiplying by it is faster than convolving here."""
    taps = torch.exp2(-(torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma).square())
    taps = F.pad(taps / taps.sum(), (0, 1))  # the last tap, 0, is that of all pixels beyond the radius
    distance = (torch.arange(size)[:, None] - torch.arange(size)) + radius
    index = torch.where((distance >= 0) & (distance <= 2 * radius), distance, len(taps) - 1)
    return taps[index].to(like)


def fade_in(images: Tensor, share: float) -> Tensor:
    """Images [B, C, H, W], interpolated between their half-resolution version (share 0) and themselves (share 1).

    The half-resolution version is average-pooled by 2 and up-sampled by nearest neighbour."""
    if share >= 1:
        return images
    coarse = F.interpolate(F.avg_pool2d(images, 2, ceil_mode=True), scale_factor=2, mode="nearest")
    return coarse[:, :, : images.shape[2], : images.shape[3]].lerp(images, share)
