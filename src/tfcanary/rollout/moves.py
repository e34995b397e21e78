"""
How a rollout goes from one phase to the next, and how it turns back.
"""

from dataclasses import replace

from tfcanary.rollout.phases import Phase, way_back
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import LONGEST, State
from tfcanary.text import short

# Phases that give the canary this weight. `WEIGH` has its own.
_WEIGHTS = {Phase.WHOLE: 100.0, Phase.CARRY: 100.0, Phase.RETURN: 0.0, Phase.WITHDRAW: 0.0}


def back(state: State, reason: str) -> State:
    """
    Begin the way to the baseline.
    """
    reason = short(reason, LONGEST)
    begins = way_back(state.phase, exposed=state.exposed)
    cleared = replace(
        state, reason=reason, abort="", paused="", hold="", awaiting="", failed_in=None, outage=None
    )
    return _entered(cleared.noted(f"back: {reason}"), begins)


def enter(plan: Plan, state: State, phase: Phase) -> State:
    """
    Begin a phase of the way forward, or an end.
    """
    if phase is Phase.PROBE and not plan.probes:
        phase = Phase.JUDGE
    if phase is Phase.SUCCEEDED:
        state = replace(state, reason=f"version {plan.to} is on {plan.stable}")
    return _entered(state, phase)


def _entered(state: State, phase: Phase) -> State:
    state = replace(state, phase=phase, entered=state.now, serial=state.serial + 1, hold="")
    if phase in _WEIGHTS:
        state = state.weighed(_WEIGHTS[phase])
    if phase is Phase.JUDGE and not state.since:
        state = replace(state, since=state.now)
    return state if phase is Phase.JUDGE else state.noted(phase.value)


def held(state: State, why: str) -> State:
    """
    Stay, and say why; with no reason it is the evidence that is awaited.
    """
    why = short(why, LONGEST)
    if why == state.hold:
        return state
    now = replace(state, hold=why)
    return now.noted(f"held: {why}") if why else now
