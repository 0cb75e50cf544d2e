"""StyleGAN3 generator (Karras et al. 2021, "Alias-Free Generative Adversarial Networks"), configurations T and R.

Every layer is a filtered nonlinearity on a grid with a margin, so that detail moves with the coarse structure instead
of sticking to pixels. Frequencies, sampling rates and bandwidths are per shorter side of the image; on all grids,
rectangular images are longer along one axis. Parameter names and shapes are those of the official networks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gankit.core.cuda import filtered_lrelu, modulated_conv2d
from gankit.core.cuda.values_only import samples_at_once
from gankit.core.interfaces.conditions import Cond, CondSpec
from gankit.core.interfaces.networks import Generator, ImageShape
from gankit.core.nn.lowpass import design_lowpass_filter
from gankit.core.nn.pyramid import levels
from gankit.core.nn.stylegan_layers import FullyConnected, MappingNetwork
from gankit.core.runtime.precision import as_half, at_least_float32, without_autocast
from gankit.errors import GankitError

MARGIN = 10  # pixels around the image on all grids but those of the last two layers
FILTER_SIZE = 6  # taps of the low-pass filters for each sample of the coarser grid
LRELU_UPSAMPLING = 2
OUTPUT_SCALE = 0.25


class StyleGAN3(Generator):
    """StyleGAN3 generator. Defaults are configuration T (translation); R (rotation) has conv_kernel 1,
    use_radial_filters, channel_base 65536 and channel_max 1024.

    Args:
        z_dim: width of the latent z.
        w_dim: width of the intermediate latent w.
        mapping_layers: depth of the mapping network.
        mapping_lr_multiplier: learning rate of the mapping network relative to the rest.
        embed_features: width of the projected condition in the mapping network; None is w_dim.
        layer_features: width of the mapping network's hidden layers; None is w_dim.
        channel_base: a layer of cutoff f, in cycles per image side, has min(channel_base / 2f, channel_max) feature
            maps.
        channel_max: most feature maps of any layer.
        conv_kernel: side of the convolutions; 1 treats all directions alike.
        use_radial_filters: low-pass filters with one cutoff for all directions, except in critically sampled layers.
        num_layers: layers before the one that makes RGB.
        num_critical: critically sampled layers at the end, which use the full bandwidth of the image grid.
        first_cutoff: cutoff frequency of the Fourier features and of the first layer.
        first_stopband: minimum stop band of the first layer, which sets its sampling rate.
        last_stopband_rel: stop band of the last layers relative to their cutoff.
        conv_clamp: bound on the magnitude of activations, 256 for mixed precision; None for no bound.
        magnitude_ema_beta: decay of the running mean square of each layer's input, 0.5 ** (batch / 20000) in the paper.
        w_avg_beta: decay of the running mean of w, which truncation pulls towards.
    """

    follows_ws = True
    conformance = {
        "z_dim": 16,
        "w_dim": 16,
        "channel_base": 256,
        "channel_max": 8,
        "num_layers": 4,
    }
    synthesis_emas = True

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 2,
        mapping_lr_multiplier: float = 0.01,
        embed_features: int | None = None,
        layer_features: int | None = None,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_kernel: Literal[1, 3] = 3,
        use_radial_filters: bool = False,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        conv_clamp: float | None = 256,
        magnitude_ema_beta: float = 0.999,
        w_avg_beta: float = 0.998,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.image_shape = z_dim, w_dim, image_shape
        chain = bands(
            image_shape,
            num_layers=num_layers,
            num_critical=num_critical,
            first=(first_cutoff, first_stopband),
            last_stopband_rel=last_stopband_rel,
            channel_base=channel_base,
            channel_max=channel_max,
        )
        self.synthesis = SynthesisNetwork(  # type: ignore[misc]
            w_dim,
            layer_specs(
                chain,
                num_critical=num_critical,
                conv_kernel=conv_kernel,
                use_radial_filters=use_radial_filters,
            ),
            conv_clamp=conv_clamp,
            magnitude_ema_beta=magnitude_ema_beta,
        )
        self.num_ws, self.layer_names = self.synthesis.num_ws, self.synthesis.layer_names
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
        )

    def renamed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a StyleGAN3 of any size under this network's names. Sizes and channels are part of the names of
        layers, so layers are matched by number, and the RGB layer with the RGB layer."""
        layer = re.compile(r"synthesis\.L(\d+)_\d+_\d+\.(.+)")
        found = {name: match for name in tensors if (match := layer.fullmatch(name))}
        last = max((int(match[1]) for match in found.values()), default=0)
        *hidden, rgb = self.layer_names
        renamed = {}
        for name, tensor in tensors.items():
            if name in found:
                number, rest = int(found[name][1]), found[name][2]
                if number == last or number < len(hidden):
                    name = f"synthesis.{rgb if number == last else hidden[number]}.{rest}"
            renamed[name] = tensor
        return renamed


