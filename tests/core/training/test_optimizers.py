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


def make_nothing(self: Adam, groups: list[dict[str, Any]]) -> None:
    return None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lose_a_parameter, r"put generator\.\S+ into 0 groups, not into one"),
        (lose_the_rate, r"changed the 'rate' of the group of generator\.\S+: None, not 'lr_g'"),
        (make_nothing, "returned a NoneType from make, not an optimizer of torch"),
    ],
)
def test_faulty_optimizers_are_told(make: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adam, "make", make)
    recipe = recipes.read("stylegan2", TINY)
    parts = rehearse(recipe, assumed_vocabulary(recipe))
    with pytest.raises(GankitError, match=f"^optimizer 'adam' of package 'gankit 0.1.0' {message}"):
        optimizers.build(recipe, "G", parts.trained()["G"], parts.regularizers)


def test_another_optimizer_in_the_next_stage_begins_without_moments(images: Path, tmp_path: Path) -> None:
    stages = [{"until": 8}, {"optimizer_g": "adamw"}]
    out = train(tmp_path, images, **{"stages": stages, "train.images": 16, "train.keep": 9})
    first, last = (load(out.parent / f"{at:09d}", "g") for at in (8, 16))
    assert int(first["0.step"]) == 2  # the main phase and path-length
    assert int(last["0.step"]) == 1
    assert int(load(out, "d")["0.step"]) > 1


class Prodigious(torch.optim.SGD):
    """Remembers a number in its groups."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        for group in self.param_groups:
            group["d"] = group.get("d", 0.0) + 0.5


class Opaque(torch.optim.SGD):
    """Remembers a list."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        self.state[self.param_groups[0]["params"][0]]["history"] = [1, 2]


@pytest.mark.parametrize(("kind", "key"), [(Prodigious, "d"), (Opaque, "history")])
def test_what_a_checkpoint_would_lose_is_told_in_the_first_step(
    kind: type[torch.optim.Optimizer], key: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adam, "make", lambda self, groups: kind(groups))
    with pytest.raises(
        GankitError, match=rf"^optimizer 'adam' of package .* remembers \['{key}'\] elsewhere"
    ):
        train(tmp_path, images, **{"train.images": 8})


def test_state_of_another_shape_is_restored(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adafactor keeps a row and a column of each matrix."""
    monkeypatch.setattr(Adam, "make", lambda self, groups: torch.optim.Adafactor(_without_betas(groups)))
    whole = train(tmp_path / "whole", images, **{"train.images": 24})
    for length in (16, 24):
        parts = train(tmp_path / "parts", images, **{"train.images": length})
    assert_same(whole, parts)


def _without_betas(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"params": group["params"], "rate": group["rate"], "lr": group["lr"]} for group in groups]


def load(checkpoint: Path, side: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(checkpoint / "training" / f"optimizer_{side}.safetensors")
