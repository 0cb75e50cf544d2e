"""How many checkpoints a recipe keeps, as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from gankit.core.config.retention import Retention


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (3, Retention(3)),
        ("4", Retention(4)),
        ("last:2,best:3", Retention(2, ((3, ""),))),
        ("best:3:recall", Retention(1, ((3, "recall"),))),
        ("best:1:fd, best:2:recall ,last:5", Retention(5, ((1, "fd"), (2, "recall")))),
    ],
)
def test_keep(text: int | str, expected: Retention) -> None:
    assert Retention.parse(text) == expected
