"""
What was proven, for a reader: one HTML file with everything in it, or JUnit XML for a CI.

The page loads nothing: no script, no font, no style from elsewhere. Charts are SVG, drawn here; on a narrow screen
a table's rows become blocks. All text that came from a gateway is escaped.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeVar

import numpy as np

from tfcanary.check.finding import Finding
from tfcanary.check.report import Report, split_request
from tfcanary.contract import Api
from tfcanary.judge.split import regions
from tfcanary.judge.verdict import Outcome
from tfcanary.report.svg import Point, chart, thinned
from tfcanary.traffic.records import NO_CODE

# What is not broken over lines: results, APIs, figures.
SHORT = 8
T = TypeVar("T")
_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #59636e; --line: #d1d9e0; --back: #fff; --card: #f6f8fa;
  --held: #1a7f37; --failed: #cf222e; --open: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --soft: #9aa4af; --line: #3d444d; --back: #0d1117;
  --card: #151b23; --held: #3fb950; --failed: #f85149; --open: #d29922; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, li, td { overflow-wrap: anywhere; } .soft { color: var(--soft); }
.verdict { padding: .75rem 1rem; border-left: .4rem solid; background: var(--card); font-weight: 600; }
.held { color: var(--held); } .failed { color: var(--failed); } .open { color: var(--open); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.short, td.number { white-space: nowrap; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .9rem; }
svg { width: 100%; height: auto; background: var(--card); } svg text { fill: var(--text); font-size: 12px; }
.axis { stroke: var(--line); } .wanted { stroke: var(--soft); stroke-dasharray: 3 3; } .band { fill: var(--line);
  opacity: .6; }
@media (max-width: 40rem) { thead { display: none; } table, tbody { display: block; } td.number { text-align: left; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td { display: block; border: 0; padding: .1rem 0; } td:empty { display: none; }
  svg text { font-size: 22px; }
  td::before { content: attr(data-name) ": "; color: var(--soft); } }
"""


def html(report: Report) -> str:
    """
    The whole report as one page.
    """
    title = f"{report.model} at {report.gateway}"
    kind = "held" if report.held else "failed" if report.exit_code == 1 else "open"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {kind}">{escape(report.verdict)}</p>',
        f'<p class="soft">Route {escape(report.revision or "unknown")}'
        + (f", release {escape(report.release)}" if report.release else "")
        + f". {len(report.records)} requests in {report.seconds:.1f} s. For each split: false alarm at most "
        f"{report.options.alpha:g}, a difference of {report.options.detect:g} points found with {report.options.power:.4g}."
        "</p>",
        "<h2>Routes</h2><ul>",
        *(f"<li><b>{escape(route.name)}</b>: {escape(str(route))}</li>" for route in report.routes),
        "</ul>",
        "<h2>Checks</h2>",
        _checks(report.findings),
    ]
    if report.lost:
        parts += ["<h2>Not checked</h2><ul>", *(f"<li>{escape(lost)}</li>" for lost in report.lost), "</ul>"]
    parts += ["<h2>Split over time</h2>", *_splits(report)]
    parts += ["<h2>Latency by track</h2>", _latency(report)]
    parts += ["<h2>Errors</h2>", _errors(report)]
    return _page(title, parts)


def zero_drop(runs: Sequence[Mapping[str, Any]]) -> str:
    """
    What background load saw while releases changed: a page of the files that the tests leave.
    """
    total = sum(run["all"]["requests"] for run in runs)
    failed = sum(run["all"]["failed"] for run in runs)
    parts = [
        "<h1>Requests dropped while the release changed</h1>",
        f'<p class="verdict {"failed" if failed else "held"}">{failed} of {total} requests failed</p>',
        '<p class="soft">REST and gRPC at a set rate, retries off; those in the middle of a change count too.</p>',
        _table(
            (
                "run",
                "requests",
                "failed",
                "per s",
                "p50 ms",
                "p99 ms",
                "slowest change s",
                "routes after helm s",
            ),
            [
                (
                    run["name"].replace("_", " "),
                    *_figures(run["all"]),
                    *(
                        f"{max(run[name]):.2f}" if run.get(name) else ""
                        for name in ("changeSeconds", "propagationSeconds")
                    ),
                )
                for run in runs
            ],
        ),
    ]
    for run in runs:
        parts.append(f"<h2>{escape(run['name'].replace('_', ' '))}</h2>")
        notes = {
            name: value
            for name, value in run.items()
            if name not in ("name", "all", "phases", "changeSeconds", "propagationSeconds", "rate", "samples")
        }
        parts += [f"<p>{escape(name)}: {escape(str(value))}</p>" for name, value in notes.items()]
        parts.append(
            _table(
                ("phase", "requests", "failed", "per s", "p50 ms", "p99 ms", "tracks"),
                [
                    (phase["about"], *_figures(phase), _counted(phase["tracks"]))
                    for phase in run["phases"]
                    if phase["requests"]
                ],
            )
        )
        if run["all"]["samples"]:
            parts += ["<ul>", *(f"<li>{escape(text)}</li>" for text in run["all"]["samples"]), "</ul>"]
    return _page("Requests dropped", parts)


