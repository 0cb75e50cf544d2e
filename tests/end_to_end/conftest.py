"""A run with two checkpoints, trained once, and copies of it to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from runs import TINY

import gankit


@pytest.fixture(scope="package")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, conditioned on classes."""
    run = tmp_path_factory.mktemp("trained") / "run"
    overrides = {**TINY, "train.images": 16, "train.checkpoint_every": 8, "trackers": {}}
    gankit.train("stylegan2-class", run, data=str(images), overrides=overrides, quiet=True)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
