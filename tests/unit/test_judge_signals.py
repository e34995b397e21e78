"""
Pairs, classes and cohorts: supermartingales under their hypotheses, and as quick as they should be.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcanary.judge.classes import ClassShift
from tfcanary.judge.cohorts import Cohorts, discoveries
from tfcanary.judge.counts import Counts, Pairs
from tfcanary.judge.guards import SplitGuard
from tfcanary.judge.look import Look
from tfcanary.judge.pairs import Accuracy, Disagreement
from tfcanary.judge.terms import Terms

TERMS = Terms()
SMALL = st.integers(0, 40)
PAIRS = st.builds(Pairs, SMALL, SMALL, SMALL, SMALL, SMALL)


def after(test, pairs):
    made = test(TERMS)
    made.add(Look(at=0, weight=0, pairs=pairs))
    return made


def mean_after_one(value, before, ways):
    """
    The mean of E after one more pair, divided by E before it.
    """
    return sum(p * math.exp(value(before.plus(one)) - value(before)) for p, one in ways)


@given(before=PAIRS, both=st.floats(0, 0.5))
@settings(max_examples=60, deadline=None)
def test_equal_accuracy_is_a_martingale_and_a_tolerated_loss_does_not_gain(before, both):
    """
    `both`: the share of pairs in which one track only is right.
    """

    def ways(canary, stable):
        return [
            (canary, Pairs(canary_wrong=1)),
            (stable, Pairs(stable_wrong=1)),
            (1 - canary - stable, Pairs(same=1)),
        ]

    def worse(pairs):
        return after(Accuracy, pairs).worse()

    def not_worse(pairs):
        return after(Accuracy, pairs).not_worse()

    assert pytest.approx(1) == mean_after_one(worse, before, ways(both / 2, both / 2))
    assert 1 + 1e-9 >= mean_after_one(worse, before, ways(both / 3, both / 2))
    assert pytest.approx(1) == mean_after_one(not_worse, before, ways(both / 2 + 0.02, both / 2))
    assert 1 + 1e-9 >= mean_after_one(not_worse, before, ways(both / 2 + 0.1, both / 2))
    assert 1 < mean_after_one(not_worse, Pairs(), ways(both / 2, both / 2))


@given(before=PAIRS)
@settings(max_examples=60, deadline=None)
def test_a_tolerated_disagreement_is_a_martingale_on_both_sides(before):
    def ways(rate):
        return [(rate, Pairs(differ=1)), (1 - rate, Pairs(agree=1))]

    assert pytest.approx(1) == mean_after_one(
        lambda pairs: after(Disagreement, pairs).worse(), before, ways(0.1)
    )
    assert 1 + 1e-9 >= mean_after_one(lambda pairs: after(Disagreement, pairs).worse(), before, ways(0.05))
    assert 1 + 1e-9 >= mean_after_one(lambda pairs: after(Disagreement, pairs).not_worse(), before, ways(0.1))
    assert 1 + 1e-9 >= mean_after_one(lambda pairs: after(Disagreement, pairs).not_worse(), before, ways(0.2))


def test_a_permuted_model_is_found_by_a_handful_of_pairs():
    """
    At a part of a tenth of the evidence, without any request of a user.
    """
    found = next(n for n in range(100) if after(Disagreement, Pairs(differ=n)).worse() >= math.log(1000))

    assert 7 == found


def test_an_equal_model_is_proven_to_agree_and_to_be_as_accurate():
    """
    35 pairs that agree show less than 10 %; at 7 % of pairs with one right answer, 1,700 show less than 2 points of loss.
    """
    agreeing = next(n for n in range(100) if after(Disagreement, Pairs(agree=n)).not_worse() >= math.log(20))
    labelled = next(
        n
        for n in range(0, 5000, 20)
        if after(
            Accuracy, Pairs(0, 0, round(0.035 * n), round(0.035 * n), n - 2 * round(0.035 * n))
        ).not_worse()
        >= math.log(20)
    )

    assert 35 >= agreeing
    assert 1700 >= labelled


def test_what_pairs_prove_is_said_with_its_tolerance():
    pairs = Pairs(agree=1000, differ=3, canary_wrong=5, stable_wrong=4, same=1200)

    agree, right = (after(test, pairs).shown("95 % sure", "request") for test in (Disagreement, Accuracy))

    assert "less than 10 % of answers differ, 95 % sure: 3 of 1,003 (0.3 %) pairs differ" == agree
    assert right.startswith(
        "less than 2 points less accurate than stable, 95 % sure: only the canary wrong 5, "
    )
    assert right.endswith("only stable wrong 4, both alike 1,200")


def shift(*given_looks):
    test = ClassShift(TERMS)
    for weight, classes in given_looks:
        test.add(Look(at=0, weight=weight, classes=classes))
    return test


@given(
    before=st.dictionaries(st.sampled_from("abcd"), st.tuples(SMALL, SMALL), max_size=4),
    name=st.sampled_from("abcde"),
    weight=st.sampled_from([1.0, 10.0, 50.0]),
)
@settings(max_examples=100, deadline=None)
def test_the_evidence_for_a_shift_is_a_martingale_at_the_tolerated_one(before, name, weight):
    """
    A class of 1.5 times stable's share, seen before or not: its answers are the canary's with a known probability.
    """
    odds = 1.5 * weight / (100 - weight)
    mine = odds / (1 + odds)

    now = shift((10.0, before)).worse()
    means = [
        part * math.exp(shift((10.0, before), (weight, {name: counts})).worse() - now)
        for part, counts in ((mine, (1, 0)), (1 - mine, (0, 1)))
    ]

    assert pytest.approx(1) == sum(means)


def test_a_model_that_always_answers_one_class_is_found():
    rng = np.random.default_rng(1)
    test = ClassShift(TERMS)
    n = 0
    while test.worse() < math.log(1000) and n < 300:
        mine = bool(rng.random() < 0.1)
        name = "cat" if mine else f"class {rng.integers(10)}"
        test.add(Look(at=0, weight=10, classes={name: (int(mine), int(not mine))}))
        n += 1

    assert 300 > n
    assert test.in_words().endswith("most evidence for cat")


def test_inputs_that_drift_for_both_tracks_are_no_shift():
    rng, test = np.random.default_rng(2), ClassShift(TERMS)
    peak = 0.0
    for second in range(2000):
        share = 0.05 + 0.9 * (second / 2000)
        for name, n in (("cat", round(100 * share)), ("dog", round(100 * (1 - share)))):
            mine = int(rng.binomial(n, 0.1))
            test.add(Look(at=second, weight=10, classes={name: (mine, n - mine)}))
        peak = max(peak, test.worse())

    assert math.log(100) > peak


def test_no_class_beyond_the_64th_is_followed_and_none_without_a_draw():
    test = shift(
        (10.0, {f"{i:03}": (1, 0) for i in range(70)}),
        (100.0, {"x": (1, 0)}),
        (0.0, {"y": (0, 1)}),
    )

    assert 64 == len(test.parts)
    assert 1 == len(shift((1.0, {"z": (0, 1)})).parts)


def cohorts(rng, rates, requests):
    test = Cohorts(TERMS)
    for _ in range(requests // 100):
        counts = {}
        for name, (canary, stable) in rates.items():
            mine = int(rng.binomial(100, 0.1))
            bad, worse = int(rng.binomial(mine, canary)), int(rng.binomial(100 - mine, stable))
            counts[name] = Counts(bad, mine - bad, worse, 100 - mine - worse)
        test.add(Look(at=0, weight=10, cohorts=counts))
    return test.worse()


def test_a_fault_in_one_region_is_named():
    rates = {f"region {i}": (0.02, 0.02) for i in range(10)}

    assert ["region 3"] == cohorts(np.random.default_rng(3), {**rates, "region 3": (0.4, 0.02)}, 2000)


def test_equal_cohorts_are_rarely_listed():
    """
    20 cohorts in each of 60 rollouts; a list of any is a false discovery, with probability 5 % at most.
    """
    rng, rates = np.random.default_rng(4), {f"{i}": (0.02, 0.02) for i in range(20)}

    assert 3 >= sum(bool(cohorts(rng, rates, 1000)) for _ in range(60))


def test_discoveries_are_the_most_that_their_number_allows():
    """
    Of four with a rate of 5 %: one takes an evidence of 80, two take 40 each, four take 20 each.
    """

    def of(*values):
        return discoveries([(str(value), math.log(value)) for value in values], 0.05)

    assert [] == of(79, 1, 2, 3)
    assert ["80"] == of(80, 1, 2, 3)
    assert ["41", "40"] == of(1, 40, 41, 2)
    assert ["23", "22", "21", "20"] == of(20, 21, 22, 23)
    # Equal ones are listed by name, so that a report says the same twice.
    assert ["a", "b"] == discoveries([("b", 9.0), ("a", 9.0)], 0.05)
    assert [] == of(19, 21, 22, 23)


def test_no_cohort_beyond_the_last_is_followed():
    test = Cohorts(TERMS)
    test.add(Look(at=0, weight=10, cohorts={f"{i:03}": Counts(1, 0, 0, 0) for i in range(105)}))

    assert 100 == len(test.run)


@pytest.mark.parametrize(("weight", "followed"), [(0, False), (1, True), (99, True), (100, False)])
def test_a_cohort_is_followed_where_both_tracks_are_asked(weight, followed):
    test = Cohorts(TERMS)
    test.add(Look(at=0, weight=weight, cohorts={"europe": Counts(1, 0, 0, 0)}))

    assert followed is ("europe" in test.run)


def test_the_evidence_of_a_cohort_is_that_of_its_counts():
    """
    The value is held: it is that of six points, which the saved states of running rollouts have.
    """
    test = Cohorts(TERMS)
    test.add(Look(at=0, weight=10, cohorts={"europe": Counts(5, 45, 3, 447)}))

    assert 5.067964263733887 == pytest.approx(test.tests["europe"].evidence(), rel=1e-9)


@pytest.mark.parametrize(("real", "within"), [(0.12, 13_000), (0.15, 2_500), (0.5, 120), (0.0, 250)])
def test_a_split_that_is_not_the_declared_one_is_found(real, within):
    rng, guard = np.random.default_rng(5), SplitGuard()
    n = 0
    while not guard.refuted(10.0) and n < within:
        mine = int(rng.binomial(10, real))
        guard.add(mine, 10 - mine)
        n += 10

    assert within > n


@pytest.mark.parametrize(
    ("weight", "share", "steps", "soonest"),
    [
        (10, 0.05, 1, 1007),
        (10, 0.08, 1, 7168),
        (10, 0.09, 1, 29931),
        (10, 0.11, 1, 31678),
        (10, 0.12, 1, 8146),
        (10, 0.15, 1, 1384),
        (10, 0.2, 1, 378),
        # Twice this weight is no split, or one that gives stable nothing.
        (60, 0.55, 1, 3397),
        (50, 0.45, 1, 3361),
        (10, 0.12, 2, 8630),
        (10, 0.12, 9, 9955),
    ],
)
def test_a_share_is_refuted_after_so_many_answers(weight, share, steps, soonest):
    """
    The numbers are held: who changes the other splits, or the error rate of a step, sees what it costs.
    """

    def refuted(answers):
        guard = SplitGuard()
        for _ in range(steps - 1):
            guard.begin_step()
        guard.add(round(answers * share), answers - round(answers * share))
        return guard.refuted(weight)

    assert refuted(soonest)
    assert not refuted(soonest - 1)


def test_the_declared_split_is_not_refuted():
    rng = np.random.default_rng(6)
    for weight in (1.0, 10.0, 50.0):
        guard = SplitGuard()
        for _ in range(500):
            mine = int(rng.binomial(100, weight / 100))
            guard.add(mine, 100 - mine)
            assert not guard.refuted(weight)


def test_later_steps_have_a_smaller_part_of_the_error_rate():
    """
    What just refutes the split of the first step does not refute that of the thirtieth.
    """
    guard = SplitGuard()
    while not guard.refuted(10.0) and guard.canary < 100:
        guard.add(1, 3)
    canary, stable = guard.canary, guard.stable
    for _ in range(29):
        guard.begin_step()
    guard.add(canary, stable)

    assert not guard.refuted(10.0)
    guard.add(canary, stable)
    assert guard.refuted(10.0)
