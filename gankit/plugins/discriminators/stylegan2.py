"""StyleGAN2 discriminator (Karras et al. 2020, section 4.1), conditional by projection as in StyleGAN2-ADA.

Parameter names and shapes are those of the official PyTorch networks, so their weights load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from gankit.core.cuda import downsample2d, setup_filter
from gankit.core.interfaces.conditions import Cond, CondSpec
from gankit.core.interfaces.networks import Discriminator, ImageShape
from gankit.core.nn.pyramid import channels, levels, nominal
from gankit.core.nn.spectral_norm import normalise_layers
from gankit.core.nn.stylegan_layers import Conv2dLayer, FullyConnected, MappingNetwork, minibatch_std
from gankit.core.runtime.precision import at_least_float32, without_autocast

Architecture = Literal["skip", "resnet", "orig"]


class StyleGAN2Discriminator(Discriminator):
    """StyleGAN2 discriminator: residual blocks down to 4x4, minibatch standard deviation, one logit.

    Args:
        channel_base: feature maps times resolution; level r has min(channel_base / r, channel_max) feature maps.
        channel_max: most feature maps of any level.
        architecture: 'resnet' adds feature maps, 'skip' reads RGB images at all levels, 'orig' does neither.
        resample_filter: FIR taps for halving the resolution.
        conv_clamp: bound on the magnitude of activations, 256 for mixed precision; None for no bound.
        mbstd_group_size: samples in a group of the minibatch standard deviation; the largest size up to it that divides
            the batch is used, None takes the whole batch.
        mbstd_channels: feature maps that the minibatch standard deviation adds; 0 leaves it out.
        cmap_dim: width of the projected condition; None is the number of feature maps at 4x4.
        mapping_layers: depth of the network that maps the condition.
        mapping_lr_multiplier: learning rate of that network relative to the rest.
        spectral_norm: divide the weights of all layers, but those that map the condition, by their spectral norm
            (Miyato et al. 2018); an alternative to gradient penalties.
    """

    batch_statistics = "minibatch stddev"

    conformance = {"mapping_layers": 2, "channel_base": 128, "channel_max": 8}

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: Architecture = "resnet",
        resample_filter: tuple[float, ...] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        mbstd_group_size: int | None = 4,
        mbstd_channels: int = 1,
        cmap_dim: int | None = None,
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        if mbstd_channels == 0 or mbstd_group_size == 1:
            self.batch_statistics = ""  # type: ignore[misc]
        start, k = levels(image_shape)
        widths = [channels(level, channel_base, channel_max) for level in range(k + 1)]
        self.image_shape = image_shape
        self.blocks: list[str] = []
        for level in range(k, 0, -1):
            block = DiscriminatorBlock(
                widths[level],
                widths[level - 1],
                image_shape[0] if level == k or architecture == "skip" else 0,
                architecture=architecture,
                resample_filter=resample_filter,
                conv_clamp=conv_clamp,
            )
            self.blocks.append(f"b{nominal(level)}")
            self.add_module(self.blocks[-1], block)
        cmap_dim = (cmap_dim or widths[0]) if cond.c_dim else 0
        self.mapping: MappingNetwork | None = None
        if cond.c_dim:
            self.mapping = MappingNetwork(
                0,
                cond.c_dim,
                cmap_dim,
                None,
                num_layers=mapping_layers,
                lr_multiplier=mapping_lr_multiplier,
                w_avg_beta=None,
            )
        self.b4 = DiscriminatorEpilogue(
            widths[0],
            cmap_dim or 1,
            start,
            image_shape[0] if k == 0 or architecture == "skip" else 0,
            mbstd_group_size=mbstd_group_size,
            mbstd_channels=mbstd_channels,
            conv_clamp=conv_clamp,
        )

        if spectral_norm:
            for name in (*self.blocks, "b4"):
                normalise_layers(self.get_submodule(name))

    def fade_in(self, share: float) -> bool:
        """With architecture 'skip', weight the output of the first block by `share`; False for other architectures."""
        if not self.blocks:
            return False
        top = cast(DiscriminatorBlock, self.get_submodule(self.blocks[0]))
        top.share = share if top.passes_image else 1.0
        return top.passes_image

    def features(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> [B, cmap_dim], or the logit [B, 1] if unconditional."""
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images must be [B, {', '.join(map(str, self.image_shape))}], not {list(images.shape)}"
            )
        x: Tensor | None = None
        img: Tensor | None = images.contiguous(
            memory_format=torch.channels_last
        )  # twice as fast on a CPU at 64 px
        for name in self.blocks:
            x, img = self.get_submodule(name)(x, img)
        return self.b4(x, img)

    def score(self, features: Any, cond: Cond = None) -> list[Tensor]:
        if self.mapping is None:
            return [features]
        cmap = self.mapping(None, cond)
        return [(features * cmap).sum(1, keepdim=True) / math.sqrt(cmap.shape[1])]


