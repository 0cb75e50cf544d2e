"""R3GAN generator (Huang et al., NeurIPS 2024, section 4), and the blocks that its discriminator shares.

Residual blocks with grouped convolutions and nothing else: no mapping network, modulation, noise, normalisation or
equalised learning rate. Names of parameters are those of the official networks, so their weights load as they are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankit.core.cuda import bias_act, downsample2d, setup_filter, upsample2d
from gankit.core.interfaces.composition import Composition
from gankit.core.interfaces.conditions import Cond, CondSpec, required_embedding
from gankit.core.interfaces.networks import Generator, ImageShape
from gankit.core.nn.pyramid import levels
from gankit.core.runtime.precision import at_least_float32, autocast_enabled, without_autocast
from gankit.errors import GankitError, unknown

NOISE_MODES = ("random", "const", "none")
WIDTHS = [
    768,
    768,
    768,
    768,
    384,
    192,
    96,
]  # of the paper's FFHQ-256 model, coarse to fine; smaller models have the first of them
LINEAR_LAYERS = 3  # in a block


class R3GAN(Generator):
    """R3GAN generator. Without a mapping network, truncation scales z, that is, pulls it towards its mean 0.

    Args:
        z_dim: width of the latent z.
        widths: feature maps of each resolution from 4 pixels upwards; those that the image size does not need are left
            out. The paper has 1536 throughout for ImageNet.
        blocks: residual blocks at each resolution, one number or one for each of the widths.
        expansion: a block's inner feature maps, as a multiple of its outer ones.
        group_width: inner feature maps in a group of the 3x3 convolution; 16 in the paper, 32 for ImageNet.
        embed_dim: width of the projected condition; None is z_dim.
        bf16_stages: finest resolutions that compute in bf16 with mixed precision; the coarsest never does.
    """

    Model: Any  # this and the capitals below it are names of the official state dict
    conformance = {"z_dim": 16, "widths": [16, 16, 16, 8], "group_width": 8}

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        z_dim: int = 64,
        widths: list[int] = WIDTHS,
        blocks: int | list[int] = 2,
        expansion: int = 2,
        group_width: int = 16,
        embed_dim: int | None = None,
        bf16_stages: int = 4,
    ) -> None:
        super().__init__()
        self.z_dim = self.w_dim = z_dim
        self.num_ws = 1
        self.image_shape, self.c_dim = image_shape, cond.c_dim
        size, plan = stage_plan("generator", image_shape, widths, blocks)
        gain = residual_gain(plan)
        embed_dim = (embed_dim or z_dim) if cond.c_dim else 0
        self.in_half = [level > len(plan) - 1 - bf16_stages and level > 0 for level in range(len(plan))]
        self.Model = nn.Module()
        self.Model.MainLayers = nn.ModuleList()
        previous = 0
        for width, count in plan:
            first: nn.Module
            if not previous:
                first = GenerativeBasis(z_dim + embed_dim, width, size)
            else:
                first = Transition(previous, width, up=True)
            residual = [Block(width, expansion, group_width, gain) for _ in range(count)]
            self.Model.MainLayers.append(stage([first, *residual]))
            previous = width
        self.Model.AggregationLayer = Conv(previous, image_shape[0], 1)
        if cond.c_dim:
            self.Model.EmbeddingLayer = linear(cond.c_dim, embed_dim)

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        return unfit_plan("generator", options, composition)

    def mapping(  # type: ignore[override]
        self,
        z: Tensor,
        cond: Cond = None,
        *,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        if z.shape[1:] != (self.z_dim,):
            raise ValueError(f"z must be [B, {self.z_dim}], not {list(z.shape)}")
        scale = truncation_psi if truncation_cutoff is None or truncation_cutoff > 0 else 1
        return at_least_float32(z)[:, None] * scale

    def synthesis(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:  # type: ignore[override]
        if noise_mode not in NOISE_MODES:
            raise GankitError(unknown("noise mode", noise_mode, NOISE_MODES))
        if ws.shape[1:] != (1, self.z_dim):
            raise ValueError(f"ws must be [B, 1, {self.z_dim}], not {list(ws.shape)}")
        c = required_embedding(cond, self.c_dim)
        x = ws[:, 0]
        with without_autocast(x):
            if self.c_dim:
                assert c is not None
                x = torch.cat([x, self.Model.EmbeddingLayer(at_least_float32(c))], dim=1)
        for layers, half in zip(self.Model.MainLayers, self.in_half):
            with precision(x, half) as dtype:
                x = run(layers, x.to(dtype))
        return at_least_float32(self.Model.AggregationLayer(x))


# ---------------------------------------------------------------------------------- what G and D are made of


def stage_plan(
    section: str, image_shape: ImageShape, widths: Sequence[int], blocks: int | Sequence[int]
) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """The start grid (H, W) and (width, blocks) of each resolution, coarse to fine. Raises GankitError for lists
    that are too short."""
    size, k = levels(image_shape)
    counts = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
    for name, values in (("widths", widths), ("blocks", counts)):
        if len(values) <= k:
            raise GankitError(
                f"{section}.{name} has {len(values)} entries; images of {image_shape[2]}x{image_shape[1]} pixels need "
                f"{k + 1}, from coarse to fine"
            )
        if min(values) < 1:
            raise GankitError(f"{section}.{name} = {list(values)}: each must be at least 1")
    return size, list(zip(widths, counts))[: k + 1]


def unfit_plan(section: str, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
    """`Component.incompatibility` of R3GAN's networks: images whose size the widths and blocks do not reach."""
    _, height, width = composition.image_shape
    try:
        stage_plan(section, composition.image_shape, options["widths"], options["blocks"])
    except GankitError as error:
        return f"images of {width}x{height} pixels", str(error)
    return None


