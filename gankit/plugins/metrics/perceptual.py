"""Perceptual distance on any feature network: LPIPS without learned weights (Zhang et al., CVPR 2018).

The paper is "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", section 3; its learned weights of
channels are all 1 here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gankit.evaluation.backbone import Backbone

LARGEST = 256  # pixels; larger images are averaged down to it, as for the path length of StyleGAN
EPSILON = 1e-10


def perceptual_vectors(backbone: Backbone, images: Tensor) -> Tensor:
    """Vectors [B, N] whose squared Euclidean distances are the perceptual distances of the images.

    For each map of the network, the squared difference of channel vectors of unit length, averaged over positions; then
    the sum over maps.

    Args:
        backbone: feature network whose `taps` are compared.
        images: [B, 1 | 3 | 4, H, W] in [-1, 1].
    """
    parts = []
    for maps in backbone.network(_enter(backbone, rgb_on_white(images))):
        maps = maps.float()
        maps = maps / (maps.square().sum(1, keepdim=True).sqrt() + EPSILON)
        parts.append(maps.flatten(1) / maps[0, 0].numel() ** 0.5)
    return torch.cat(parts, 1)


def rgb_on_white(images: Tensor) -> Tensor:
    """Images [B, 1 | 3 | 4, H, W] in [-1, 1] -> RGB, without rounding; transparent parts become white."""
    if images.shape[1] == 4:
        alpha = images[:, 3:] * 0.5 + 0.5
        return 1 + (images[:, :3] - 1) * alpha
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _enter(backbone: Backbone, images: Tensor) -> Tensor:
    """Average images down towards LARGEST pixels, and resize them to a multiple of what the network takes."""
    factor = min(images.shape[2:]) // LARGEST
    if factor > 1:
        images = F.avg_pool2d(images, factor)
    multiple = backbone.network.input_multiple
    height, width = (max(1, round(side / multiple)) * multiple for side in images.shape[2:])
    if (height, width) == images.shape[2:]:
        return images
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False)
