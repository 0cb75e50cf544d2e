"""Projected GAN discriminator (Sauer, Chitta, Müller and Geiger, NeurIPS 2021).

A frozen network's feature maps are mixed by frozen random convolutions across channels (CCM) and scales (CSM), section
3.2 of the paper; small heads, one for each scale, are all that is trained. Tensor names are those of the official code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankit.core.config import options
from gankit.core.config.options import Nested
from gankit.core.interfaces.composition import Composition
from gankit.core.interfaces.conditions import Cond, CondSpec, required_embedding
from gankit.core.interfaces.networks import Discriminator, FeatureNetwork, ImageShape
from gankit.core.nn.rgb import entry_size, to_rgb
from gankit.core.training.footprint import META
from gankit.errors import GankitError
from gankit.plugins.discriminators.heads import PATCH_NOMINAL, Head, Norm, head_plan

NOMINAL_SIDE = 256  # the image side that the paper's head depths are made for


class ProjectedDiscriminator(Discriminator):
    """Frozen features, random projections, one trainable head for each scale.

    Args:
        feature: the frozen network, a plugin such as timm-cnn or timm-vit.
        side: pixels; images whose shorter side is smaller are enlarged to it, larger ones enter as they are. The paper
            uses 224; 64 or 128 with proportionally shallower heads suit small images on a CPU.
        proj_type: 0 raw feature maps, 1 random channel mixing, 2 channel and scale mixing.
        cout: channels of the finest mixed map.
        residual_csm: mix scales by residual 3x3 convolutions as the paper describes; its published code has none.
        expand: double the channels of the mixed maps with each coarser scale.
        separable: depthwise separable heads, a fifteenth of the parameters.
        patch: shallow heads of one down block at every scale, which judge small patches.
        norm: normalisation inside the heads; batch as in the paper, group and none do not depend on other images.
        cmap_dim: width of the projected condition, whose dot product with the features is the logit.
    """

    batch_statistics: ClassVar[str] = "batch norm"

    conformance = {
        "feature": {"name": "timm-cnn", "model": "test_efficientnet.r160_in1k", "pretrained": False},
        "side": 64,
        "cout": 8,
    }

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        feature: Annotated[FeatureNetwork, Nested("feature")] = {"name": "timm-cnn"},  # type: ignore[assignment]  # noqa: B006
        side: int = 224,
        proj_type: Literal[0, 1, 2] = 2,
        cout: int = 64,
        expand: bool = True,
        residual_csm: bool = False,
        separable: bool = False,
        patch: bool = False,
        norm: Norm = "batch",
        cmap_dim: int = 64,
    ) -> None:
        super().__init__()
        if norm != "batch":
            self.batch_statistics = ""  # type: ignore[misc]
        self.feature_network = ProjectedFeatures(
            feature, proj_type=proj_type, cout=cout, expand=expand, residual_csm=residual_csm
        )
        height, width = image_shape[1:]
        entry_side = max(side, min(height, width))
        self.entry = entry_size(height, width, entry_side, self.feature_network.input_multiple)
        self.discriminator = make_heads(
            self.feature_network.outputs,
            self.entry,
            c_dim=cond.c_dim,
            cmap_dim=cmap_dim,
            separable=separable,
            norm=norm,
            patch=patch,
        )
        self.c_dim = cond.c_dim

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        return unfit_feature(options["feature"])

    @property
    def heads(self) -> list[Head]:
        return cast("list[Head]", self.discriminator["mini_discs"])

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of each head before the condition enters, [B, cmap_dim, h, w], or its logits [B, 1, h, w] if
        unconditional."""
        maps = self.feature_network(resized(to_rgb(images), self.entry))
        return [head.features(x) for head, x in zip(self.heads, maps)]

    def score(self, features: list[Tensor], cond: Cond = None) -> list[Tensor]:
        c = required_embedding(cond, self.c_dim)
        logits = [head.score(x, c) for head, x in zip(self.heads, features)]
        return [torch.cat([x.flatten(1) for x in logits], dim=1)]


def unfit_feature(spec: Mapping[str, Any]) -> tuple[str, str] | None:
    """`Component.incompatibility` for the feature network of a projected discriminator, built without weights."""
    try:
        with META:
            reason = no_pyramid(options.build("feature", spec))
    except GankitError:
        raise
    except Exception:  # it needs its weights; building the discriminator checks it
        return None
    return None if reason is None else (f"feature network {spec['name']!r}", reason)


def no_pyramid(feature: FeatureNetwork) -> str | None:
    """The reason why a network's maps cannot be mixed across scales, or None if they can."""
    strides = [tap.stride for tap in feature.taps]
    if _of_one_size(feature) or all(fine * 2 == coarse for fine, coarse in itertools.pairwise(strides)):
        return None
    return (
        f"its maps have strides {strides}, where each must be twice the one before; set the option taps of the "
        "feature network"
    )


def _of_one_size(feature: FeatureNetwork) -> bool:
    """True for four maps of one stride, as of a vision transformer, which are re-assembled into a pyramid."""
    return len(feature.taps) == 4 and len({tap.stride for tap in feature.taps}) == 1


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images [B, C, H, W] to `size` (H, W), bilinearly."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


