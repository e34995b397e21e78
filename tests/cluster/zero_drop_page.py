"""
A page of what background load saw while releases changed, made of the figures that the tests leave.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcanary.report.page import rendered
from tfcanary.report.table import Row, Table
from tfcanary.traffic.records import counts_in_words

FIGURES = ("requests", "failed", "per s", "p50 ms", "p99 ms")
# What a run's file holds beside notes of its own.
KNOWN = ("name", "all", "phases", "changeSeconds", "propagationSeconds", "rate", "samples")


def zero_drop(runs: Sequence[Mapping[str, Any]]) -> str:
    """
    The figures of each run and phase, and the sum of what failed.
    """
    return rendered(
        "zero_drop.html.j2",
        folders=[Path(__file__).parent],
        title="Requests dropped",
        total=sum(run["all"]["requests"] for run in runs),
        failed=sum(run["all"]["failed"] for run in runs),
        overview=overview(runs),
        runs=[
            {
                "title": title(run),
                "notes": {name: value for name, value in run.items() if name not in KNOWN},
                "phases": phases(run),
                "samples": run["all"]["samples"],
            }
            for run in runs
        ],
    )


def overview(runs: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        Row(
            (
                title(run),
                *figures(run["all"]),
                *(
                    f"{max(run[name]):.2f}" if run.get(name) else ""
                    for name in ("changeSeconds", "propagationSeconds")
                ),
            )
        )
        for run in runs
    ]
    return Table(("run", *FIGURES, "slowest change s", "routes after helm s"), tuple(rows))


def phases(run: Mapping[str, Any]) -> Table:
    rows = [
        Row((phase["about"], *figures(phase), counts_in_words(phase["tracks"])))
        for phase in run["phases"]
        if phase["requests"]
    ]
    return Table(("phase", *FIGURES, "tracks"), tuple(rows))


def figures(summary: Mapping[str, Any]) -> tuple[str, ...]:
    latency = summary["latencyMs"]
    return (
        str(summary["requests"]),
        str(summary["failed"]),
        str(summary["perSecond"] or ""),
        str(latency["p50"]),
        str(latency["p99"]),
    )


def title(run: Mapping[str, Any]) -> str:
    return str(run["name"].replace("_", " "))
