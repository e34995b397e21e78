"""
A check's report as one HTML file with everything in it: findings, charts, failures.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tfcanary.check.report import Report, split_request
from tfcanary.contract import Api
from tfcanary.judge.split import regions
from tfcanary.report.page import rendered
from tfcanary.report.svg import Chart, Point, drawn, thinned
from tfcanary.report.table import (
    Row,
    Table,
    error_rates,
    findings_table,
    mark_of,
    predictions_in_words,
)
from tfcanary.routing.route import Route
from tfcanary.traffic.records import NO_CODE

_SHOWN_FAILURES = 50


def html(report: Report) -> str:
    """
    The whole report as one page.
    """
    latency = _latency(report)
    return rendered(
        "report.html.j2",
        title=f"{report.model} at {report.gateway}",
        report=report,
        mark=mark_of(report),
        error_rates=error_rates(report.options),
        predictions=predictions_in_words(report) if report.profile else "",
        findings=_failed_first(findings_table(report)),
        splits=[drawn(chart) for chart in _splits(report)],
        latency=drawn(latency) if latency else "",
        failed=int(report.records.failed.sum()),
        failures=_failures(report),
    )


def _failed_first(findings: Table) -> Table:
    """
    The findings with those that did not hold first: a reader on a phone sees them without scrolling.
    """
    rows = sorted(findings.rows, key=lambda row: row.mark == "held")
    return Table(findings.head, tuple(rows), explained=findings.explained)


def _splits(report: Report) -> list[Chart]:
    """
    For each route that splits, each track's share of the answers so far, beside the shares that its weight allows.
    """
    charts = []
    for route in report.routes:
        tracks = _by_chance(route)
        lines = _shares(report, route, tracks)
        if not lines:
            continue
        most = int(max(points[-1][0] for _, points in lines))
        charts.append(
            Chart(
                f"{route.name}: {route}. Dotted: declared; grey: where the counts may be.",
                lines,
                x="answers",
                y="% of answers",
                y_most=100,
                levels=[route.weights[track] for track in tracks],
                bands=[_band(route.weights, track, most, report.options.alpha) for track in tracks],
            )
        )
    return charts


def _by_chance(route: Route) -> list[str]:
    """
    The tracks to draw: of two, the smaller one says it all, since the other is what is left.
    """
    tracks = [track for track, weight in route.weights.items() if 0 < weight < 100]
    return [min(tracks, key=lambda track: route.weights[track])] if len(tracks) == 2 else tracks


def _shares(report: Report, route: Route, tracks: Sequence[str]) -> list[tuple[str, Sequence[Point]]]:
    """
    For each API and track, the track's share in % of the first n answers, for each n.
    """
    lines: list[tuple[str, Sequence[Point]]] = []
    for api in Api:
        seen = report.records.answered().of(api=api, request=split_request(route.name))
        answers = [seen.names[number] for number in seen.track]
        for track in tracks if answers else ():
            counts = itertools.accumulate(answer == track for answer in answers)
            lines.append((f"{track} over {api.value}", [(n, 100 * k / n) for n, k in enumerate(counts, 1)]))
    return lines


def _band(
    weights: Mapping[str, float], track: str, most: int, alpha: float
) -> list[tuple[float, float, float]]:
    band: list[tuple[float, float, float]] = []
    for n in thinned(range(1, most + 1)):
        region = next(one for one in regions(weights, n, alpha) if one.track == track)
        band.append((n, 100 * region.low / n, 100 * region.high / n))
    return band


def _latency(report: Report) -> Chart | None:
    """
    For each track and API, the part of the answers within a time; None if no answer named its track.
    """
    lines = []
    answered = report.records.answered()
    for track, api in itertools.product(sorted(answered.counts("track")), Api):
        latencies = np.sort(answered.of(api=api, track=track).latency)
        if len(latencies):
            points = [(1000 * float(s), 100 * (i + 1) / len(latencies)) for i, s in enumerate(latencies)]
            lines.append((f"{track} over {api.value}", points))
    if not lines:
        return None
    return Chart(
        "Part of the answers (metadata and predictions) within this time; the time's scale is logarithmic.",
        lines,
        x="ms",
        y="% of answers",
        y_most=100,
        log=True,
    )


def _failures(report: Report) -> Table:
    """
    The first requests that failed.
    """
    records = report.records
    rows = [
        Row(
            (
                f"{records.due[i]:.2f}",
                (Api.REST if records.code[i] == NO_CODE else Api.GRPC).value,
                records.names[records.track[i]] or "unnamed",
                records.names[records.error[i]],
            )
        )
        for i in np.flatnonzero(records.failed)[:_SHOWN_FAILURES]
    ]
    return Table(("after s", "API", "track", "answer"), tuple(rows))