class Residual3x3(nn.Module):
    """Residual 3x3 convolution, x + conv(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Map(NamedTuple):
    """Size of a feature map of images [B, C, H, W]: [B, channels, H / stride, W / stride]."""

    channels: int
    stride: float  # a transformer's re-assembled maps may have 3.5


class ProjectedFeatures(nn.Module):
    """The frozen part: feature network, re-assembly of a transformer's maps, random mixing.

    Maps are ordered fine to coarse, each at half the side of the one before. The random convolutions are saved with the
    discriminator, since its heads work with no others.
    """

    def __init__(
        self,
        pretrained: FeatureNetwork,
        *,
        proj_type: Literal[0, 1, 2],
        cout: int,
        expand: bool,
        residual_csm: bool = False,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.proj_type = proj_type
        self.scratch = nn.ModuleDict()
        if (reason := no_pyramid(pretrained)) is not None:
            raise GankitError(f"a projected discriminator cannot use {pretrained.name!r}: {reason}")
        maps = [Map(tap.channels, tap.stride) for tap in pretrained.taps]
        if _of_one_size(pretrained):
            maps = self._reassemble(maps)
        if proj_type > 0:
            maps = self._mix(maps, cout, expand, residual_csm)
        self.outputs = maps  # scale mixing halves the strides
        self.input_multiple = math.lcm(
            pretrained.input_multiple, int(maps[-1].stride * (2 if proj_type == 2 else 1))
        )
        self.scratch.requires_grad_(False)

    def _reassemble(self, maps: list[Map]) -> list[Map]:
        """Add the layers that turn four maps of one size into a pyramid, as in StyleGAN-XL; returns its maps."""
        made = []
        for level, x in enumerate(maps):
            channels = x.channels * 2**level // 8
            resize: nn.Module = nn.Identity()
            if level < 2:
                factor = 4 >> level
                resize = nn.ConvTranspose2d(channels, channels, factor, stride=factor)
            elif level == 3:
                resize = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            self.scratch[f"layer{level}_reassemble"] = nn.Sequential(
                nn.Conv2d(x.channels, channels, 1), resize
            )
            made.append(Map(channels, x.stride * 2**level / 4))
        return made

    def _mix(self, maps: list[Map], cout: int, expand: bool, residual: bool) -> list[Map]:
        """Add the random convolutions across channels (CCM) and scales (CSM); returns the mixed maps."""
        widths = [cout * (2**level if expand else 1) for level in range(len(maps))]
        for level, (x, width) in enumerate(zip(maps, widths)):
            self.scratch[f"layer{level}_ccm"] = nn.Conv2d(x.channels, width, 1)
        if self.proj_type == 1:
            return [Map(width, x.stride) for x, width in zip(maps, widths)]
        outputs = [widths[max(level - 1, 0)] for level in range(len(maps))]
        for level, (width, output) in enumerate(zip(widths, outputs)):
            csm: dict[str, nn.Module] = {"out_conv": nn.Conv2d(width, output, 1)}
            if residual:
                csm["sum_unit"] = Residual3x3(width)
            if residual and level < len(maps) - 1:
                csm["lateral_unit"] = Residual3x3(width)
            self.scratch[f"layer{level}_csm"] = nn.ModuleDict(csm)
        return [Map(output, x.stride / 2) for x, output in zip(maps, outputs)]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.project(self.pretrained(images))

    def project(self, maps: list[Tensor]) -> list[Tensor]:
        """The feature network's maps -> the mixed maps, input of the heads."""
        if "layer0_reassemble" in self.scratch:
            maps = [self.scratch[f"layer{level}_reassemble"](x) for level, x in enumerate(maps)]
        if self.proj_type == 0:
            return maps
        maps = [self.scratch[f"layer{level}_ccm"](x) for level, x in enumerate(maps)]
        if self.proj_type == 1:
            return maps
        mixed: list[Tensor] = []
        for level in reversed(range(len(maps))):
            csm = cast("nn.ModuleDict", self.scratch[f"layer{level}_csm"])
            x = maps[level]
            if "lateral_unit" in csm:
                x = csm["lateral_unit"](x)
            if mixed:
                x = x + mixed[0]
            if "sum_unit" in csm:
                x = csm["sum_unit"](x)
            # Enlarging and a 1x1 convolution commute: convolving first costs a quarter.
            x = csm["out_conv"](x)
            mixed.insert(0, F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))
        return mixed


def make_heads(
    maps: list[Map], entry: tuple[int, int], *, patch: bool = False, **options: Any
) -> nn.ModuleDict:
    """One `Head` for each map, for images of size `entry` (H, W), under the official names; `options` are those of
    `Head`."""
    heads = nn.ModuleList()
    for x in maps:
        nominal = PATCH_NOMINAL if patch else NOMINAL_SIDE / x.stride
        widths, kernel = head_plan(nominal, int(min(entry) / x.stride))
        heads.append(Head(x.channels, widths, kernel, patch=patch, **options))
    return nn.ModuleDict({"mini_discs": heads})
