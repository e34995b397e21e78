"""
What a rollout does next: a state and an event give the next state and what is due in it.

There is no clock, no randomness and no input or output here. Whatever a cluster does to a rollout comes in as an event.
"""

from dataclasses import replace

from tfcanary.rollout import desired
from tfcanary.rollout.events import (
    Action,
    Announce,
    Announced,
    Applied,
    Apply,
    Asked,
    Drain,
    Event,
    Examine,
    Examined,
    Judge,
    Judged,
    Need,
    NotReady,
    Outage,
    Passed,
    Probe,
    Probed,
    Refused,
    Restore,
    Sight,
    Sighted,
    Taken,
)
from tfcanary.rollout.judging import judged, recorded
from tfcanary.rollout.moves import back, enter
from tfcanary.rollout.phases import BEFORE_RENEWAL, NEXT, Kind, Phase, Stage, kind
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import LONGEST, Approval, State
from tfcanary.text import short

# What each event comes of. The others may come of anything.
_KINDS: dict[type, Kind] = {
    Applied: Kind.APPLY,
    NotReady: Kind.APPLY,
    Sighted: Kind.SEEN,
    Passed: Kind.DRAIN,
    Examined: Kind.EXAMINE,
    Probed: Kind.PROBE,
    Judged: Kind.JUDGE,
}
# In these the rollout may still be too late. Later every wait has its own end.
_TIMED = frozenset({Stage.PREPARING, Stage.STEPPING, Stage.BAKING})