def _figures(summary: Mapping[str, Any]) -> tuple[str, ...]:
    latency = summary["latencyMs"]
    return (
        str(summary["requests"]),
        str(summary["failed"]),
        str(summary["perSecond"] or ""),
        str(latency["p50"]),
        str(latency["p99"]),
    )


def _page(title: str, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _checks(checks: Sequence[Finding]) -> str:
    words = {Outcome.HELD: "held", Outcome.FAILED: "failed", Outcome.NOT_ENOUGH: "open"}
    head = ("result", "check", "API", "expected", "seen", "answers")
    rows = []
    # What did not hold comes first: a reader on a phone sees it without scrolling.
    for check in sorted(checks, key=lambda check: check.outcome is Outcome.HELD):
        detail = f" — {check.detail}" if check.detail and check.outcome is not Outcome.HELD else ""
        cells = (
            check.outcome.value,
            f"{check.name} {check.about}".strip(),
            check.api.value if check.api else "",
            check.expected,
            check.observed + detail,
            str(check.n),
        )
        rows.append(_row(head, cells, mark=words[check.outcome]))
    return _framed(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _framed(head, [_row(head, row) for row in rows])


def _framed(head: Sequence[str], rows: Sequence[str]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(head: Sequence[str], cells: Sequence[str], *, mark: str = "") -> str:
    made = []
    for i, (name, cell) in enumerate(zip(head, cells, strict=True)):
        kinds = [mark] if i == 0 and mark else []
        if cell.replace(".", "", 1).isdigit():
            kinds.append("number")
        elif len(cell) <= SHORT:
            kinds.append("short")
        kind = f' class="{" ".join(kinds)}"' if kinds else ""
        made.append(f'<td{kind} data-name="{escape(name)}">{escape(cell)}</td>')
    return f"<tr>{''.join(made)}</tr>"


def _splits(report: Report) -> list[str]:
    """
    For each route that leaves something to chance, each track's share of the answers so far, beside what it may be.
    """
    figures = []
    for route in report.routes:
        by_chance = [track for track, weight in route.weights.items() if 0 < weight < 100]
        if not by_chance:
            continue
        # One track of two says it all: the other is what is left.
        tracks = (
            [min(by_chance, key=lambda track: route.weights[track])] if len(by_chance) == 2 else by_chance
        )
        lines: list[tuple[str, Sequence[Point]]] = []
        for api in Api:
            seen = report.records.answered().of(api=api, request=split_request(route.name))
            answers = [seen.names[number] for number in seen.track]
            for track in tracks if answers else ():
                shares = itertools.accumulate(answer == track for answer in answers)
                points = [(n, 100 * count / n) for n, count in enumerate(shares, 1)]
                lines.append((f"{track} over {api.value}", points))
        if not lines:
            continue
        most = int(max(points[-1][0] for _, points in lines))
        bands = [_band(route.weights, track, most, report.options.alpha) for track in tracks]
        figures.append(
            chart(
                f"{route.name}: {route}. Dotted: declared; grey: where the counts may be.",
                lines,
                x="answers",
                y="% of answers",
                y_most=100,
                levels=[route.weights[track] for track in tracks],
                bands=bands,
            )
        )
    return figures or ['<p class="soft">No route leaves anything to chance.</p>']


def _band(
    weights: Mapping[str, float], track: str, most: int, alpha: float
) -> list[tuple[float, float, float]]:
    made: list[tuple[float, float, float]] = []
    for n in thinned(range(1, most + 1)):
        region = next(one for one in regions(weights, n, alpha) if one.track == track)
        made.append((n, 100 * region.low / n, 100 * region.high / n))
    return made


def _latency(report: Report) -> str:
    lines = []
    answered = report.records.answered()
    for track, api in itertools.product(sorted(answered.counts("track")), Api):
        latencies = np.sort(answered.of(api=api, track=track).latency)
        if len(latencies):
            points = [(1000 * float(s), 100 * (i + 1) / len(latencies)) for i, s in enumerate(latencies)]
            lines.append((f"{track} over {api.value}", points))
    if not lines:
        return '<p class="soft">No answer named its track.</p>'
    return chart(
        "Part of the answers (metadata and predictions) within this time; the time's scale is logarithmic.",
        lines,
        x="ms",
        y="% of answers",
        y_most=100,
        log=True,
    )


def _errors(report: Report) -> str:
    records = report.records
    failed = np.flatnonzero(records.failed)
    if not len(failed):
        return '<p class="held">None of the requests failed.</p>'
    head = ("after s", "API", "track", "answer")
    rows = [
        (
            f"{records.due[i]:.2f}",
            (Api.REST if records.code[i] == NO_CODE else Api.GRPC).value,
            records.names[records.track[i]] or "unnamed",
            records.names[records.error[i]],
        )
        for i in failed[:50]
    ]
    return f"<p>{len(failed)} requests failed.</p>" + _table(head, rows)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
