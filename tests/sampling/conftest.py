"""Two runs of a few steps to sample from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import TINY

import gankit
from gankit.core.config.registry import registry


@pytest.fixture(scope="package", autouse=True)
def letters() -> Iterator[None]:
    registry().register(
        "conditioner", "letters", "fake_plugins:Letters", package="gankit-letters", version="1.0"
    )
    yield
    registry().plugins.pop(
        ("conditioner", "letters"), None
    )  # gone if another test has filled the registry anew


@pytest.fixture(scope="package")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory, letters: None) -> dict[str, Path]:
    """A conditional run and an unconditional one of a few steps, whose images depend on everything asked for."""
    root = tmp_path_factory.mktemp("runs")
    parts = {"class": {}, "tags": {"min_count": 10}, "letters": {}}
    fast = {"train.images": 48, "train.lr_g": 0.02, "train.ema_rampup": 0.001}
    for name, conditioner in (("any", {"name": "combined", "parts": parts}), ("none", "none")):
        overrides = {**TINY, **fast, "conditioner": conditioner, "trackers": {}}
        gankit.train("stylegan2", root / name, data=str(images), overrides=overrides, quiet=True)
    return {"any": root / "any", "none": root / "none"}


@pytest.fixture(scope="package")
def pipe(runs: dict[str, Path]) -> gankit.Pipeline:
    return gankit.load(runs["any"])
