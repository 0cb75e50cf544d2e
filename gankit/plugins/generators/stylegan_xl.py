"""StyleGAN-XL generator: StyleGAN3's synthesis, class embedding, progressive growing (Sauer et al. 2022).

The paper is Sauer, Schwarz and Geiger, "StyleGAN-XL: Scaling StyleGAN to Large Diverse Datasets", SIGGRAPH 2022. z is
small, the class embedding starts from pretrained features, and growing starts with a stem at the lowest resolution:
each super-resolution stage drops the critically sampled layers of the stage before and goes on with a head of its own.
Parameter names and shapes are those of the official networks.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gankit.core.cuda import normalize_2nd_moment
from gankit.core.interfaces.conditions import Cond, CondSpec, embedding_of
from gankit.core.interfaces.networks import Generator, ImageShape
from gankit.core.models.pretrained import start_table
from gankit.core.nn.stylegan_layers import FullyConnected
from gankit.core.runtime.precision import at_least_float32, without_autocast
from gankit.errors import GankitError
from gankit.plugins.generators.stylegan3 import LayerSpec, SynthesisNetwork, bands, layer_specs

W_AVG_BETA = 0.998


class StyleGANXL(Generator):
    """StyleGAN-XL generator. Defaults are the stem of the paper, for 16 x 16 pixels; `head_layers` [7] makes it the
    first super-resolution stage, [7, 7] the second, and so on. The paper trains the last head alone.

    Args:
        z_dim: width of the latent z.
        w_dim: width of the intermediate latent w.
        mapping_layers: depth of the mapping network.
        mapping_lr_multiplier: learning rate of the mapping network relative to the rest.
        embed_dim: width of the class embedding; 320 as the class means of EfficientNet-Lite0.
        class_table: initial class embedding: a .safetensors file, or the id of weights, with one tensor [classes,
            embed_dim], such as `gankit class-table` writes; random when omitted. It is trained in any case.
        channel_base: a layer of cutoff f, in cycles per image side, has min(channel_base / 2f, channel_max) feature
            maps.
        channel_max: most feature maps of any layer.
        conv_kernel: side of the convolutions.
        use_radial_filters: low-pass filters with one cutoff for all directions, except in critically sampled layers.
        num_layers: layers of the stem before the one that makes RGB; 7 for small data sets.
        head_layers: layers before the RGB layer in the head of each super-resolution stage; 7 in the paper, 5 at 1024
            px, 4 for small data sets. Without any the network is a stem.
        up_factors: factor by which each stage enlarges the image, a power of 2; None is 2 for all.
        head_kernel: side of the convolutions in heads; None is conv_kernel.
        head_radial_filters: use_radial_filters of the heads; None is the stem's.
        num_critical: critically sampled layers at the end, which use the full bandwidth of the image grid.
        first_cutoff: cutoff frequency of the Fourier features and of the first layer.
        first_stopband: minimum stop band of the first layer, which sets its sampling rate.
        last_stopband_rel: stop band of the last layers relative to their cutoff.
        conv_clamp: bound on the magnitude of activations, 256 for mixed precision; None for no bound.
        w_avg_beta: decay of the running means of w, one for each class.
    """

    follows_ws = True
    conformance = {
        "z_dim": 8,
        "w_dim": 16,
        "embed_dim": 8,
        "channel_base": 256,
        "channel_max": 8,
        "num_layers": 4,
        "head_layers": [4],
    }

    # Long because of its 21 options, and because each stage starts from the layers of the one before.
    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        z_dim: int = 64,
        w_dim: int = 512,
        mapping_layers: int = 2,
        mapping_lr_multiplier: float = 0.01,
        embed_dim: int = 320,
        class_table: str | None = None,
        channel_base: int = 65536,
        channel_max: int = 1024,
        conv_kernel: Literal[1, 3] = 3,
        use_radial_filters: bool = False,
        num_layers: int = 10,
        head_layers: tuple[int, ...] = (),
        up_factors: tuple[int, ...] | None = None,
        head_kernel: Literal[1, 3] | None = None,
        head_radial_filters: bool | None = None,
        num_critical: int = 2,
        first_cutoff: float = 2,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        conv_clamp: float | None = 256,
        w_avg_beta: float = W_AVG_BETA,
    ) -> None:
        super().__init__()
        self.z_dim, self.w_dim, self.image_shape = z_dim, w_dim, image_shape
        factors = tuple(2 for _ in head_layers) if up_factors is None else up_factors
        shapes = stage_shapes(image_shape, head_layers, factors, num_critical)
        layers: list[LayerSpec] = []
        first = (first_cutoff, first_stopband)
        for stage, (shape, count) in enumerate(zip(shapes, (num_layers, *head_layers))):
            layers = (
                layers[: len(layers) - num_critical - 1] if stage else []
            )  # without those of the coarser grid
            chain = bands(
                shape,
                num_layers=count,
                num_critical=num_critical,
                first=layers[-1].target if layers else first,
                last_stopband_rel=last_stopband_rel,
                channel_base=channel_base,
                channel_max=channel_max,
            )
            kernel = head_kernel if stage and head_kernel is not None else conv_kernel
            radial = use_radial_filters
            if stage and head_radial_filters is not None:
                radial = head_radial_filters
            layers += layer_specs(
                chain,
                num_critical=num_critical,
                conv_kernel=kernel,
                use_radial_filters=radial,
                start=len(layers) + 1 if stage else 0,  # a number is left out, as in the official networks
            )
        # running magnitudes stay at 1: moving ones diverge with this family's discriminator
        self.synthesis = SynthesisNetwork(w_dim, layers, conv_clamp=conv_clamp, magnitude_ema_beta=1.0)  # type: ignore[misc]
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(  # type: ignore[misc]
            z_dim,
            cond.c_dim,
            w_dim,
            self.num_ws,
            num_layers=mapping_layers,
            lr_multiplier=mapping_lr_multiplier,
            embed_dim=embed_dim,
            class_table=class_table,
            w_avg_beta=w_avg_beta,
        )


def stage_shapes(
    image_shape: ImageShape, head_layers: tuple[int, ...], up_factors: tuple[int, ...], num_critical: int
) -> list[ImageShape]:
    """Image shapes (C, H, W) of the stem and of each super-resolution stage, the last being `image_shape`.

    Raises GankitError for up-sampling factors and layers that do not fit each other or the image.
    """
    if len(up_factors) != len(head_layers):
        raise GankitError(
            f"generator 'stylegan-xl' has {len(head_layers)} head_layers and {len(up_factors)} up_factors; give as many"
        )
    if any(count <= num_critical for count in head_layers):
        raise GankitError(
            f"head_layers {list(head_layers)} of generator 'stylegan-xl' must be larger than num_critical "
            f"{num_critical}"
        )
    if any(factor < 2 or factor & (factor - 1) for factor in up_factors):
        raise GankitError(
            f"up_factors of generator 'stylegan-xl' must be powers of 2, not {list(up_factors)}"
        )
    channels, height, width = image_shape
    total = math.prod(up_factors)
    if height % total or width % total:
        raise GankitError(
            f"image size {width}x{height} cannot be reached by up_factors {list(up_factors)} of generator "
            f"'stylegan-xl': both sides must be multiples of {total}; change data.size"
        )
    shapes, rest = [], total
    for factor in (1, *up_factors):
        rest //= factor
        shapes.append((channels, height // rest, width // rest))
    return shapes


class MappingNetwork(nn.Module):
    """The mapping network: z and a condition -> ws, with a mean of w for each class (section 3.1, appendix); in
    float32.

    Conditions other than one class sum up class vectors: of tags, all that are given; of a text embedding, a
    projection. Truncation then pulls towards the mean of the classes' means, weighted by the positive entries of the
    condition.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        *,
        num_layers: int,
        lr_multiplier: float,
        embed_dim: int,
        class_table: str | None,
        w_avg_beta: float,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_ws, self.num_layers = z_dim, c_dim, num_ws, num_layers
        self.w_avg_beta = w_avg_beta
        if c_dim:
            self.embed = Table(c_dim, embed_dim, class_table)
            self.embed_proj = FullyConnected(embed_dim, z_dim, activation="lrelu")
        widths = [2 * z_dim if c_dim else z_dim, *[w_dim] * num_layers]
        for i in range(num_layers):
            layer = FullyConnected(widths[i], w_dim, activation="lrelu", lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(c_dim, w_dim) if c_dim else torch.zeros(w_dim))

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
        w = normalize_2nd_moment(at_least_float32(z))
        c = embedding_of(cond)
        if self.c_dim:
            if c is None or c.shape[1:] != (self.c_dim,):
                given = "none" if c is None else list(c.shape)
                raise ValueError(
                    f"this network needs a condition with an embedding [B, {self.c_dim}], not {given}"
                )
            c = at_least_float32(c)
            w = torch.cat([w, normalize_2nd_moment(self.embed_proj(self.embed(c)))], 1)
        for i in range(self.num_layers):
            w = self.get_submodule(f"fc{i}")(w)
        if update_emas:
            self._track(w.detach(), c)
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws
        center = self._center(c)[..., None, :].to(w.dtype)
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([center.lerp(ws[:, :cutoff], truncation_psi), ws[:, cutoff:]], 1)

    def _track(self, w: Tensor, c: Tensor | None) -> None:
        """Update the running mean of w, or those of the classes that are given (c > 0)."""
        if not self.c_dim or c is None:
            self.w_avg.copy_(w.mean(0).lerp(self.w_avg, self.w_avg_beta))
            return
        for row, given in zip(w, c.detach() > 0):  # one after the other, as a class may come more than once
            moved = row.lerp(self.w_avg, self.w_avg_beta)
            self.w_avg.copy_(torch.where(given[:, None], moved, self.w_avg))

    def _center(self, c: Tensor | None) -> Tensor:
        """The centre of truncation: [w_dim], or [B, w_dim] with conditions."""
        if not self.c_dim or c is None:
            return self.w_avg
        weights = c.detach().clamp_min(0)
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, torch.ones_like(weights))
        with without_autocast(weights):
            return (weights / weights.sum(1, keepdim=True)) @ self.w_avg.to(weights.dtype)


class Table(nn.Module):
    """Class embedding: [B, classes] -> [B, dim], the sum of class vectors weighted by the condition."""

    def __init__(self, classes: int, dim: int, start: str | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim))
        table = start_table(start, classes, dim, "generator.class_table")
        if table is not None:
            with torch.no_grad():
                self.weight.copy_(table)

    def forward(self, c: Tensor) -> Tensor:
        with without_autocast(c):
            return c @ self.weight.to(c.dtype)
