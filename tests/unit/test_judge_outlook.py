"""
What a judgement will take, before anything starts: the faults that are forecast, and each figure beside its own definition.
"""

from collections import defaultdict
from dataclasses import replace
from math import inf, log

import pytest
from reference_judge import ReferenceJudge
from scipy.optimize import brentq
from scipy.stats import binom

from tfcanary.judge.outlook import forecasts, proof_forecast
from tfcanary.judge.passage import proof, rollback, rollback_broken
from tfcanary.judge.plan import Plan
from tfcanary.judge.terms import Terms, Tolerance

TERMS = Terms()


@pytest.mark.parametrize(
    ("stable", "canaries"),
    [
        pytest.param(0.001, [0.001, 0.002, 0.005, 0.01, 0.05, 1], id="each fault"),
        pytest.param(0.03, [0.03, 0.06, 0.15, 0.3, 1], id="fifty times as bad would be more than all"),
    ],
)
def test_the_proof_comes_first_then_each_fault_and_the_dead_canary_last(stable, canaries):
    found = forecasts(Plan(), stable=stable, weights=[10, 50], per_second=20)

    expected = [(weight, canary) for weight in (10, 50) for canary in canaries]
    assert [(weight, pytest.approx(canary)) for weight, canary in expected] == [
        (one.weight, one.canary) for one in found
    ]
    assert {stable} == {one.stable for one in found}


def test_the_proof_alone_is_the_first_of_all_forecasts():
    all_of_them = forecasts(Plan(), stable=0.01, weights=[50], per_second=100)

    assert all_of_them[0] == proof_forecast(Plan(), stable=0.01, weight=50, per_second=100)


@pytest.fixture(scope="module")
def at_10_per_cent():
    """
    By the canary's rate, the forecasts at 20 requests a second beside a stable track that fails 1 %.
    """
    return {one.canary: one for one in forecasts(Plan(), stable=0.01, weights=[10], per_second=20)}


@pytest.mark.parametrize(
    ("canary", "find"),
    [
        pytest.param(0.02, rollback, id="by failures alone"),
        pytest.param(0.5, rollback_broken, id="good answers count from half of the requests on"),
        pytest.param(1.0, rollback_broken, id="dead"),
    ],
)
def test_a_forecast_is_the_passage_in_requests_seconds_and_bad_answers(at_10_per_cent, canary, find):
    """
    The excess is what stable would not have failed.
    """
    found = at_10_per_cent[canary]

    passage = find(TERMS, canary=canary, stable=0.01, chance=0.1)
    assert (passage.quantile(0.5), passage.quantile(0.95)) == (found.median, found.most)
    assert pytest.approx(found.most / 20) == found.seconds
    assert pytest.approx(0.1 * passage.mean * (canary - 0.01)) == found.bad


@pytest.mark.parametrize(("spare", "decided"), [(1.0, True), (0.0, True), (-1.0, False)])
def test_a_verdict_that_95_per_cent_have_at_the_horizon_is_decided(spare, decided):
    needed = proof_forecast(Plan(), stable=0.01, weight=50, per_second=20).seconds

    found = proof_forecast(Plan(horizon=needed + spare), stable=0.01, weight=50, per_second=20)

    assert (decided, 0) == (found.decided, found.bad)


@pytest.mark.parametrize("base", [0.005, 0.01])
def test_where_stable_fails_half_a_point_or_more_the_ratio_alone_proves(base):
    """
    At half of beta, since the judge's evidence is the mean of both proofs.
    """
    found = proof_forecast(Plan(), stable=base, weight=50, per_second=20)

    passage = proof(replace(TERMS, beta=0.025), TERMS.errors, canary=base, stable=base, chance=0.5)
    assert (passage.quantile(0.5), passage.quantile(0.95)) == (found.median, found.most)


def proven_by(points, rate, most):
    """
    By the number of the canary's answers, the probability that the last of them proves the budget at half of beta.
    """
    alive, stops = {0: 1.0}, []
    for n in range(1, most):
        after = defaultdict(float)
        for bad, probability in alive.items():
            after[bad] += probability * (1 - rate)
            after[bad + 1] += probability * rate
        proven = {bad for bad in after if ReferenceJudge.below(points, bad, n - bad) >= log(1 / 0.025)}
        stops.append(sum(after[bad] for bad in proven))
        alive = {bad: part for bad, part in after.items() if bad not in proven and part > 1e-12}
    return stops


@pytest.mark.parametrize(("rate", "weight"), [(0.0001, 50), (0.001, 50), (0.001, 10)])
def test_clean_answers_prove_the_budget_after_so_many_requests_to_both_tracks(rate, weight):
    """
    Each path of the canary's answers is followed by the specification; each request is the canary's by the weight.
    """
    stops = proven_by(0.005, rate, 6000)

    def proven(requests):
        return sum(part * binom.sf(n - 1, requests, weight / 100) for n, part in enumerate(stops, 1) if part)

    found = proof_forecast(Plan(), stable=rate, weight=weight, per_second=20)
    for part, requests in ((0.5, found.median), (0.95, found.most)):
        assert proven(requests - 1) < part <= proven(requests)


@pytest.mark.parametrize(("clean", "followed"), [(20_000, True), (20_001, False)])
def test_a_proof_by_clean_answers_is_followed_for_20_000_of_them(clean, followed):
    """
    At a rate that is nearly 0, where the ratio says nothing within any horizon. Half of the capital bets on no failure.
    """
    points = brentq(
        lambda rate: ReferenceJudge.below(rate, 0, clean) - log(1 / 0.025), 1e-6, 0.01, xtol=1e-15
    )
    terms = replace(TERMS, errors=Tolerance(points=points * (1 + 1e-9)))

    found = proof_forecast(Plan(terms=terms), stable=1e-12, weight=50, per_second=20)

    assert (found.median < 50_000) is followed
    assert inf > found.median
