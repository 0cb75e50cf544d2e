"""Translation and rotation equivariance of generators, in dB (StyleGAN3, Karras et al. 2021, appendix E).

Each image is generated twice, the second time with a transform of the generator's input. The first one, transformed as
a picture, is what the second should look like. The score is the PSNR over all pixels of all images that both of them
determine.
"""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gankit.core.cuda import filter2d, upsample2d
from gankit.core.interfaces.networks import Generator
from gankit.errors import GankitError
from gankit.evaluation.metric import ModelMetric
from gankit.evaluation.metric_context import BatchSlice, MetricContext

LARGEST_SHIFT = 1 / 8  # fraction of the image's side, in either direction
LANCZOS = 3  # lobes of the windowed sinc
TAPS = 2 * LANCZOS  # half width of the filters for rotation, in pixels
GRID = 64  # half width of the grid that these are computed on, in pixels
UP = 4  # oversampling for rotation


class Equivariance(ModelMetric):
    """Base of the three metrics; subclasses draw a transform and apply it to images."""

    def __init__(self, *, batch: int = 4) -> None:
        if batch < 1:
            raise GankitError(f"batch = {batch} of an equivariance metric must be at least 1")
        self.batch = batch

    def check(self, context: MetricContext) -> None:
        if _input_transform(context.pipe.generator) is None:
            raise GankitError(
                "equivariance can be measured only of generators whose input can be transformed "
                "(synthesis.input.transform), such as StyleGAN3's; leave eq-t, eq-t-frac and eq-r out"
            )

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, tuple[float, ...]]:
        """A random transform [3, 3] of the generator's input, and its parameters."""

    @abstractmethod
    def compare(
        self, plain: Tensor, moved: Tensor, parameters: tuple[float, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Expected images (`plain`, transformed), actual images and mask of the pixels to compare, all [B, C, H, W]."""

    def probe(self, context: MetricContext) -> dict[str, float]:
        generator = context.pipe.generator
        size = generator.image_shape[1:]

        def errors(part: BatchSlice) -> Tensor:
            """Sums [B, 2]: of squared errors under the mask, and of the mask."""
            rng = np.random.Generator(
                np.random.PCG64([context.seed, part.first])
            )  # one transform for the whole batch
            matrix, parameters = self.draw(rng, size)
            cond = context.condition(context.labels(part.numbers))
            ws = generator.mapping(context.latents(part.numbers), cond)
            images = []
            for transform in (np.eye(3), matrix):
                with transformed(generator, transform), part.random("noise"):
                    images.append(generator.synthesis(ws, cond).float())
            wanted, found, mask = self.compare(images[0], images[1], parameters)
            squared = ((wanted - found) * mask).double().square()
            return torch.stack([squared.flatten(1).sum(1), mask.double().flatten(1).sum(1)], 1)

        sums = context.rows(context.num, errors, "equivariance", batch=self.batch).sum(0)
        if not sums[1]:
            raise GankitError("equivariance: no pixel of any image can be compared; the images are too small")
        (key,) = self.values
        return {key: 20 * math.log10(2) - 10 * math.log10(max(sums[0] / sums[1], 1e-30))}


class Translation(Equivariance):
    """EQ-T in decibels: translation by whole pixels, at most an eighth of the image.

    Args:
        batch: images that share a transform.
    """

    values = {"eq_t": "higher"}

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, tuple[float, ...]]:
        x, y = rng.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 2)
        dx, dy = round(x * size[1]), round(y * size[0])
        return _shift(-dx / size[1], -dy / size[0]), (dx, dy)

    def compare(
        self, plain: Tensor, moved: Tensor, parameters: tuple[float, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        dx, dy = (int(x) for x in parameters)
        return shift(plain, dx, dy), moved, shift(torch.ones_like(plain), dx, dy)


class FractionalTranslation(Translation):
    """EQ-T_frac in decibels: translation by fractions of pixels, the expected image by a Lanczos filter.

    Args:
        batch: images that share a transform.
    """

    values = {"eq_t_frac": "higher"}

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, tuple[float, ...]]:
        x, y = rng.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 2)
        return _shift(-x, -y), (x * size[1], y * size[0])

    def compare(
        self, plain: Tensor, moved: Tensor, parameters: tuple[float, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, y = parameters
        mask = torch.zeros_like(plain)
        rows, columns = (covered(d, side) for d, side in ((y, plain.shape[2]), (x, plain.shape[3])))
        mask[:, :, rows, columns] = 1
        return fractional_shift(plain, x, y), moved, mask


class Rotation(Equivariance):
    """EQ-R in decibels: rotation by any angle, both images low-passed to the frequencies that the rotation keeps.

    Args:
        batch: images that share a transform.
    """

    values = {"eq_r": "higher"}

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, tuple[float, ...]]:
        angle = float(rng.uniform(-math.pi, math.pi))
        matrix = np.eye(3)
        matrix[:2, :2] = turn(-angle)
        return matrix, (angle,)

    def compare(
        self, plain: Tensor, moved: Tensor, parameters: tuple[float, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted, mask = rotate(plain, parameters[0])
        found, inner = limit_band(moved, -parameters[0])
        return wanted, found, mask * inner


def _input_transform(generator: Generator) -> Tensor | None:
    """The generator's buffer synthesis.input.transform [3, 3], or None if it has none."""
    found = getattr(getattr(getattr(generator, "synthesis", None), "input", None), "transform", None)
    return found if isinstance(found, Tensor) and found.shape == (3, 3) else None


@contextlib.contextmanager
def transformed(generator: Generator, matrix: np.ndarray) -> Iterator[None]:
    """Context in which the generator's input is transformed by `matrix` [3, 3]."""
    transform = _input_transform(generator)
    assert transform is not None
    before = transform.clone()
    transform.copy_(torch.from_numpy(matrix))
    try:
        yield
    finally:
        transform.copy_(before)


def _shift(x: float, y: float) -> np.ndarray:
    """Translation [3, 3] by x and y in fractions of the image."""
    matrix = np.eye(3)
    matrix[:2, 2] = x, y
    return matrix


# ----------------------------------------------------------------------------------------------- translation


def shift(images: Tensor, dx: int, dy: int) -> Tensor:
    """Translate images [B, C, H, W] by whole pixels, right and down, and fill with zeros."""
    moved = torch.zeros_like(images)
    height, width = images.shape[2:]
    if abs(dx) < width and abs(dy) < height:
        to_rows, to_columns = (slice(max(d, 0), s + min(d, 0)) for d, s in ((dy, height), (dx, width)))
        rows, columns = (slice(max(-d, 0), s + min(-d, 0)) for d, s in ((dy, height), (dx, width)))
        moved[:, :, to_rows, to_columns] = images[:, :, rows, columns]
    return moved


def fractional_shift(images: Tensor, x: float, y: float) -> Tensor:
    """Translate images [B, C, H, W] by x, y pixels, right and down, with a separable windowed sinc of six taps;
    zeros come in."""
    for axis, distance in ((3, x), (2, y)):
        whole = math.floor(distance)
        offsets = np.arange(1 - LANCZOS, LANCZOS + 1)
        place = offsets - (distance - whole)
        taps = np.sinc(place) * np.sinc(place / LANCZOS)
        taps /= taps.sum()
        total = torch.zeros_like(images)
        for offset, tap in zip(offsets, taps):
            step = whole + int(offset)
            total += float(tap) * (shift(images, step, 0) if axis == 3 else shift(images, 0, step))
        images = total
    return images


def covered(distance: float, side: int) -> slice:
    """Pixels along a side for which all taps of a fractional shift lie inside the image."""
    whole = math.floor(distance)
    return slice(max(whole + LANCZOS, 0), max(side + min(whole + 1 - LANCZOS, 0), 0))


# -------------------------------------------------------------------------------------------------- rotation


def turn(angle: float) -> np.ndarray:
    """Rotation [2, 2] by an angle in radians from input to output coordinates, x to the right and y down."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s], [-s, c]])


@lru_cache(maxsize=8)
def band_filter(angle: float, up: int) -> Tensor:
    """Low-pass filter [2 TAPS up - 1, 2 TAPS up - 1] at `up` samples a pixel.

    It passes the frequencies that lie both in the square spectrum of an image and in that of the image rotated by
    `angle`.
    """
    half = GRID * up
    axis = np.arange(-half, half + 1) / up
    (a, b), (c, d) = turn(angle)
    x, y = axis[None], axis[:, None]
    u, v = a * x + b * y, c * x + d * y

    def lobe(place: np.ndarray) -> np.ndarray:
        return np.sinc(place / LANCZOS) * (np.abs(place) < LANCZOS)

    def convolved(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Circular convolution of arrays whose origin is in the middle."""
        spectrum = np.fft.rfft2(np.fft.ifftshift(one)) * np.fft.rfft2(np.fft.ifftshift(other))
        return np.fft.fftshift(np.fft.irfft2(spectrum, one.shape))

    passband = convolved(np.sinc(x) * np.sinc(y), np.sinc(u) * np.sinc(v))
    window = convolved(lobe(x) * lobe(y), lobe(u) * lobe(v))
    middle = slice(half - TAPS * up + 1, half + TAPS * up)
    taps = (passband * window)[middle, middle]
    for i in range(up):
        for j in range(up):
            taps[i::up, j::up] /= taps[i::up, j::up].sum()  # a constant stays one, whatever the phase
    return torch.from_numpy(taps / up**2).float()


def rotate(images: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Images [B, C, H, W] rotated by an angle in radians, and a mask of the same shape, 1 where the result is
    determined."""
    height, width = images.shape[2:]
    taps = band_filter(angle, UP)
    pad = len(taps) // 2
    fine = upsample2d(images, taps, up=UP, padding=pad)
    high, wide = fine.shape[2:]
    y, x = (np.arange(side) + 0.5 - side / 2 for side in (height, width))
    back = np.linalg.inv(turn(angle))
    # an odd filter before an even factor puts samples half a fine pixel late
    u = (back[0, 0] * x[None] + back[0, 1] * y[:, None] + 0.5 / UP) * (2 * UP / wide)
    v = (back[1, 0] * x[None] + back[1, 1] * y[:, None] + 0.5 / UP) * (2 * UP / high)
    grid = torch.from_numpy(np.stack([u, v], -1)).to(images).expand(len(images), -1, -1, -1)
    turned = F.grid_sample(fine, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    inside = torch.zeros_like(fine)
    edge = 2 * pad + 1
    inside[:, :, edge : high - edge, edge : wide - edge] = 1
    mask = F.grid_sample(inside, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return turned, mask


def limit_band(images: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Images [B, C, H, W] with the filter of `rotate` for this angle, but not rotated, and a mask of what is
    determined."""
    taps = band_filter(angle, 1)
    edge = len(taps) // 2
    mask = torch.zeros_like(images)
    mask[:, :, edge : images.shape[2] - edge, edge : images.shape[3] - edge] = 1
    return filter2d(images, taps), mask
