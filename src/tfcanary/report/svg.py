"""
Line charts as SVG.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import TypeVar

T = TypeVar("T")
MOST_POINTS = 240
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 280, 46, 50, 12, 12
# Okabe and Ito: told apart by the colour-blind too; lines differ in dashes as well.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
Point = tuple[float, float]


def chart(
    caption: str,
    lines: Sequence[tuple[str, Sequence[Point]]],
    *,
    x: str,
    y: str,
    y_most: float,
    levels: Sequence[float] = (),
    bands: Sequence[Sequence[tuple[float, float, float]]] = (),
    log: bool = False,
) -> str:
    """
    Lines over one pair of axes.
    """
    xs = [at for _, points in lines for at, _ in points]
    least, most = (max(min(xs), 1e-3), max(*xs, 1e-3)) if log else (0.0, max(xs))
    if most <= least:
        most = least * 2 or 1.0
    scale: Callable[[float], float] = math.log10 if log else float

    def across(value: float) -> float:
        part = (
            (scale(max(value, least)) - scale(least)) / (scale(most) - scale(least)) if log else value / most
        )
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - min(value, y_most) / y_most * (_HEIGHT - _BOTTOM - _TOP)

    made = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(caption)}">']
    for band in bands:
        there = [f"{across(n):.1f},{up(high):.1f}" for n, _, high in band]
        back = [f"{across(n):.1f},{up(low):.1f}" for n, low, _ in reversed(band)]
        made.append(f'<polygon class="band" points="{" ".join(there + back)}"/>')
    for part in (0, 25, 50, 75, 100):
        height = up(part / 100 * y_most)
        made.append(
            f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        )
        made.append(
            f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{part / 100 * y_most:g}</text>'
        )
    for tick in _ticks(least, most, log=log):
        # At either end a label in the middle of its tick would run into its neighbour.
        anchor = "end" if across(tick) > _WIDTH - 40 else "start" if across(tick) < _LEFT + 20 else "middle"
        made.append(
            f'<text x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="{anchor}">{tick:g}</text>'
        )
    made.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">{escape(x)}</text>')
    made.append(f'<text x="{_LEFT}" y="{_HEIGHT - 3}">{escape(y)}</text>')
    made += [
        f'<line class="wanted" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(level):.1f}" y2="{up(level):.1f}"/>'
        for level in levels
    ]
    legend = []
    for i, (name, points) in enumerate(lines):
        colour, dash = _COLOURS[i % len(_COLOURS)], _DASHES[i % len(_DASHES)]
        drawn = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in thinned(points))
        made.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}" points="{drawn}"/>'
        )
        legend.append(
            f'<svg viewBox="0 0 24 8" style="width:24px;background:none"><line x1="0" x2="24" y1="4" y2="4" '
            f'stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"/></svg> {escape(name)}'
        )
    made.append("</svg>")
    return f"<figure>{''.join(made)}<figcaption>{'&ensp; '.join(legend)}<br>{escape(caption)}</figcaption></figure>"


def _ticks(least: float, most: float, *, log: bool) -> list[float]:
    if log:
        decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        return [tick for n in decades for tick in (10.0**n, 3 * 10.0**n) if least <= tick <= most]
    step = 10 ** math.floor(math.log10(most)) if most > 0 else 1
    while most / step < 4:
        step /= 2
    return [step * i for i in range(int(most / step) + 1)]


def thinned(points: Sequence[T]) -> Sequence[T]:
    """
    No more points than can be seen, the first and the last among them.
    """
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(i * step)] for i in range(MOST_POINTS)]
