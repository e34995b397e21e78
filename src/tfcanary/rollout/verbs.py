"""
What a person may ask of a rollout, and when: the whole table, as data.

A verb is written into the rollout's state, where its driver finds it. Asking twice gives the same: what is so already
is allowed and changes nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from tfcanary.errors import UnreachableError, UsageError
from tfcanary.rollout.cluster import Cluster, OvertakenError
from tfcanary.rollout.driver import TRIES
from tfcanary.rollout.events import Asked
from tfcanary.rollout.phases import Stage
from tfcanary.rollout.planfile import plan_from
from tfcanary.rollout.state import State, from_text
from tfcanary.rollout.transition import step

START, PAUSE, RESUME, ABORT = "start", "pause", "resume", "abort"
PROMOTE, ANYWAY = "promote", "promote --anyway"
STATUS, WATCH, EXPLAIN, HISTORY = "status", "watch", "explain", "history"
VERBS = (START, STATUS, WATCH, PAUSE, RESUME, PROMOTE, ANYWAY, ABORT, EXPLAIN, HISTORY)

_ACTIVE = (Stage.PREPARING, Stage.STEPPING, Stage.BAKING, Stage.PROMOTING, Stage.BACK)
_ENDED = (Stage.SUCCEEDED, Stage.ROLLED_BACK, Stage.FAILED)
_NONE = "there is none; `rollout start` begins one"
_OVER = "it has ended; `rollout start` begins another"
_WHOLE = "the promotion does not stop half-way; `rollout abort` goes back"
_GOES_BACK = "it goes back to the baseline, and does not stop half-way"


def _table() -> dict[tuple[str, Stage], str]:
    """
    By verb and stage, why it is refused; empty if it is allowed.
    """
    table = dict.fromkeys(((verb, stage) for verb in VERBS for stage in Stage), "")

    def refuse(why: str, verbs: tuple[str, ...], *stages: Stage) -> None:
        table.update({(verb, stage): why for verb in verbs for stage in stages})

    changing = (PAUSE, RESUME, PROMOTE, ANYWAY, ABORT)
    refuse(_NONE, (*changing, WATCH), Stage.NONE)
    refuse(_OVER, (PAUSE, RESUME, PROMOTE, ANYWAY), *_ENDED)
    refuse("it is active; `rollout abort` ends it", (START,), *_ACTIVE)
    refuse(
        "it failed and left the traffic where it was safe; `rollout abort` brings it to the baseline first",
        (START,),
        Stage.FAILED,
    )
    refuse(_WHOLE, (PAUSE,), Stage.PROMOTING)
    refuse(_GOES_BACK, (PAUSE, PROMOTE, ANYWAY), Stage.BACK)
    refuse("the canary was not examined yet", (PROMOTE, ANYWAY), Stage.PREPARING)
    refuse(
        "it succeeded and the old version is gone; `rollout start` with the old version goes back",
        (ABORT,),
        Stage.SUCCEEDED,
    )
    return table


TABLE: Mapping[tuple[str, Stage], str] = MappingProxyType(_table())


def refusal(verb: str, state: State | None) -> str:
    """
    Why a verb is refused now; empty if it is allowed.
    """
    stage = Stage.NONE if state is None else state.stage
    why = TABLE[verb, stage]
    if not why and verb == PROMOTE and state is not None and not _opens(state):
        why = (
            "no gate waits for an approval; the judge goes on by itself, and --anyway goes on without a proof"
        )
    if not why:
        return ""
    what = f"rollout {state.run}, {state.stage.value}" if state is not None else "rollout"
    return f"{what}: {verb} is refused: {why}"


def _opens(state: State) -> bool:
    """
    Whether a gate waits, or was opened at the present weight already.
    """
    here = state.approvals and state.approvals[-1].at >= state.since
    return bool(state.awaiting or here or state.stage is Stage.PROMOTING)


def ask(cluster: Cluster, verb: str, by: str) -> State:
    """
    Write a wish into the state; its driver acts on it.

    Args:
        cluster: the release.
        verb: pause, resume, promote, promote --anyway or abort.
        by: who asks.

    Returns:
        The state with it.

    Raises:
        UsageError: if it is refused now, by the name of the rollout and the reason.
        UnreachableError: if the cluster does not answer.
    """
    for _ in range(TRIES):
        stored = cluster.load()
        state = from_text(stored.text) if stored else None
        why = refusal(verb, state)
        if why or stored is None or state is None:
            raise UsageError(why)
        event = Asked(cluster.now(), PROMOTE if verb == ANYWAY else verb, by, anyway=verb == ANYWAY)
        after, _actions = step(plan_from(state.plan), state, event)
        if replace(after, now=state.now) == state:
            return state
        try:
            cluster.save(after.as_text(), stored.version)
        except OvertakenError:
            continue
        return after
    raise UnreachableError(
        f"rollout: {verb} was not written down: the state was changed by others {TRIES} times meanwhile; try again"
    )
