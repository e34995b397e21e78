"""
Seeded simulations: a small part of what benchmarks/judge.py measures, and the peers' rules that it reproduces.
"""

import math
import statistics

import nulls
import pytest
import rollouts
from rollouts import Run, Stream

from tfcanary.judge.ruling import Action

RUNS = 400


@pytest.mark.parametrize(
    ("rates", "weights"),
    [
        (nulls.constant(0.01, RUNS), nulls.fixed(0.1)),
        (nulls.diurnal(RUNS), nulls.stepped),
        (nulls.outages(RUNS), nulls.fixed(0.5)),
        (nulls.storms(RUNS), nulls.adversarial),
        (nulls.constant(0.01, RUNS), nulls.between),
    ],
    ids=["constant", "diurnal", "outages", "storms", "between"],
)
def test_equal_tracks_are_rarely_rolled_back_whatever_the_rates_and_the_weights_do(rates, weights):
    """
    Looked at after each of 1,500 requests. Of 400 runs 20 may reach 20 to 1; more than 33 would come once in 400 such tests.
    """
    peak = nulls.most_evidence(1, runs=RUNS, requests=1500, rates=rates, weights=weights)

    assert 33 >= (peak >= math.log(20)).sum()
    assert 11 >= (peak >= math.log(100)).sum()


def ended(canary, stable, per_second, runs):
    return [rollouts.ours(Stream((1, i), per_second, canary, stable), per_second) for i in range(runs)]


@pytest.mark.parametrize("per_second", [20, 200])
def test_a_dead_canary_costs_a_dozen_bad_answers(per_second):
    """
    From its first answer until its weight is 0 again, on average, and not many more in any run.
    """
    runs = ended(1.0, 0.001, per_second, 40)

    assert {Action.ROLLBACK} == {run.action for run in runs}
    assert 12 >= statistics.mean(run.excess for run in runs)
    assert 25 >= max(run.excess for run in runs)


def test_a_healthy_canary_is_promoted_within_minutes():
    """
    At 20 requests a second and a base rate of 0.1 %.
    """
    runs = ended(0.001, 0.001, 20, 10)

    assert {Action.PROMOTE} == {run.action for run in runs}
    assert 240 >= statistics.median(run.seconds for run in runs)


def test_a_base_rate_of_5_per_cent_at_200_requests_a_second_is_promoted():
    """
    A ramp by the bound on the harm alone would stop below its top.
    """
    runs = ended(0.05, 0.05, 200, 6)

    assert 5 <= sum(run.action is Action.PROMOTE for run in runs)


def test_a_canary_nine_times_as_bad_is_rolled_back_where_fixed_bars_promote_it():
    """
    Both are below 1 %: Flagger's documented bar and Argo's see nothing.
    """
    per_second, canary, stable = 20, 0.009, 0.001
    by_policy = {
        name: [policy(Stream((1, i), per_second, canary, stable), per_second) for i in range(8)]
        for name, policy in rollouts.POLICIES.items()
    }

    promoted = {name: sum(run.action is Action.PROMOTE for run in runs) for name, runs in by_policy.items()}
    assert 0 == promoted["ours"]
    assert 4 <= promoted["Flagger 10 x 5 %"]
    assert 8 == promoted["Argo background"]


@pytest.mark.parametrize(
    ("policy", "healthy", "dead"),
    [
        ("Flagger 10 x 5 %", 600, 660),
        ("Flagger tutorial", 300, 360),
        ("Argo background", 2400, 1500),
        ("Argo inline", 300, 300),
    ],
)
def test_the_peers_take_as_long_as_their_documents_say(policy, healthy, dead):
    """
    Seconds until a promotion without any failure, and until a rollback without any success.
    """
    good = rollouts.POLICIES[policy](Stream((1,), 20, 0.0, 0.0), 20)
    bad = rollouts.POLICIES[policy](Stream((1,), 20, 1.0, 0.0), 20)

    assert (Action.PROMOTE, healthy) == (good.action, good.seconds)
    assert (Action.ROLLBACK, dead) == (bad.action, bad.seconds)


def test_a_promoted_canary_gives_all_answers_of_the_rest_of_the_hour():
    assert 5 + 3000 * 20 * 0.01 == Run(Action.PROMOTE, 600, 1, 5).in_an_hour(20, 0.01)
    assert 5 == Run(Action.ROLLBACK, 600, 1, 5).in_an_hour(20, 0.01)


@pytest.mark.parametrize("per_second", [20, 200])
def test_a_late_death_is_found_in_sixty_requests(per_second):
    """
    On average, after 20,000 healthy requests at 10 %, of which the evidence keeps nothing against a fault that begins now.
    """
    took = [rollouts.late_death((1, i), healthy=20_000, per_second=per_second) for i in range(40)]

    assert 60 >= statistics.mean(took)
    assert 110 >= max(took)