def residual_gain(plan: Sequence[tuple[int, int]]) -> float:
    """Initial gain of a block's first two convolutions, L^(-1 / (2m - 2)) times that of the activation (Fixup)."""
    total = sum(count for _, count in plan)
    return math.sqrt(2 / (1 + 0.2**2)) * total ** (-1 / (2 * LINEAR_LAYERS - 2))


def linear(in_features: int, out_features: int, gain: float = 1) -> nn.Linear:
    """Linear layer without bias; weights start with variance gain^2 / in_features."""
    layer = nn.Linear(in_features, out_features, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(in_features))
    return layer


def stage(layers: Sequence[nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({"Layers": nn.ModuleList(layers)})


def run(stage: nn.Module, x: Tensor) -> Tensor:
    for layer in stage.get_submodule("Layers").children():
        x = layer(x)
    return x


@contextlib.contextmanager
def precision(x: Tensor, half: bool) -> Iterator[torch.dtype]:
    """Context in float32, or in autocast's dtype if `half` and autocast is on; yields the dtype of the activations."""
    if half and autocast_enabled(x):
        yield torch.get_autocast_dtype(x.device.type)
    else:
        with without_autocast(x):
            yield at_least_float32(x).dtype


class Conv(nn.Module):
    """Convolution without bias that keeps the size; weights start with variance gain^2 / fan-in."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, groups: int = 1, gain: float = 1
    ) -> None:
        super().__init__()
        self.Layer = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False
        )
        nn.init.normal_(self.Layer.weight, std=gain / math.sqrt(in_channels // groups * kernel_size**2))

    def forward(self, x: Tensor) -> Tensor:
        return self.Layer(x)


class BiasedLeakyReLU(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(x, self.Bias, act="lrelu", gain=1)


class Block(nn.Module):
    """Inverted bottleneck x + f(x) (figure 3); f is a 1x1, a grouped 3x3 and a 1x1 convolution, the last of which
    starts at zero."""

    def __init__(self, width: int, expansion: int, group_width: int, gain: float) -> None:
        super().__init__()
        inner = width * expansion
        if min(expansion, group_width) < 1 or inner % group_width:
            raise GankitError(
                f"R3GAN's group_width = {group_width} does not divide expansion {expansion} * width {width} = {inner}; "
                "choose a divisor"
            )
        self.LinearLayer1 = Conv(width, inner, 1, gain=gain)
        self.LinearLayer2 = Conv(inner, inner, 3, groups=inner // group_width, gain=gain)
        self.LinearLayer3 = Conv(inner, width, 1, gain=0)
        self.NonLinearity1 = BiasedLeakyReLU(inner)
        self.NonLinearity2 = BiasedLeakyReLU(inner)

    def forward(self, x: Tensor) -> Tensor:
        y = self.NonLinearity1(self.LinearLayer1(x))
        y = self.NonLinearity2(self.LinearLayer2(y))
        return x + self.LinearLayer3(y)


class Resampler(nn.Module):
    """Upsampling or downsampling by 2 with the filter [1, 3, 3, 1]."""

    Kernel: Tensor

    def __init__(self, up: bool) -> None:
        super().__init__()
        self.up = up
        self.register_buffer("Kernel", setup_filter((1, 3, 3, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return (upsample2d if self.up else downsample2d)(x, self.Kernel)


class Transition(nn.Module):
    """Resampling to the next resolution; a 1x1 convolution at the lower resolution changes the width where it
    differs."""

    def __init__(self, in_channels: int, out_channels: int, *, up: bool) -> None:
        super().__init__()
        self.Resampler = Resampler(up)
        self.LinearLayer = Conv(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        if self.LinearLayer is None:
            return self.Resampler(x)
        if self.Resampler.up:
            return self.Resampler(self.LinearLayer(x))
        return self.LinearLayer(self.Resampler(x))


class GenerativeBasis(nn.Module):
    """[B, in_features] -> [B, width, *size]: learned maps, each scaled by a linear function of the input."""

    def __init__(self, in_features: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.Basis = nn.Parameter(torch.randn(width, *size))
        self.LinearLayer = linear(in_features, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.Basis * self.LinearLayer(x)[:, :, None, None]
