"""
Line charts as SVG.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from tfcanary.report.page import rendered

T = TypeVar("T")
MOST_POINTS = 240
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 280, 46, 50, 12, 12
# Okabe and Ito: colour-blind readers tell these colours apart; lines differ in dashes as well.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Chart:
    """
    Lines over one pair of axes.

    Attributes:
        lines: the name and the points of each.
        x: what the horizontal axis measures, with its unit.
        y: what the vertical axis measures, with its unit.
        y_most: the end of the vertical axis.
        y_least: its beginning.
        levels: heights of dotted lines across the chart.
        bands: grey areas, as (x, lowest y, highest y).
        log: whether the horizontal axis is logarithmic.
        marks: labels of vertical lines, by where they are.
    """

    caption: str
    lines: Sequence[tuple[str, Sequence[Point]]]
    x: str
    y: str
    y_most: float
    levels: Sequence[float] = ()
    bands: Sequence[Sequence[tuple[float, float, float]]] = ()
    log: bool = False
    y_least: float = 0.0
    marks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """
    From values to pixels.

    Attributes:
        least: the value at `start`.
        most: the value at `end`.
        start: in pixels.
        end: in pixels; less than `start` where the axis points up.
    """

    least: float
    most: float
    start: int
    end: int
    log: bool = False

    def at(self, value: float) -> float:
        """
        The pixel of a value; of values beyond an end, that end.
        """
        value, least, most = min(max(value, self.least), self.most), self.least, self.most
        if self.log:
            value, least, most = math.log10(value), math.log10(least), math.log10(most)
        return self.start + (value - least) / (most - least) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """
        Round values along the axis.
        """
        if self.log:
            decades = range(math.floor(math.log10(self.least)), math.ceil(math.log10(self.most)) + 1)
            return [
                tick for n in decades for tick in (10.0**n, 3 * 10.0**n) if self.least <= tick <= self.most
            ]
        step = 10 ** math.floor(math.log10(self.most))
        while self.most / step < 4:
            step /= 2
        return [step * i for i in range(int(self.most / step) + 1)]


def drawn(chart: Chart) -> Markup:
    """
    The chart with its legend and caption.
    """
    across = _horizontal(chart)
    up = Axis(chart.y_least, chart.y_most, _HEIGHT - _BOTTOM, _TOP)
    made = rendered(
        "chart.html.j2",
        chart=chart,
        width=_WIDTH,
        height=_HEIGHT,
        across=across,
        up=up,
        y_ticks=[chart.y_least + (chart.y_most - chart.y_least) * part / 4 for part in range(5)],
        x_ticks=[(tick, _anchor(across.at(tick))) for tick in across.ticks()],
        marks=[(across.at(x), _anchor(across.at(x)), label) for x, label in chart.marks],
        bands=[_outline(band, across, up) for band in chart.bands],
        lines=[
            (name, _COLOURS[i % len(_COLOURS)], _DASHES[i % len(_DASHES)], _path(thinned(points), across, up))
            for i, (name, points) in enumerate(chart.lines)
        ],
    )
    return Markup(made)  # noqa: S704 - the template escapes what it is given


def _horizontal(chart: Chart) -> Axis:
    xs = [x for _, points in chart.lines for x, _ in points]
    least, most = (max(min(xs), 1e-3), max(*xs, 1e-3)) if chart.log else (0.0, max(xs))
    if most <= least:
        most = least * 2 or 1.0
    return Axis(least, most, _LEFT, _WIDTH - _RIGHT, log=chart.log)


def _anchor(pixel: float) -> str:
    """
    How a label lies at its tick: in the middle of a tick at either end it would run into its neighbour.
    """
    return "end" if pixel > _WIDTH - 40 else "start" if pixel < _LEFT + 20 else "middle"


def _outline(band: Sequence[tuple[float, float, float]], across: Axis, up: Axis) -> str:
    there = [(x, high) for x, _, high in band]
    back = [(x, low) for x, low, _ in reversed(band)]
    return _path(there + back, across, up)


def _path(points: Sequence[Point], across: Axis, up: Axis) -> str:
    return " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in points)


def thinned(points: Sequence[T]) -> Sequence[T]:
    """
    No more points than can be seen, the first and the last among them.
    """
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(i * step)] for i in range(MOST_POINTS)]
