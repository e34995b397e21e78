"""
The canary's weight over the time of a rollout: what was asked for, what every gateway pod showed, and what happened.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tfcanary.report.svg import Chart, Point
from tfcanary.rollout.phases import Phase

# So many weights a record keeps; of a rollout with more of them the beginning is not known.
_KEPT = 60
# Labels closer than this part of the plot's width would lie over one another on a phone.
_APART = 0.09
# The ends of the axis of weights: of 100 % a first weight would be too little to see.
_HEIGHTS = (4, 20, 40, 100)
_PHASES = frozenset(phase.value for phase in Phase)
Happened = tuple[float, str]


def happened(events: Sequence[Mapping[str, Any]]) -> list[Happened]:
    """
    The events that somebody or something brought about: approvals, pauses, takeovers, the way back.

    The others are the phases that follow one another by themselves, why one of them took longer, and the start.

    Args:
        events: each with `at`, in seconds since 1970, and `text`.
    """
    return [
        (one["at"], one["text"])
        for one in events
        if one["text"] not in _PHASES and not one["text"].startswith(("held: ", "started by "))
    ]


def weights_plot(made: Mapping[str, Any], marked: Sequence[Happened], until: float) -> Chart:
    """
    The weights of a record with at least one.

    Args:
        made: the record.
        marked: the events to mark, by their numbers from 1 on.
        until: the end of the plot, in seconds since 1970.
    """
    began = made["startedAt"]
    unit, seconds = _unit(until - began)
    weights = made["weights"]
    asked = _stairs([(one["askedAt"], one["weight"]) for one in weights], began, until)
    seen = _stairs(
        [(one["seenAt"], one["weight"]) for one in weights if one["seenAt"] is not None], began, until
    )
    lines = [
        (name, [((at - began) / seconds, weight) for at, weight in line])
        for name, line in (("asked for", asked), ("seen at every gateway pod", seen))
    ]
    return Chart(
        "The canary's weight." + (" Numbers: the events below." if marked else ""),
        lines,
        x=f"{unit} since the start",
        y="% of the traffic",
        y_most=next(most for most in _HEIGHTS if most >= max(one["weight"] for one in weights)),
        marks=_labels([(at - began) / seconds for at, _ in marked], (until - began) / seconds),
    )


def _stairs(weights: Sequence[Point], began: float, until: float) -> list[Point]:
    """
    Each weight until the next one.
    """
    line = [(began, 0.0)] if len(weights) < _KEPT else []
    for at, weight in weights:
        if line:
            line.append((at, line[-1][1]))
        line.append((at, weight))
    return [*line, (until, line[-1][1])]


def _labels(marks: Sequence[float], width: float) -> list[tuple[float, str]]:
    """
    A number for each event; events that lie close together share one label, at the first of them.
    """
    groups: list[list[int]] = []
    for number, at in enumerate(marks, 1):
        if groups and at - marks[groups[-1][0] - 1] < _APART * width:
            groups[-1].append(number)
        else:
            groups.append([number])
    firsts = {
        group[0]: f"{group[0]}" if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups
    }
    # The others have a line of their own, without a label.
    return [(at, firsts.get(number, "")) for number, at in enumerate(marks, 1)]


def _unit(span: float) -> tuple[str, float]:
    units = (("seconds", 1.0), ("minutes", 60.0), ("hours", 3600.0), ("days", 86400.0))
    return next((one for one, (_, larger) in itertools.pairwise(units) if span < 3 * larger), units[-1])
