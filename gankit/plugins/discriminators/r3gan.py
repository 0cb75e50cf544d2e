"""R3GAN discriminator (Huang, Gokaslan, Kuleshov and Tompkin, NeurIPS 2024, section 4): its generator, mirrored.

Names of parameters are those of the official network, so its weights load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gankit.core.interfaces.composition import Composition
from gankit.core.interfaces.conditions import Cond, CondSpec, required_embedding
from gankit.core.interfaces.networks import Discriminator, ImageShape
from gankit.core.runtime.precision import at_least_float32, without_autocast
from gankit.plugins.generators.r3gan import (
    WIDTHS,
    Block,
    Conv,
    Transition,
    linear,
    precision,
    residual_gain,
    run,
    stage,
    stage_plan,
    unfit_plan,
)


class R3GANDiscriminator(Discriminator):
    """R3GAN discriminator: residual blocks down to 4x4, one logit, no normalisation. Conditional by projection.

    Args:
        widths: feature maps of each resolution from 4 pixels upwards, as in the generator; those that the image size
            does not need are left out.
        blocks: residual blocks at each resolution, one number or one for each of the widths.
        expansion: a block's inner feature maps, as a multiple of its outer ones.
        group_width: inner feature maps in a group of the 3x3 convolution; 16 in the paper, 32 for ImageNet.
        embed_dim: width of the projected condition, whose dot product with the features is the logit; None is the first
            of the widths.
        bf16_stages: finest resolutions that compute in bf16 with mixed precision; the coarsest never does.
    """

    Model: Any  # this and the capitals below it are names of the official state dict
    conformance = {"widths": [16, 16, 16, 8], "group_width": 8}

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        widths: list[int] = WIDTHS,
        blocks: int | list[int] = 2,
        expansion: int = 2,
        group_width: int = 16,
        embed_dim: int | None = None,
        bf16_stages: int = 4,
    ) -> None:
        super().__init__()
        self.c_dim = cond.c_dim
        size, plan = stage_plan("discriminator", image_shape, widths, blocks)
        gain = residual_gain(plan)
        plan = plan[::-1]
        embed_dim = (embed_dim or plan[-1][0]) if cond.c_dim else 0
        self.in_half = [i < bf16_stages and i < len(plan) - 1 for i in range(len(plan))]
        self.Model = nn.Module()
        self.Model.ExtractionLayer = Conv(image_shape[0], plan[0][0], 1)
        self.Model.MainLayers = nn.ModuleList()
        for i, (width, count) in enumerate(plan):
            last: nn.Module
            if i + 1 < len(plan):
                last = Transition(width, plan[i + 1][0], up=False)
            else:
                last = DiscriminativeBasis(width, embed_dim or 1, size)
            residual = [Block(width, expansion, group_width, gain) for _ in range(count)]
            self.Model.MainLayers.append(stage([*residual, last]))
        if cond.c_dim:
            self.Model.EmbeddingLayer = linear(cond.c_dim, embed_dim, gain=1 / math.sqrt(embed_dim))

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        return unfit_plan("discriminator", options, composition)

    def features(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> [B, embed_dim], or the logits [B, 1] if unconditional."""
        with precision(images, self.in_half[0]) as dtype:
            x = self.Model.ExtractionLayer(images.to(dtype))
        for layers, half in zip(self.Model.MainLayers, self.in_half):
            with precision(x, half) as dtype:
                x = run(layers, x.to(dtype))
        return x

    def score(self, features: Tensor, cond: Cond = None) -> list[Tensor]:
        c = required_embedding(cond, self.c_dim)
        if not self.c_dim:
            return [features]
        assert c is not None
        with without_autocast(features):
            code = self.Model.EmbeddingLayer(at_least_float32(c))
        return [(features * code).sum(1, keepdim=True)]


class DiscriminativeBasis(nn.Module):
    """[B, width, *size] -> [B, out_features]: a learned weighted sum over each map, then a linear layer."""

    def __init__(self, width: int, out_features: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.Basis = nn.Conv2d(width, width, size, groups=width, bias=False)
        nn.init.normal_(self.Basis.weight, std=1 / math.sqrt(size[0] * size[1]))
        self.LinearLayer = linear(width, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.LinearLayer(self.Basis(x).flatten(1))
