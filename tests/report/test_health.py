"""The health checks of a run: each sign and its advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_utils import lines, write_run

from gankit.report import health, reading


@pytest.mark.parametrize(
    ("log", "overrides", "title", "status", "words"),
    [
        ({"sign__real": 0.6}, {}, "D on real images", "good", "healthy"),
        ({"sign__real": 0.97}, {"augmentation": None}, "D on real images", "watch", "add augmentation"),
        ({"sign__real": 0.97}, {}, "D on real images", "watch", "raise regularizers.r1.gamma"),
        ({"sign__real": 0.01}, {}, "D on real images", "watch", "hardly tells"),
        ({"sign__fake": 0.4}, {}, "D on generated images", "watch", "for real"),
        ({"score__real": 1.0, "score__fake": -1.0}, {}, "Scores, real minus generated", "good", "steady"),
        (
            {"score__real": lambda t: 9 * t, "score__fake": 0.0},
            {},
            "Scores, real minus generated",
            "watch",
            "widening",
        ),
        ({"score__real": -1.0, "score__fake": 0.0}, {}, "Scores, real minus generated", "watch", "lost"),
        ({"grad_norm__G": 3.0}, {}, "Gradients of G", "good", "explosion"),
        ({"grad_norm__G": lambda t: 10 ** (4 * t)}, {}, "Gradients of G", "bad", "train.lr_g"),
        ({"grad_norm__D": lambda t: 10 ** (-4 * t)}, {}, "Gradients of D", "watch", "vanished"),
        ({"bad_steps": 0.0}, {}, "Skipped steps", "good", "finite"),
        ({"bad_steps": 1.0}, {}, "Skipped steps", "watch", "rare"),
        ({"bad_steps": 300.0}, {}, "Skipped steps", "bad", "precision=fp32"),
        ({"loss__G": lambda t: None if t == 1 else 1.0}, {}, "Numbers", "bad", "not finite"),
        ({"augment__p": 0.3}, {}, "ADA's p", "good", "overfitting"),
        ({"augment__p": 0.95}, {}, "ADA's p", "watch", "leak"),
        ({"time__data": 0.01}, {}, "Time spent waiting for data", "good", "hardly"),
        ({"time__data": 0.1}, {}, "Time spent waiting for data", "watch", "--workers"),
        ({"time__data": 0.5}, {}, "Time spent waiting for data", "bad", "--workers"),
        ({}, {}, "Speed", "good", "Steady"),
        ({"speed__images_per_s": lambda t: 90 if t < 0.7 else 20}, {}, "Speed", "watch", "slower"),
        ({"diversity": lambda t: 1 - 0.9 * t}, {}, "diversity", "watch", "fallen"),
        ({"diversity": 0.4}, {}, "diversity", "good", "variety"),
    ],
)
def test_health(
    log: dict[str, Any], overrides: dict[str, Any], title: str, status: str, words: str, tmp_path: Path
) -> None:
    run = reading.Run(write_run(tmp_path / "run", lines(60, **log), overrides))
    check = next(check for check in health.checks(run) if check.title == title)
    assert check.status == status
    assert words in check.advice
    assert check.advice.endswith(".")


def test_signs_of_a_relativistic_loss_mean_nothing(tmp_path: Path) -> None:
    log = lines(60, sign__real=1.0, sign__fake=1.0, score__real=3.0, score__fake=2.0)
    run = reading.Run(write_run(tmp_path / "run", log, {"loss": "relativistic"}))
    assert [c.title for c in health.checks(run)] == ["Scores, real minus generated", "Speed"]
