"""FastGAN generator (Liu et al., ICLR 2021) in the form of Projected GAN (Sauer et al., NeurIPS 2021, appendix).

Convolutions with spectral norm, batch norm and gated linear units; feature maps of low resolution excite those of high
resolution (section 3.1 of FastGAN). There is no mapping network. Names of parameters are those of Projected GAN's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankit.core.cuda import normalize_2nd_moment
from gankit.core.interfaces.composition import Composition
from gankit.core.interfaces.conditions import Cond, CondSpec, required_embedding
from gankit.core.interfaces.networks import Generator, ImageShape
from gankit.core.nn.pyramid import levels, nominal
from gankit.core.nn.spectral_norm import SNConv2d, SNConvTranspose2d, SNLinear, settle
from gankit.core.runtime import random
from gankit.core.runtime.precision import at_least_float32, without_autocast
from gankit.errors import GankitError, unknown

NOISE_MODES = ("random", "const", "none")
# Feature maps of each resolution as multiples of `ngf`
WIDTHS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 1 / 2, 512: 1 / 4, 1024: 1 / 8}
EXCITED_BY = {64: 4, 128: 8, 256: 16, 512: 32}  # resolution -> that of the map that excites it
MOMENTUM, EPS = 0.1, 1e-5  # of the batch norms


class FastGAN(Generator):
    """FastGAN generator: two convolutions at each resolution, noise, batch norm, skip-layer excitation.

    Truncation psi has no effect: there is no mapping network, and z is scaled to unit length.

    Args:
        z_dim: width of the latent z, which serves as w too.
        ngf: base width: feature maps at 128 pixels; 16 times as many at 4 pixels.
    """

    batch_statistics: ClassVar[str] = "batch norm"
    lite: ClassVar[bool] = False
    conformance = {"z_dim": 16, "ngf": 4}

    def __init__(self, image_shape: ImageShape, cond: CondSpec, *, z_dim: int = 256, ngf: int = 128) -> None:
        super().__init__()
        if ngf < 1:
            raise GankitError(f"generator.ngf = {ngf} must be at least 1; the paper has 128")
        self.z_dim = self.w_dim = z_dim
        self.num_ws = 1
        self.image_shape = image_shape
        self.synthesis = Synthesis(image_shape, z_dim, cond.c_dim, ngf, lite=self.lite)  # type: ignore[misc]

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        _, height, width = composition.image_shape
        if (reason := unfit_size(composition.image_shape)) is None:
            return None
        return f"images of {width}x{height} pixels", reason

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
        return z[:, None]


class FastGANLite(FastGAN):
    """FastGAN generator with one convolution at each resolution and no noise, for small data sets and fast training.

    Truncation psi has no effect: there is no mapping network, and z is scaled to unit length.

    Args:
        z_dim: width of the latent z, which serves as w too.
        ngf: base width: feature maps at 128 pixels; 16 times as many at 4 pixels.
    """

    lite = True


class Synthesis(nn.Module):
    """The synthesis network: ws [B, 1, z_dim] and a condition -> images [B, C, H, W].

    Only blocks that the image size needs are made, whereas the original always has those of 256 pixels.
    """

    def __init__(self, image_shape: ImageShape, z_dim: int, c_dim: int, ngf: int, *, lite: bool) -> None:
        super().__init__()
        (h, w), k = levels(image_shape)
        if (reason := unfit_size(image_shape)) is not None:
            raise GankitError(
                f"FastGAN cannot make images of {image_shape[2]}x{image_shape[1]} pixels: {reason}"
            )
        self.z_dim, self.c_dim = z_dim, c_dim
        self.sides = [nominal(level) for level in range(1, k + 1)]
        widths = {side: max(1, int(ngf * multiple)) for side, multiple in WIDTHS.items()}
        if c_dim:
            self.embed = ClassTable(c_dim, z_dim)
        self.init = Start(z_dim, widths[4], (h, w))
        for level, side in enumerate(self.sides, 1):
            size = (h << level, w << level)
            make = (LiteCondBlock if lite else CondBlock) if c_dim else (lite_block if lite else block)
            self.add_module(f"feat_{side}", make(widths[side // 2], widths[side], size, z_dim))
            if side in EXCITED_BY:
                self.add_module(f"se_{side}", Excitation(widths[EXCITED_BY[side]], widths[side]))
        self.to_big = SNConv2d(widths[self.sides[-1]], image_shape[0], 3, padding=1)
        settle(self)

    def forward(self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random") -> Tensor:
        if noise_mode not in NOISE_MODES:
            raise GankitError(unknown("noise mode", noise_mode, NOISE_MODES))
        if ws.shape[1:] != (1, self.z_dim):
            raise ValueError(f"ws must be [B, 1, {self.z_dim}], not {list(ws.shape)}")
        c = required_embedding(cond, self.c_dim)
        code = self.embed(c) if self.c_dim else None
        maps = {4: self.init(normalize_2nd_moment(at_least_float32(ws[:, 0])))}
        for side in self.sides:
            x = maps[side // 2]
            for layer in _layers(self.get_submodule(f"feat_{side}")):
                x = layer(x, code, noise_mode) if isinstance(layer, _Told) else layer(x)
            if side in EXCITED_BY:
                x = self.get_submodule(f"se_{side}")(maps[EXCITED_BY[side]], x)
            maps[side] = x
        return at_least_float32(self.to_big(x))


def unfit_size(image_shape: ImageShape) -> str | None:
    """The reason why FastGAN cannot make images of this shape, or None if it can."""
    _, k = levels(image_shape)
    if k and nominal(k) in WIDTHS:
        return None
    return "both sides must be divisible by 2 and the shorter one must be 8 to 2044"


def _layers(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.Sequential) else [module]


class _Told(nn.Module):
    """Base of layers that are called with (x, embedded condition or None, noise mode)."""


class ClassTable(nn.Module):
    """Class embedding: [B, c_dim], one-hot or any weights, -> [B, dim]."""

    def __init__(self, c_dim: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_dim, dim))

    def forward(self, c: Tensor) -> Tensor:
        with without_autocast(c):
            return at_least_float32(c) @ self.weight


class Start(nn.Module):
    """Latents [B, z_dim] -> the coarsest feature map [B, channels, *size]."""

    def __init__(self, z_dim: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.init = nn.Sequential(
            SNConvTranspose2d(z_dim, 2 * channels, size, bias=False),
            nn.BatchNorm2d(2 * channels, EPS, MOMENTUM),
            nn.GLU(1),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.init(z[:, :, None, None])


class Excitation(nn.Module):
    """Skip-layer excitation: scale the channels of a large map by factors computed from a small map (section 3.1)."""

    def __init__(self, small_channels: int, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.AdaptiveAvgPool2d(4),
            SNConv2d(small_channels, channels, 4, bias=False),
            nn.SiLU(),
            SNConv2d(channels, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, small: Tensor, big: Tensor) -> Tensor:
        return big * self.main(small)


class Noise(_Told):
    """Add a noise map, the same for all channels, times a learned scalar."""

    plane: Tensor

    def __init__(self, size: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.zeros(1))
        # The original has no constant noise, hence no name for it in its files: a seed makes it.
        generator = torch.Generator("cpu").manual_seed(seed)
        plane = torch.randn(*size, generator=generator, device="cpu")
        self.register_buffer("plane", plane.to(self.weight.device), persistent=False)

    def forward(self, x: Tensor, code: Tensor | None, noise_mode: str) -> Tensor:
        if noise_mode == "none":
            return x
        plane = self.plane
        if noise_mode == "random":
            plane = random.randn(x.shape[0], 1, *self.size, device=x.device)
        return x + (self.weight * plane).to(x.dtype)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")


def block(in_channels: int, channels: int, size: tuple[int, int], z_dim: int) -> nn.Sequential:
    """Unconditional block: upsampling, then twice a convolution with noise, batch norm and GLU."""
    return nn.Sequential(
        Upsample(),
        SNConv2d(in_channels, 2 * channels, 3, padding=1, bias=False),
        Noise(size, seed=0),
        nn.BatchNorm2d(2 * channels, EPS, MOMENTUM),
        nn.GLU(1),
        SNConv2d(channels, 2 * channels, 3, padding=1, bias=False),
        Noise(size, seed=1),
        nn.BatchNorm2d(2 * channels, EPS, MOMENTUM),
        nn.GLU(1),
    )


def lite_block(in_channels: int, channels: int, size: tuple[int, int], z_dim: int) -> nn.Sequential:
    """Unconditional block with one convolution and no noise."""
    return nn.Sequential(
        Upsample(),
        SNConv2d(in_channels, 2 * channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * channels, EPS, MOMENTUM),
        nn.GLU(1),
    )


class CondNorm(nn.Module):
    """Batch norm whose gain and bias are linear in the code of the condition (as in BigGAN)."""

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, code_dim: int) -> None:
        super().__init__()
        self.gain = SNLinear(code_dim, channels)
        self.bias = SNLinear(code_dim, channels)
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        y = F.batch_norm(
            x, self.stored_mean, self.stored_var, training=self.training, momentum=MOMENTUM, eps=EPS
        )
        gain, bias = (1 + self.gain(code)).to(y.dtype), self.bias(code).to(y.dtype)
        return torch.addcmul(bias[:, :, None, None], y, gain[:, :, None, None])


class CondBlock(_Told):
    """Conditional block: upsampling, then twice a convolution with noise, conditional batch norm and GLU.

    Both convolutions share the learned strength of their noise.
    """

    def __init__(self, in_channels: int, channels: int, size: tuple[int, int], z_dim: int) -> None:
        super().__init__()
        self.conv1 = SNConv2d(in_channels, 2 * channels, 3, padding=1, bias=False)
        self.conv2 = SNConv2d(channels, 2 * channels, 3, padding=1, bias=False)
        self.bn1 = CondNorm(2 * channels, z_dim)
        self.bn2 = CondNorm(2 * channels, z_dim)
        self.noise = Noise(size, seed=0)

    def forward(self, x: Tensor, code: Tensor, noise_mode: str) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.glu(self.bn1(self.noise(self.conv1(x), code, noise_mode), code), 1)
        return F.glu(self.bn2(self.noise(self.conv2(x), code, noise_mode), code), 1)


class LiteCondBlock(_Told):
    """Conditional block with one convolution and no noise."""

    def __init__(self, in_channels: int, channels: int, size: tuple[int, int], z_dim: int) -> None:
        super().__init__()
        self.conv = SNConv2d(in_channels, 2 * channels, 3, padding=1, bias=False)
        self.bn = CondNorm(2 * channels, z_dim)

    def forward(self, x: Tensor, code: Tensor, noise_mode: str) -> Tensor:
        return F.glu(self.bn(self.conv(F.interpolate(x, scale_factor=2, mode="nearest")), code), 1)
