"""Adaptive discriminator augmentation: Karras et al. 2020 (StyleGAN2-ADA), section 3 and appendix B.

The probability p of each augmentation follows the share of real images that D calls real. Parameters are drawn per
image, so the result for an image does not depend on the rest of its batch.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import torch
from torch import Tensor

from gankit.core.interfaces.networks import ImageShape
from gankit.core.interfaces.training import Augmentation
from gankit.core.runtime.random import rand, randn
from gankit.errors import GankitError, unknown
from gankit.plugins.augment.ada_filters import apply_separable, filter_bank, filter_matrix, low_pass, warp

__all__ = ["ADA"]

# group -> augmentation -> default range, in the order of application
GROUPS: dict[str, dict[str, float]] = {
    "blit": {"xflip": 1, "rotate90": 1, "xint": 0.125},
    "geom": {"scale": 0.2, "rotate": 1, "aniso": 0.2, "xfrac": 0.125},
    "color": {"brightness": 0.2, "contrast": 0.5, "lumaflip": 1, "hue": 1, "saturation": 1},
    "filter": {"imgfilter": 1},
    "noise": {"noise": 0.1},
    "cutout": {"cutout": 0.5},
}
PIPELINES = {
    **{group: [group] for group in GROUPS},
    "bg": ["blit", "geom"],
    "bgc": ["blit", "geom", "color"],
    "bgcf": ["blit", "geom", "color", "filter"],
    "bgcfn": ["blit", "geom", "color", "filter", "noise"],
    "bgcfnc": ["blit", "geom", "color", "filter", "noise", "cutout"],
}
RANGES = {name: value for group in GROUPS.values() for name, value in group.items()}
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # expected power of natural images in the bands of the filter


class ADA(Augmentation):
    """Geometric, colour and corruption augmentations whose probability adapts to D's overfitting.

    At p = 0 the images pass untouched.

    Args:
        pipeline: groups of augmentations: b(lit), g(eom), c(olor), f(ilter), n(oise), c(utout), single or combined.
        target: target for the mean sign of D's logits on real images, in (-1, 1); null keeps p constant.
        p: probability at the start, >= 0.
        kimg: thousands of images in which p can move from 0 to 1, > 0.
        multipliers: factors on p for single augmentations, e.g. {rotate: 0, xflip: 0.5}; by default 1 for those of the
            pipeline and 0 for others.
        ranges: strengths that replace the paper's, e.g. {scale: 0.1}: standard deviation of scale, aniso (log2), xfrac
            (sides), brightness, contrast, saturation, imgfilter (log2), noise; maximum of xint (sides), rotate, hue
            (half turns); side of cutout, as a fraction of the image's.
        filter_bands: multipliers of imgfilter for its four frequency bands, low to high.
    """

    conformance = {"pipeline": "bgcfnc", "p": 1.0}

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        pipeline: Literal[
            "blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"
        ] = "bgc",
        target: float | None = 0.6,
        p: float = 0.0,
        kimg: float = 500,
        multipliers: dict[str, float] | None = None,
        ranges: dict[str, float] | None = None,
        filter_bands: tuple[float, float, float, float] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        for option, given in (("multipliers", multipliers), ("ranges", ranges)):
            for name in given or {}:
                if name not in RANGES:
                    raise GankitError(unknown(f"augmentation in ada's {option}:", name, RANGES))
        if kimg <= 0:
            raise GankitError(f"ada's kimg must be positive, not {kimg}; for a constant p set target to null")
        if p < 0:
            raise GankitError(f"ada's p must be at least 0, not {p}")
        enabled = {name: 1.0 for group in PIPELINES[pipeline] for name in GROUPS[group]}
        self.multipliers = {name: m for name, m in {**enabled, **(multipliers or {})}.items() if m > 0}
        self.ranges = {**RANGES, **(ranges or {})}
        self.filter_bands = filter_bands
        self.target = target
        self.kimg = kimg
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("low_pass", low_pass(), persistent=False)
        self.register_buffer("filter_bank", filter_bank(), persistent=False)

    p: Tensor
    low_pass: Tensor
    filter_bank: Tensor

    def _apply(self, fn: Any, recurse: bool = True) -> ADA:
        """Move to a device or dtype; p stays on the CPU, where `forward` reads it without waiting for a device."""
        p = self.p
        super()._apply(fn, recurse)
        self.p = p
        return self

    def scalars(self) -> dict[str, float]:
        return {"p": float(self.p)}

    def update(self, real_signs: float, nimg: int, batch: int) -> None:
        """Move p by batch / (1000 kimg) towards the target.

        `real_signs` is the mean sign of D's logits on the `batch` real images since the last call.
        """
        if self.target is None or real_signs == self.target:
            return
        step = math.copysign(batch / (self.kimg * 1000), real_signs - self.target)
        self.p.add_(step).clamp_(min=0)  # no upper bound: past 1, multipliers below 1 still grow

    def forward(self, images: Tensor, percentile: float | None = None) -> Tensor:
        """Augment images [B, C, H, W]. `percentile` in [0, 1] replaces each random parameter, but not the noise
        image, by that quantile of its distribution."""
        p = float(self.p)
        if p == 0 or not self.multipliers:
            return images
        draws = _Draws(len(images), p, self.multipliers, self.ranges, percentile)
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            images = self._geometry(images, draws)
            images = self._color(images, draws)
            images = self._filter(images, draws)
            images = self._noise(images, draws)
            return self._cutout(images, draws)

    def _geometry(self, images: Tensor, draws: _Draws) -> Tensor:
        inverse = _inverse_transform(draws, *images.shape[2:])
        # The resampling of an untransformed image is the identity up to rounding.
        rows = (inverse != torch.eye(3)).flatten(1).any(1).nonzero().flatten()
        if len(rows) == 0:
            return images
        if len(rows) == len(images):
            return warp(images, inverse, self.low_pass)
        index = rows.to(images.device)
        return images.index_copy(0, index, warp(images[index], inverse[rows], self.low_pass))

    def _color(self, images: Tensor, draws: _Draws) -> Tensor:
        matrix = _color_transform(draws, grey=images.shape[1] == 1)
        if matrix is None:
            return images
        matrix = matrix[:, :3]
        if images.shape[1] == 1:
            row = matrix.mean(1)
            matrix = torch.stack([row[:, :3].sum(1), row[:, 3]], dim=1)[:, None]
        matrix = matrix.to(images.device)
        color = images[:, :3]
        mixed = torch.baddbmm(matrix[:, :, -1:], matrix[:, :, :-1], color.flatten(2)).view(color.shape)
        return torch.cat([mixed, images[:, 3:]], dim=1) if images.shape[1] > 3 else mixed

    def _filter(self, images: Tensor, draws: _Draws) -> Tensor:
        if "imgfilter" not in self.multipliers:
            return images
        power = torch.tensor(BAND_POWER)
        gains = torch.ones(len(images), 4)
        for band, strength in enumerate(self.filter_bands):
            gain = torch.ones_like(gains)
            (gain[:, band],) = draws.gate(
                "imgfilter", draws.normal("imgfilter").exp2(), identity=1, strength=strength
            )
            gains = gains * gain / (power * gain.square()).sum(1, keepdim=True).sqrt()
        taps = gains.to(images.device) @ self.filter_bank
        height, width = images.shape[2:]
        return apply_separable(images, filter_matrix(height, taps), filter_matrix(width, taps))

    def _noise(self, images: Tensor, draws: _Draws) -> Tensor:
        if "noise" not in self.multipliers:
            return images
        (sigma,) = draws.gate("noise", draws.half_normal("noise"), identity=0)
        return images + randn(*images.shape, device=images.device) * sigma.view(-1, 1, 1, 1).to(images.device)

    def _cutout(self, images: Tensor, draws: _Draws) -> Tensor:
        if "cutout" not in self.multipliers:
            return images
        half = torch.full((len(images),), self.ranges["cutout"] / 2)
        (half,) = draws.gate("cutout", half, identity=0)
        inside = []
        for size in reversed(images.shape[2:]):
            centre = (torch.arange(size) + 0.5) / size
            inside.append((centre - draws.uniform()[:, None]).abs() < half[:, None])
        hole = inside[1][:, None, :, None] & inside[0][:, None, None, :]
        return images.masked_fill(hole.to(images.device), 0)


class _Draws:
    """Random augmentation parameters, one per image, on the CPU: the size of the padding in `warp` depends on them."""

    def __init__(
        self,
        batch: int,
        p: float,
        multipliers: dict[str, float],
        ranges: dict[str, float],
        percentile: float | None,
    ) -> None:
        self.batch = batch
        self.p = p
        self.multipliers = multipliers
        self.ranges = ranges
        self.percentile = percentile

    def uniform(self) -> Tensor:
        """Uniform [B] in [0, 1), or the percentile."""
        return rand(self.batch) if self.percentile is None else torch.full((self.batch,), self.percentile)

    def symmetric(self, name: str) -> Tensor:
        """Uniform [B] in [-r, r), r the range of the augmentation."""
        return (2 * self.uniform() - 1) * self.ranges[name]

    def normal(self, name: str) -> Tensor:
        """Normal [B] from N(0, r^2), r the range of the augmentation."""
        unit = randn(self.batch) if self.percentile is None else torch.erfinv(2 * self.uniform() - 1)
        return unit * self.ranges[name]

    def half_normal(self, name: str) -> Tensor:
        """Absolute values [B] from N(0, r^2), r the range of the augmentation."""
        unit = randn(self.batch).abs() if self.percentile is None else torch.erfinv(self.uniform())
        return unit * self.ranges[name]

    def gate(self, name: str, *values: Tensor, identity: float, strength: float = 1.0) -> list[Tensor]:
        """Each of `values` where an image is augmented (one decision per image for all values), `identity`
        elsewhere."""
        is_open = rand(self.batch) < self.multipliers[name] * strength * self.p
        return [torch.where(is_open, value, identity) for value in values]

    def rotation(self) -> Tensor:
        """Angle [B] in radians of one of two rotations; with the augmentation's probability at least one of them
        acts."""
        p = min(self.multipliers["rotate"] * self.p, 1)
        angle = self.symmetric("rotate") * math.pi
        return torch.where(rand(self.batch) < 1 - math.sqrt(1 - p), angle, 0.0)


def _matrix(*rows: list[Tensor | float]) -> Tensor:
    """Matrices [B, n, m] from rows of entries that are [B] or constants."""
    batch = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    return torch.stack([torch.stack([batch.new_zeros(len(batch)) + e for e in row], 1) for row in rows], 1)


def _inverse_transform(draws: _Draws, height: int, width: int) -> Tensor:
    """Affine matrices [B, 3, 3] from output to input pixel coordinates, origin at the image centre."""

    def scale(x: Tensor, y: Tensor) -> Tensor:
        return _matrix([1 / x, 0, 0], [0, 1 / y, 0], [0, 0, 1])

    def rotate(angle: Tensor) -> Tensor:
        return _matrix([angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1])

    def translate(x: Tensor, y: Tensor) -> Tensor:
        return _matrix([1, 0, -x], [0, 1, -y], [0, 0, 1])

    inverse = torch.eye(3).repeat(draws.batch, 1, 1)
    if "xflip" in draws.multipliers:
        (flip,) = draws.gate("xflip", (draws.uniform() * 2).floor(), identity=0)
        inverse = inverse @ scale(1 - 2 * flip, torch.ones_like(flip))
    if "rotate90" in draws.multipliers:
        (turns,) = draws.gate("rotate90", (draws.uniform() * 4).floor(), identity=0)
        inverse = inverse @ rotate(turns * (math.pi / 2))
    if "xint" in draws.multipliers:
        x, y = draws.gate("xint", draws.symmetric("xint"), draws.symmetric("xint"), identity=0)
        inverse = inverse @ translate((x * width).round(), (y * height).round())
    if "scale" in draws.multipliers:
        (factor,) = draws.gate("scale", draws.normal("scale").exp2(), identity=1)
        inverse = inverse @ scale(factor, factor)
    if "rotate" in draws.multipliers:
        inverse = inverse @ rotate(draws.rotation())
    if "aniso" in draws.multipliers:
        (factor,) = draws.gate("aniso", draws.normal("aniso").exp2(), identity=1)
        inverse = inverse @ scale(factor, 1 / factor)
    if "rotate" in draws.multipliers and draws.percentile is None:  # at a percentile, one suffices
        inverse = inverse @ rotate(draws.rotation())
    if "xfrac" in draws.multipliers:
        x, y = draws.gate("xfrac", draws.normal("xfrac"), draws.normal("xfrac"), identity=0)
        inverse = inverse @ translate(x * width, y * height)
    return inverse


def _color_transform(draws: _Draws, grey: bool) -> Tensor | None:
    """Affine matrices [B, 4, 4] on homogeneous RGB, or None if the pipeline has no colour augmentation."""
    steps = []
    axis = torch.tensor([1.0, 1, 1, 0]) / math.sqrt(3)
    luma = axis.outer(axis)
    identity = torch.eye(4)
    if "brightness" in draws.multipliers:
        (b,) = draws.gate("brightness", draws.normal("brightness"), identity=0)
        steps.append(_matrix([1, 0, 0, b], [0, 1, 0, b], [0, 0, 1, b], [0, 0, 0, 1]))
    if "contrast" in draws.multipliers:
        (c,) = draws.gate("contrast", draws.normal("contrast").exp2(), identity=1)
        steps.append(_matrix([c, 0, 0, 0], [0, c, 0, 0], [0, 0, c, 0], [0, 0, 0, 1]))
    if "lumaflip" in draws.multipliers:
        (flip,) = draws.gate("lumaflip", (draws.uniform() * 2).floor(), identity=0)
        steps.append(identity - 2 * luma * flip[:, None, None])
    if "hue" in draws.multipliers and not grey:
        (angle,) = draws.gate("hue", draws.symmetric("hue") * math.pi, identity=0)
        steps.append(_hue_rotation(angle))
    if "saturation" in draws.multipliers and not grey:
        (s,) = draws.gate("saturation", draws.normal("saturation").exp2(), identity=1)
        steps.append(luma + (identity - luma) * s[:, None, None])
    return functools.reduce(lambda first, then: then @ first, steps) if steps else None


def _hue_rotation(angle: Tensor) -> Tensor:
    """Rotations [B, 4, 4] of RGB about the grey axis (Rodrigues' formula)."""
    v = 1 / math.sqrt(3)
    cross = torch.tensor([[0, -v, v, 0], [v, 0, -v, 0], [-v, v, 0, 0], [0, 0, 0, 0]])
    angle = angle[:, None, None]
    return torch.eye(4) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)
