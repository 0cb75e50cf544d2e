"""`gankit sample`: metadata of pictures, combined wishes, seeds and tags as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from runs import Result, pixels

import gankit
from gankit import GankitError
from gankit.core.config import recipe as recipes
from gankit.core.runtime import devices
from gankit.sampling.bulk import parse_seeds, parse_tags


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
    assert recipes.read(str(page)).to_yaml() == pipe.recipe.to_yaml()
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
