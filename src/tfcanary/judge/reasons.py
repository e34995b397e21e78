"""
From the evidence to a decision, and the sentence that gives the reason.

The order matters: a fault that no input explains comes before all statistics, and a split that is not the declared one
before the evidence that rests on it.
"""

import math
from typing import TYPE_CHECKING

from tfcanary.judge.guards import SPLIT_ALPHA, stable_fails
from tfcanary.judge.reading import of
from tfcanary.judge.ruling import Action

if TYPE_CHECKING:
    from tfcanary.judge.judge import Judge

Decision = tuple[Action, str]


def decide(judge: "Judge", now: float | None) -> Decision:
    """
    What to do at this time, by default that of the last look.
    """
    now = judge.at if now is None else now
    found = _faulty(judge) or _void(judge) or _worse(judge) or _stable_fails(judge)
    if found:
        return found
    waits = waiting_for(judge, now)
    if not waits:
        return Action.PROMOTE, f"promote: {'; '.join(one.shown for one in judge.signals() if one.required)}"
    if judge.at is not None and now is not None and now - judge.began >= judge.plan.horizon:
        hours = judge.plan.horizon / 3600
        return Action.INCONCLUSIVE, f"inconclusive: not decided within {hours:.3g} h: {'; '.join(waits)}"
    return Action.WAIT, f"wait: {'; '.join(waits)}"


def _faulty(judge: "Judge") -> Decision | None:
    for kind, (canary, stable) in sorted(judge.faults.items()):
        if canary and stable:
            return (
                Action.INCONCLUSIVE,
                f"inconclusive: stable fails too: {kind} in {canary:,} answers of the canary and {stable:,} of stable",
            )
        if canary:
            return (
                Action.ROLLBACK,
                f"roll back: {kind} in {canary:,} answers of the canary, which no input explains",
            )
    return None


def _void(judge: "Judge") -> Decision | None:
    split = judge.split
    if not split.refuted(judge.weight):
        return None
    seen = f"the canary gave {of(split.canary, split.canary + split.stable)} answers of this step"
    if not split.canary:
        return (
            Action.ROLLBACK,
            f"roll back: {seen} at a weight of {judge.weight:g} %: nothing that it gets is answered",
        )
    sentence = (
        f"inconclusive: {seen}, and a weight of {judge.weight:g} % gives that with probability {SPLIT_ALPHA:g} at most; "
        "the evidence is void: find what else routes to a track"
    )
    return Action.INCONCLUSIVE, sentence


def _worse(judge: "Judge") -> Decision | None:
    alpha = judge.plan.terms.alpha
    if judge.evidence() < math.log(1 / alpha):
        return None
    run = judge.errors.run
    if run.stable and not run.canary:
        return (
            Action.ROLLBACK,
            f"roll back: none of {run.stable:,} answers is the canary's: nothing that it gets is answered",
        )
    signals = judge.signals()
    most = max(signals, key=lambda signal: signal.worse + math.log(signal.share))
    sentence = (
        f"roll back: {most.name} worse than stable: {most.counts}; a canary that is no worse ever shows this with "
        f"probability {100 * alpha:g} % at most"
    )
    return Action.ROLLBACK, sentence


def _stable_fails(judge: "Judge") -> Decision | None:
    run, terms = judge.errors.run, judge.plan.terms
    if not stable_fails(run, terms):
        return None
    sentence = (
        f"inconclusive: stable fails too: {of(run.stable_bad, run.stable)} of its {judge.plan.unit}s, and the ceiling is "
        f"{100 * terms.ceiling:g} %; promote by hand if the canary is the repair"
    )
    return Action.INCONCLUSIVE, sentence


def waiting_for(judge: "Judge", now: float | None) -> list[str]:
    """
    What is missing for a promotion, each in words; empty if nothing is.
    """
    plan = judge.plan
    waits = []
    if judge.problem:
        waits.append(f"no evidence in the last look: {judge.problem}")
    elif judge.at is not None and now is not None and not now - judge.at < plan.stale:
        waits.append(f"the last look is {now - judge.at:g} s old")
    if judge.missing > plan.missing * judge.looks:
        waits.append(f"{judge.missing:,} of {judge.looks:,} looks of this step were no evidence")
    answers = judge.split.canary + judge.split.stable + judge.unnamed
    if judge.unnamed > plan.missing * answers:
        waits.append(f"{of(judge.unnamed, answers)} answers of this step name no track")
    if judge.weight < plan.top:
        waits.append(f"the weight is {judge.weight:g} % of {plan.top:g} %")
    if judge.at is not None and judge.at - judge.step_began < plan.least_seconds:
        waits.append(f"the step is {judge.at - judge.step_began:g} s of {plan.least_seconds:g} s old")
    if judge.split.canary < plan.least_requests:
        waits.append(f"{judge.split.canary:,} of {plan.least_requests:,} canary answers in this step")
    bound = 1 / plan.terms.beta
    waits.extend(
        f"{signal.name}: evidence {math.exp(signal.not_worse):.3g} of {bound:.3g} that it is not worse; {signal.counts}"
        for signal in judge.signals()
        if signal.required and not signal.proven and signal.not_worse is not None
    )
    return waits
