"""
A verdict on a canary as one HTML file: the sentence, the evidence over time against its two bounds, the counts.
"""

import math
from collections.abc import Sequence

from tfcanary.judge.log import Entry, Log
from tfcanary.judge.ruling import Action
from tfcanary.report.page import rendered
from tfcanary.report.svg import Chart, Point, drawn, thinned
from tfcanary.report.table import Row, Table

_MARKS = {Action.PROMOTE: "held", Action.ROLLBACK: "failed"}
# Evidence is drawn in powers of ten, from the first to the second.
_LEAST, _MOST = -2.0, 6.0


def verdict_page(log: Log) -> str:
    """
    The page of a log with at least one look.
    """
    plan, (_, ruling) = log.judge.plan, log.entries[-1]
    terms = plan.terms
    return rendered(
        "verdict.html.j2",
        title={
            Action.PROMOTE: "Promote the canary",
            Action.ROLLBACK: "Roll the canary back",
            Action.WAIT: "Not decided yet",
            Action.INCONCLUSIVE: "No verdict",
        }[ruling.action],
        mark=_MARKS.get(ruling.action, "open"),
        ruling=ruling,
        plan=plan,
        digest=log.chain,
        looks=len(log.entries),
        seconds=log.judge.at - log.judge.began if log.judge.at is not None else 0.0,
        worse=drawn(_chart(log, "worse", math.log10(1 / terms.alpha))),
        not_worse=drawn(_chart(log, "not worse", math.log10(1 / terms.beta))),
        signals=_signals(log),
        counts=_counts(log),
        gaps=_gaps(log.entries),
        shown=[signal.shown for signal in ruling.signals if signal.proven],
        not_shown=[
            name for name in ("errors", "slow", "disagreement", "accuracy") if name not in _proven(log)
        ],
    )


def _proven(log: Log) -> set[str]:
    return {signal.name for signal in log.entries[-1][1].signals if signal.proven}


def _chart(log: Log, which: str, bound: float) -> Chart:
    """
    The evidence of each signal over time, in powers of ten.
    """
    begin = log.judge.began
    lines: dict[str, list[Point]] = {}
    used = [(look, ruling) for look, ruling in log.entries if ruling.at is not None]
    for _, ruling in thinned(used):
        at = (ruling.at or begin) - begin
        for signal in ruling.signals:
            value = signal.worse if which == "worse" else signal.not_worse
            if value is not None:
                lines.setdefault(signal.name, []).append((at, _power(value)))
        # Last, that a signal has one colour in both charts.
        if which == "worse" and len(ruling.signals) > 1:
            lines.setdefault("all signals", []).append((at, _power(ruling.evidence)))
    return Chart(
        f"Evidence for “{which}”. Dotted: 0, no evidence either way, and the bound of {10**bound:g} to 1.",
        [*lines.items()] or [("no look", [(0.0, 0.0)])],
        x="seconds",
        y="power of ten",
        y_most=_MOST,
        levels=[0.0, bound],
        y_least=_LEAST,
    )


def _power(evidence: float) -> float:
    return evidence / math.log(10)


def _signals(log: Log) -> Table:
    ruling = log.entries[-1][1]
    rows = [
        Row(
            (
                signal.name,
                f"{math.exp(min(signal.worse, 700)):.3g}",
                "" if signal.not_worse is None else f"{math.exp(min(signal.not_worse, 700)):.3g}",
                "proven" if signal.proven else "required" if signal.required else "watched",
                signal.counts,
            ),
            mark="held" if signal.proven else "",
        )
        for signal in ruling.signals
    ]
    return Table(("signal", "evidence: worse", "not worse", "promotion", "counts"), tuple(rows))


def _counts(log: Log) -> Table:
    """
    Requests and failures at each weight, in order.
    """
    steps: list[tuple[float, list[Entry]]] = []
    for look, ruling in log.entries:
        if ruling.at is None:
            continue
        if not steps or steps[-1][0] != ruling.weight:
            steps.append((ruling.weight, []))
        steps[-1][1].append((look, ruling))
    rows = []
    for weight, entries in steps:
        used = [look.errors for look, ruling in entries if not look.problem and ruling.at is not None]
        total = [sum(counts[i] for counts in used if counts[i] == counts[i]) for i in range(4)]
        rows.append(
            Row(
                (
                    f"{weight:g} %",
                    f"{total[0]:,} of {total[0] + total[1]:,}",
                    f"{total[2]:,} of {total[2] + total[3]:,}",
                    f"{len(entries):,}",
                )
            )
        )
    return Table(("weight", "canary failed", "stable failed", "looks"), tuple(rows))


def _gaps(entries: Sequence[Entry]) -> list[str]:
    """
    Looks that were no evidence, by reason.
    """
    reasons: dict[str, int] = {}
    before: float | None = None
    for look, ruling in entries:
        problem = look.unusable(before)
        if problem:
            reasons[problem] = reasons.get(problem, 0) + 1
        before = ruling.at
    return [f"{n:,} looks: {reason}" for reason, n in reasons.items()]
