"""
What the judge's verdict means for the weight: back, on, or stay.
"""

import math
from dataclasses import replace

from tfcanary.judge.ruling import Action as Verdict
from tfcanary.rollout.events import Judged
from tfcanary.rollout.moves import back, enter, held
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.plan import PROMOTION, Plan
from tfcanary.rollout.state import State
from tfcanary.rollout.windows import closed


def recorded(plan: Plan, state: State, event: Judged, passed: float) -> State:
    """
    Take down what the judge said. The time of a step does not count while a person or a window holds it.
    """
    waits = bool(state.paused or state.awaiting or closed(plan.windows, state.now))
    state = replace(
        state,
        judge=event.judge,
        per_second=event.per_second,
        stuck=event.stuck,
        spent=state.spent + (0.0 if waits else passed),
    )
    return state.judged(event.sentence)


def judged(plan: Plan, state: State, event: Judged) -> State:
    """
    Back, on, or stay.
    """
    if event.verdict is Verdict.ROLLBACK:
        return back(state, event.sentence)
    undecided = event.verdict is Verdict.INCONCLUSIVE and not state.anyway
    if undecided and not event.stuck:
        return back(state, event.sentence)
    most = plan.limits.most + (plan.bake if state.baking else 0.0)
    if state.spent > most:
        return back(
            state, f"not decided at {state.weight:g} % within {most:g} s: {state.hold or event.sentence}"
        )
    if undecided:
        return held(state, event.sentence)
    target = _target(plan, state, event)
    return (
        held(state, f"paused by {state.paused}" if state.paused else "")
        if target is None
        else _towards(plan, state, target)
    )


def _target(plan: Plan, state: State, event: Judged) -> float | None:
    """
    The weight that the evidence allows now; None for the present one.
    """
    proven = event.sound and event.verdict is Verdict.PROMOTE
    elapsed = state.now - state.since
    if state.baking:
        return 100.0 if elapsed >= plan.bake and (proven or state.anyway) else None
    if state.anyway or proven:
        return plan.bake_weight
    if not event.sound or elapsed < plan.limits.least:
        return None
    if not plan.steps:
        return event.allowed if event.allowed > state.weight else None
    if state.step + 1 == len(plan.steps):
        return None
    weight = plan.steps[state.step + 1].weight
    enough = state.step < 0 or event.answers >= plan.judge.least_requests or event.allowed >= weight
    return weight if enough else None


def _towards(plan: Plan, state: State, target: float) -> State:
    """
    Raise the weight, unless a person, a window or the canary's pods stand against it.
    """
    gate, target = _gate(plan, state, target)
    if gate:
        state = replace(state, awaiting=gate)
    window = closed(plan.windows, state.now)
    if state.paused:
        return held(state, f"paused by {state.paused}")
    if gate:
        return held(state, f"awaits an approval: {gate}")
    if window:
        return held(state, f"blackout: {window}")
    lower = [weight for weight in plan.ramp.ladder if state.weight < weight < target]
    choices = [target, *(reversed(lower) if target <= plan.top else ())]
    for weight in choices:
        if pods_for(plan, state, weight) <= state.replicas:
            return _weigh(plan, state, weight)
    pods = pods_for(plan, state, target)
    if plan.capacity.scale and pods <= plan.capacity.most:
        return enter(plan, replace(state, replicas=pods), Phase.SCALE)
    shortage = f"{target:g} % of {state.per_second:.3g} requests a second needs {pods} pods of the canary"
    limit = f"at most {plan.capacity.most} are allowed" if plan.capacity.scale else f"it has {state.replicas}"
    return held(state, f"{shortage}, and {limit}")


def _weigh(plan: Plan, state: State, weight: float) -> State:
    state = replace(state, awaiting="")
    if weight == 100:
        return enter(plan, state, Phase.WHOLE)
    baking = weight == plan.bake_weight
    number = next((i for i, one in enumerate(plan.steps) if one.weight == weight), state.step)
    state = replace(state, exposed=True, baking=baking, step=number)
    return enter(plan, state.weighed(weight), Phase.WEIGH)


def _gate(plan: Plan, state: State, target: float) -> tuple[str, float]:
    """
    The gate that is closed before this weight, and the weight that may be had before it.
    """
    opened = {approval.gate for approval in state.approvals}
    if state.anyway:
        return "", target
    if target == 100:
        shut = plan.promotion and PROMOTION not in opened
        return (PROMOTION if shut else ""), target
    for weight in sorted(plan.gates):
        name = f"beyond {weight:g} %"
        if name in opened or weight < state.weight or weight >= target:
            continue
        if weight > state.weight:
            return "", weight
        return name, target
    return "", target


def pods_for(plan: Plan, state: State, weight: float) -> int:
    """
    How many pods of the canary carry a weight, at the traffic that was seen last.
    """
    if plan.capacity.per_pod is None:
        return 1
    return max(1, math.ceil(state.per_second * weight / 100 / plan.capacity.per_pod))
