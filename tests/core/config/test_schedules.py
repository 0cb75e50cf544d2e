"""Schedules of options: their shapes, and mistakes in them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gankit.core.config import recipe as recipes
from gankit.core.config.schedules import Schedule
from gankit.errors import GankitError


def test_cosine_is_that_of_r3gan() -> None:
    schedule = Schedule(end=5e-5, over=20_000_000, shape="cosine")
    for n in (0, 1_000_000, 13_000_000, 20_000_000, 50_000_000):
        expected = 5e-5 + (2e-4 - 5e-5) * (1 + math.cos(math.pi * min(n / 2e7, 1))) / 2
        assert schedule.value(2e-4, n) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "images", "expected"),
    [
        ({"end": 1, "over": 100}, 25, 2.5),
        ({"end": 1, "over": 100}, 1000, 1),
        ({"start": 4, "end": 1, "over": 100, "shape": "exponential"}, 50, 2),
        ({"end": 1, "over": 100, "shape": "step"}, 99, 3),
        ({"end": 1, "over": 100, "shape": "step"}, 100, 1),
        ({"warmup": 200}, 50, 0.75),
        ({"warmup": 200, "end": 1, "over": 100}, 100, 0.5),
        ({"warmup": "1k"}, 5000, 3),
        ({}, 5000, 3),
    ],
)
def test_shapes(options: dict[str, Any], images: int, expected: float) -> None:
    assert Schedule(**options).value(3.0, images) == pytest.approx(expected)


def test_pairs_move_together() -> None:
    assert Schedule(end=(0.5, 0.99), over=10).value((0.0, 0.9), 5) == pytest.approx((0.25, 0.945))


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ({"trian": {}}, r"page: unknown section of schedules 'trian'; did you mean 'train'"),
        (
            {"train": {"lr": {}}},
            r"unknown option to be scheduled in train: 'lr'; did you mean 'lr_g' or 'lr_d'",
        ),
        ({"train": {"batch": {"end": 2}}}, r"unknown option to be scheduled in train: 'batch'"),
        ({"train": {"lr_g": {"and": 2}}}, r"schedules.train.lr_g: unknown key 'and'; did you mean 'end'"),
        ({"train": {"lr_g": {"end": 1e-4}}}, r"schedules.train.lr_g needs over"),
        ({"train": {"lr_g": {"end": -1, "over": 5}}}, r"schedules.train.lr_g: -1 is out of range"),
        ({"train": {"lr_g": {"end": [1, 2], "over": 5}}}, r"lr_g must move one number, not \(1.0, 2.0\)"),
        ({"train": {"lr_g": {"end": 0, "over": 5, "shape": "exponential"}}}, r"exponential cannot"),
        ({"train": {"lr_g": {"shape": "sine"}}}, r"schedules.train.lr_g.shape = 'sine'"),
        ({"train": {"lr_g": 3}}, r"schedules.train.lr_g"),
        ({"train": {"betas": {"end": 0.9, "over": 5}}}, r"betas must move two numbers, not 0.9"),
        ({"train": {"betas_g": {"end": [0, 0.9], "over": 5}}}, r"betas_g needs a start"),
        ({"train": {"betas": {"end": [0, 1], "over": 5}}}, r"betas: 1 is out of range"),
        ({"train": {"top_k": {"end": 2, "over": 5}}}, r"top_k: 2 is out of range"),
        ({"train": []}, r"schedules.train must be a mapping"),
        ([1], r"schedules"),
        ({"regularizers": {"r2": {"gamma": {}}}}, r"unknown entry of regularizers 'r2'; valid: r1"),
        (
            {"regularizers": {"r1": {"gama": {}}}},
            r"unknown option .* regularizers.r1: 'gama'; did you mean 'gamma'",
        ),
        ({"regularizers": {"r1": {"interval": {}}}}, r"unknown option .* 'interval'"),
        ({"augmentation": {"p": {"end": 1, "over": 5}}}, r"set augmentation.target to null"),
    ],
)
def test_mistakes_in_schedules_are_named(schedules: Any, message: str) -> None:
    page = {"regularizers": {"r1": {}}, "augmentation": "ada", "schedules": schedules}
    with pytest.raises(GankitError, match=message) as error:
        recipes.parse(page, "page")
    assert "\n" not in str(error.value)
