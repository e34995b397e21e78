"""
What there is to say of a rollout at one moment; the terminal, the tables, the page and the JSON all say it from here.
"""

from dataclasses import dataclass

from tfcanary.judge.judge import Judge, restored
from tfcanary.judge.ruling import Ruling
from tfcanary.report.evidence import Shown, shown
from tfcanary.report.rollout_outlook import Expected, expected
from tfcanary.report.times import clock, lasting, utc
from tfcanary.rollout.phases import Phase, Stage
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import State
from tfcanary.text import printable

MARKS = {Stage.SUCCEEDED: "held", Stage.ROLLED_BACK: "failed", Stage.FAILED: "failed", Stage.BACK: "failed"}
# How the judge's sentence for a rollback begins.
_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Reading:
    """
    A rollout, as it is read at one moment.

    Attributes:
        facts: what is so, as pairs of a name and a sentence.
        holds: why it does not go on, each in words; empty if nothing holds it.
        ruling: what its evidence says.
        signals: the evidence of each signal.
        expected: when a decision can be expected.
        sentence: the judge's last sentence, or why it ended or goes back.
        mark: "held", "failed" or "open".
    """

    facts: tuple[tuple[str, str], ...]
    holds: tuple[str, ...]
    ruling: Ruling
    signals: tuple[Shown, ...]
    expected: Expected
    sentence: str
    mark: str


def reading(plan: Plan, state: State, now: float) -> Reading:
    """
    Read a rollout.

    Args:
        plan: what was declared.
        state: where the rollout is.
        now: seconds since 1970.

    Raises:
        UsageError: if the evidence in the state is not that of this plan.
    """
    judge = restored(plan.judge, state.judge) if state.judge else Judge(plan.judge)
    ruling = judge.ruling()
    soon = expected(plan, state, judge, now)
    return Reading(
        tuple((name, printable(text)) for name, text in _facts(plan, state, now, soon)),
        tuple(map(printable, _holds(plan, state, now))),
        ruling,
        shown(ruling, plan.judge.terms),
        soon,
        printable(_sentence(state)),
        "open" if state.anyway and state.stage is Stage.SUCCEEDED else MARKS.get(state.stage, "open"),
    )


def because(sentence: str) -> str:
    """
    The reason in a judge's sentence, after words that say already that it went back.
    """
    return sentence.removeprefix(f"{_BACK}: ")


def _sentence(state: State) -> str:
    if state.ended:
        unproven = f"; promoted without a proof by {state.anyway}" if state.anyway else ""
        return f"{state.phase.value}: {because(state.reason)}{unproven if state.phase is Phase.SUCCEEDED else ''}"
    if state.stage is Stage.BACK:
        return f"going back: {because(state.reason)}"
    return state.verdict or "no verdict yet"


def _facts(plan: Plan, state: State, now: float, soon: Expected) -> list[tuple[str, str]]:
    old = state.baseline.versions.get(plan.stable)
    ended = state.ended
    until = "" if ended else f" for {lasting(now - state.entered)}"
    phase = "" if ended else f", {state.phase.value}"
    facts = [
        ("rollout", f"{state.run}: {plan.release}, from version {old} to {plan.to}"),
        ("started", f"by {state.by} at {utc(state.started)}, {lasting(now - state.started)} ago"),
        ("stage", f"{state.stage.value}{phase}{until}, since {clock(state.entered)} UTC"),
        *([] if ended else [("step", _step(plan, state))]),
        ("weight", _weight(state)),
    ]
    if not ended:
        seen = f"{state.per_second:.3g} requests a second" if state.per_second > 0 else "none seen yet"
        facts += [("traffic", seen), ("decision", soon.words), ("driver", state.driver)]
    if because(state.verdict) not in _sentence(state):
        facts.append(("verdict", state.verdict))
    if state.anyway:
        facts.append(("proof", f"{state.anyway} promotes without one"))
    return facts


def _step(plan: Plan, state: State) -> str:
    bake = f"then {plan.bake_weight:g} % for a bake of {lasting(plan.bake)}"
    if state.baking:
        return f"the bake, {lasting(plan.bake)} at {plan.bake_weight:g} %"
    if plan.steps:
        weights = ", ".join(f"{one.weight:g}" for one in plan.steps)
        number = (
            f"{state.step + 1} of {len(plan.steps)}"
            if state.step >= 0
            else f"before the first of {len(plan.steps)}"
        )
        return f"{number} ({weights} %, {bake})"
    return f"as the evidence allows: {', '.join(f'{weight:g}' for weight in plan.ramp.ladder)} %, {bake}"


def _weight(state: State) -> str:
    if not state.steps:
        return "0 %, none asked for yet"
    last = state.steps[-1]
    asked = f"{last.weight:g} % asked for at {clock(last.asked)}"
    if last.seen is None:
        return f"{asked}, not seen at every gateway pod yet"
    pods = "the gateway pod" if last.pods == 1 else f"all {last.pods} gateway pods"
    return f"{asked}, seen at {pods} at {clock(last.seen)} UTC"


def _holds(plan: Plan, state: State, now: float) -> list[str]:
    if state.ended:
        return []
    holds = []
    if state.outage is not None:
        holds.append(
            f"the cluster does not answer, for {lasting(now - state.outage)} of the {lasting(plan.limits.outage)} allowed"
        )
    # Only here something is saved at every look.
    silent = now - state.now
    if state.phase is Phase.JUDGE and silent > max(plan.judge.stale, 3 * plan.limits.look):
        holds.append(f"nothing was heard of its driver {state.driver} for {lasting(silent)}")
    if state.abort:
        holds.append(f"it is to go back: {state.abort}")
    if state.paused:
        holds.append(f"paused by {state.paused}")
    if state.awaiting:
        holds.append(f"awaits an approval: {state.awaiting}")
    if state.hold:
        holds.append(state.hold)
    # What holds it is often named by `hold` as well, in the same words.
    return list(dict.fromkeys(holds))