# ------------------------------------------------------------------------------------------------- geometry


@dataclass(frozen=True)
class Band:
    """Signal of the feature maps between two layers.

    `rate` is the number of samples per shorter image side, `cutoff` the highest frequency that passes, `stopband` the
    one above which next to nothing is left. `size` (h, w) is the grid with its margins.
    """

    cutoff: float
    stopband: float
    rate: int
    size: tuple[int, int]
    channels: int

    @property
    def half_width(self) -> float:
        """Half width of the transition band around `cutoff`."""
        return max(self.stopband, self.rate / 2) - self.cutoff


@dataclass(frozen=True)
class LayerSpec:
    """A layer from band `source` to band `target`; the last one has `kernel` 1 and `rgb`, `radial` downsamples
    isotropically."""

    index: int
    source: Band
    target: Band
    kernel: int
    radial: bool
    rgb: bool

    @property
    def name(self) -> str:
        return f"L{self.index}_{min(self.target.size)}_{self.target.channels}"


def bands(
    image_shape: ImageShape,
    *,
    num_layers: int,
    num_critical: int,
    first: tuple[float, float] | Band,
    last_stopband_rel: float,
    channel_base: int,
    channel_max: int,
) -> list[Band]:
    """The bands after layers 0 ... `num_layers` (section 3.2 and appendix C), coarse to fine.

    Cutoff and stop band grow geometrically from `first`, a pair of the two or the last band of another network, to half
    the image's sampling rate, from where on sampling is critical. Raises GankitError for images that are too small or
    cannot be halved often enough.
    """
    img_channels, height, width = image_shape
    levels(image_shape)  # refuses sizes that cannot be halved often enough
    side = min(height, width)
    start = (first.cutoff, first.stopband) if isinstance(first, Band) else first
    last = (side / 2, side / 2 * last_stopband_rel)
    if num_critical < 1 or num_layers <= num_critical:
        raise GankitError(
            f"num_layers {num_layers} must be larger than num_critical {num_critical}, and that at least 1"
        )
    if last[0] <= start[0]:
        raise GankitError(
            f"image size {width}x{height} is too small for alias-free layers of cutoff {start[0]:g}: both sides must "
            f"be larger than {2 * start[0]:g} pixels; change data.size"
        )
    chain = [first] if isinstance(first, Band) else []
    for i in range(len(chain), num_layers + 1):
        e = min(i / (num_layers - num_critical), 1)
        cutoff, stopband = (a * (b / a) ** e for a, b in zip(start, last))
        halvings = -math.ceil(math.log2(min(2 * stopband, side) / side))
        size = (height, width)
        if i < num_layers - 1:
            size = (_halved(height, halvings) + 2 * MARGIN, _halved(width, halvings) + 2 * MARGIN)
        count = round(min(channel_base / 2 / cutoff, channel_max)) if i < num_layers else img_channels
        if count < 1:
            raise GankitError(
                f"channel_base {channel_base} leaves no channels at cutoff {cutoff:g}; set it to at least "
                f"{math.ceil(2 * cutoff)}"
            )
        chain.append(Band(cutoff, stopband, _halved(side, halvings), size, count))
    return chain


