"""Decoding of every odd kind of image, and framing."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gankit.core.data.images import FITS, BadImage, fit, from_uint8, open_image, to_uint8
from gankit.errors import GankitError


def encoded(image: Image.Image, kind: str, **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def picture(height: int = 24, width: int = 40) -> Image.Image:
    """Smooth, so that lossy formats change little: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), 0 * x + 60], -1)
    return Image.fromarray(rgb.astype(np.uint8))


def near(a, b, tolerance: int) -> bool:
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "GIF", "JPEG", "WEBP", "JPEG2000"])
def test_formats(kind):
    exact = kind in ("PNG", "BMP", "TIFF", "PPM", "TGA", "JPEG2000")
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"quality": 98}}.get(kind, {})
    image = open_image(encoded(picture(), kind, **options))
    assert image.mode == "RGB"
    assert near(image, picture(), 0 if exact else 40 if kind == "GIF" else 12)


def test_path_and_bytes_agree(tmp_path):
    file = tmp_path / "a.png"
    picture().save(file)
    assert near(open_image(file), open_image(file.read_bytes()), 0)
    with pytest.raises(BadImage, match="No such file"):
        open_image(tmp_path / "none.png")


def test_cmyk_jpeg():
    image = open_image(encoded(picture().convert("CMYK"), "JPEG", quality=98))
    assert image.mode == "RGB"
    assert near(image, picture(), 12)


def test_palette_with_and_without_transparency():
    image = Image.new("P", (4, 2))
    image.putpalette([255, 0, 0, 0, 255, 0] + [0] * 762)
    image.putdata([0, 0, 1, 1] * 2)
    opaque = open_image(encoded(image, "PNG"))
    assert opaque.mode == "RGB"
    clear = open_image(encoded(image, "PNG", transparency=0))
    assert clear.mode == "RGBA"
    assert np.asarray(clear)[0].tolist() == [[255, 0, 0, 0]] * 2 + [[0, 255, 0, 255]] * 2
    assert fit(clear, (2, 4), channels=3)[0].tolist() == [[255] * 3] * 2 + [[0, 255, 0]] * 2


def test_transparent_colour_of_rgb_and_grey_png():
    rgb = open_image(encoded(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3)))
    assert np.asarray(rgb)[0, 0].tolist() == [1, 2, 3, 0]
    grey = open_image(encoded(Image.new("L", (2, 2), 9), "PNG", transparency=9))
    assert np.asarray(grey)[0, 0].tolist() == [9, 9, 9, 0]


def test_grey_with_alpha():
    image = open_image(encoded(Image.new("LA", (4, 4), (100, 0)), "PNG"))
    assert fit(image, (4, 4), channels=1).ravel().tolist() == [255] * 16
    assert fit(image, (4, 4), channels=4)[0, 0, 3] == 0


def test_bilevel():
    assert np.asarray(open_image(encoded(Image.new("1", (3, 3), 1), "PNG"))).tolist() == [[255] * 3] * 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_is_scaled(kind):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = open_image(encoded(Image.fromarray(values), kind))
    assert image.mode == "L"
    assert near(image, np.rint(values / 257), 0)


def test_dark_16_bit_stays_dark():
    image = open_image(encoded(Image.fromarray(np.full((4, 4), 200, np.uint16)), "PNG"))
    assert np.asarray(image).max() == 1


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_and_int32(white):
    values = np.linspace(0, white, 64, dtype=np.float32).reshape(8, 8)
    assert near(open_image(encoded(Image.fromarray(values), "TIFF")), np.rint(values * (255 / white)), 1)
    values[0, 0] = np.nan
    assert np.asarray(open_image(encoded(Image.fromarray(values), "TIFF")))[0, 0] == 0
    whole = Image.fromarray(np.array([[0, 65535, 257]], np.int32))
    assert np.asarray(open_image(encoded(whole, "TIFF"))).tolist() == [[0, 255, 1]]


def test_first_frame_of_animations():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        assert near(fit(open_image(data), (8, 8)), np.full((8, 8, 3), (255, 0, 0)), 5), kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation):
    undo = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # orientation -> Transpose that a camera would have applied
    stored = picture()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert near(open_image(encoded(stored, "JPEG", quality=98, subsampling=0, exif=exif)), picture(), 12)
    assert near(open_image(encoded(stored, "PNG", exif=exif)), picture(), 0)


def test_damaged_exif_is_no_reason_to_reject():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), "JPEG", exif=exif).replace(b"Exif\0\0MM\0*", b"Exif\0\0XX\0*")
    assert open_image(data).size == picture().size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000"])
