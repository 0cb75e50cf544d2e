"""Line charts of report pages as SVG text.

They need no script; that of the page only adds a readout under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from gankit.report.reading import Series

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 26
POINTS = 300  # of a curve; more are averaged in bins
COLOURS = 8  # number of colours in the style sheet
LOG_SPAN = 200  # largest / smallest value from which on the axis is logarithmic

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Curve:
    """A line of a chart: legend, points with rising x, and the index of its colour, below COLOURS."""

    label: str
    points: Sequence[Point]
    colour: int

    @classmethod
    def of(cls, series: Series, label: str, colour: int) -> Curve:
        """The curve of a logged number, thinned to POINTS points."""
        return cls(label, thin(list(zip(series.nimg, series.values))), colour % COLOURS)


def thin(points: Sequence[Point]) -> list[Point]:
    """At most POINTS points: means of the finite values in equal bins."""
    if len(points) <= POINTS:
        return list(points)
    thinned: list[Point] = []
    for i in range(POINTS):
        rows = points[i * len(points) // POINTS : (i + 1) * len(points) // POINTS]
        finite = [y for _, y in rows if y is not None]
        thinned.append((rows[-1][0], sum(finite) / len(finite) if finite else None))
    return thinned


def smooth(points: Sequence[Point], reach: int) -> list[Point]:
    """Means of the finite values among `reach` neighbours on each side; gaps stay gaps."""
    smoothed: list[Point] = []
    for i, (x, y) in enumerate(points):
        near = [v for _, v in points[max(i - reach, 0) : i + reach + 1] if v is not None]
        smoothed.append((x, None if y is None else sum(near) / len(near)))
    return smoothed


@dataclass(frozen=True)
class Chart:
    """A titled chart as SVG, with the numbers that the readout shows."""

    title: str
    svg: str
    curves: Sequence[Curve]
    data: Mapping[str, Any]


# Long because every part of the drawing needs the scales at_x and at_y that are computed first.
def chart(title: str, curves: Sequence[Curve], *, dots: bool = False, linear: bool = False) -> Chart | None:
    """A chart of curves over images; None if none of them has a finite value.

    Args:
        title: text above the chart.
        curves: lines; with many points, a smoothed line is laid over the faint exact one.
        dots: mark each point, for numbers that were measured rarely.
        linear: never a logarithmic axis.
    """
    curves = [curve for curve in curves if any(y is not None for _, y in curve.points)]
    values = [y for curve in curves for _, y in curve.points if y is not None]
    if not values:
        return None
    xs = [x for curve in curves for x, _ in curve.points]
    log = not linear and min(values) > 0 and max(values) / min(values) > LOG_SPAN
    low, high = _bounds(values, log)
    x_high = max(*xs, 1)
    plot_w, plot_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at_x(x: float) -> float:
        return LEFT + plot_w * x / x_high

    def at_y(y: float) -> float:
        share = (math.log10(y) - low) / (high - low) if log else (y - low) / (high - low)
        return TOP + plot_h * (1 - share)

    parts = []
    for tick in _log_ticks(low, high) if log else ticks(low, high, 5):
        y = at_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in ticks(0, x_high, 4):
        parts.append(
            f'<text class="tick" x="{at_x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{count(tick)}</text>'
        )
    for curve in curves:
        reach = len(curve.points) // 40
        exact = _path(curve.points, at_x, at_y)
        if reach:
            parts.append(f'<path class="line faint c{curve.colour}" d="{exact}"/>')
            parts.append(
                f'<path class="line c{curve.colour}" d="{_path(smooth(curve.points, reach), at_x, at_y)}"/>'
            )
        else:
            parts.append(f'<path class="line c{curve.colour}" d="{exact}"/>')
        if dots or len(curve.points) < 3:
            parts += [
                f'<circle class="dot c{curve.colour}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3"/>'
                for x, y in curve.points
                if y is not None
            ]
    label = f"{title}: " + ", ".join(curve.label for curve in curves) + " over images"
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + f'<line class="cursor" x1="0" y1="{TOP}" x2="0" y2="{HEIGHT - BOTTOM}" visibility="hidden"/></svg>'
    )
    data = {
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "width": WIDTH,
        "max": x_high,
        "curves": [{"x": [x for x, _ in c.points], "y": [_short(y) for _, y in c.points]} for c in curves],
    }
    return Chart(title, svg, curves, data)


def sparkline(series: Sequence[Series]) -> str:
    """A small SVG chart without axes, empty if there are fewer than two values."""
    width, height = 120, 32
    values = [y for one in series for y in one.values if y is not None]
    if not values or max(len(one.values) for one in series) < 2:
        return ""
    low, high = min(values), max(values)
    last = max(max(one.nimg) for one in series) or 1
    span = (high - low) or 1.0
    parts = []
    for i, one in enumerate(series):
        points = thin(list(zip(one.nimg, one.values)))
        path = _path(
            smooth(points, len(points) // 30),
            lambda x: 2 + (width - 4) * x / last,
            lambda y: height - 3 - (height - 6) * (y - low) / span,
        )
        parts.append(f'<path class="line c{i}" d="{path}"/>')
    return f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>'


def _path(points: Sequence[Point], at_x: Any, at_y: Any) -> str:
    """SVG path of a curve, interrupted where a value is missing."""
    parts, down = [], False
    for x, y in points:
        if y is None:
            down = False
            continue
        parts.append(f"{'L' if down else 'M'}{at_x(x):.1f} {at_y(y):.1f}")
        down = True
    return "".join(parts)


def _bounds(values: Sequence[float], log: bool) -> tuple[float, float]:
    """The range of the y axis, in decades if `log`.

    It begins at 0 where that wastes little room, and is wide enough that the noise of a nearly constant number is not
    magnified.
    """
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    elif low >= 0 and low < 0.4 * high:
        low = 0.0
    pad = max(0.04 * (high - low), 0.02 * abs(high)) or 1.0
    return (low if low == 0 else low - pad), high + pad


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers within [low, high], about `wanted` of them."""
    rough = (high - low) / wanted
    base = 10 ** math.floor(math.log10(rough))
    step = next(s * base for s in (1, 2, 2.5, 5, 10) if s * base >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    found = []
    while first * step <= high + 1e-9 * step:
        found.append(round(first * step, 12))
        first += 1
    return found


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    stride = max(len(decades) // 5, 1)
    return [10.0**d for d in decades[::stride]]


def number(value: float) -> str:
    """Text of a number on an axis."""
    if value == 0:
        return "0"
    if abs(value) >= 10000 or abs(value) < 0.001:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.4g}"


def count(value: float) -> str:
    """Text of a number of images: 0, 250k, 1.5M."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
