"""
Tables: one form for the terminal, for files and for pages.

A terminal gets colours and columns that fit its width. A pipe, a file and a CI get plain text: every row whole on one
line, the same on every machine.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table as Grid
from rich.text import Text

from tfcanary.check.report import Report
from tfcanary.check.subject import Options
from tfcanary.contract import Api
from tfcanary.judge.verdict import Outcome
from tfcanary.text import printable
from tfcanary.traffic.records import Records, counts_in_words

# What a page calls a result; the style sheet has a class of each name.
MARKS = {Outcome.HELD: "held", Outcome.FAILED: "failed", Outcome.NOT_ENOUGH: "open"}
_STYLES = {"held": "green", "failed": "red", "open": "yellow"}
# Wider than any row: a row on a pipe is never broken.
_UNLIMITED = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row of a table.

    Attributes:
        mark: "held", "failed" or "open"; it colours the first cell.
        detail: what to say below the row.
    """

    cells: tuple[str, ...]
    mark: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """
    Rows under a head; `str` gives plain text.

    Attributes:
        above: lines before the table.
        below: lines after it.
        mark: "held", "failed" or "open"; it colours the last line below.
        ruled: whether dashes separate the head from the rows.
        numbers: the columns that are aligned to the right.
        explained: the column in which a row's detail stands where columns are narrow.
    """

    head: tuple[str, ...]
    rows: tuple[Row, ...]
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    mark: str = ""
    ruled: bool = True
    numbers: frozenset[str] = frozenset()
    explained: str = ""

    def __str__(self) -> str:
        with io.StringIO() as file:
            _console(file, terminal=False).print(self)
            return "\n".join(line.rstrip() for line in file.getvalue().removesuffix("\n").split("\n"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """
        Render for `rich`: details are part of a cell on a terminal, and lines of their own elsewhere.
        """
        yield from map(Text, self.above)
        grid = self._grid(with_details=options.is_terminal)
        if options.is_terminal:
            yield grid
        else:
            yield from self._with_details(console.render_lines(grid, options, pad=False))
        yield from map(Text, self.below[:-1])
        yield from (Text(line, f"bold {_STYLES.get(self.mark, '')}") for line in self.below[-1:])

    def named(self, row: Row) -> Iterator[tuple[str, str]]:
        """
        The name and the text of each cell, a detail within its cell.
        """
        for name, cell in zip(self.head, row.cells, strict=True):
            yield name, f"{cell} — {row.detail}" if row.detail and name == self.explained else cell

    def _grid(self, *, with_details: bool) -> Grid:
        grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for i, name in enumerate(self.head):
            justify: Literal["left", "right"] = "right" if name in self.numbers else "left"
            grid.add_column(name, justify=justify, no_wrap=i == 0, overflow="fold")
        if self.ruled:
            grid.add_row(*(Rule(characters="-", style="dim") for _ in self.head))
        for row in self.rows:
            cells = [Text(printable(cell)) for cell in row.cells]
            cells[0].stylize(_STYLES.get(row.mark, ""))
            if row.detail and with_details:
                cells[self.head.index(self.explained)].append(f"\n{printable(row.detail)}", "dim")
            grid.add_row(*cells)
        return grid

    def _with_details(self, lines: Sequence[Sequence[Segment]]) -> Iterator[Segment | Text]:
        """
        The rendered lines, each row's detail below its line.
        """
        heads = len(lines) - len(self.rows)
        for i, line in enumerate(lines):
            yield from line
            yield Segment.line()
            if i >= heads and self.rows[i - heads].detail:
                yield Text(f"    {printable(self.rows[i - heads].detail)}")


def write(table: Table, stream: TextIO) -> None:
    """
    Write a table: with colours if the stream is a terminal, as plain text otherwise and in a CI.
    """
    if stream.isatty() and os.environ.get("CI") != "true":
        _console(stream, terminal=True).print(table)
    else:
        stream.write(f"{table}\n")


def _console(file: TextIO, *, terminal: bool) -> Console:
    # Rich itself would also take FORCE_COLOR for a terminal, which breaks the rows of a CI's log.
    width = None if terminal else _UNLIMITED
    return Console(
        file=file, force_terminal=terminal, width=width, highlight=False, markup=False, emoji=False
    )


def findings_table(report: Report) -> Table:
    """
    Every finding of a check, the verdict last.
    """
    requests = f"{len(report.records)} requests in {report.seconds:.1f} s"
    rows = [
        Row(
            (
                finding.outcome.value,
                f"{finding.name} {finding.about}".strip(),
                finding.api.value if finding.api else "",
                finding.expected,
                finding.observed,
                str(finding.n),
            ),
            mark=MARKS[finding.outcome],
            detail="" if finding.outcome is Outcome.HELD else finding.detail,
        )
        for finding in report.findings
    ]
    return Table(
        ("result", "check", "API", "expected", "seen", "answers"),
        tuple(rows),
        above=(
            f"model {report.model} at {report.gateway}, route {report.revision or 'unknown'}",
            f"asked for host {report.host or report.gateway}, of the gateway's hosts {', '.join(report.hosts)}",
            *(f"  {route.name}: {route}" for route in report.routes),
            *([f"predictions: {predictions_in_words(report)}"] if report.profile else []),
            "",
        ),
        below=(
            "",
            *(f"not checked: {lost}" for lost in report.lost),
            f"{requests}; for each split: {error_rates(report.options)}",
            report.verdict,
        ),
        mark=mark_of(report),
        numbers=frozenset({"answers"}),
        explained="seen",
    )


def predictions_in_words(report: Report) -> str:
    """
    What the model was looked at for, and where the inputs were from.
    """
    return f"profile {report.profile}; {report.source or 'none asked'}"


def error_rates(options: Options) -> str:
    """
    How often the verdict on a split may be wrong.
    """
    return f"false alarm at most {options.alpha:g}, a difference of {options.detect:g} points found with {options.power:.4g}"


def mark_of(report: Report) -> str:
    """
    Whether a report held, failed, or leaves the question open.
    """
    return "held" if report.held else "failed" if report.exit_code == 1 else "open"


def phases_table(records: Records) -> Table:
    """
    The load of each phase, and of all of them.
    """
    rows = []
    for phase in [*records.phases(), records]:
        figures = phase.summary()
        latency = figures["latencyMs"]
        rows.append(
            Row(
                (
                    phase.about,
                    str(figures["requests"]),
                    str(figures["failed"]),
                    str(figures["perSecond"] or ""),
                    counts_in_words(phase.counts("track")),
                    *("" if latency[part] is None else str(latency[part]) for part in ("p50", "p99", "max")),
                )
            )
        )
    head = ("phase", "requests", "failed", "per s", "tracks", "p50 ms", "p99 ms", "max ms")
    return Table(head, tuple(rows), ruled=False)


def strategies_table(reports: Sequence[tuple[str, Report]]) -> Table:
    """
    The result of each strategy over each API: the splits that were seen, and how many checks held.
    """
    rows = []
    for strategy, report in reports:
        for api in Api:
            of_api = [finding for finding in report.findings if finding.api in (api, None)]
            held = [finding for finding in of_api if finding.outcome is Outcome.HELD]
            splits = [finding for finding in of_api if finding.name == "split"]
            all_held = len(held) == len(of_api)
            rows.append(
                Row(
                    (
                        "held" if all_held else "NOT HELD",
                        strategy,
                        api.value,
                        "; ".join(f"{finding.about}: {finding.observed}" for finding in splits),
                        str(sum(finding.n for finding in splits)),
                        f"{len(held)} of {len(of_api)}",
                    ),
                    mark="held" if all_held else "failed",
                )
            )
    return Table(("result", "strategy", "API", "seen", "requests", "checks held"), tuple(rows))
