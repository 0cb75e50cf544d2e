"""Optimizers as plugins: faulty ones, and runs that continue with each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TINY, assert_same, train

from gankit.core.config import recipe as recipes
from gankit.core.training import optimizers
from gankit.core.training.assembly import rehearse
from gankit.core.training.dry_run import assumed_vocabulary
from gankit.errors import GankitError
from gankit.plugins.optimizers.adam import Adam


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_run_continues_exactly(name: str, images: Path, tmp_path: Path) -> None:
    options = {"optimizer_g": name, "optimizer_d": {"name": name, "weight_decay": 0.1}}
    whole = train(tmp_path / "whole", images, **options, **{"train.images": 24})
    for length in (16, 24):
        parts = train(tmp_path / "parts", images, **options, **{"train.images": length})
    assert_same(whole, parts)
    adam = train(tmp_path / "adam", images, **{"train.images": 24})
    with pytest.raises(AssertionError):
        assert_same(whole, adam, within="training/generator.safetensors")


def lose_a_parameter(self: Adam, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    groups[0]["params"] = groups[0]["params"][1:]
    return torch.optim.Adam(groups)


def lose_the_rate(self: Adam, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.Adam([{"params": group["params"]} for group in groups])


@pytest.mark.parametrize(
    ("make", "message"),
    [(lose_a_parameter, r"; generator\.\S+ is not in exactly one"), (lose_the_rate, "keeps its 'rate'$")],
)
def test_faulty_optimizers_are_told(make: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adam, "make", make)
    recipe = recipes.read("stylegan2", TINY)
    parts = rehearse(recipe, assumed_vocabulary(recipe))
    with pytest.raises(GankitError, match=f"^optimizer 'adam' must put each parameter .*{message}"):
        optimizers.build(recipe, "G", parts.trained()["G"], parts.regularizers)


def test_another_optimizer_in_the_next_stage_begins_without_moments(images: Path, tmp_path: Path) -> None:
    stages = [{"until": 8}, {"optimizer_g": "adamw"}]
    out = train(tmp_path, images, **{"stages": stages, "train.images": 16, "train.keep": 9})
    first, last = (load(out.parent / f"{at:09d}", "g") for at in (8, 16))
    assert int(first["0.step"]) == 2  # the main phase and path-length
    assert int(last["0.step"]) == 1
    assert int(load(out, "d")["0.step"]) > 1


def load(checkpoint: Path, side: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(checkpoint / "training" / f"optimizer_{side}.safetensors")
