"""Numbers of images as text: 200k, 8Mi and the like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.runtime.units import parse_count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("200000", 200_000),
        ("200k", 200_000),
        ("200K", 200_000),
        ("1.5M", 1_500_000),
        ("8Mi", 8 * 1024**2),
        ("3ki", 3072),
        (" 5 k ", 5000),
        (7, 7),
    ],
)
def test_parse_count(text: Any, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "-5", "5x", "1,000", "1e", "nan", "5 k k"])
def test_parse_count_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number of images"):
        parse_count(text)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["", "k", "M", "G", "Ki", "Mi", "Gi"]))
def test_parse_count_units(number: int, unit: str) -> None:
    powers = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    assert parse_count(f"{number}{unit}") == number * powers[unit]
