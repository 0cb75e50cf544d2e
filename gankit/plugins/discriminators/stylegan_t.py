"""StyleGAN-T discriminator (Sauer, Karras, Laine, Geiger and Aila, ICML 2023, section 3.2).

Five one-dimensional convolutional heads of equal size read the token maps of a frozen vision transformer; the condition
enters by projection. Tensor names of the heads are those of the official code. Augmentation is not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankit.core.config.options import Nested
from gankit.core.config.registry import registry
from gankit.core.interfaces.composition import Composition
from gankit.core.interfaces.conditions import Cond, CondSpec, required_embedding
from gankit.core.interfaces.networks import Discriminator, FeatureNetwork, ImageShape
from gankit.core.nn.rgb import entry_size, to_rgb
from gankit.core.nn.spectral_norm import SNConv1d
from gankit.core.nn.stylegan_layers import FullyConnected
from gankit.core.runtime.random import shared_rand
from gankit.errors import GankitError

KERNEL = 9  # tokens that a head's residual convolution spans
NO_TOKEN_MAPS = (
    "it reads token maps, which this network does not have; set feature to timm-vit, or use the discriminator "
    "'projected'"
)


class StyleGANTDiscriminator(Discriminator):
    """Heads on the tokens of a frozen vision transformer.

    Args:
        feature: the frozen network, a plugin with token maps such as timm-vit.
        side: pixels; images are resized so that their shorter side has this length.
        crop_probability: probability in [0, 1] that images larger than `side` are randomly cropped to it instead of
            resized (one draw and one window for a batch).
        group: images that share the statistics of a batch norm; the largest divisor of the batch up to this is taken.
        cmap_dim: width of the projected condition, whose dot product with the features is the logit.
    """

    batch_statistics: ClassVar[str] = "batch norm in groups of 8"
    heads: Any
    dino: Any  # a FeatureNetwork with `token_maps` and `num_token_maps`

    conformance = {
        "feature": {"name": "timm-vit", "model": "test_vit.r160_in1k", "pretrained": False},
        "side": 64,
    }

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        feature: Annotated[FeatureNetwork, Nested("feature")] = {"name": "timm-vit"},  # type: ignore[assignment]  # noqa: B006
        side: int = 224,
        crop_probability: float = 0.5,
        group: int = 8,
        cmap_dim: int = 64,
    ) -> None:
        super().__init__()
        if not hasattr(feature, "token_maps"):
            raise GankitError(f"discriminator 'stylegan-t' cannot use {feature.name!r}: {NO_TOKEN_MAPS}")
        height, width = image_shape[1:]
        self.entry = entry_size(height, width, side, feature.input_multiple)
        if self.entry[0] * self.entry[1] // feature.input_multiple**2 < KERNEL // 2:
            raise GankitError(
                f"side = {side} makes too few patches; set it to {2 * feature.input_multiple} or more"
            )
        self.crop_probability = crop_probability
        self.c_dim = cond.c_dim
        self.dino = feature
        channels = feature.taps[0].channels
        self.heads = nn.ModuleList(
            TokenHead(channels, cond.c_dim, cmap_dim, group=group) for _ in range(self.dino.num_token_maps)
        )

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        name = options["feature"]["name"]
        if hasattr(registry().load("feature", name), "token_maps"):
            return None
        return f"feature network {name!r}", NO_TOKEN_MAPS

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of each head before the condition enters, [B, cmap_dim, tokens], or its logits [B, 1, tokens] if
        unconditional."""
        images = self._enter(to_rgb(images))
        return [head.features(x) for head, x in zip(self.heads, self.dino.token_maps(images))]

    def _enter(self, images: Tensor) -> Tensor:
        """Crop or resize images to the size that enters the frozen network."""
        height, width = self.entry
        free_y, free_x = images.shape[2] - height, images.shape[3] - width
        if min(free_y, free_x) >= 0 and max(free_y, free_x) > 0:
            coin, y, x = shared_rand(3).tolist()
            if coin < self.crop_probability:
                top, left = int(y * (free_y + 1)), int(x * (free_x + 1))
                return images[:, :, top : top + height, left : left + width]
        return images if images.shape[2:] == self.entry else F.interpolate(images, self.entry, mode="area")

    def score(self, features: list[Tensor], cond: Cond = None) -> list[Tensor]:
        c = required_embedding(cond, self.c_dim)
        return [torch.cat([head.score(x, c).flatten(1) for head, x in zip(self.heads, features)], dim=1)]


class TokenHead(nn.Module):
    """Token map [B, channels, tokens] -> one logit for each token."""

    def __init__(self, channels: int, c_dim: int, cmap_dim: int = 64, *, group: int = 8) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _block(channels, 1, group),
            Residual(_block(channels, KERNEL, group)),
        )
        self.cls = SNConv1d(channels, cmap_dim if c_dim else 1, 1)
        if c_dim:
            self.cmapper = FullyConnected(c_dim, cmap_dim)
        self.conditional = c_dim > 0

    def features(self, x: Tensor) -> Tensor:
        return self.cls(self.main(x))

    def score(self, features: Tensor, c: Tensor | None) -> Tensor:
        """Logits [B, 1, tokens] from the output of `features` and the condition c [B, c_dim]."""
        if not self.conditional:
            return features
        code = self.cmapper(c)
        return torch.einsum("bkn,bk->bn", features, code).unsqueeze(1) / math.sqrt(code.shape[1])


def _block(channels: int, kernel: int, group: int) -> nn.Sequential:
    convolve = SNConv1d(channels, channels, kernel, padding=kernel // 2, padding_mode="circular")
    return nn.Sequential(convolve, BatchNormLocal(channels, group), nn.LeakyReLU(0.2, inplace=True))


class Residual(nn.Module):
    """Residual connection, (x + fn(x)) / sqrt(2)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.fn(x)) * math.sqrt(0.5)


class BatchNormLocal(nn.Module):
    """Batch norm over groups of consecutive samples, with the groups' own statistics in evaluation too."""

    def __init__(self, channels: int, group: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.group, self.eps = group, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, tokens = x.shape
        size = max(n for n in range(1, min(self.group, batch) + 1) if batch % n == 0)
        groups = batch // size
        # Each group becomes a block of channels of one ordinary batch norm.
        y = x.unflatten(0, (groups, size)).transpose(0, 1).reshape(size, groups * channels, tokens)
        weight, bias = self.weight.repeat(groups), self.bias.repeat(groups)
        y = F.batch_norm(y, None, None, weight, bias, training=True, eps=self.eps)
        return y.unflatten(1, (groups, channels)).transpose(0, 1).reshape(batch, channels, tokens)
