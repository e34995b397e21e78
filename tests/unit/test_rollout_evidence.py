"""
What the judge's evidence means for a rollout: probes, the first weight, and data that is not sound.
"""

from dataclasses import replace

import pytest
from planned import begun, plan, state_of
from rollout_cluster import FakeCluster

from tfcanary.judge.counts import Counts
from tfcanary.judge.look import Look
from tfcanary.judge.ruling import Action
from tfcanary.rollout.cluster import Counted, Probes
from tfcanary.rollout.evidence import JudgeEvidence
from tfcanary.rollout.state import State


@pytest.fixture
def state() -> State:
    cluster = FakeCluster()
    begun(cluster)
    return state_of(cluster)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (Probes(60, 0, 0, 0), ""),
        (Probes(0, 60, 0, 0), "the canary answered none of 60 probes"),
        (Probes(0, 0, 0, 60), "the canary answered none of 60 probes"),
        (Probes(0, 0, 0, 0), "the canary answered none of 0 probes"),
        (Probes(51, 9, 0, 0), ""),
        (
            Probes(50, 10, 0, 0),
            "the canary failed 10 of 60 (17 %) probes, stable 0 of 60 (0 %) of the same; an equal canary shows this with probability 0.001",
        ),
        (Probes(30, 15, 15, 0), ""),
        (Probes(0, 0, 60, 0), ""),
    ],
)
def test_only_pairs_in_which_one_track_fails_say_who_is_worse(state, found, problem):
    assert problem == JudgeEvidence(plan()).probed(state, 1.0, found).problem


def test_an_answer_that_no_input_explains_is_found_by_one_probe(state):
    found = Probes(60, 0, 0, 0, Look(at=1.0, weight=0, faults={"NaN": (1, 0)}))

    probed = JudgeEvidence(plan()).probed(state, 1.0, found)

    assert "roll back: NaN in 1 answers of the canary, which no input explains" == probed.problem


def at_zero(state: State, given=None, **counted: float):
    looks = (Look(at=9.0, weight=0, errors=Counts(0, 0, 0, 500)),)
    return JudgeEvidence(given or plan()).judged(state, 10.0, Counted(looks, **counted))


def test_clean_probes_allow_a_larger_first_weight(state):
    """
    At 200 requests a second and 6 s until a weight is 0 again, 1 % may cost 12 bad answers, and 10 are allowed.
    """
    without = at_zero(state, per_second=200.0)

    assert (0.0, Action.WAIT) == (without.allowed, without.verdict)
    assert "wait: even 1 % of 200 requests a second could cost more than 10 bad answers" in without.sentence
    assert 5.0 == at_zero(replace(state, clean=60), per_second=200.0).allowed
    assert 5.0 == at_zero(state, per_second=20.0).allowed


def test_an_answer_of_the_canary_at_weight_0_voids_the_evidence(state):
    looks = (Look(at=9.0, weight=0, errors=Counts(0, 1, 0, 500)),)

    judged = JudgeEvidence(plan()).judged(state, 10.0, Counted(looks, 20.0))

    assert (Action.INCONCLUSIVE, False) == (judged.verdict, judged.stuck)
    assert "the evidence is void: find what else routes to a track" in judged.sentence


def test_evidence_that_was_not_saved_is_forgotten(state):
    """
    A driver whose write was lost looks again at the same records, and counts them once.
    """
    evidence = JudgeEvidence(plan())
    looks = Counted((Look(at=9.0, weight=0, errors=Counts(0, 0, 0, 500)),), 20.0)

    first = evidence.judged(state, 10.0, looks)

    assert evidence.since(state) is None
    assert first == evidence.judged(state, 10.0, looks)
    assert 9.0 == evidence.since(replace(state, judge=first.judge))


def test_a_look_at_another_weight_allows_nothing(state):
    looks = Counted((Look(at=9.0, weight=5, errors=Counts(0, 500, 0, 9500)),), 20.0)

    judged = JudgeEvidence(plan()).judged(replace(state, weight=25.0), 10.0, looks)

    assert (False, 0.0) == (judged.sound, judged.allowed)
