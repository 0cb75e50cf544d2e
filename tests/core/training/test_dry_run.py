"""`--dry-run`: every recipe at full size without weights; what it says of networks and memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import TINY, Result

from gankit.core.config import recipe as recipes
from gankit.core.config.registry import registry
from gankit.core.training.dry_run import describe_training, summarize

NAMES = sorted(registry().names("recipe"))
PARTS = ("weights", "gradients", "optimizers", "activations")
UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def number(text: str, before: str) -> float:
    """The number with a unit that stands behind `before`."""
    found = re.search(rf"{re.escape(before)} +([\d.]+) ?([kMGT]?)", text)
    assert found, f"{before!r} is not in: {text}"
    return float(found.group(1)) * UNITS[found.group(2)]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_at_full_size_without_weights(
    name: str, gankit_cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a dry run looks for weights")

    if not registry().get("recipe", name).package.startswith("gankit-"):  # whose text encoder is installed
        monkeypatch.setattr("gankit.core.models.pretrained._sources", refuse)
    recipe = recipes.read(name)
    if recipe.stages:  # the first and the last of them, as they take their time
        texts = [describe_training(recipe.at_stage(stage)) for stage in (0, -1)]
    else:
        result = gankit_cli("train", name, "--dry-run")
        assert (result.code, result.err) == (0, "")
        texts = [result.out]
    for text in texts:
        assert "cannot be estimated" not in text
        assert "no installed recipe combines" not in text
        total = number(text, "estimated:")
        parts = [number(text, f"= {part}" if part == "weights" else part) for part in PARTS]
        assert sum(parts) == pytest.approx(total, rel=0.01)
        assert all(parts)
        assert number(text, "training") > number(text, "multiply-add: G") + number(text, ", D")


def test_every_stage_is_described(gankit_cli: Callable[..., Result]) -> None:
    result = gankit_cli("train", "stylegan-xl-small", "--tiny", "--dry-run")
    assert (result.code, result.err) == (0, "")
    page, first, second = re.split(r"^--- stage \d of 2$", result.out, flags=re.MULTILINE)
    assert yaml.safe_load(page)["name"] == "stylegan-xl-small-tiny"
    assert "images: [3, 16, 16]" in first
    assert "images: [3, 32, 32]" in second
    assert "not trained" in second
    assert "not trained" not in first


def test_memory_grows_with_the_micro_batch_only() -> None:
    def memory(**changes: Any) -> tuple[float, float]:
        text = summarize(recipes.read("stylegan2", {**TINY, **changes}))
        return number(text, "activations"), number(text, "weights")

    whole = memory(**{"train.batch": 32})
    split = memory(**{"train.batch": 32, "train.micro_batch": 8})
    assert split[1] == whole[1]
    assert split[0] < whole[0] / 3
    assert memory(**{"train.batch": 8, "train.micro_batch": 32}) == split


def test_parts_that_look_at_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from gankit.plugins.generators.stylegan2 import SynthesisNetwork
    from gankit.plugins.regularizers.r1 import R1

    penalty, forward = R1.penalty, SynthesisNetwork.forward

    def curious_penalty(self: R1, step: Any) -> torch.Tensor:
        step.real.sum().item()
        return penalty(self, step)

    def curious_forward(self: SynthesisNetwork, ws: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        ws.sum().item()
        return forward(self, ws, *rest, **options)

    recipe = recipes.read("stylegan2", {**TINY, "regularizers.path-length": False})
    monkeypatch.setattr(R1, "penalty", curious_penalty)
    text = summarize(recipe)
    assert "without r1, which cannot be estimated" in text
    assert "memory for 8 images" in text
    monkeypatch.setattr(SynthesisNetwork, "forward", curious_forward)
    flops = number(text, "multiply-add: G")
    text = summarize(recipe)
    assert "memory cannot be estimated" in text
    row = next(line for line in text.splitlines() if line.startswith("G  "))
    assert number(row, "yes") == pytest.approx(flops, rel=0.01)
    assert "memory for 8 images" not in text
    assert "[4, 3, 16, 16]" in text


def test_classes_of_the_data_count(images: Path) -> None:
    def table(**changes: Any) -> str:
        return summarize(recipes.read("stylegan2-class", {**TINY, **changes}))

    assert "condition: 2 numbers" in table(**{"data.path": str(images)})
    assumed = table()
    assert "condition: 1000 numbers" in assumed
    assert "no data is given: 1,000 classes and tags are assumed" in assumed
