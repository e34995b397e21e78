"""
The split test, against published and closed values, properties, and seeded simulation.
"""

import itertools
import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcanary.errors import UsageError
from tfcanary.judge import split
from tfcanary.judge.eprocess import log_mixture, log_ratio
from tfcanary.judge.split import Plan, detects, judge, plan, regions
from tfcanary.judge.verdict import Outcome


def two(canary: float) -> dict[str, float]:
    return {"stable": 100 - canary, "canary": canary}


def exactly(k: int, n: int, p: float) -> float:
    """
    P(X <= k) by summing the definition, with no library in between.
    """
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize(
    ("n", "canary", "low", "high"),
    [
        pytest.param(1000, 10, 57, 149, id="1000-at-10"),
        pytest.param(1000, 5, 20, 87, id="1000-at-5"),
        pytest.param(1000, 50, 423, 577, id="1000-at-50"),
        pytest.param(5000, 10, 399, 607, id="5000-at-10"),
    ],
)
def test_regions_are_the_published_bounds(n, canary, low, high):
    """
    The exact bounds at alpha 1e-6, worked out beforehand for four cases.
    """
    stable, of_canary = regions(two(canary), n, 1e-6)

    assert (low, high) == (of_canary.low, of_canary.high)
    assert (n - high, n - low) == (stable.low, stable.high)


@pytest.mark.parametrize("n", [1, 7, 40, 120])
@pytest.mark.parametrize("canary", [1, 10, 33, 50, 97])
@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.05])
def test_regions_are_the_widest_that_the_tails_allow(n, canary, alpha):
    """
    Just outside each bound the tail is at most alpha / 2, at the bound it is more: the definition, summed by hand.
    """
    p = canary / 100

    region = regions(two(canary), n, alpha)[1]

    assert (exactly(region.low - 1, n, p) if region.low else 0) <= alpha / 2 < exactly(region.low, n, p)
    assert 1 - exactly(region.high, n, p) <= alpha / 2 + 1e-12
    assert alpha / 2 < 1 - exactly(region.high - 1, n, p) + 1e-12 if region.high else alpha / 2 < 1


def test_more_than_two_tracks_share_the_false_alarm_rate():
    """
    Bonferroni: three tracks get a third of alpha each, so their regions are wider.
    """
    alone = regions({"a": 34, "b": 66}, 1000, 1e-6)[0]
    shared = regions({"a": 34, "b": 33, "c": 33}, 1000, 1e-6)[0]

    assert shared.low < alone.low
    assert alone.high < shared.high


@pytest.mark.parametrize(
    ("weights", "against", "n"),
    [
        # the least n where 0.9^n is at most 0.001
        pytest.param(two(0), two(10), 66, id="100-against-90"),
        # the least n where 0.5^n is at most 0.001
        pytest.param(two(0), two(50), 10, id="100-against-50"),
        pytest.param(two(0), two(100), 1, id="100-against-0"),
        # the lower bound must exceed 0, so 0.9^n is at most alpha / 2
        pytest.param(two(10), two(0), 138, id="10-against-not-applied"),
    ],
)
def test_sample_size_is_that_of_the_closed_form(weights, against, n):
    planned = plan(weights, alpha=1e-6, power=0.999, detect=None, alternatives=[against])

    assert n == planned.n


@given(
    canary=st.integers(0, 100),
    detect=st.integers(5, 40),
    alpha=st.sampled_from([1e-6, 1e-4, 0.01]),
    power=st.sampled_from([0.9, 0.999]),
)
@settings(deadline=None, max_examples=60)
def test_plan_keeps_its_power(canary, detect, alpha, power):
    """
    The probability of finding each alternative, at the planned n, is at least the power asked for.
    """
    planned = plan(two(canary), alpha=alpha, power=power, detect=detect)

    assert power <= min(detects(two(canary), other, planned.n, alpha) for other in planned.alternatives)
    assert power <= planned.power


@given(canary=st.integers(0, 100), n=st.integers(1, 3000), alpha=st.floats(1e-9, 0.2))
@settings(deadline=None)
def test_regions_mirror_each_other(canary, n, alpha):
    """
    Swapping the tracks swaps the bounds, and two complementary weights have complementary bounds.
    """
    stable, of_canary = regions(two(canary), n, alpha)
    swapped = regions({"canary": 100 - canary, "stable": canary}, n, alpha)

    assert (stable.low, stable.high) == (swapped[0].low, swapped[0].high)
    assert (of_canary.low, of_canary.high) == (n - stable.high, n - stable.low)


@given(canary=st.integers(0, 100), n=st.integers(1, 2000))
@settings(deadline=None)
def test_false_alarms_are_at_most_alpha(canary, n):
    """
    Under the declared weights themselves the probability of leaving the region is at most alpha.
    """
    assert detects(two(canary), two(canary), n, 1e-3) <= 1e-3 + 1e-12


