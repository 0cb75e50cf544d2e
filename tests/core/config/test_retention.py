"""How many checkpoints a recipe keeps, as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from gankit.core.config.retention import Keep


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (3, Keep(3)),
        ("4", Keep(4)),
        ("last:2,best:3", Keep(2, ((3, ""),))),
        ("best:3:recall", Keep(1, ((3, "recall"),))),
        ("best:1:fd, best:2:recall ,last:5", Keep(5, ((1, "fd"), (2, "recall")))),
    ],
)
def test_keep(text: int | str, expected: Keep) -> None:
    assert Keep.parse(text) == expected