def step(plan: Plan, state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """
    What follows from an event.

    Args:
        plan: what was declared.
        state: so far.
        event: what happened.

    Returns:
        The next state, which must be saved before anything is done; and what is due in it.
    """
    before, state = state.now, replace(state, now=max(state.now, event.at))
    match event:
        case Asked():
            state = _asked(state, event)
        case Taken():
            state = replace(state, driver=event.driver).noted(f"driven by {event.driver}")
        case Announced():
            state = replace(state, announced=True)
        case _:
            state = _went_on(plan, state, event, state.now - before)
    return state, due(plan, state)


def due(plan: Plan, state: State) -> tuple[Action, ...]:
    """
    What is to be done in a state. Doing it twice does no more than once.
    """
    what = kind(state.phase)
    if what is Kind.END:
        return () if state.announced else (Announce(),)
    if what is Kind.APPLY:
        return (_revision(plan, state),)
    others: dict[Kind, Action] = {
        Kind.SEEN: Sight(state.routes),
        Kind.DRAIN: Drain(),
        Kind.EXAMINE: Examine(Need(plan.canary, plan.to)),
        Kind.PROBE: Probe(plan.probes),
        Kind.JUDGE: Judge(state.weight),
    }
    return (others[what],)


def _revision(plan: Plan, state: State) -> Apply | Restore:
    """
    The revision of a phase: pods of one track, or weights.
    """
    phase, baseline = state.phase, state.baseline
    what = f"{phase.value}, canary at {state.weight:g} %"
    description = f"rollout {state.run} #{state.serial}: {what} [baseline {baseline.revision}]"
    if phase is Phase.RESTORE:
        return Restore(description)
    old = baseline.versions[plan.stable]
    canary = Need(plan.canary, plan.to, state.replicas)
    pods = {
        Phase.DEPLOY: (plan.canary, desired.track(plan.to, pods=state.replicas), None),
        Phase.SCALE: (plan.canary, desired.track(plan.to, pods=state.replicas), None),
        Phase.REDEPLOY: (plan.canary, desired.track(plan.to, pods=state.replicas), None),
        Phase.RETIRE: (plan.canary, desired.track(plan.to, pods=0), Need(plan.stable, plan.to)),
        Phase.RENEW: (plan.stable, desired.track(plan.to), canary),
        # Stable has no traffic here, and whatever the canary is, only stable can take it over.
        Phase.UNRENEW: (plan.stable, desired.track(old), None),
    }.get(phase)
    if pods:
        track, values, need = pods
        return Apply({"tracks": {track: values}}, description, need)
    needs = {
        Phase.RETURN: Need(plan.stable, plan.to),
        # One pod of stable is better than a canary that is to go.
        Phase.WITHDRAW: Need(plan.stable, old, 1),
    }
    return Apply({"routing": {"routes": _routes(plan, state)}}, description, needs.get(phase, canary))


def _routes(plan: Plan, state: State) -> list[dict[str, object]]:
    fixed = plan.steps[state.step].routes if plan.steps and state.step >= 0 else None
    if state.phase is Phase.WEIGH and not state.baking and fixed is not None:
        return [dict(route) for route in fixed]
    if state.weight == 0:
        return [dict(route) for route in state.baseline.routes]
    return desired.weighed(state.baseline.routes, stable=plan.stable, canary=plan.canary, weight=state.weight)


def _asked(state: State, event: Asked) -> State:
    """
    Take a person's wish down. The table of verbs has allowed it; what is so already stays as it is.
    """
    by = event.by
    if event.verb == "abort":
        return _abort(state, f"aborted by {by}")
    if event.verb == "pause" and not state.paused:
        return replace(state, paused=by).noted(f"paused by {by}")
    if event.verb == "resume" and state.paused:
        return replace(state, paused="").noted(f"resumed by {by}")
    if event.verb == "promote" and event.anyway and not state.anyway:
        return replace(state, anyway=by, awaiting="").noted(f"to be promoted without a proof, by {by}")
    if event.verb == "promote" and not event.anyway and state.awaiting:
        approval = Approval(state.awaiting, by, state.now)
        noted = state.noted(f"{by} approved: {state.awaiting}")
        return replace(noted, awaiting="", approvals=(*state.approvals, approval))
    return state


def _abort(state: State, reason: str) -> State:
    if state.phase is Phase.FAILED:
        # Whatever was left where it was goes back after all.
        return back(replace(state, announced=False, phase=state.failed_in or Phase.WITHDRAW), reason)
    return state if state.abort or state.stage is Stage.BACK else replace(state, abort=reason)


def _went_on(plan: Plan, state: State, event: Event, passed: float) -> State:
    """
    What follows from what the phase's action came to.
    """
    if state.ended:
        return state
    if isinstance(event, Judged) and state.phase is Phase.JUDGE:
        state = recorded(plan, state, event, passed)
    if state.abort and state.stage is not Stage.BACK:
        return back(state, state.abort)
    late = state.now - state.started > plan.limits.total and state.stage in _TIMED
    if late:
        return back(
            state, f"not finished within {plan.limits.total:g} s; last: {state.hold or state.verdict}"
        )
    if isinstance(event, Outage):
        since = state.now if state.outage is None else state.outage
        state = replace(state, outage=since)
        if state.now - since <= plan.limits.outage:
            return state
        return _stopped(plan, state, event, f"out of reach for {plan.limits.outage:g} s: {event.reason}")
    return _done(plan, replace(state, outage=None), event)


def _done(plan: Plan, state: State, event: Event) -> State:
    """
    What follows where the cluster could be reached. What does not belong to the phase changes nothing.
    """
    if kind(state.phase) is not _KINDS.get(type(event), kind(state.phase)):
        return state
    match event:
        case Applied():
            return enter(
                plan, replace(state, revision=event.revision, routes=event.routes), NEXT[state.phase]
            )
        case Refused():
            return _stopped(plan, state, event, event.reason)
        case Examined() | Probed():
            return _tried(plan, state, event)
        case Judged():
            return judged(plan, state, event)
        case NotReady() | Sighted() | Passed():
            state = _waited(plan, state, event, state.now - state.entered)
    return state


def _waited(plan: Plan, state: State, event: NotReady | Sighted | Passed, waited: float) -> State:
    """
    What follows from one more look at what is waited for, after so many seconds.
    """
    if isinstance(event, Passed):
        return enter(plan, state, NEXT[state.phase]) if waited >= plan.limits.drain else state
    if isinstance(event, NotReady):
        late = waited > plan.limits.ready
        return _stopped(plan, state, event, f"not Ready: {event.seen}") if late else state
    if event.pods and event.showing == event.pods:
        return _seen(plan, state, event.pods)
    if waited <= plan.limits.propagation:
        return state
    shown = f"{event.showing} of {event.pods} gateway pods show the routes after {waited:.0f} s"
    return _stopped(plan, state, event, shown)


def _tried(plan: Plan, state: State, event: Examined | Probed) -> State:
    """
    What follows from what the canary answered at weight 0.
    """
    if isinstance(event, Examined):
        state = replace(state, facts={name: short(fact, LONGEST) for name, fact in event.facts.items()})
        if event.problems:
            return back(state, f"the canary must not get traffic: {'; '.join(event.problems)}")
        return enter(plan, state, Phase.PROBE)
    state = replace(state, judge=event.judge, clean=event.clean)
    return back(state, event.problem) if event.problem else enter(plan, state, Phase.JUDGE)


def _seen(plan: Plan, state: State, pods: int) -> State:
    """
    Every gateway pod has the weight.
    """
    state = state.shown(pods)
    took = state.now - state.steps[-1].asked + plan.limits.look
    state = replace(state, reaction=max(state.reaction, took), spent=0.0)
    return enter(plan, state, NEXT[state.phase])


def _stopped(plan: Plan, state: State, event: Event, reason: str) -> State:
    """
    A phase cannot be done: back, or stop where the traffic is safe.

    Once stable's pods were to change, going back would send the traffic through pods that may not be Ready. The canary
    keeps it.
    """
    because = short(f"{state.phase.value}: {reason}", LONGEST)
    unready_canary = state.phase is Phase.RENEW and isinstance(event, NotReady)
    if state.phase in BEFORE_RENEWAL or unready_canary:
        return back(state, because)
    return enter(plan, replace(state, failed_in=state.phase, reason=because), Phase.FAILED)