@given(count=st.integers(0, 300))
@settings(deadline=None)
def test_names_of_the_tracks_do_not_matter(count):
    planned = plan(two(30), detect=20)
    renamed = plan({"b": 70, "a": 30}, detect=20)

    one = judge(planned, {"stable": 300 - count, "canary": count})
    other = judge(renamed, {"b": 300 - count, "a": count})

    assert one.decision is other.decision


def test_simulated_false_alarms_stay_below_alpha():
    """
    2,000 seeded honest gateways at alpha 0.01: the count of alarms is below its own 1e-6 upper bound.
    """
    random.seed(20)
    planned = plan(two(10), alpha=0.01, power=0.9, detect=10)
    bound = regions(two(1), 2000, 1e-6)[1].high
    alarms = 0
    for _ in range(RUNS):
        canary = sum(random.random() < 0.10 for _ in range(planned.n))  # noqa: S311 - a simulation
        verdict = judge(planned, {"stable": planned.n - canary, "canary": canary})
        alarms += verdict.decision is Outcome.FAILED

    assert alarms <= bound


@pytest.fixture
def tenth() -> Plan:
    return plan(two(10))


@pytest.mark.parametrize(
    ("counts", "decision"),
    [
        pytest.param({"stable": 900, "canary": 100}, Outcome.HELD, id="as-declared"),
        pytest.param({"stable": 1000}, Outcome.FAILED, id="change-never-applied"),
        pytest.param({"stable": 100, "canary": 900}, Outcome.FAILED, id="weights-swapped"),
        pytest.param({"stable": 800, "canary": 200}, Outcome.FAILED, id="twice-the-weight"),
        pytest.param({"stable": 900, "canary": 99, "other": 1}, Outcome.FAILED, id="unknown-track"),
        pytest.param({"stable": 45, "canary": 5}, Outcome.NOT_ENOUGH, id="too-few"),
        pytest.param({"canary": 45, "stable": 5}, Outcome.FAILED, id="too-few-but-contrary"),
        pytest.param({}, Outcome.NOT_ENOUGH, id="nothing"),
    ],
)
def test_judge_decides(tenth, counts, decision):
    assert decision is judge(tenth, counts).decision


def test_one_contrary_answer_refutes_a_weight_of_zero():
    planned = plan(two(0))

    verdict = judge(planned, {"stable": 100_000, "canary": 1})

    assert Outcome.FAILED is verdict.decision
    assert "canary answered 1 of 100001, expected 0 to 0" in verdict.reason


def test_verdict_carries_its_numbers(tenth):
    verdict = judge(tenth, {"stable": 900, "canary": 100})

    canary = next(share for share in verdict.shares if share.track == "canary")
    assert (1000, tenth.n, 1e-6) == (verdict.n, verdict.needed, verdict.alpha)
    assert (57, 149, 100) == (canary.low, canary.high, canary.count)
    assert canary.p_value == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"alpha": 0}, "alpha=0", id="alpha"),
        pytest.param({"power": 1}, "power=1", id="power"),
        pytest.param({"detect": 0}, "got 0", id="detect"),
        pytest.param({"detect": None}, "nothing to distinguish it from", id="no-alternative"),
        pytest.param(
            {"detect": None, "alternatives": [two(10)]}, "nothing to distinguish it from", id="the-same"
        ),
        pytest.param({"detect": 0.01}, "more than 1000000 requests", id="too-fine"),
    ],
)
def test_plan_refuses(arguments, message):
    with pytest.raises(UsageError, match=message):
        plan(two(10), **arguments)


# Looking at any time


def drawn(truth, seed, most, step=1):
    """
    Counts that grow by `step` draws at a time.
    """
    draws = np.random.default_rng(seed).multinomial(
        step, [p / 100 for p in truth.values()], size=most // step
    )
    for total in draws.cumsum(axis=0):
        yield dict(zip(truth, map(int, total), strict=True))


def decided(planned, truth, seed, step=16):
    """
    The first verdict that decides.
    """
    for counts in drawn(truth, seed, planned.n + step, step):
        verdict = split.look(planned, counts)
        if verdict.decision is not Outcome.NOT_ENOUGH:
            return verdict
    raise AssertionError("the planned number decides")


RUNS = 500
# The most alarms that a rate of 5 % gives in as many runs, but for one case in two thousand.
BOUND = next(k for k in range(RUNS) if split._more_than(k, RUNS, 0.05) <= 5e-4)

TENTH = {"stable": 90, "canary": 10}
BEFORE = {"stable": 100, "canary": 0}


def test_looking_early_decides_early():
    """
    On the declared split about a third of the planned answers are needed; and fewer where all is certain.
    """
    planned = split.sequential(TENTH, alternatives=[BEFORE])
    needed = [decided(planned, TENTH, seed).n for seed in range(50)]

    assert split.plan(TENTH).n <= planned.n
    assert statistics.median(needed) < planned.n / 2
    assert statistics.median([decided(planned, BEFORE, seed).n for seed in range(10)]) < planned.n / 2


