"""Sampling by command and API: wishes, seeds, truncation, metadata, slim models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import TINY, Result, write_images
from safetensors import safe_open
from torch import Tensor

import gankit
from gankit import GankitError
from gankit.core.checkpoints import folders
from gankit.core.config import recipe as recipes
from gankit.core.config.registry import registry
from gankit.core.interfaces.conditions import Condition, Conditioner, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.runtime import devices
from gankit.sampling.bulk import parse_seeds, parse_tags


class Letters(Conditioner):
    """A text encoder without weights to download: how often each letter occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = CondSpec(26)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        pass

    def vocabulary(self) -> Vocabulary:
        return Vocabulary()

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"text"})

    def encode(self, labels: Sequence[Label]) -> Condition:
        rows = [[float((label.text or "").lower().count(chr(97 + i))) for i in range(26)] for label in labels]
        return Condition(torch.tensor(rows))


@pytest.fixture(scope="module", autouse=True)
def letters() -> Iterator[None]:
    registry().register(
        "conditioner", "letters", "test_sample:Letters", package="gankit-letters", version="1.0"
    )
    yield
    del registry().plugins["conditioner", "letters"]


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory, letters: None) -> dict[str, Path]:
    """A conditional run and an unconditional one of a few steps, whose images depend on everything asked for."""
    root = tmp_path_factory.mktemp("runs")
    parts = {"class": {}, "tags": {"min_count": 10}, "letters": {}}
    fast = {"train.images": 48, "train.lr_g": 0.02, "train.ema_rampup": 0.001}
    for name, conditioner in (("any", {"name": "combined", "parts": parts}), ("none", "none")):
        overrides = {**TINY, **fast, "conditioner": conditioner, "trackers": {}}
        gankit.train("stylegan2", root / name, data=str(images), overrides=overrides, quiet=True)
    return {"any": root / "any", "none": root / "none"}


@pytest.fixture(scope="module")
def pipe(runs: dict[str, Path]) -> gankit.Pipeline:
    return gankit.load(runs["any"])


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


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


# ------------------------------------------------------------------------------------------------ gankit sample


def test_pictures_carry_recipe_and_seed(
    runs: dict[str, Path], tmp_path: Path, gankit_cli: Callable[..., Result], pipe: gankit.Pipeline
) -> None:
    wish = (
        "--class",
        "round",
        "--tags",
        "red:0.5,dark",
        "--prompt",
        "Über",
        "--seeds",
        "3,5-6",
        "--psi",
        "0.8",
    )
    result = gankit_cli("sample", runs["any"], *wish, "--out", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    assert "3 images" in result.out
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["seed0003.png", "seed0005.png", "seed0006.png", "sheet.png"]
    image = Image.open(tmp_path / "out" / "seed0005.png")
    facts = json.loads(image.text["gankit"])  # type: ignore[attr-defined]
    assert facts["seed"] == 5
    assert facts["psi"] == 0.8
    assert facts["tags"] == {"red": 0.5, "dark": 1.0}
    assert (facts["cls"], facts["prompt"], facts["images"]) == ("round", "Über", 48)
    page = tmp_path / "page.yaml"
    page.write_text(image.text["recipe"])  # type: ignore[attr-defined]
    assert recipes.read(str(page)) == pipe.recipe
    (again,) = pipe("Über", cls="round", tags=facts["tags"], seeds=5, psi=0.8)
    assert abs(pixels([again]) - pixels([image])).max() <= 1


def test_wishes_are_combined_and_make_rows(
    runs: dict[str, Path], tmp_path: Path, gankit_cli: Callable[..., Result]
) -> None:
    wishes = ("--class", "round", "--class", "square", "--tags", "red")  # two classes, both with the tag
    assert gankit_cli("sample", runs["any"], *wishes, "--seeds", "0-2", "--out", tmp_path).code == 0
    assert Image.open(tmp_path / "sheet.png").size == (3 * 18 + 2, 2 * 18 + 2)
    facts = [json.loads(Image.open(tmp_path / f"{i:03d}-seed0001.png").text["gankit"]) for i in range(2)]  # type: ignore[attr-defined]
    assert [(f["cls"], f["tags"]) for f in facts] == [("round", {"red": 1.0}), ("square", {"red": 1.0})]


def test_the_command_keeps_freed_memory_and_the_api_leaves_it(
    runs: dict[str, Path],
    tmp_path: Path,
    gankit_cli: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(devices, "keep_freed_memory", lambda: calls.append(1))
    gankit.load(str(runs["any"]), device="cpu")(seeds=0)
    assert calls == []
    command = ("sample", runs["any"], "--seeds", "0", "--device", "cpu", "--out", tmp_path / "out")
    assert gankit_cli(*command).code == 0
    assert calls == [1]


def test_seeds_and_tags_as_text() -> None:
    assert parse_seeds("0-3,7, 5") == [0, 1, 2, 3, 7, 5]
    assert parse_tags("smile, glasses:0.5,:3,re:zero") == {
        "smile": 1.0,
        "glasses": 0.5,
        ":3": 1.0,
        "re:zero": 1.0,
    }
    for text in ("", "a", "3-1", "1-", "0-4294967296"):
        with pytest.raises(GankitError):
            parse_seeds(text)


# ---------------------------------------------------------------------------------------------------- load, export


def test_load_takes_runs_checkpoints_and_exports(runs: dict[str, Path], tmp_path: Path) -> None:
    newest = folders.checkpoints(runs["any"])[-1]
    reference = pixels(gankit.load(runs["any"])(cls="round"))
    assert (pixels(gankit.load(newest)(cls="round")) == reference).all()
    assert (pixels(gankit.load(str(newest))(cls="round")) == reference).all()


@pytest.mark.parametrize(("dtype", "levels", "size"), [("fp32", 0, 1), ("fp16", 2, 0.6), ("bf16", 12, 0.6)])
def test_export(
    dtype: str,
    levels: int,
    size: float,
    runs: dict[str, Path],
    tmp_path: Path,
    gankit_cli: Callable[..., Result],
) -> None:
    newest, out = folders.checkpoints(runs["any"])[-1], tmp_path / "deep" / "model"
    assert gankit_cli("export", runs["any"], out, "--dtype", dtype).code == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "conditioner.json",
        "generator.safetensors",
        "recipe.yaml",
    ]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "pipe('a prompt', tags=['a', 'b'], cls='a class', seeds=range(8), psi=0.7)" in card
    assert "on 48 images" in card
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    with safe_open(out / "generator.safetensors", "pt") as file:
        stored: list[Tensor] = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        facts = json.loads(file.metadata()["gankit"])
    assert {t.dtype for t in stored if t.is_floating_point()} == {kinds[dtype]}
    assert (facts["images"], facts["image_shape"], facts["package"]) == (48, [3, 16, 16], "gankit")
    whole = (newest / "generator.safetensors").stat().st_size
    assert (out / "generator.safetensors").stat().st_size <= size * whole + 4096

    exported, original = (gankit.load(path) for path in (out, runs["any"]))
    assert next(exported.generator.parameters()).dtype == torch.float32
    difference = abs(pixels(exported("abc", seeds=range(4))) - pixels(original("abc", seeds=range(4))))
    assert difference.max() <= levels
    again = gankit_cli("export", runs["any"], out)
    assert again.code == 2
    assert "exists already" in again.message


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
