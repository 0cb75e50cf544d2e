"""The StyleGAN2 generator: modulated convolutions, noise, skip or residual outputs (Karras et al. 2020).

The paper is "Analyzing and Improving the Image Quality of StyleGAN". Parameter names and shapes are those of the
official PyTorch networks (StyleGAN2-ADA), so their weights load as they are. Rectangular images start from a
rectangular constant; blocks keep the names b4, b8, ... of their levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from gankit.core.cuda import add_rgb, modulated_conv2d, setup_filter, upsample2d
from gankit.core.interfaces.conditions import Cond, CondSpec
from gankit.core.interfaces.networks import Generator, ImageShape
from gankit.core.nn.pyramid import channels, levels, nominal
from gankit.core.nn.stylegan_layers import Conv2dLayer, FullyConnected, MappingNetwork
from gankit.core.runtime import random
from gankit.core.runtime.precision import as_half
from gankit.errors import GankitError, unknown

Architecture = Literal["skip", "resnet", "orig"]
NOISE_MODES = ("random", "const", "none")


class StyleGAN2(Generator):
    """StyleGAN2 generator: mapping network, modulated convolutions, noise.

    Args:
        z_dim: width of the latent z.
        w_dim: width of the intermediate latent w.
        mapping_layers: depth of the mapping network; 8 in the paper, 2 for small data sets.
        mapping_lr_multiplier: learning rate of the mapping network relative to the rest.
        embed_features: width of the projected condition in the mapping network; None is w_dim.
        layer_features: width of the mapping network's hidden layers; None is w_dim.
        channel_base: feature maps times resolution; level r has min(channel_base / r, channel_max) feature maps.
        channel_max: most feature maps of any level.
        architecture: 'skip' sums RGB images of all levels, 'resnet' adds feature maps, 'orig' does neither.
        resample_filter: FIR taps for doubling the resolution.
        conv_clamp: bound on the magnitude of activations, 256 for mixed precision; None for no bound.
        w_avg_beta: decay of the running mean of w, which truncation pulls towards.
        use_noise: add noise to the feature maps of each layer.
        normalize_z: bring z to unit length before the mapping network; false in StyleGAN2-ext, whose latents' lengths
            matter.
    """

    follows_ws = True
    conformance = {"z_dim": 16, "w_dim": 16, "mapping_layers": 2, "channel_base": 128, "channel_max": 8}

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        embed_features: int | None = None,
        layer_features: int | None = None,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: Architecture = "skip",
        resample_filter: tuple[float, ...] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        w_avg_beta: float = 0.998,
        use_noise: bool = True,
        normalize_z: bool = True,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.image_shape = z_dim, w_dim, image_shape
        self.synthesis = SynthesisNetwork(  # type: ignore[misc]
            image_shape,
            w_dim,
            channel_base=channel_base,
            channel_max=channel_max,
            architecture=architecture,
            resample_filter=resample_filter,
            conv_clamp=conv_clamp,
            use_noise=use_noise,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(  # type: ignore[misc]
            z_dim,
            cond.c_dim,
            w_dim,
            self.num_ws,
            num_layers=mapping_layers,
            embed_features=embed_features,
            layer_features=layer_features,
            lr_multiplier=mapping_lr_multiplier,
            w_avg_beta=w_avg_beta,
            normalize_z=normalize_z,
        )

    def fade_in(self, share: float) -> bool:
        return cast(SynthesisNetwork, self.synthesis).fade_in(share)


class SynthesisNetwork(nn.Module):
    """The synthesis network: ws [B, num_ws, w_dim] -> images [B, C, H, W]; the condition acts through ws alone.

    Feature maps are in half precision if ws is.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        w_dim: int,
        *,
        channel_base: int,
        channel_max: int,
        architecture: Architecture,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        (h, w), k = levels(image_shape)
        self.w_dim, self.is_skip = w_dim, architecture == "skip"
        self.num_ws = 2 * (k + 1)
        self.blocks: list[str] = []
        for level in range(k + 1):
            block = SynthesisBlock(
                channels(level - 1, channel_base, channel_max) if level else 0,
                channels(level, channel_base, channel_max),
                w_dim,
                (h << level, w << level),
                image_shape[0] if level == k or architecture == "skip" else 0,
                architecture=architecture,
                resample_filter=resample_filter,
                conv_clamp=conv_clamp,
                use_noise=use_noise,
            )
            self.blocks.append(f"b{nominal(level)}")
            self.add_module(self.blocks[-1], block)

    def fade_in(self, share: float) -> bool:
        """With architecture 'skip', weight the image that the last block adds by `share`; False for other
        architectures."""
        top = cast(SynthesisBlock, self.get_submodule(self.blocks[-1]))
        fades = self.is_skip and len(self.blocks) > 1
        top.share = share if fades else 1.0
        return fades

    def forward(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        if noise_mode not in NOISE_MODES:
            raise GankitError(unknown("noise mode", noise_mode, NOISE_MODES))
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be [B, {self.num_ws}, {self.w_dim}], not {list(ws.shape)}")
        w = ws.unbind(1)
        x: Tensor | None = None
        img: Tensor | None = None
        for level, name in enumerate(self.blocks):
            # conv0 shares its w with the RGB layer of the level below
            x, img = self.get_submodule(name)(x, img, w[max(2 * level - 1, 0) : 2 * level + 2], noise_mode)
        assert img is not None
        return img


class SynthesisBlock(nn.Module):
    """One resolution: the constant (coarsest) or an upsampling convolution, then a convolution, then RGB if
    `img_channels`."""

    resample_filter: Tensor

    share = 1.0  # weight of the image that it adds, see Generator.fade_in

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        img_channels: int,
        *,
        architecture: Architecture,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        def layer(in_channels: int, up: int) -> SynthesisLayer:
            return SynthesisLayer(
                in_channels,
                out_channels,
                w_dim,
                size,
                up=up,
                resample_filter=resample_filter,
                conv_clamp=conv_clamp,
                use_noise=use_noise,
            )

        if in_channels:
            self.conv0: SynthesisLayer | None = layer(in_channels, up=2)
        else:
            self.conv0 = None
            self.const = nn.Parameter(torch.randn(out_channels, *size))
        self.conv1 = layer(out_channels, up=1)
        self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp) if img_channels else None
        self.skip: Conv2dLayer | None = None
        if in_channels and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels, out_channels, 1, bias=False, up=2, resample_filter=resample_filter
            )

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Sequence[Tensor], noise_mode: str
    ) -> tuple[Tensor, Tensor | None]:
        *ws, w_rgb = ws
        if x is None or self.conv0 is None:
            x = as_half(self.const, w_rgb).expand(w_rgb.shape[0], -1, -1, -1)
            x = self.conv1(x, ws[0], noise_mode)
        elif self.skip is None:
            x = self.conv1(self.conv0(x, ws[0], noise_mode), ws[1], noise_mode)
        else:
            y = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, ws[0], noise_mode)
            x = y.add_(self.conv1(x, ws[1], noise_mode, gain=math.sqrt(0.5)))
        if self.torgb is not None:
            img = self.torgb(x, w_rgb, img, self.resample_filter, self.share)
        elif img is not None:
            img = upsample2d(img, self.resample_filter)
        return x, img


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU (figure 2c)."""

    resample_filter: Tensor
    noise_const: Tensor

    any_layout = True  # any memory layout of the weight will do, see models.for_sampling

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        *,
        up: int,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.size, self.up, self.conv_clamp, self.use_noise = size, up, conv_clamp, use_noise
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn(*size))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str, gain: float = 1) -> Tensor:
        noise = None
        if self.use_noise and noise_mode == "random":
            noise = random.randn(x.shape[0], 1, *self.size, device=x.device) * self.noise_strength
        elif self.use_noise and noise_mode == "const":
            noise = self.noise_const * self.noise_strength
        return modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise,
            up=self.up,
            padding=1,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
            b=self.bias,
            act="lrelu",
            gain=math.sqrt(2) * gain,
            clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
        )


class ToRGB(nn.Module):
    """RGB output of a level: modulated 1x1 convolution without demodulation."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Tensor, w: Tensor, img: Tensor | None, f: Tensor, share: float) -> Tensor:
        """RGB of this level, weighted by `share`, plus `img`, the sum of the levels before, upsampled with the
        filter `f`."""
        styles = self.affine(w) * (self.weight_gain * share)
        b = self.bias if share == 1 else self.bias * share
        clamp = None if self.conv_clamp is None else self.conv_clamp * share
        return add_rgb(img, f, x, self.weight, styles, b, clamp)
