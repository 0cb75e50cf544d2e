"""Decoding image files, fitting them to a size and channel count, and conversion between uint8 and [-1, 1].

Colour profiles are ignored. Alpha is kept with 4 channels and composited over white with 1 or 3.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gankit.errors import GankitError, unknown

# Pillow's other readers are never tried, whatever the file's content: some of them start programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    [
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".jp2",
        ".j2k",
        ".avif",
    ]
)
FITS = ("crop", "top-crop", "pad", "stretch")
MAX_MEGAPIXELS = 200.0

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # value of the EXIF orientation tag -> the transposition that turns the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """An image that cannot be used; the message is the reason, without the name of the image."""


def open_image(data: bytes | str | Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Image.Image:
    """Decode an image completely.

    Args:
        data: the bytes of a file, or its path.
        max_megapixels: larger images are refused before they are decoded.

    Returns the first frame, turned upright by its EXIF orientation, in mode L, RGB or RGBA (16-bit and float images are
    scaled to 8 bit). Raises BadImage with the reason.
    """
    try:
        with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as stream:
            if not stream.read(1):
                raise BadImage("the file is empty")
            stream.seek(0)
            with _size_limit(max_megapixels):
                image = Image.open(stream, formats=_formats())
            width, height = image.size
            if width * height > round(1e6 * max_megapixels):
                raise BadImage(_too_large(max_megapixels, f"{width} x {height} pixels"))
            image.load()
            return _to_8bit(_upright(image))
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(_too_large(max_megapixels)) from None
    except Image.UnidentifiedImageError:
        raise BadImage("not an image in a format that is read: " + ", ".join(_formats())) from None
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror or error}") from None
    except (
        Exception
    ) as error:  # damaged files make decoders raise almost anything: SyntaxError, struct.error, ...
        raise BadImage(f"cannot be decoded: {type(error).__name__}: {error}") from None


def fit(image: Image.Image, size: tuple[int, int], mode: str = "crop", channels: int = 3) -> np.ndarray:
    """Crop or pad an image and resize it with an antialiasing Lanczos filter.

    Args:
        image: image of any mode that PIL knows.
        size: (H, W).
        mode: 'crop' scales the shorter side and keeps the centre, 'top-crop' likewise but keeps the top (heads), 'pad'
            scales the longer side and adds black borders (transparent ones with 4 channels), 'stretch' ignores the
            aspect ratio.
        channels: 1, 3 or 4; transparent parts become white with 1 and 3. With 4, colours are resized weighted by alpha.

    Returns uint8 [H, W, channels].
    """
    if mode not in FITS:
        raise GankitError(unknown("fit", mode, FITS))
    image = _to_8bit(image)
    if channels == 4:
        image = image.convert("RGBA")  # Image.resize of this mode premultiplies by itself
    else:
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert({1: "L", 3: "RGB"}[channels])

    (height, width), (w, h) = size, image.size
    if mode == "pad":
        scale = min(width / w, height / h)
        inner = (min(width, max(1, round(w * scale))), min(height, max(1, round(h * scale))))
        canvas = Image.new(image.mode, (width, height))
        canvas.paste(
            image.resize(inner, Image.Resampling.LANCZOS), ((width - inner[0]) // 2, (height - inner[1]) // 2)
        )
        image = canvas
    else:
        left, top, right, bottom = 0.0, 0.0, float(w), float(h)
        if mode != "stretch":
            scale = max(width / w, height / h)
            left = max(0.0, (w - width / scale) / 2)
            right = min(float(w), left + width / scale)
            top = 0.0 if mode == "top-crop" else max(0.0, (h - height / scale) / 2)
            bottom = min(float(h), top + height / scale)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS, (left, top, right, bottom))
    pixels = np.array(image)
    return pixels[:, :, None] if channels == 1 else pixels


def to_uint8(images: Tensor) -> np.ndarray:
    """Float [N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C] by 127.5 x + 128, clamped and truncated."""
    levels = (images.detach().float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def from_uint8(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float in [-1, 1], on the same device and in the same memory format."""
    return images.float().div_(127.5).sub_(1)


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # AVIF only since Pillow 11.3


_limit_lock = threading.Lock()


@contextlib.contextmanager
def _size_limit(max_megapixels: float) -> Iterator[None]:
    """Context in which `max_megapixels` replaces Pillow's global limit (179 megapixels, warnings from 89)."""
    with _limit_lock:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, round(1e6 * max_megapixels)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _too_large(max_megapixels: float, size: str = "") -> str:
    return f"larger than {max_megapixels:g} megapixels" + (f" ({size})" if size else "")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged metadata of a picture that is fine
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_8bit(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to L, RGB or RGBA."""
    mode = image.mode
    if mode in ("RGB", "L", "RGBA") and "transparency" not in image.info:
        return image
    if mode == "F" or mode.startswith("I"):
        return Image.fromarray(_scale_to_8bit(np.asarray(image)))
    if mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA" if image.has_transparency_data else "L" if mode == "1" else "RGB")


def _scale_to_8bit(values: np.ndarray) -> np.ndarray:
    """Scale grey values to uint8 by their white point.

    It is 65535 for 16-bit images. For 32-bit integers and floats it is the first of 1 (floats only), 255 (floats only),
    65535 and 2^31 that no value exceeds."""
    if values.dtype.itemsize == 2:
        white = 65535.0
    else:
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        candidates = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (65535.0,)
        peak = values.max(initial=0)
        white = next((w for w in candidates if peak <= w), max(2.0**31, float(peak)))
    return np.rint(np.clip(values.astype(np.float32) * (255 / white), 0, 255)).astype(np.uint8)