def _halved(side: int, times: int) -> int:
    if side % 2**times:
        raise GankitError(
            f"image sides must be multiples of {2**times} for alias-free layers of this first_stopband, not {side}; "
            "change data.size"
        )
    return side >> times


def layer_specs(
    chain: Sequence[Band], *, num_critical: int, conv_kernel: int, use_radial_filters: bool, start: int = 0
) -> list[LayerSpec]:
    """Layers between neighbouring bands, the first from band 0 to itself; their names are numbered from `start`."""
    last = len(chain) - 1
    return [
        LayerSpec(
            start + i,
            chain[max(i - 1, 0)],
            band,
            1 if i == last else conv_kernel,
            use_radial_filters and i < last - num_critical,
            i == last,
        )
        for i, band in enumerate(chain)
    ]


# ------------------------------------------------------------------------------------------------- networks


class SynthesisNetwork(nn.Module):
    """The synthesis network: ws [B, num_ws, w_dim] -> images [B, C, H, W]; the condition acts through ws alone.

    There is no noise. Feature maps are in half precision if ws is. On a CPU without gradients, large images are made
    one after the other.
    """

    def __init__(
        self,
        w_dim: int,
        layers: Sequence[LayerSpec],
        *,
        conv_clamp: float | None,
        magnitude_ema_beta: float,
    ) -> None:
        super().__init__()
        self.w_dim, self.num_ws = w_dim, len(layers) + 1
        self.input = SynthesisInput(w_dim, layers[0].source)
        self.layer_names = [layer.name for layer in layers]
        self.largest_map = max(math.prod(layer.target.size) * layer.target.channels for layer in layers)
        for layer in layers:
            self.add_module(
                layer.name,
                SynthesisLayer(w_dim, layer, conv_clamp=conv_clamp, magnitude_ema_beta=magnitude_ema_beta),
            )

    def forward(
        self, ws: Tensor, cond: Cond = None, *, noise_mode: str = "random", update_emas: bool = False
    ) -> Tensor:
        """`update_emas` updates the running mean squares of all layers' inputs."""
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be [B, {self.num_ws}, {self.w_dim}], not {list(ws.shape)}")
        size = self.largest_map * ws.element_size()
        step = None if update_emas else samples_at_once(ws, self.parameters(), size)
        if step is not None and len(ws) > step:
            return torch.cat([self(part) for part in ws.split(step)])
        w = ws.unbind(1)
        x = as_half(self.input(w[0]), ws)
        for name, w_layer in zip(self.layer_names, w[1:]):
            x = self.get_submodule(name)(x, w_layer, update_emas)
        return at_least_float32(x) * OUTPUT_SCALE


