"""
The transitions by themselves: a state and an event give the next state, and nothing else does.
"""

from dataclasses import replace

import pytest
from planned import begun, plan, state_of
from rollout_cluster import FakeCluster

from tfcanary.judge.ruling import Action
from tfcanary.rollout.events import (
    Announced,
    Applied,
    Apply,
    Asked,
    Examined,
    Judged,
    NotReady,
    Passed,
    Probed,
    Sighted,
    Taken,
)
from tfcanary.rollout.phases import NEXT, Kind, Phase, kind
from tfcanary.rollout.state import State
from tfcanary.rollout.transition import due, step


def _begun() -> State:
    cluster = FakeCluster()
    begun(cluster)
    return replace(state_of(cluster).weighed(0.0), exposed=True)


PLAN, STATE = plan(), _begun()
LATER = STATE.now + 1
EVENTS = {
    Kind.APPLY: (Applied(LATER, 9, "routes"), NotReady(LATER, "none")),
    Kind.SEEN: (Sighted(LATER, 3, 3),),
    Kind.DRAIN: (Passed(LATER + 60),),
    Kind.EXAMINE: (Examined(LATER), Examined(LATER, ("another signature",))),
    Kind.PROBE: (Probed(LATER, "", 60, ""), Probed(LATER, "dead", 0, "")),
    Kind.JUDGE: (Judged(LATER, Action.ROLLBACK, "roll back", True, 5.0, 9, False, 20.0, ""),),  # noqa: FBT003
}


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_an_event_of_another_phase_changes_nothing(phase):
    """
    It is the answer to what was asked before another driver, or a person, went on.
    """
    state = replace(STATE, phase=phase)

    for of, events in EVENTS.items():
        for event in events:
            after, _ = step(PLAN, state, event)
            if of is not kind(phase):
                # The judge's words are taken down wherever they come.
                same = {
                    "now": state.now,
                    "judge": "",
                    "verdict": "",
                    "per_second": 0.0,
                    "spent": 0.0,
                    "stuck": False,
                }
                assert replace(after, **same) == replace(state, **same), (phase, event)


@pytest.mark.parametrize("phase", NEXT, ids=lambda phase: phase.name)
def test_what_is_due_does_not_depend_on_who_asks_or_how_often(phase):
    state = replace(STATE, phase=phase)

    assert due(PLAN, state) == due(PLAN, state)
    assert due(PLAN, state) == due(PLAN, step(PLAN, state, Taken(LATER, "ci"))[0])
    assert 1 == len(due(PLAN, state))


def test_time_never_goes_back():
    after, _ = step(PLAN, STATE, Taken(STATE.now - 3600, "a clock that is late"))

    assert STATE.now == after.now


def test_a_phase_that_is_entered_is_a_new_one_even_if_it_was_there_before():
    state = replace(STATE, phase=Phase.JUDGE, since=STATE.now)
    serials = []
    for _ in range(3):
        state, _ = step(PLAN, replace(state, phase=Phase.WEIGH), Applied(LATER, 9, "routes"))
        serials.append(state.serial)

    assert [STATE.serial + 1, STATE.serial + 2, STATE.serial + 3] == serials


def test_every_revision_names_its_rollout_its_phase_and_the_baseline():
    said = set()
    for serial, phase in enumerate(one for one in NEXT if kind(one) is Kind.APPLY):
        (action,) = due(PLAN, replace(STATE, phase=phase, serial=serial))
        assert action.description.startswith(f"rollout resnet-3-7 #{serial}: {phase.value}, canary at ")
        assert action.description.endswith(" [baseline 7]")
        if isinstance(action, Apply):
            assert 1 == len(action.values)
        said.add(action.description)
    assert 12 == len(said)


def test_an_end_stays_one_whatever_comes():
    for phase in (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED):
        state = replace(STATE, phase=phase, announced=True)
        for event in (*(one for events in EVENTS.values() for one in events), Announced(LATER)):
            assert replace(step(PLAN, state, event)[0], now=state.now) == state
        if phase is not Phase.FAILED:
            assert step(PLAN, state, Asked(LATER, "abort", "carla"))[0].phase is not Phase.RESTORE
