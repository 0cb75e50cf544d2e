"""Levels and start grids of image sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gankit.core.nn.pyramid import levels
from gankit.errors import GankitError


@given(st.integers(1, 700), st.integers(1, 700))
def test_levels(h, w):
    try:
        (start_h, start_w), k = levels((3, h, w))
    except GankitError as error:
        assert min(h, w) < 4 or min(h, w) >= 16
        if "for example" in str(error):  # what it proposes must work
            words = str(error).split("for example ")[1].split(" or ")
            for width, height in (map(int, word.split("x")) for word in words):
                levels((3, height, width))
                assert abs(width - w) < 64
                assert abs(height - h) < 64
        return
    assert (start_h << k, start_w << k) == (h, w)
    assert 4 <= min(start_h, start_w) < 16
    assert min(start_h, start_w) < 8 or start_h % 2 or start_w % 2  # not one doubling more


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), ((4, 4), 4)),
        ((48, 80), ((6, 10), 3)),
        ((96, 64), ((6, 4), 4)),
        ((4, 4), ((4, 4), 0)),
        ((72, 72), ((9, 9), 3)),
    ],
)
def test_start_grids(size, expected):
    assert levels((3, *size)) == expected
