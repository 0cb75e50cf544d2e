"""Perceptual path length (StyleGAN, Karras et al., CVPR 2019, section 4.1; StyleGAN2, CVPR 2020, appendix).

It is the perceptual distance of two images a short step apart in latent space, over the squared length of the step.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gankit.core.runtime.random import rand, randn
from gankit.errors import GankitError
from gankit.evaluation.metric import ModelMetric
from gankit.evaluation.metric_context import BatchSlice, MetricContext
from gankit.plugins.metrics.networks import OwnFeature
from gankit.plugins.metrics.perceptual import perceptual_vectors


class PathLengthW(ModelMetric):
    """Perceptual path length in w at path ends, `ppl2_wend` of StyleGAN2: steps of `epsilon` from the start of a path
    between two latents; without truncation, with the same fresh noise at both ends of a step.

    The distance is LPIPS on the feature network without learned weights of channels: values compare for one network
    only, and not with published ones. Steps below the 1st and above the 99th percentile are left out.

    Args:
        epsilon: length of a step, as a fraction of the path.
        crop: keep the middle of a face only, rows 3/8 to 7/8 and columns 2/8 to 6/8, as StyleGAN did on FFHQ.
        feature: feature network; that of --feature when omitted.
    """

    values = {"ppl": "lower", "ppl_std": ""}
    uses_feature = True
    min_images = 2
    space: ClassVar[str] = "w"
    full: ClassVar[bool] = False  # steps from random points of the path, not from its start

    def __init__(self, *, epsilon: float = 1e-4, crop: bool = False, feature: OwnFeature = None) -> None:
        if not 0 < epsilon < 1:
            raise GankitError(f"epsilon = {epsilon} of path length must lie between 0 and 1")
        self.epsilon, self.crop, self.feature = epsilon, crop, feature

    def probe(self, context: MetricContext) -> dict[str, float]:
        backbone = context.backbone_of(self)
        generator = context.pipe.generator

        def steps(part: BatchSlice) -> Tensor:
            cond = context.condition(context.labels(part.numbers))
            with part.random("path"):
                z = randn(part.count, 2, generator.z_dim, device=context.pipe.device)
                t = rand(part.count, 1, device=context.pipe.device)
            t = t * self.full
            vectors = []
            for place in (t, t + self.epsilon):
                with part.random("noise"):
                    images = generator.synthesis(self._ws(generator, z, place, cond), cond)
                vectors.append(perceptual_vectors(backbone, self._cropped(images)))
            return ((vectors[0] - vectors[1]).double().square().sum(1) / self.epsilon**2)[:, None]

        lengths = context.rows(context.num, steps, "path length")[:, 0]
        low, high = np.percentile(lengths, 1, method="lower"), np.percentile(lengths, 99, method="higher")
        kept = lengths[(low <= lengths) & (lengths <= high)]
        return {"ppl": float(kept.mean()), "ppl_std": float(kept.std())}

    def _ws(self, generator: Any, z: Tensor, t: Tensor, cond: Any) -> Tensor:
        """ws [B, num_ws, w_dim] at positions t [B, 1] in [0, 1] of the paths between the latents z [B, 2, z_dim]."""
        if self.space == "z":
            return generator.mapping(slerp(z[:, 0], z[:, 1], t), cond)
        a, b = (generator.mapping(z[:, i], cond) for i in (0, 1))
        return torch.lerp(a, b, t[:, :, None])

    def _cropped(self, images: Tensor) -> Tensor:
        if not self.crop:
            return images
        height, width = images.shape[2] // 8, images.shape[3] // 8
        return images[:, :, 3 * height : 7 * height, 2 * width : 6 * width]


class PathLengthWFull(PathLengthW):
    """Perceptual path length in w, steps from random points of the path (`ppl_wfull`).

    Args:
        epsilon: length of a step, as a fraction of the path.
        crop: keep the middle of a face only, as StyleGAN did on FFHQ.
        feature: feature network; that of --feature when omitted.
    """

    full = True


class PathLengthZ(PathLengthW):
    """Perceptual path length in z at the ends of paths on the sphere (`ppl_zend`).

    Args:
        epsilon: length of a step, as a fraction of the path.
        crop: keep the middle of a face only, as StyleGAN did on FFHQ.
        feature: feature network; that of --feature when omitted.
    """

    space = "z"


class PathLengthZFull(PathLengthZ):
    """Perceptual path length in z, steps from random points of paths on the sphere (`ppl_zfull`).

    Args:
        epsilon: length of a step, as a fraction of the path.
        crop: keep the middle of a face only, as StyleGAN did on FFHQ.
        feature: feature network; that of --feature when omitted.
    """

    full = True


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points [B, D] at t [B, 1] of the great circles from a to b [B, D], scaled to norm sqrt(D), that of the
    latents: networks that normalise z do not see it, others need it."""
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    cosine = (a * b).sum(1, keepdim=True).clamp(-1, 1)
    across = F.normalize(b - a * cosine, dim=1)
    angle = torch.acos(cosine) * t
    return (a * angle.cos() + across * angle.sin()) * math.sqrt(a.shape[1])
