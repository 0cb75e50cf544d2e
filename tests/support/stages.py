"""A run of three stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runs import TINY

import gankit
from gankit.core.checkpoints import folders

GROW = [
    {"until": 16, "train": {"lr_d": 0.01}},
    {
        "until": 28,
        "data": {"size": 32},
        "regularizers": {"path-length": False},
        "train": {
            "batch": 4,
            "lr_g": 0.01,
            "freeze": ["generator.mapping"],
            "blur_sigma": 2.0,
            "blur_kimg": 0.02,
        },
        "schedules": {"train": {"lr_d": {"warmup": 8}}},
    },
    {"data": {"size": 32}, "regularizers": {"path-length": False}, "train": {"batch": 4, "lr_g": 0.001}},
]
OPTIONS: dict[str, Any] = {
    **TINY,
    "conditioner": "class",
    "augmentation": {"name": "ada", "p": 0.3, "kimg": 0.1},
    "regularizers": {"r1": {"interval": 2}, "path-length": {"interval": 2}},
    "train.posthoc_ema": [0.1],
    "train.posthoc_every": 8,
    "train.checkpoint_every": 4,
    "train.keep": 100,
    "stages": GROW,
}


def train(out: Path, images: Path, length: int, **overrides: Any) -> Path:
    changes = {**OPTIONS, "train.images": length, **overrides}
    return gankit.train("stylegan2", out, data=str(images), overrides=changes, quiet=True)


def at(run: Path, nimg: int) -> Path:
    return run / "checkpoints" / f"{nimg:09d}"


def numbers(run: Path) -> list[int]:
    return [int(p.name) for p in folders.checkpoints(run)]
