"""StyleGAN-T generator (Sauer, Karras, Laine, Geiger and Aila, ICML 2023, section 3.1).

The condition bypasses the mapping network: w = [f(z), c]. Blocks are deep, with residual modulated convolutions, and
styles are of second order in w. Names of parameters are those of the official network, so its weights load as they are.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankit.core.cuda import add_rgb, modulated_conv2d, normalize_2nd_moment, setup_filter, upsample2d
from gankit.core.interfaces.conditions import Cond, CondSpec, embedding_of
from gankit.core.interfaces.networks import Generator, ImageShape
from gankit.core.nn.pyramid import channels, levels, nominal
from gankit.core.nn.stylegan_layers import FullyConnected
from gankit.core.runtime import random
from gankit.core.runtime.precision import as_half, at_least_float32, without_autocast
from gankit.errors import GankitError, unknown

NOISE_MODES = ("random", "const", "none")
BANDWIDTH = 2  # of the Fourier features, in cycles per shorter image side
X_AVG_BETA = 0.995


# Blocks at the end whose maps follow the half precision of ws (as in StyleGAN2-ADA). The coarse ones before them are
# cheap, and all later ones inherit their errors: with them in half precision as well, 2 dB are lost.
HALF_LEVELS = 4


class StyleGANT(Generator):
    """StyleGAN-T generator. Defaults are the paper's 'lite' model; 'full' is base 65536, max 2048, 3 residual blocks.

    Args:
        z_dim: width of the latent z.
        mapping_layers: depth of the mapping network, which sees z only.
        cond_dim: width of a learned linear projection of the condition; None passes it on as it is, as the paper does
            with text embeddings. Of use for sparse conditions such as classes and tags.
        channel_base: feature maps times resolution; level r has min(channel_base / r, channel_max) feature maps.
        channel_max: most feature maps of any level.
        num_res_blocks: pairs of a plain and a residual convolution at each resolution.
        architecture: 'skip' sums RGB images of all resolutions, 'single' makes one from the finest.
        norm_groups: groups of the group norm in residual convolutions; fewer where they do not divide the channels.
        layer_scale_init: initial weight of the residual branches.
        conv_clamp: bound on the magnitude of activations; None for no bound.
        use_noise: add noise to the feature maps of each layer; of no use for flat drawings.
    """

    follows_ws = True
    conformance = {"z_dim": 16, "channel_base": 128, "channel_max": 8}

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        z_dim: int = 64,
        mapping_layers: int = 2,
        cond_dim: int | None = None,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_res_blocks: int = 2,
        architecture: Literal["skip", "single"] = "skip",
        norm_groups: int = 32,
        layer_scale_init: float = 1e-5,
        conv_clamp: float | None = 256,
        use_noise: bool = True,
    ) -> None:
        super().__init__()
        self.z_dim, self.image_shape = z_dim, image_shape
        self.w_dim = z_dim + ((cond_dim or cond.c_dim) if cond.c_dim else 0)
        self.synthesis = SynthesisNetwork(
            image_shape,
            self.w_dim,
            channel_base=channel_base,
            channel_max=channel_max,
            num_res_blocks=num_res_blocks,
            architecture=architecture,
            norm_groups=norm_groups,
            layer_scale_init=layer_scale_init,
            conv_clamp=conv_clamp,
            use_noise=use_noise,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, cond.c_dim, cond_dim, self.num_ws, mapping_layers)

    def fade_in(self, share: float) -> bool:
        return cast(SynthesisNetwork, self.synthesis).fade_in(share)


class MappingNetwork(nn.Module):
    """The mapping network, w = [f(z), c].

    Truncation pulls f(z) towards its mean and leaves c, so psi = 0 is the mean image of a prompt.
    """

    x_avg: Tensor

    def __init__(self, z_dim: int, c_dim: int, cond_dim: int | None, num_ws: int, num_layers: int) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_ws = z_dim, c_dim, num_ws
        self.mlp = nn.Sequential()
        for i in range(num_layers):
            activation = "lrelu" if i < num_layers - 1 else "linear"
            layer = FullyConnected(z_dim, z_dim, activation=activation, lr_multiplier=0.01)
            self.mlp.add_module(f"fc{i}", layer)
        self.embed = FullyConnected(c_dim, cond_dim) if c_dim and cond_dim else None
        self.register_buffer("x_avg", torch.zeros(z_dim))

    def forward(
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
        x = self.mlp(normalize_2nd_moment(at_least_float32(z)))
        if update_emas:
            self.x_avg.copy_(x.detach().mean(0).lerp(self.x_avg, X_AVG_BETA))
        x = x[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            x = torch.cat([self.x_avg.to(x.dtype).lerp(x[:, :cutoff], truncation_psi), x[:, cutoff:]], dim=1)
        if not self.c_dim:
            return x
        c = embedding_of(cond)
        if c is None or c.shape[1:] != (self.c_dim,):
            given = "none" if c is None else list(c.shape)
            raise ValueError(
                f"this network needs a condition with an embedding [B, {self.c_dim}], not {given}"
            )
        c = at_least_float32(c) if self.embed is None else self.embed(c)
        return torch.cat([x, c[:, None].expand(-1, self.num_ws, -1)], dim=2)


class SynthesisNetwork(nn.Module):
    """The synthesis network: ws [B, num_ws, w_dim] -> images [B, C, H, W]; the condition acts through ws alone.

    If ws is in half precision, so are the feature maps of the last HALF_LEVELS blocks.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        w_dim: int,
        *,
        channel_base: int,
        channel_max: int,
        num_res_blocks: int,
        architecture: Literal["skip", "single"],
        norm_groups: int,
        layer_scale_init: float,
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        (h, w), k = levels(image_shape)
        if k == 0:
            raise GankitError(
                f"image size {w}x{h} is too small for generator 'stylegan-t', whose first block has twice the start "
                "grid: both sides must be even and at least 8 pixels; change data.size"
            )
        self.w_dim, self.is_skip = w_dim, architecture == "skip"
        self.ws_per_block = 1 + 2 * num_res_blocks
        self.num_ws = k * self.ws_per_block + 1
        self.blocks: list[str] = []
        for level in range(1, k + 1):
            block = SynthesisBlock(
                channels(level - 1, channel_base, channel_max) if level > 1 else 0,
                channels(level, channel_base, channel_max),
                w_dim,
                (h << level, w << level),
                image_shape[0] if level == k or architecture == "skip" else 0,
                num_res_blocks=num_res_blocks,
                norm_groups=norm_groups,
                layer_scale_init=layer_scale_init,
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
        x: Tensor | None = None
        img: Tensor | None = None
        for i, name in enumerate(self.blocks):
            exact = i < len(self.blocks) - HALF_LEVELS
            w = (at_least_float32(ws) if exact else ws).unbind(1)
            x = x if x is None or exact else as_half(x, ws)
            # a block's RGB layer shares its w with the first layer of the next block
            start = i * self.ws_per_block
            x, img = self.get_submodule(name)(x, img, w[start : start + self.ws_per_block + 1], noise_mode)
        assert img is not None
        return img


class SynthesisBlock(nn.Module):
    """One resolution: Fourier features (coarsest) or an upsampling convolution, pairs of convolutions, RGB if
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
        num_res_blocks: int,
        norm_groups: int,
        layer_scale_init: float,
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("resample_filter", setup_filter([1, 3, 3, 1]))
        if in_channels:
            self.conv0: SynthesisLayer | None = SynthesisLayer(
                in_channels, out_channels, w_dim, size, up=2, conv_clamp=conv_clamp, use_noise=use_noise
            )
        else:
            self.conv0 = None
            self.input = FourierInput(w_dim, out_channels, size)
        layers: list[nn.Module] = []
        for _ in range(num_res_blocks):
            plain = SynthesisLayer(
                out_channels, out_channels, w_dim, size, conv_clamp=conv_clamp, use_noise=use_noise
            )
            residual = ResidualLayer(
                out_channels,
                w_dim,
                size,
                conv_clamp=conv_clamp,
                use_noise=use_noise,
                norm_groups=norm_groups,
                layer_scale_init=layer_scale_init,
            )
            layers += [plain, residual]
        self.convs1 = nn.ModuleList(layers)
        self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp) if img_channels else None

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: tuple[Tensor, ...], noise_mode: str
    ) -> tuple[Tensor, Tensor | None]:
        first, *middle, last = ws
        if x is None or self.conv0 is None:
            x = as_half(self.input(first), first)
        else:
            x = self.conv0(x, first, noise_mode)
        for layer, w in zip(self.convs1, middle):
            if isinstance(layer, ResidualLayer):
                x = layer.normalize(x)
            x = layer(x, w, noise_mode, gain=math.sqrt(0.5))
        if self.torgb is not None:
            img = self.torgb(x, last, img, self.resample_filter, self.share)
        elif img is not None:
            img = upsample2d(img, self.resample_filter)
        return x, img


class FourierInput(nn.Module):
    """Fixed random sinusoids, rotated and translated by w, then mixed linearly (StyleGAN3, Karras et al. 2021, appendix
    F).

    The shorter side of the image spans [-1/2, 1/2]; a longer side extends beyond, at the same sampling rate.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, w_dim: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.rate = size, min(size)
        self.affine = FullyConnected(w_dim, 4, weight_init=0, bias_init=(1, 0, 0, 0))
        self.weight = nn.Parameter(torch.randn(channels, channels))
        g = torch.randn(channels, 2)
        radii = g.norm(dim=1, keepdim=True)
        self.register_buffer(
            "freqs", BANDWIDTH * g / radii * torch.exp(-radii.square() / 4)
        )  # uniform on the disc
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))

    def forward(self, w: Tensor) -> Tensor:
        with without_autocast(w):
            t = self.affine(w)
            cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
            top = torch.stack([cos, -sin, sin * y - cos * x], dim=1)
            bottom = torch.stack([sin, cos, -sin * x - cos * y], dim=1)
            m = torch.stack([top, bottom], dim=1) @ self.transform  # [B, 2, 3]: rotation, then translation
            freqs = self.freqs @ m[:, :, :2]  # [B, channels, 2]
            phases = self.phases + m[:, :, 2] @ self.freqs.t()
            excess = (freqs.norm(dim=2) - BANDWIDTH) / (self.rate / 2 - BANDWIDTH)
            amplitudes = (1 - excess).clamp(0, 1)  # fades what `transform` scales out of the band

            ys, xs = (((torch.arange(n, device=w.device) + 0.5 - n / 2) / self.rate) for n in self.size)
            angles = freqs[:, None, None, :, 0] * xs[:, None] + freqs[:, None, None, :, 1] * ys[:, None, None]
            waves = torch.sin(2 * math.pi * (angles + phases[:, None, None])) * amplitudes[:, None, None]
            mixed = waves @ (self.weight / math.sqrt(len(self.weight))).t()
        return mixed.permute(0, 3, 1, 2)  # channels-last in memory