@pytest.mark.parametrize(
    ("weights", "truth"),
    [
        pytest.param(TENTH, TENTH, id="a-tenth"),
        pytest.param({"stable": 70, "canary": 30}, {"stable": 70, "canary": 30}, id="thirty"),
        pytest.param({"a": 34, "b": 33, "c": 33}, {"a": 34, "b": 33, "c": 33}, id="three-tracks"),
        pytest.param({"stable": 100}, {"stable": 100}, id="all"),
    ],
)
def test_false_alarms_stay_below_alpha(weights, truth):
    """
    Judged again and again, a correct split is called wrong at most as often as stated.
    """
    planned = split.sequential(weights, alpha=0.05, power=0.95)

    alarms = sum(decided(planned, truth, seed).decision is Outcome.FAILED for seed in range(RUNS))

    assert alarms <= BOUND


@pytest.mark.parametrize(
    "truth", [{"stable": 100, "canary": 0}, {"stable": 80, "canary": 20}, {"stable": 99, "canary": 1}]
)
def test_power_holds_while_looking(truth):
    """
    At most 5 % of the runs on an alternative pass.
    """
    planned = split.sequential(TENTH, alpha=0.01, power=0.95, alternatives=[truth])

    passed = sum(decided(planned, truth, seed).decision is Outcome.HELD for seed in range(RUNS))

    assert passed <= BOUND


def test_the_stated_rates_are_bounds_not_hopes():
    """
    At the default rates no wrong verdict in a hundred runs of either kind.
    """
    planned = split.sequential(TENTH, alternatives=[BEFORE])

    assert {Outcome.HELD} == {decided(planned, TENTH, seed).decision for seed in range(100)}
    for truth in (BEFORE, {"stable": 10, "canary": 90}, {"stable": 80, "canary": 20}):
        assert {Outcome.FAILED} == {decided(planned, truth, seed).decision for seed in range(100)}


def test_a_track_without_weight_fails_at_its_first_answer():
    verdict = split.look(split.sequential(BEFORE), {"stable": 3, "canary": 1})

    assert Outcome.FAILED is verdict.decision


def test_no_answers_decide_nothing():
    assert Outcome.NOT_ENOUGH is split.look(split.sequential(TENTH), {}).decision


def test_the_mixture_is_the_closed_form():
    """
    The Dirichlet part against Beta(1, 1)-binomial: B(1+c, 1+s) / (p^c (1-p)^s).
    """
    planned = split.sequential(TENTH)
    counts = {"stable": 40, "canary": 9}
    beta = math.exp(math.lgamma(10) + math.lgamma(41) - math.lgamma(51)) / (0.1**9 * 0.9**40)
    ratios = [(other["canary"] / 10) ** 9 * (other["stable"] / 90) ** 40 for other in planned.alternatives]

    assert pytest.approx(math.log((beta + sum(ratios) / len(ratios)) / 2)) == log_mixture(
        planned.alternatives, planned.weights, counts
    )


@given(
    st.lists(st.integers(1, 50), min_size=3, max_size=3),
    st.lists(st.integers(1, 50), min_size=3, max_size=3),
    st.integers(1, 8),
)
@settings(deadline=None, max_examples=50)
def test_evidence_is_a_martingale(declared, other, n):
    """
    Under the declared split the expected likelihood ratio, and that of the mixture, is 1: summed over every count.
    """
    weights, alternative = (
        {name: 100 * share / sum(shares) for name, share in zip("abc", shares, strict=True)}
        for shares in (declared, other)
    )

    expected_ratio = expected_mixture = 0.0
    for a, b in itertools.product(range(n + 1), repeat=2):
        if a + b > n:
            continue
        counts = {"a": a, "b": b, "c": n - a - b}
        probability = math.factorial(n) * math.prod(
            (weights[track] / 100) ** count / math.factorial(count) for track, count in counts.items()
        )
        expected_ratio += probability * math.exp(log_ratio(alternative, weights, counts))
        expected_mixture += probability * math.exp(log_mixture([alternative, weights], weights, counts))

    assert pytest.approx(1) == expected_ratio
    assert pytest.approx(1) == expected_mixture


def test_a_ratio_is_no_number_where_a_split_forbids_what_was_counted():
    both = {"stable": 90, "canary": 10}
    only = {"stable": 100, "canary": 0}

    assert -math.inf == log_ratio(only, both, {"stable": 5, "canary": 1})
    assert math.inf == log_ratio(both, only, {"stable": 5, "canary": 1})
    assert math.inf == log_mixture([both], only, {"stable": 5, "canary": 1})
    assert pytest.approx(5 * math.log(100 / 90)) == log_ratio(only, both, {"stable": 5, "canary": 0})
