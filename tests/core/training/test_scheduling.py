"""Schedules in a run: images are counted from stage or run, and everything together continues to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from runs import TINY, assert_same, log_of, train
from torch import nn

from gankit.core.config import recipe as recipes
from gankit.core.training.phases import Phase
from gankit.core.training.scheduling import Schedules
from gankit.core.training.step import Stepper
from gankit.errors import GankitError

ALL_PARTS = {
    "schedules": {
        "train": {
            "lr_g": {"end": 1e-4, "over": 32, "shape": "cosine"},
            "lr_d": {"warmup": 16},
            "betas": {"start": [0, 0.9], "end": [0, 0.99], "over": 32, "shape": "cosine"},
            "ema_kimg": {"start": 0, "end": 0.05, "over": 32},
            "top_k": {"end": 0.5, "over": 24},
        },
        "regularizers": {"r1": {"gamma": {"end": 0.1, "over": 24, "shape": "exponential"}}},
        "augmentation": {"p": {"end": 0.6, "over": 32, "shape": "cosine"}},
    },
    "augmentation": {"name": "ada", "target": None},
    "regularizers": {"r1": {"gamma": 1.0, "interval": 1}, "path-length": {"interval": 2}},
    "train.ema_rampup": None,
    "train.order": "dg",
    "train.d_steps": 2,
    "train.ttur": 2.0,
    "train.blur_sigma": 2,
    "train.blur_kimg": 0.03,
    "train.fade_kimg": 0.02,
    "train.freeze": ["discriminator.b16.fromrgb", "generator.mapping", "!generator.mapping.fc1"],
}


def test_images_are_counted_from_the_stage_or_the_run() -> None:
    page = {"end": 0, "over": 100}
    schedules = {"train": {"lr_g": page, "lr_d": {**page, "since": "run"}}}
    recipe = recipes.parse({"train": {"lr_g": 1, "lr_d": 1}, "schedules": schedules}, "page")
    train = recipe.train.model_copy()
    values = Schedules(recipe, train, object()).apply(80, 60)
    assert values == {"train.lr_g": pytest.approx(0.8), "train.lr_d": pytest.approx(0.2)}
    assert (train.lr_g, recipe.train.lr_g) == (values["train.lr_g"], 1)


def test_an_option_that_a_plugin_does_not_keep_cannot_move(images: Path, tmp_path: Path) -> None:
    schedules = {
        "augmentation": {"p": {"end": 1, "over": 8}},
        "regularizers": {"r1": {"gamma": {"warmup": 8}}},
    }
    options = {"augmentation": {"name": "ada", "target": None}, "schedules": schedules}
    recipe = recipes.read("stylegan2", {**TINY, **options})

    class Parts:
        augmentation = nn.Identity()
        regularizers = {"r1": nn.Identity()}

    with pytest.raises(GankitError, match=r"Identity does not keep '(p|gamma)' as an attribute"):
        Schedules(recipe, recipe.train, Parts())


def test_everything_together_follows_its_schedule_and_continues_to_the_bit(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    original = Stepper._run_phase

    def spy(self: Stepper, phase: Phase, *args: Any) -> None:
        group = self.optimizers[phase.side].param_groups[0]
        r1, ada = self.parts.regularizers["r1"], self.parts.augmentation
        seen.append(
            {
                "nimg": self.nimg,
                "phase": phase.name,
                "lr": group["lr"],
                "betas": group["betas"],
                "gamma": r1.gamma,
                "p": float(ada.p),  # type: ignore[union-attr, arg-type]
            }
        )
        original(self, phase, *args)

    monkeypatch.setattr(Stepper, "_run_phase", spy)
    options = {**ALL_PARTS, "train.checkpoint_every": 8, "train.keep": 9}
    whole = train(tmp_path / "whole", images, **options, **{"train.images": 48})
    # D in every step, G in every second one, its lazy regularizer in every second one of these
    assert [(s["nimg"], s["phase"]) for s in seen] == [
        *((0, "D"), (8, "D"), (8, "G"), (8, "path-length"), (16, "D"), (24, "D"), (24, "G")),
        *((32, "D"), (40, "D"), (40, "G"), (40, "path-length")),
    ]
    for s in seen:
        wave = (1 + math.cos(math.pi * min(s["nimg"] / 32, 1))) / 2
        c = 2 / 3 if s["phase"] in ("G", "path-length") else 1  # the correction for the lazy regularizer
        lr = (1e-4 + (2.5e-3 - 1e-4) * wave) * c
        if s["phase"] == "D":
            lr = 2 * 2.5e-3 * min(s["nimg"] / 16, 1)
        assert s["lr"] == pytest.approx(lr)
        assert s["betas"] == pytest.approx((0, (0.99 - 0.09 * wave) ** c))
        assert s["gamma"] == pytest.approx(0.1 ** min(s["nimg"] / 24, 1))
        assert s["p"] == pytest.approx(0.6 * (1 - wave))
    monkeypatch.undo()
    assert log_of(tmp_path / "whole")[1]["schedule/train.top_k"] == pytest.approx(1 - 0.5 / 3, rel=1e-4)

    for length in (16, 24, 48):
        parts = train(tmp_path / "parts", images, **options, **{"train.images": length})
    assert_same(whole, parts)