class SecondOrderStyle(nn.Module):
    """Styles of second order in w: s = m1 * m2 + m3 with each m affine in w, so that latent and condition multiply."""

    def __init__(self, w_dim: int, features: int) -> None:
        super().__init__()
        self.proj = FullyConnected(w_dim, 3 * features, bias_init=1)

    def forward(self, w: Tensor) -> Tensor:
        first, second, third = self.proj(w).chunk(3, dim=1)
        return torch.addcmul(third, first, second)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU."""

    resample_filter: Tensor
    noise_const: Tensor
    input_gain: float | None = None

    any_layout = True  # any memory layout of the weight will do, see models.for_sampling

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        *,
        up: int = 1,
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.size, self.up, self.conv_clamp = size, up, conv_clamp
        self.affine = SecondOrderStyle(w_dim, in_channels)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.use_noise = use_noise
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn(*size))
        self.register_buffer("resample_filter", setup_filter([1, 3, 3, 1]))

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
            input_gain=self.input_gain,
            b=self.bias,
            act="lrelu",
            gain=math.sqrt(2) * gain,
            clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
        )


class ResidualLayer(SynthesisLayer):
    """Residual layer sqrt(2) * (x' + gamma * layer(x')), x' the group norm of x: the trunk, too, is normalised at
    each layer."""

    input_gain = math.sqrt(0.5)  # undoes the factor sqrt(2) that `normalize` puts into the norm

    def __init__(
        self,
        channels: int,
        w_dim: int,
        size: tuple[int, int],
        *,
        conv_clamp: float | None,
        use_noise: bool,
        norm_groups: int,
        layer_scale_init: float,
    ) -> None:
        super().__init__(channels, channels, w_dim, size, conv_clamp=conv_clamp, use_noise=use_noise)
        self.norm = nn.GroupNorm(math.gcd(norm_groups, channels), channels)
        self.gamma = nn.Parameter(torch.full([1, channels, 1, 1], layer_scale_init))

    def normalize(self, x: Tensor) -> Tensor:
        """sqrt(2) * x'. The factor is part of the norm, which saves a pass over the sum, and in half precision a
        rounding."""
        norm, root2 = self.norm, math.sqrt(2)
        return F.group_norm(x, norm.num_groups, norm.weight * root2, norm.bias * root2, norm.eps).to(x.dtype)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str, gain: float = 1) -> Tensor:
        """`x` is the result of `normalize`, a call of its own so that the map before it can be freed. Without
        gradients, the result is written into it."""
        y = super().forward(x, w, noise_mode, gain)
        x, gamma = x.to(y.dtype), (self.gamma * math.sqrt(2)).to(y.dtype)
        return torch.addcmul(x, y, gamma) if torch.is_grad_enabled() else x.addcmul_(y, gamma)


class ToRGB(nn.Module):
    """RGB output of a level: modulated 1x1 convolution without demodulation."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.affine = SecondOrderStyle(w_dim, in_channels)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1) * 0.1)
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Tensor, w: Tensor, img: Tensor | None, f: Tensor, share: float) -> Tensor:
        """RGB of this level, weighted by `share`, plus `img`, the sum of the levels before, upsampled with the
        filter `f`."""
        styles = self.affine(w) * (self.weight_gain * share)
        b = self.bias if share == 1 else self.bias * share
        clamp = None if self.conv_clamp is None else self.conv_clamp * share
        return add_rgb(img, f, x, self.weight, styles, b, clamp)