def test_truncated(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(BadImage):
            open_image(data[: int(len(data) * share)])


def test_not_images():
    with pytest.raises(BadImage, match="empty"):
        open_image(b"")
    with pytest.raises(BadImage, match="not an image"):
        open_image(b"this is a text file with the wrong name\n" * 5)
    postscript = encoded(picture(), "EPS")
    with pytest.raises(BadImage, match="not an image"):
        open_image(postscript)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [14_200, 15_000, 100_000])
def test_bomb_is_refused_before_decoding(side):
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(BadImage, match="200 megapixels"):
        open_image(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("error")
def test_size_limit_is_configurable():
    data = encoded(Image.new("L", (1000, 1001)), "PNG")
    with pytest.raises(BadImage, match="larger than 1 megapixels"):
        open_image(data, max_megapixels=1)
    assert open_image(data, max_megapixels=1.001).size == (1000, 1001)


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=200),
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]),
    at=st.floats(0, 1),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_gives_an_image_or_badimage(data, kind, at):
    whole = encoded(picture(), kind)
    start = int(at * len(whole))
    with contextlib.suppress(BadImage):
        image = open_image(whole[:start] + data + whole[start + len(data) :])
        assert image.mode in ("L", "RGB", "RGBA")


# ---------------------------------------------------------------------------------------------------- framing


@settings(max_examples=200, deadline=None)
@given(
    source=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(FITS),
    channels=st.sampled_from([1, 3, 4]),
    kind=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"]),
)
def test_fit_gives_the_size(source, size, mode, channels, kind):
    result = fit(Image.new(kind, source), size, mode, channels)
    assert result.shape == (*size, channels)
    assert result.dtype == np.uint8


@settings(max_examples=100, deadline=None)
@given(
    source=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    mode=st.sampled_from(["crop", "top-crop", "stretch"]),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_fit_keeps_a_flat_colour(source, size, mode, colour):
    assert (fit(Image.new("RGB", source, colour), size, mode) == colour).all()


def test_fit_same_size_is_identity():
    for mode in FITS:
        assert near(fit(picture(), (24, 40), mode), picture(), 0)


def test_crops_keep_the_right_part():
    tall = np.zeros((60, 20, 3), np.uint8)
    tall[:20, :, 0], tall[20:40, :, 1], tall[40:, :, 2] = 255, 255, 255
    image = Image.fromarray(tall)
    assert near(fit(image, (20, 20), "crop")[2:-2], np.full((16, 20, 3), (0, 255, 0)), 0)
    assert near(fit(image, (20, 20), "top-crop")[:-2], np.full((18, 20, 3), (255, 0, 0)), 0)
    assert near(
        fit(image.rotate(90, expand=True), (10, 10), "top-crop")[:, 3:7], np.full((10, 4, 3), (0, 255, 0)), 2
    )


def test_pad_borders():
    image = Image.new("RGB", (40, 20), (10, 20, 30))
    rgb = fit(image, (16, 16), "pad")
    assert (rgb[:4] == 0).all()
    assert (rgb[-4:] == 0).all()
    assert (rgb[4:-4] == (10, 20, 30)).all()
    rgba = fit(image, (16, 16), "pad", 4)
    assert (rgba[:4] == 0).all()
    assert (rgba[4:-4] == (10, 20, 30, 255)).all()


def test_alpha_is_premultiplied_when_resized():
    """The colour of invisible pixels must not bleed into visible ones."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :16] = (255, 0, 0, 255)
    pixels[:, 16:] = (0, 255, 0, 0)
    result = fit(Image.fromarray(pixels), (7, 7), channels=4)
    visible = result[result[..., 3] > 16]
    assert len(visible) >= 21
    assert (visible[:, 0] >= 250).all()
    assert (visible[:, 1] == 0).all()


def test_downscaling_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = fit(Image.fromarray(stripes), (16, 16), channels=1)[
        :, 1:-1
    ]  # at the borders the filter is cut off
    assert near(small, np.full((16, 14, 1), 128), 8)


def test_unknown_fit():
    with pytest.raises(GankitError, match="'top-crop'"):
        fit(picture(), (8, 8), "topcrop")


def test_uint8_round_trip_and_rounding():
    levels = (
        torch.arange(256, dtype=torch.uint8).reshape(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    )
    x = from_uint8(levels)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert (x.min().item(), x.max().item()) == (-1, 1)
    assert (to_uint8(x) == levels.permute(0, 2, 3, 1).numpy()).all()
    values = torch.tensor([-3.0, -1.0, -0.998, 0.0, 0.996, 1.0, 7.0])
    expected = [min(max(int(127.5 * v + 128), 0), 255) for v in values.tolist()]
    assert to_uint8(values.reshape(1, 1, 1, -1)).ravel().tolist() == expected
    assert to_uint8(values.reshape(1, 1, 1, -1).bfloat16()).dtype == np.uint8
