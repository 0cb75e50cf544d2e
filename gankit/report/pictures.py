"""Pictures of report pages: sample grids as data URIs within a budget of bytes, and as a video."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from gankit.report.reading import Grid, Run, Series

MAX_SIDE = 1280  # pixels of a grid in the page
MAX_FRAMES = 40  # frames of the slider
VIDEO_FRAMES, VIDEO_FPS, VIDEO_SIDE = 240, 10, 960
QUALITY = 82
GAP = 2  # of `gankit.core.data.contact_sheet.sheet`
TILE = 32  # side at which tiles are compared
VIDEO_ADVICE = "pip install 'gankit[video]'"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Picture:
    """An image for a page: a data URI and its size in pixels."""

    uri: str
    width: int
    height: int
    caption: str
    nimg: int = 0


def open_rgb(path: Path) -> Image.Image | None:
    """Read an image file, composited over white; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            rgba = image.convert("RGBA")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    ground = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(ground, rgba).convert("RGB")


def picture(image: Image.Image, caption: str, nimg: int = 0, max_side: int = MAX_SIDE) -> Picture:
    """Encode an RGB image as WebP, shrunk if a side is longer than `max_side`."""
    if max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITY, method=4)
    data = base64.b64encode(stream.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{data}", *image.size, caption, nimg)


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items spread over all, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    if count < 2:
        return list(items[-1:])
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def slides(grids: Sequence[Grid], budget: int) -> list[Picture]:
    """Grids spread over the run, as many as fit into `budget` bytes of text, always with the last one."""
    chosen = evenly(grids, MAX_FRAMES)
    made: list[Picture] = []
    while chosen:
        made = [
            picture(image, f"{grid.nimg:,} images", grid.nimg)
            for grid in chosen
            if (image := open_rgb(grid.path)) is not None
        ]
        total = sum(len(one.uri) for one in made)
        if total <= budget or len(chosen) == 1:
            break
        chosen = evenly(chosen, max(int(len(chosen) * budget / total * 0.95), 1))
    return made


# ------------------------------------------------------------------------------------------------ variety


def variety(run: Run) -> Series | None:
    """Variety of the sample grids relative to that of the real images, over the run.

    The variety of a grid is the mean over pairs of tiles of the root mean square difference of pixels; None without a
    readable real grid.
    """
    size = run.flat_recipe.get("data.size")
    if run.real is None or not (isinstance(size, list) and len(size) == 2 and all(_is_size(n) for n in size)):
        return None
    height, width = size
    image = open_rgb(run.real)
    real = _spread(image, height, width) if image is not None else None
    if not real:
        return None
    series = Series("samples/variety")
    for grid in evenly(run.grids, 4 * MAX_FRAMES):
        image = open_rgb(grid.path)
        spread = _spread(image, height, width) if image is not None else None
        if spread is not None:
            series.nimg.append(grid.nimg)
            series.values.append(round(spread / real, 4))
    return series if series.values else None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _spread(image: Image.Image, height: int, width: int) -> float | None:
    """Mean over pairs of tiles of the root mean square difference of pixels; None for fewer than two tiles."""
    tiles = []
    for y in range(GAP, image.height - height + 1, height + GAP):
        for x in range(GAP, image.width - width + 1, width + GAP):
            tile = image.crop((x, y, x + width, y + height)).resize((TILE, TILE), Image.Resampling.BOX)
            pixels = np.asarray(tile, np.float32)
            if (pixels < 255).any():  # the rest of the last row is white
                tiles.append(pixels.ravel() / 255)
    if len(tiles) < 2:
        return None
    rows = np.stack(tiles)
    squares = ((rows[:, None] - rows[None]) ** 2).mean(-1)
    return float(np.sqrt(squares)[np.triu_indices(len(rows), 1)].mean())


# -------------------------------------------------------------------------------------------------- video


def can_encode() -> bool:
    """True if PyAV is installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def montage(grids: Sequence[Grid], budget: int) -> str | None:
    """A WebM film of the grids, with the number of images above, as a data URI.

    None with fewer than two readable grids, without PyAV (see `can_encode`), or if it does not fit into `budget` bytes
    of text at any of three qualities.
    """
    if not can_encode():
        return None
    frames = [
        _frame(image, f"{grid.nimg:,} images")
        for grid in evenly(grids, VIDEO_FRAMES)
        if (image := open_rgb(grid.path)) is not None
    ]
    frames = [frame for frame in frames if frame.size == frames[-1].size]
    if len(frames) < 2:
        return None
    for quality in (30, 40, 50):
        data = base64.b64encode(_encode([*frames, *[frames[-1]] * VIDEO_FPS], quality)).decode()
        if len(data) <= budget:
            return f"data:video/webm;base64,{data}"
    return None


def _frame(image: Image.Image, text: str) -> Image.Image:
    """A grid of even sides, at most VIDEO_SIDE, below a dark strip with a text (players cover the lower edge)."""
    image.thumbnail((VIDEO_SIDE, VIDEO_SIDE), Image.Resampling.LANCZOS)
    width, height = (image.width + 1) // 2 * 2, (image.height + 28) // 2 * 2
    frame = Image.new("RGB", (width, height), "#16181d")
    frame.paste(image, (0, height - image.height))
    ImageDraw.Draw(frame).text((8, 4), text, fill="#e8eaf0", font=ImageFont.load_default(15))
    return frame


def _encode(frames: Iterable[Image.Image], quality: int) -> bytes:
    """Encode frames of one size as VP9 in WebM; `quality` is the constant rate factor, lower is better."""
    import av

    stream_file = io.BytesIO()
    with av.open(stream_file, "w", format="webm") as container:
        stream: Any = None
        for image in frames:
            if stream is None:
                options = {"crf": str(quality), "b": "0", "deadline": "good", "cpu-used": "5"}
                stream = container.add_stream("libvpx-vp9", rate=VIDEO_FPS, options=options)
                stream.width, stream.height, stream.pix_fmt = *image.size, "yuv420p"
                stream.bit_rate = 0
            for packet in stream.encode(av.VideoFrame.from_image(image)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return stream_file.getvalue()
