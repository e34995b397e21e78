"""
A rollout as one HTML file with everything in it: while it goes on, and its record once it has ended.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tfcanary import rollout
from tfcanary.chart.schema import problems
from tfcanary.errors import UsageError
from tfcanary.report.evidence import Shown, scale, shown_from
from tfcanary.report.page import rendered
from tfcanary.report.rollout_plot import happened, weights_plot
from tfcanary.report.rollout_reading import because, reading
from tfcanary.report.svg import drawn
from tfcanary.report.table import Row, Table
from tfcanary.report.times import lasting, utc
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.record import record
from tfcanary.rollout.state import State
from tfcanary.text import printable

_SCHEMA_FILE = Path(rollout.__file__).with_name("record.schema.json")
_MARKS = {"succeeded": "held", "rolled back": "failed", "failed": "failed"}


def live_page(plan: Plan, state: State, now: float, refresh_seconds: float) -> str:
    """
    The page of a rollout at one moment, which loads itself again until the rollout has ended.

    The values that the release was given are left out: a reader of the page may not have the right to read them.

    Args:
        plan: what was declared.
        state: where it is.
        now: seconds since 1970.
        refresh_seconds: until the page is loaded again, at least 1.

    Raises:
        UsageError: if the evidence in the state is not that of this plan.
    """
    read = reading(plan, state, now)
    made = record(plan, state, {})
    return _page(
        made,
        signals=read.signals,
        until=state.now if state.ended else now,
        title=f"{plan.release}: version {plan.to}, {state.stage.value}",
        mark=read.mark,
        sentence=read.sentence,
        summary=read.facts,
        holds=read.holds,
        baseline="",
        refresh=0 if state.ended else max(1, math.ceil(refresh_seconds)),
        made_at=utc(now),
    )


def record_page(record: Mapping[str, Any]) -> str:
    """
    The page of a release record, which says later what was released, on what evidence, and who approved it.

    Args:
        record: as `record.schema.json` has it.

    Raises:
        UsageError: if it is no record.
    """
    for _, problem in problems(_schema(), record, "the record"):
        raise UsageError(f"release record: {problem}")
    try:
        judge = record["plan"]["document"]["judge"]
        signals = shown_from(record["ruling"], alpha=float(judge["alpha"]), beta=float(judge["beta"]))
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise UsageError(
            f"release record: expected a plan with alpha and beta and the judge's ruling, got {type(exc).__name__}: {exc}"
        ) from exc
    end = record["end"] or "not ended"
    return _page(
        record,
        signals=signals,
        until=record["endedAt"] or max([record["startedAt"], *(one["at"] for one in record["events"])]),
        title=printable(f"{record['release']}: version {record['to']}, {end}"),
        mark="open" if record["withoutProof"] else _MARKS.get(end, "open"),
        sentence=_sentence(record, end),
        summary=_summary(record),
        holds=(),
        baseline=_yaml(record["baseline"]["values"]),
        refresh=0,
        made_at="",
    )


def unreachable_page(reason: str, refresh_seconds: float) -> str:
    """
    The page while a rollout cannot be read, which tries again.

    Args:
        reason: one line.
        refresh_seconds: until then.
    """
    return rendered(
        "unreachable.html.j2",
        title="The rollout cannot be read",
        reason=printable(reason),
        refresh=max(1, math.ceil(refresh_seconds)),
    )


@functools.cache
def _schema() -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(_SCHEMA_FILE.read_text(encoding="utf-8"))
    return found


def _page(made: Mapping[str, Any], *, signals: Sequence[Shown], until: float, **content: Any) -> str:
    """
    What both pages have in common.
    """
    marked = happened(made["events"])
    return rendered(
        "rollout.html.j2",
        weights=_weights(made),
        plot=drawn(weights_plot(made, marked, until)) if made["weights"] else "",
        marked=[f"{utc(at)}: {printable(text)}" for at, text in marked],
        signals=signals,
        scale=scale(signals),
        shown=[printable(text) for text in made["shown"]],
        not_shown=[printable(text) for text in made["notShown"]],
        approvals=_approvals(made),
        events=[f"{utc(one['at'])}: {printable(one['text'])}" for one in reversed(made["events"])],
        facts=_facts(made),
        plan=_yaml(made["plan"]["document"]),
        digest=made["plan"]["digest"],
        revision=made["baseline"]["revision"],
        **content,
    )


def _sentence(record: Mapping[str, Any], end: str) -> str:
    why = because(record["reason"]) if record["end"] else record["verdict"]
    unproven = f"; {record['withoutProof']} promoted it without a proof" if record["withoutProof"] else ""
    return printable(f"{end[:1].upper()}{end[1:]}: {why or 'no verdict yet'}{unproven}")


def _summary(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    began, ended = record["startedAt"], record["endedAt"]
    lines = [
        ("rollout", f"{record['run']}: {record['release']}, from version {record['from']} to {record['to']}"),
        ("started", f"by {record['startedBy']} at {utc(began)}"),
        ("ended", "not yet" if ended is None else f"{utc(ended)}, after {lasting(ended - began)}"),
        (
            "weight",
            f"{record['weight']:g} %, as asked for last; Helm revision {record['revision'] or 'none'}",
        ),
        (
            "probes",
            f"{record['cleanProbes']:,} at weight 0, all clean" if record["cleanProbes"] else "no clean ones",
        ),
    ]
    if record["verdict"] != record["reason"]:
        # That of a rollback is the reason, which was said first.
        lines.insert(4, ("verdict", record["verdict"] or "none: the judge never looked"))
    if record["reactionSeconds"]:
        lines.append(
            (
                "reaction",
                f"{lasting(record['reactionSeconds'])} from a bad answer until the weight is 0, as measured",
            )
        )
    return [(name, printable(text)) for name, text in lines]


def _weights(made: Mapping[str, Any]) -> Table:
    rows = [
        Row((f"{one['weight']:g} %", utc(one["askedAt"]), _seen(one), printable(one["verdict"])))
        for one in made["weights"]
    ]
    return Table(("weight", "asked for", "seen", "the judge's last sentence"), tuple(rows))


def _seen(weight: Mapping[str, Any]) -> str:
    if weight["seenAt"] is None:
        return "not at every gateway pod"
    return f"after {lasting(weight['seenAt'] - weight['askedAt'])} at {_pods(weight['gatewayPods'])}"


def _pods(count: int) -> str:
    return f"{count} pod" if count == 1 else f"{count} pods"


def _approvals(made: Mapping[str, Any]) -> Table:
    rows = [Row((printable(one["gate"]), printable(one["by"]), utc(one["at"]))) for one in made["approvals"]]
    return Table(("gate", "approved by", "at"), tuple(rows))


def _facts(made: Mapping[str, Any]) -> Table:
    rows = [Row((printable(name), printable(digest))) for name, digest in sorted(made["facts"].items())]
    return Table(("what", "digest"), tuple(rows))


def _yaml(values: Mapping[str, Any]) -> str:
    # JSON values have no other types; what a terminal or a reader could stumble over is escaped.
    return yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, width=100)
