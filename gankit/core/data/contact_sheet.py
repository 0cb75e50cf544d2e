"""Contact sheets (grids of images), and conversion of arrays to PIL images and PNG files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gankit.errors import GankitError


def sheet(images: Sequence[np.ndarray], columns: int, gap: int = 2) -> Image.Image:
    """Arrange images uint8 [H, W, C] of one shape row by row on white, `gap` pixels apart."""
    height, width, channels = images[0].shape
    rows = -(-len(images) // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    canvas = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        y, x = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        canvas[y : y + height, x : x + width] = image
    return to_pil(canvas)


def to_pil(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, C], C = 1, 3 or 4 -> a PIL image in mode L, RGB or RGBA."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def save_png(image: Image.Image, path: Path, **kwargs: object) -> None:
    """Write a PNG file atomically, creating its folder. Raises GankitError if it cannot be written."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(aside, format="PNG", **kwargs)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise GankitError(f"cannot write {path}: {error.strerror or error}; choose another folder") from None
