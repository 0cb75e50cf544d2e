"""Charts: thinning, smoothing, ticks, odd numbers."""

from __future__ import annotations

import re

import pytest

from gankit.report import charts, reading


def test_thin_and_smooth() -> None:
    points: list[charts.Point] = [(i, float(i % 2)) for i in range(1200)]
    points[:4] = [(i, None) for i in range(4)]
    thinned = charts.thin(points)
    assert len(thinned) == charts.POINTS
    assert thinned[0] == (3, None)
    assert thinned[-1] == (1199, 0.5)
    assert charts.smooth([(0, 1.0), (1, None), (2, 3.0)], 1) == [(0, 1.0), (1, None), (2, 3.0)]
    assert charts.smooth([(0, 1.0), (1, 5.0), (2, 3.0)], 1) == [(0, 3.0), (1, 3.0), (2, 4.0)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-0.31, 0.19, [-0.3, -0.2, -0.1, 0, 0.1]),
        (0, 1e6, [0, 2e5, 4e5, 6e5, 8e5, 1e6]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    "values", [[0.0], [1.0, 1.0], [1e-9, 1e9], [-5.0, None, 3.0], [None, 2.0], [1e30, -1e30]]
)
def test_charts_of_odd_numbers(values: list[float | None]) -> None:
    series = reading.Series("x", list(range(len(values))), values)
    made = charts.chart("x", [charts.Curve.of(series, "x", 0)])
    assert made is not None
    numbers = [float(n) for n in re.findall(r'(?:[xy][12]?|cx|cy)="(-?[\d.]+)"', made.svg)]
    assert "nan" not in made.svg
    assert all(-1 <= n <= charts.WIDTH for n in numbers)
    assert charts.chart("x", [charts.Curve.of(reading.Series("x", [1], [None]), "x", 0)]) is None
