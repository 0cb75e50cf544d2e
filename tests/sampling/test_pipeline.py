"""Pipelines: wishes, seeds, truncation, noise, shapes, what can be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import broken_plugins
import numpy as np
import pytest
import torch
from PIL import Image
from runs import TINY, Result, pixels, write_images
from tiny_models import write_model

import gankit
from gankit import GankitError
from gankit.core.checkpoints import folders
from gankit.core.config.registry import registry

# ------------------------------------------------------------------------------------------------------- wishes


def test_every_kind_of_wish_has_an_effect(pipe: gankit.Pipeline) -> None:
    wishes: list[dict[str, Any]] = [
        {},
        {"cls": "round"},
        {"cls": "square"},
        {"tags": ["red"]},
        {"tags": {"red": 0.5}},
        {"tags": "red, dark"},
        {"prompt": "a bee"},
        {"prompt": "zzz", "tags": ["red"], "cls": "round"},
    ]
    drawn = {pixels(pipe(**wish, seeds=7)).tobytes() for wish in wishes}
    assert len(drawn) == len(wishes)


def test_a_seed_gives_one_image_whatever_the_batch(pipe: gankit.Pipeline) -> None:
    at_once = pixels(pipe(cls="round", seeds=range(9), batch_size=9))
    for batch_size in (1, 4):
        assert abs(at_once - pixels(pipe(cls="round", seeds=range(9), batch_size=batch_size))).max() <= 1
    assert len({image.tobytes() for image in at_once}) == 9
    assert (at_once[3:5] == pixels(pipe(cls="round", seeds=np.array([3, 4]), batch_size=9))).mean() > 0.99
    assert pipe(cls="round", seeds=[]) == []


def test_seeds_are_those_of_the_family(pipe: gankit.Pipeline) -> None:
    expected = np.random.RandomState(12).randn(1, pipe.generator.z_dim).astype(np.float32)
    assert np.array_equal(pipe.latents([12]).numpy(), expected)


def test_truncation_pulls_towards_the_mean_of_the_condition(pipe: gankit.Pipeline) -> None:
    full, half, none = (pixels(pipe(cls="round", seeds=range(4), psi=psi)) for psi in (1, 0.5, 0))
    assert (none == none[0]).all()
    assert full.std(0).sum() > half.std(0).sum() > 0
    other = pixels(pipe(cls="square", seeds=0, psi=0))
    assert (other != none[0]).any()  # each condition has a mean of its own ...
    to_global = [pixels(pipe(cls=cls, seeds=0, psi=0, center="global")) for cls in ("round", "square")]
    assert (to_global[0] == to_global[1]).all()  # ... and StyleGAN2's global mean is one for all


def test_psi_is_linear_in_w(pipe: gankit.Pipeline) -> None:
    cond, z = pipe.conditioner.encode([pipe.label(cls="round")]), pipe.latents(range(3))
    full, center = pipe.mapping(z, cond), pipe.center(cond)
    assert torch.allclose(pipe.mapping(z, cond, psi=0.3), center + 0.3 * (full - center), atol=1e-5)
    assert torch.allclose(pipe.mapping(z, cond, psi=1.4), center + 1.4 * (full - center), atol=1e-5)


def test_the_center_is_the_mean_over_latents(pipe: gankit.Pipeline) -> None:
    cond = pipe.conditioner.encode([pipe.label(cls="round")])
    z = torch.from_numpy(np.random.RandomState(1).randn(4096, pipe.generator.z_dim).astype(np.float32))
    mean = pipe.mapping(z, cond).mean(0)
    spread = pipe.mapping(z, cond).std(0).mean()
    assert (pipe.center(cond)[0] - mean).abs().mean() < 0.1 * spread


def test_noise_modes(runs: dict[str, Path]) -> None:
    pipe = gankit.load(runs["any"])
    strengths = [p for name, p in pipe.generator.named_parameters() if name.endswith("noise_strength")]
    for strength in strengths:
        strength.fill_(0.3)
    const, again = (pixels(pipe(seeds=0, noise_mode="const")) for _ in range(2))
    assert strengths
    assert (const == again).all()
    first, second = (pixels(pipe(seeds=0, noise_mode="random")) for _ in range(2))
    assert (first != second).any()
    assert (pixels(pipe(seeds=0, noise_mode="none")) != const).any()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"cls": "rund"}, "unknown class 'rund'.*'round'"),
        ({"tags": ["drak"]}, "unknown tag 'drak'; did you mean 'dark'"),
        ({"tags": {"red": 7}}, "weight of tag 'red' must be above 0 and at most 1, not 7"),
        ({"seeds": -1}, "seed -1 is out of range"),
        ({"seeds": 2**32}, "out of range"),
        ({"seeds": 0, "batch_size": 0}, "batch_size = 0 must be at least 1"),
        ({"psi": 0.5, "center": "middle"}, "unknown center 'middle'"),
        ({"noise_mode": "loud"}, "unknown noise mode 'loud'"),
    ],
)
def test_wishes_that_cannot_be_granted(pipe: gankit.Pipeline, wish: dict[str, Any], message: str) -> None:
    with pytest.raises(GankitError, match=message):
        pipe(**wish)


def test_a_rare_tag_is_known_but_warned_about(images: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    lines[0]["tags"].append("unique")
    data = tmp_path / "data"
    shutil.copytree(images, data)
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    overrides = {**TINY, "train.images": 8, "conditioner": {"name": "tags", "min_count": 5}}
    gankit.train("stylegan2", tmp_path / "run", data=str(data), overrides=overrides, quiet=True)
    with pytest.warns(UserWarning, match="too rare .* unique"):
        gankit.load(tmp_path / "run")(tags=["red", "unique"])


def test_an_unconditional_model_takes_seeds_only(runs: dict[str, Path]) -> None:
    pipe = gankit.load(runs["none"])
    for wish, what in (
        ({"prompt": "a cat"}, "a prompt"),
        ({"tags": ["red"]}, "tags"),
        ({"cls": "round"}, "a class"),
    ):
        with pytest.raises(GankitError, match=f"does not take {what}; it is unconditional: give seeds only"):
            pipe(**wish)
    assert len(pipe(seeds=[1, 2])) == 2


@pytest.mark.parametrize(
    ("channels", "size", "mode"),
    [(1, "16", "L"), (4, "16", "RGBA"), (3, "24x16", "RGB"), (4, "8x20", "RGBA")],
)
def test_channels_and_shapes(channels: int, size: str, mode: str, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", channels=4)
    overrides = {**TINY, "data.channels": channels, "data.size": size, "train.images": 16}
    gankit.train("stylegan2", tmp_path / "run", data=str(data), overrides=overrides, quiet=True)
    height, _, width = size.partition("x")
    (image,) = gankit.load(tmp_path / "run")(seeds=0, psi=0.7)
    assert (image.mode, image.size) == (mode, (int(width or height), int(height)))
    assert Image.open(tmp_path / "run" / "samples" / "real.png").mode == mode


# ---------------------------------------------------------------------------------------------------- load, export


def test_load_takes_runs_checkpoints_and_exports(runs: dict[str, Path], tmp_path: Path) -> None:
    newest = folders.checkpoints(runs["any"])[-1]
    reference = pixels(gankit.load(runs["any"])(cls="round"))
    assert (pixels(gankit.load(newest)(cls="round")) == reference).all()
    assert (pixels(gankit.load(str(newest))(cls="round")) == reference).all()


def test_a_plugins_model_is_loaded_by_its_name(
    runs: dict[str, Path], tmp_path: Path, gankit_cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tiny_model_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    gankit_cli("export", runs["none"], package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    registry().register("model", "tiny", "tiny_model_package:model", package="tiny", version="1.0")
    try:
        assert (pixels(gankit.load("tiny")(seeds=3)) == pixels(gankit.load(runs["none"])(seeds=3))).all()
    finally:
        del registry().plugins["model", "tiny"]


# ----------------------------------------------------------------------------------------- plugins that break contracts


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "RowMissing",
            r"generator 'mine' of package 'my-package 0.1' returned images \[2, 3, 7, 16\], not \[2, 3, 8, 16\]",
        ),
        ("Doubles", "returned images of torch.float64, not of torch.float32"),
    ],
)
def test_images_of_another_shape_or_type_are_an_error(target: str, message: str, tmp_path: Path) -> None:
    with broken_plugins.registered("generator", target):
        pipe = gankit.load(write_model(tmp_path / "model", "mine"), device="cpu")
    with pytest.raises(GankitError, match=message):
        pipe(seeds=range(2))


def test_images_far_outside_the_range_are_warned_of_once(tmp_path: Path) -> None:
    with broken_plugins.registered("generator", "Bytes"):
        pipe = gankit.load(write_model(tmp_path / "model", "mine"), device="cpu")
    with pytest.warns(
        UserWarning, match=r"generator 'mine' .* which must be in or around \[-1, 1\]"
    ) as caught:
        assert len(pipe(seeds=range(4), batch_size=2)) == 4
    assert len(caught) == 1


def test_a_condition_of_another_width_is_an_error(tmp_path: Path) -> None:
    pipe = gankit.load(write_model(tmp_path / "model"), device="cpu")
    encode = pipe.conditioner.encode
    pipe.conditioner.encode = lambda labels: encode(labels).map(lambda t: t[:, :1])  # type: ignore[method-assign]
    with pytest.raises(
        GankitError, match=r"^conditioner 'class' .* embedding \[1, 1\] from encode, not \[1, 2\]"
    ):
        pipe(seeds=0)
