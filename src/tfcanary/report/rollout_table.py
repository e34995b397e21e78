"""
A rollout as tables and as JSON: where it is now, and how those before it ended.
"""

import dataclasses
from typing import Any

from tfcanary.report.evidence import Shown
from tfcanary.report.rollout_reading import because, reading
from tfcanary.report.table import Row, Table
from tfcanary.report.times import utc
from tfcanary.rollout.outlook import Outlook
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import Note, State
from tfcanary.text import printable

SCHEMA = "tfserving-canary/rollout-status/1"
_ENDS = {Phase.SUCCEEDED.value: "held", Phase.ROLLED_BACK.value: "failed", Phase.FAILED.value: "failed"}


def state_table(plan: Plan, state: State, now: float) -> Table:
    """
    Where a rollout is, its sentence last.

    Args:
        plan: what was declared.
        state: where it is.
        now: seconds since 1970.

    Raises:
        UsageError: if the evidence in the state is not that of this plan.
    """
    read = reading(plan, state, now)
    return Table(
        ("signal", "evidence: worse", "not worse", "promotion", "counts"),
        tuple(map(signal_row, read.signals)),
        above=(
            *(f"{name}: {text}" for name, text in read.facts),
            *(f"held: {why}" for why in read.holds),
            "",
        ),
        below=("", read.sentence),
        mark=read.mark,
    )


def signal_row(signal: Shown) -> Row:
    """
    A signal's evidence, each number with its bound.
    """
    by_claim = {bar.claim: bar.words for bar in signal.bars}
    cells = (signal.name, by_claim["worse"], by_claim.get("not worse", ""), signal.promotion, signal.counts)
    found = [bar.mark for bar in signal.bars if bar.mark]
    return Row(cells, mark=found[0] if found else "")


def state_json(state: State, plan: Plan, now: float) -> dict[str, Any]:
    """
    Where a rollout is as JSON values; `schema` names this form. Times are in seconds since 1970, weights in per cent.

    Args:
        state: where it is.
        plan: what was declared.
        now: seconds since 1970.

    Raises:
        UsageError: if the evidence in the state is not that of this plan.
    """
    read = reading(plan, state, now)
    return {
        "schema": SCHEMA,
        "run": state.run,
        "release": plan.release,
        "from": state.baseline.versions.get(plan.stable),
        "to": plan.to,
        "planDigest": state.digest,
        "startedBy": state.by,
        "startedAt": state.started,
        "driver": state.driver,
        "at": now,
        "lastEventAt": state.now,
        "stage": state.stage.value,
        "phase": state.phase.value,
        "phaseSince": state.entered,
        "ended": state.ended,
        "reason": state.reason,
        "step": state.step,
        "weight": state.weight,
        "weights": [dataclasses.asdict(one) for one in state.steps],
        "revision": state.revision,
        "requestsPerSecond": state.per_second,
        "verdict": state.verdict,
        "ruling": read.ruling.as_json(),
        "expected": {"inWords": read.expected.words, "half": read.expected.half, "most": read.expected.most},
        "holds": list(read.holds),
        "awaiting": state.awaiting or None,
        "pausedBy": state.paused or None,
        "outageSince": state.outage,
        "withoutProof": state.anyway or None,
        "approvals": [dataclasses.asdict(one) for one in state.approvals],
        "events": [dataclasses.asdict(one) for one in state.notes],
    }


def history_table(state: State) -> Table:
    """
    How the rollouts before ended, the present one last.
    """
    rows = [_ended(note) for note in state.earlier]
    now = (
        _row(utc(state.now), state.run, state.phase.value, state.reason)
        if state.ended
        else _row(f"since {utc(state.started)}", state.run, state.stage.value, state.hold or state.reason)
    )
    return Table(("ended", "rollout", "end", "reason"), (*rows, now))


def _ended(note: Note) -> Row:
    """
    A row of what `State.as_earlier` wrote: the run, the end and the reason.
    """
    run, _, rest = note.text.partition(": ")
    end, _, reason = rest.partition(": ")
    return _row(utc(note.at), run, end, reason)


def _row(at: str, run: str, end: str, reason: str) -> Row:
    return Row((at, printable(run), printable(end), printable(because(reason))), mark=_ENDS.get(end, "open"))


def outlook_table(plan: Plan, found: Outlook) -> Table:
    """
    What rollouts of a plan took that were tried out.
    """
    ends = sorted(found.ends)
    rows = [
        Row((f"{one.weight:g} %", *(f"{seconds:.0f} s" for seconds in (one.first, one.median, one.last))))
        for one in found.stays
    ]
    if ends:
        middle = ends[len(ends) // 2]
        rows.append(Row(("promoted", *(f"{seconds:.0f} s" for seconds in (ends[0], middle, ends[-1])))))
    tried = len(ends) + found.back
    return Table(
        ("canary's weight", "at the earliest", "median", "at the latest"),
        tuple(rows),
        above=(
            (
                f"version {plan.to} of release {plan.release}, as good as stable: {100 * found.base:g} % of both tracks' "
                f"requests fail, {found.per_second:g} requests a second"
            ),
            "",
        ),
        below=(
            "",
            (
                f"{tried} rollouts tried out, {found.back} of them rolled back; another one ends between the earliest and "
                f"the latest with probability {found.within:.2f}"
            ),
        ),
        numbers=frozenset({"at the earliest", "median", "at the latest"}),
    )