class SynthesisInput(nn.Module):
    """Fourier features, rotated and translated by w (appendix F).

    The buffer `transform`, [3, 3], is the inverse of an additional transform of the image plane, whose unit is the
    shorter side of the image, y pointing down.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, w_dim: int, band: Band) -> None:
        super().__init__()
        self.band, count = band, band.channels
        self.weight = nn.Parameter(torch.randn(count, count))
        self.affine = FullyConnected(w_dim, 4, weight_init=0, bias_init=(1, 0, 0, 0))
        freqs = torch.randn(count, 2)
        radius = freqs.norm(dim=1, keepdim=True)
        self.register_buffer("freqs", freqs / radius * torch.exp(-radius.square() / 4) * band.cutoff)
        self.register_buffer("phases", torch.rand(count) - 0.5)
        self.register_buffer("transform", torch.eye(3))

    def forward(self, w: Tensor) -> Tensor:
        """w [B, w_dim] -> feature maps [B, C, h, w], channels-last."""
        with without_autocast(w):
            t = self.affine(w)
            t = t / t[:, :2].norm(dim=1, keepdim=True)
            c, s, x, y = t.unbind(1)
            zero, one = torch.zeros_like(c), torch.ones_like(c)
            rotation = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], 1).view(-1, 3, 3)
            translation = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], 1).view(-1, 3, 3)
            m = rotation @ translation @ self.transform.to(t.dtype)
            own = self.freqs.to(t.dtype)
            freqs = own @ m[:, :2, :2]  # [B, C, 2]
            phases = self.phases.to(t.dtype) + (own @ m[:, :2, 2:])[:, :, 0]
            # frequencies that a scaling transform pushes out of the band fade
            beyond = (freqs.norm(dim=2) - self.band.cutoff) / (self.band.rate / 2 - self.band.cutoff)
            amplitudes = (1 - beyond).clamp(0, 1)

            rows, columns = (
                (torch.arange(n, device=w.device, dtype=t.dtype) + 0.5 - n / 2) / self.band.rate
                for n in self.band.size
            )
            along_x = columns[:, None] * freqs[:, None, :, 0]  # [B, w, C]
            along_y = rows[:, None] * freqs[:, None, :, 1] + phases[:, None]
            angles = (along_y[:, :, None] + along_x[:, None]) * (2 * math.pi)  # [B, h, w, C]
            features = angles.sin() * amplitudes[:, None, None]
            mixed = features @ (self.weight / math.sqrt(len(self.weight))).to(t.dtype).t()
            return mixed.permute(0, 3, 1, 2)


class SynthesisLayer(nn.Module):
    """Modulated convolution, then a filtered leaky ReLU (figure 4b); for RGB only the convolution, bias and clamp."""

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    any_layout = True  # any memory layout of the weight will do, see models.for_sampling

    def __init__(
        self, w_dim: int, spec: LayerSpec, *, conv_clamp: float | None, magnitude_ema_beta: float
    ) -> None:
        super().__init__()
        self.spec, self.conv_clamp, self.magnitude_ema_beta = spec, conv_clamp, magnitude_ema_beta
        source, target, k = spec.source, spec.target, spec.kernel
        rate = max(source.rate, target.rate) * (1 if spec.rgb else LRELU_UPSAMPLING)
        self.up, self.down = rate // source.rate, rate // target.rate
        up_taps = FILTER_SIZE * self.up if self.up > 1 and not spec.rgb else 1
        down_taps = FILTER_SIZE * self.down if self.down > 1 and not spec.rgb else 1
        self.affine = FullyConnected(w_dim, source.channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(target.channels, source.channels, k, k))
        self.bias = nn.Parameter(torch.zeros(target.channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.register_buffer(
            "up_filter", design_lowpass_filter(up_taps, source.cutoff, source.half_width * 2, rate)
        )
        self.register_buffer(
            "down_filter",
            design_lowpass_filter(down_taps, target.cutoff, target.half_width * 2, rate, spec.radial),
        )
        self.padding: list[int] = []  # x before and after, y before and after
        for have, want in zip(source.size[::-1], target.size[::-1]):
            total = (want - 1) * self.down + 1 - (have + k - 1) * self.up + up_taps + down_taps - 2
            before = (total + self.up) // 2  # the centres of both grids coincide
            self.padding += [before, total - before]

    def forward(self, x: Tensor, w: Tensor, update_emas: bool) -> Tensor:
        if update_emas:
            with torch.no_grad():
                power = torch.linalg.vector_norm(x, dtype=torch.float32).square() / max(x.numel(), 1)
                self.magnitude_ema.copy_(
                    power.to(self.magnitude_ema).lerp(self.magnitude_ema, self.magnitude_ema_beta)
                )
        input_gain, styles, k = self.magnitude_ema.rsqrt(), self.affine(w), self.spec.kernel
        if self.spec.rgb:
            return modulated_conv2d(
                x,
                self.weight,
                styles / math.sqrt(self.weight[0].numel()),
                padding=k - 1,
                demodulate=False,
                input_gain=input_gain,
                b=self.bias,
                clamp=self.conv_clamp,
            )
        x = modulated_conv2d(
            x, self.weight, styles, padding=k - 1, input_gain=input_gain, normalize=True, b=self.bias
        )
        return filtered_lrelu(
            x,
            self.up_filter,
            self.down_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            clamp=self.conv_clamp,
        )