class DiscriminatorBlock(nn.Module):
    """One resolution: two 3x3 convolutions, the second of which halves it; with `img_channels`, fromRGB as well."""

    resample_filter: Tensor
    share = 1.0  # weight of its output, see Discriminator.fade_in

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_channels: int,
        *,
        architecture: Architecture,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.passes_image = architecture == "skip"
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        def layer(in_channels: int, out_channels: int, kernel_size: int, down: int = 1) -> Conv2dLayer:
            return Conv2dLayer(
                in_channels,
                out_channels,
                kernel_size,
                activation="lrelu",
                down=down,
                resample_filter=resample_filter,
                conv_clamp=conv_clamp,
            )

        self.fromrgb = layer(img_channels, in_channels, 1) if img_channels else None
        self.conv0 = layer(in_channels, in_channels, 3)
        self.conv1 = layer(in_channels, out_channels, 3, down=2)
        self.skip: Conv2dLayer | None = None
        if architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels, out_channels, 1, bias=False, down=2, resample_filter=resample_filter
            )

    def forward(self, x: Tensor | None, img: Tensor) -> tuple[Tensor, Tensor]:
        if self.fromrgb is not None:
            rgb = self.fromrgb(img)
            x = rgb if x is None else x + rgb
        assert x is not None
        if self.passes_image:
            img = downsample2d(img, self.resample_filter)
        if self.skip is None:
            x = self.conv1(self.conv0(x))
            return (x * self.share if self.share < 1 else x), img
        y = self.skip(x, gain=math.sqrt(0.5))
        return y.add_(self.conv1(self.conv0(x), gain=math.sqrt(0.5))), img


class DiscriminatorEpilogue(nn.Module):
    """The coarsest level, in float32: minibatch standard deviation, convolution, linear layers -> [B, out_features]."""

    def __init__(
        self,
        in_channels: int,
        out_features: int,
        size: tuple[int, int],
        img_channels: int,
        *,
        mbstd_group_size: int | None,
        mbstd_channels: int,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.mbstd_group_size, self.mbstd_channels = mbstd_group_size, mbstd_channels
        self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation="lrelu") if img_channels else None
        self.conv = Conv2dLayer(
            in_channels + mbstd_channels, in_channels, 3, activation="lrelu", conv_clamp=conv_clamp
        )
        self.fc = FullyConnected(in_channels * size[0] * size[1], in_channels, activation="lrelu")
        self.out = FullyConnected(in_channels, out_features)

    def forward(self, x: Tensor | None, img: Tensor) -> Tensor:
        with without_autocast(img):
            if self.fromrgb is not None:
                rgb = self.fromrgb(at_least_float32(img))
                x = rgb if x is None else at_least_float32(x) + rgb
            assert x is not None
            x = minibatch_std(at_least_float32(x), self.mbstd_group_size, self.mbstd_channels)
            return self.out(self.fc(self.conv(x).flatten(1)))
