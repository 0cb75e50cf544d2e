"""The metric 'diversity': perceptual distance of images of one prompt (BicycleGAN, Zhu et al., NeurIPS 2017)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gankit.errors import GankitError
from gankit.evaluation.metric import ModelMetric
from gankit.evaluation.metric_context import BatchSlice, MetricContext
from gankit.plugins.metrics.networks import OwnFeature
from gankit.plugins.metrics.perceptual import perceptual_vectors


class Diversity(ModelMetric):
    """Perceptual distance of two images under the same prompt (or class, or tags), the mean over pairs and prompts.

    The distance is LPIPS without its learned weights, as in the evaluation of multimodal image translation (BicycleGAN,
    Zhu et al., NeurIPS 2017, section 5). 0 means that the noise changes nothing. A model without conditions has a
    single prompt.

    Args:
        images: images for each prompt; --num images make --num / images prompts.
        feature: feature network; that of --feature when omitted.
    """

    values = {"diversity": "higher", "diversity_se": ""}
    uses_feature = True

    def __init__(self, *, images: int = 8, feature: OwnFeature = None) -> None:
        if images < 2:
            raise GankitError(f"images = {images} of 'diversity' must be at least 2")
        self.images, self.feature = images, feature
        self.min_images = 2 * images

    def probe(self, context: MetricContext) -> dict[str, float]:
        backbone = context.backbone_of(self)
        generator, images = context.pipe.generator, self.images

        def spread(part: BatchSlice) -> Tensor:
            """Mean distance [prompts, 1] over the pairs of images of each prompt."""
            found = []
            for prompt, label in zip(part.numbers, context.labels(part.numbers)):
                cond = context.condition([label] * images)
                z = context.latents(range(prompt * images, (prompt + 1) * images))
                own = BatchSlice(context.seed, prompt, images, 0, images, (images,))
                with own.random("diversity"):
                    drawn = generator(z, cond, truncation_psi=context.psi)
                vectors = perceptual_vectors(backbone, drawn).double()
                # of n vectors, the mean squared distance of two is 2 n / (n - 1) times that from their mean
                apart = (vectors - vectors.mean(0)).square().sum(1).mean() * 2 * images / (images - 1)
                found.append(apart[None])
            return torch.stack(found)

        prompts = context.num // images
        rows = context.rows(prompts, spread, "prompts", batch=max(1, context.batch // images))[:, 0]
        return {
            "diversity": float(rows.mean()),
            "diversity_se": float(np.std(rows, ddof=1) / math.sqrt(prompts)),
        }
