"""The trained model that comes along draws what it is asked for: colours, read off the pixels."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

import gankit
from gankit_avatars.attributes import FABRIC_COLORS, SKIN_COLORS

CHEST = (slice(58, 63), slice(22, 42))
FOREHEAD = (slice(16, 22), slice(29, 36))  # of a bald head


@pytest.fixture(scope="module")
def pipe() -> gankit.Pipeline:
    return gankit.load("avatars")


def hits(images: list[Image.Image], place: tuple[slice, slice], palette: dict[str, str], name: str) -> int:
    """How many pictures are, at a place, nearest to the named colour of a palette."""
    names, colours = list(palette), np.array([ImageColor.getrgb(c) for c in palette.values()])
    means = np.stack([np.asarray(image)[place].reshape(-1, 3).mean(0) for image in images])
    nearest = np.linalg.norm(means[:, None] - colours, axis=2).argmin(1)
    return sum(names[i] == name for i in nearest)


@pytest.mark.parametrize("prompt", ["a person wearing a {} hoodie", "a person with a {} t-shirt"])
def test_prompts_colour_the_clothes(pipe: gankit.Pipeline, prompt: str) -> None:
    right = sum(hits(pipe(prompt.format(c), seeds=range(4)), CHEST, FABRIC_COLORS, c) for c in FABRIC_COLORS)
    assert right >= 0.8 * 4 * len(FABRIC_COLORS)


def test_prompts_colour_the_skin(pipe: gankit.Pipeline) -> None:
    right = sum(
        hits(pipe(f"a bald head with {c} skin and a blue t-shirt", seeds=range(4)), FOREHEAD, SKIN_COLORS, c)
        for c in SKIN_COLORS
    )
    assert right >= 0.8 * 4 * len(SKIN_COLORS)


def test_tags_colour_the_clothes(pipe: gankit.Pipeline) -> None:
    right = sum(
        hits(pipe(tags=f"{c}_clothes, hoodie", seeds=range(4)), CHEST, FABRIC_COLORS, c)
        for c in FABRIC_COLORS
    )
    assert right >= 0.8 * 4 * len(FABRIC_COLORS)


def test_any_wish_or_none_and_z_varies_the_rest(pipe: gankit.Pipeline) -> None:
    for wish in ({"cls": "afro"}, {"tags": ["afro"]}, {"prompt": "an afro"}, {}):
        a, b = (np.asarray(image).astype(int) for image in pipe(**wish, seeds=(0, 1)))
        assert abs(a - b).mean() > 2, wish


def test_it_is_small_and_says_where_it_comes_from(pipe: gankit.Pipeline) -> None:
    folder = files("gankit_avatars").joinpath("model")
    assert sum(path.stat().st_size for path in Path(str(folder)).rglob("*")) < 40e6
    assert f"{pipe.nimg:,} images" in folder.joinpath("README.md").read_text(encoding="utf-8")


@torch.no_grad()
def test_bf16_keeps_40_db() -> None:
    plain, half = (gankit.load("avatars", device="cpu", dtype=dtype) for dtype in ("fp32", "bf16"))
    cond = plain.conditioner.encode([plain.label("a smiling person with a pink afro")])
    ws, rows = plain.mapping(plain.latents(range(8)), cond), cond.map(lambda t: t.expand(8, *t.shape[1:]))
    expected, images = (pipe.engine(ws, rows, "const").clamp(-1, 1) for pipe in (plain, half))
    assert images.dtype == torch.float32
    assert not torch.equal(images, expected)
    assert 10 * torch.log10(4 / (images - expected).square().mean()) >= 40


def test_the_command_draws_in_bf16(tmp_path: Path) -> None:
    wish = ["--seeds", "0-1", "--dtype", "bf16", "--device", "cpu", "--out", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "gankit", "sample", "avatars", *wish], check=True, timeout=600)
    image = Image.open(tmp_path / "seed0001.png")
    assert '"dtype": "bf16"' in image.text["gankit"]  # type: ignore[attr-defined]
