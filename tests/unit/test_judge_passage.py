"""
How many requests a verdict takes, exactly; and the error rates of one weight, exactly.
"""

import itertools
import math
from dataclasses import replace

import pytest

from tfcanary.judge.counts import Counts
from tfcanary.judge.eprocess import log_sum
from tfcanary.judge.passage import (
    first_passage,
    information,
    proof,
    proof_information,
    rollback,
    rollback_broken,
    worse_evidence,
)
from tfcanary.judge.rates import Worse, mixture
from tfcanary.judge.terms import Terms

TERMS = Terms()
BOUND = math.log(1 / TERMS.alpha)
WEIGHTS = [0.05, 0.07, 0.1, 0.15, 0.25, 0.5]
CASES = [(base, times) for base in (0.001, 0.01) for times in (2, 3, 5, 10, 20, 50) if base * times < 0.5]


@pytest.mark.parametrize("chance", WEIGHTS)
@pytest.mark.parametrize(("base", "times"), CASES)
def test_a_worse_canary_is_found_within_half_more_requests_than_any_test_needs(base, times, chance):
    found = rollback(TERMS, canary=base * times, stable=base, chance=chance)

    assert pytest.approx(1, abs=1e-6) == found.reached
    assert 1 < found.mean / least_requests(base * times, base, chance) <= 1.5


@pytest.mark.parametrize("chance", WEIGHTS)
def test_a_canary_that_fails_half_of_its_requests_is_found_within_half_more(chance):
    """
    Fifty times a base rate of 1 %: good answers say much as well.
    """
    found = rollback_broken(TERMS, canary=0.5, stable=0.01, chance=chance)

    assert pytest.approx(1, abs=1e-4) == found.reached
    assert 1 < found.mean / least_requests(0.5, 0.01, chance) <= 1.5


# Both ends of each range of weights at which the bets lie elsewhere, the weights beside them, and the worst within.
BETWEEN = [
    *(0.0515, 0.052, 0.0615, 0.062, 0.066, 0.0665, 0.0755, 0.0845, 0.097, 0.0975),
    *(0.152, 0.1525, 0.158, 0.162, 0.1625),
]


@pytest.mark.parametrize("chance", BETWEEN)
@pytest.mark.parametrize(("base", "times"), [(0.001, 50), (0.01, 2), (0.01, 20)])
def test_where_one_failure_more_is_nearly_needed_the_same_holds(base, times, chance):
    """
    Here two failures are only just enough, or only just not; or three beside one of stable's.
    """
    found = rollback(TERMS, canary=base * times, stable=base, chance=chance)

    assert 1 < found.mean / least_requests(base * times, base, chance) <= 1.5


@pytest.mark.parametrize(
    ("chance", "enough", "beside_one"),
    [(0.0515, 2, 3), (0.052, 2, 4), (0.066, 2, 4), (0.0665, 3, 3), (0.083, 3, 3), (0.152, 3, 5)],
)
def test_the_fewest_failures_that_are_enough(chance, enough, beside_one):
    """
    The figures of docs/explanation/the-judge.md.
    """
    evidence = worse_evidence(TERMS, chance)

    found = [next(n for n in itertools.count() if evidence(n, stable) >= BOUND) for stable in (0, 1)]

    assert [enough, beside_one] == found


def least_requests(canary, stable, chance):
    return BOUND / information(canary=canary, stable=stable, chance=chance)


def uncertainty(*parts):
    """
    The entropy of a distribution, in nats.
    """
    return -sum(part * math.log(part) for part in parts if part)


@pytest.mark.parametrize(
    ("canary", "stable", "chance"), [(0.5, 0.01, 0.1), (1.0, 0.001, 0.05), (0.3, 0.2, 0.9), (0.2, 0.2, 0.5)]
)
def test_what_a_request_says_of_its_track_is_what_the_track_takes_from_the_outcomes_uncertainty(
    canary, stable, chance
):
    """
    By entropies: track and outcome alone, less both together.
    """
    ways = [chance * canary, chance * (1 - canary), (1 - chance) * stable, (1 - chance) * (1 - stable)]
    bad = ways[0] + ways[2]
    expected = uncertainty(chance, 1 - chance) + uncertainty(bad, 1 - bad) - uncertainty(*ways)

    assert pytest.approx(expected, abs=1e-12) == information(canary=canary, stable=stable, chance=chance)


@pytest.mark.parametrize(
    ("rate", "times", "chance", "expected"),
    [
        # Of one failure in 100: log(3/2) with probability 1/2, and log(3/4) with 1/2.
        (0.01, 2, 0.5, 0.01 * math.log(9 / 8) / 2),
        # The canary's share of failures would be 1/4 instead of 1/10.
        (0.001, 3, 0.1, 0.001 * (0.1 * math.log(0.1 / 0.25) + 0.9 * math.log(0.9 / 0.75))),
    ],
)
def test_what_a_request_of_equal_tracks_says_against_a_ratio(rate, times, chance, expected):
    assert pytest.approx(expected, rel=1e-12) == proof_information(rate=rate, times=times, chance=chance)


@pytest.mark.parametrize("chance", WEIGHTS)
@pytest.mark.parametrize("base", [0.001, 0.01])
def test_a_dead_canary_is_found_within_seven_tenths_more(base, chance):
    found = rollback_broken(TERMS, canary=1.0, stable=base, chance=chance)

    assert 1 < found.mean / least_requests(1, base, chance) <= 1.7


@pytest.mark.parametrize("chance", WEIGHTS)
@pytest.mark.parametrize("base", [0.001, 0.01])
def test_an_equal_canary_is_proven_within_a_quarter_more(base, chance):
    found = proof(TERMS, TERMS.errors, canary=base, stable=base, chance=chance)

    least = math.log(1 / TERMS.beta) / proof_information(rate=base, times=2, chance=chance)
    assert 1 < found.mean / least <= 1.25


@pytest.mark.parametrize(
    ("base", "canary", "chance", "median", "most"),
    [
        (0.001, 0.005, 0.1, 16_498, 43_717),
        (0.001, 0.009, 0.1, 5_857, 15_870),
        (0.001, 0.02, 0.1, 1_872, 5_020),
        (0.01, 0.02, 0.1, 18_006, 43_687),
        (0.01, 0.05, 0.1, 1_650, 4_370),
        (0.01, 0.1, 0.1, 500, 1_348),
        (0.01, 0.02, 0.5, 6_922, 16_206),
    ],
)
def test_medians_and_95th_percentiles_do_not_grow(base, canary, chance, median, most):
    """
    The figures of docs/explanation/the-judge.md, to 0.5 %.
    """
    found = rollback(TERMS, canary=canary, stable=base, chance=chance)

    assert pytest.approx(median, rel=0.005) == found.quantile(0.5)
    assert pytest.approx(most, rel=0.005) == found.quantile(0.95)


@pytest.mark.parametrize(
    ("chance", "median", "most"), [(0.1, 9_702, 30_419), (0.25, 5_201, 16_571), (0.5, 4_499, 14_764)]
)
def test_the_proof_of_an_equal_canary_takes_as_long_as_it_did(chance, median, most):
    found = proof(TERMS, TERMS.errors, canary=0.01, stable=0.01, chance=chance)

    assert (median, most) == (found.quantile(0.5), found.quantile(0.95))


def test_a_dead_canary_at_10_per_cent_takes_23_requests_and_rarely_100():
    found = rollback_broken(TERMS, canary=1.0, stable=0.01, chance=0.1)

    assert 23 == found.quantile(0.5)
    assert 49 == found.quantile(0.95)
    assert 100 > found.quantile(0.99)


@pytest.mark.parametrize("chance", [0.05, 0.06, 0.08, 0.1, 0.155, 0.5])
def test_equal_tracks_are_rolled_back_with_probability_alpha_at_most(chance):
    """
    Exact over the first 3,000 failures, each followed by a look.
    """
    found = first_passage(
        worse_evidence(TERMS, chance), BOUND, canary=0.01, stable=0.01, chance=chance, events=3000
    )

    assert 0.003 < found.reached < TERMS.alpha


@pytest.mark.parametrize("chance", [0.1, 0.5])
def test_a_canary_exactly_twice_as_bad_is_proven_with_probability_beta_at_most(chance):
    found = proof(TERMS, TERMS.errors, canary=0.02, stable=0.01, chance=chance)

    assert 0.02 < found.reached < TERMS.beta


@pytest.mark.parametrize("chance", [0.1, 0.5])
def test_the_paths_add_up_to_what_all_sequences_of_failures_give(chance):
    """
    All 2 to the 12th of them, each followed by hand.
    """
    evidence, mine = worse_evidence(TERMS, chance), chance * 0.3 / (chance * 0.3 + (1 - chance) * 0.01)

    found = first_passage(evidence, BOUND, canary=0.3, stable=0.01, chance=chance, events=12)

    expected = [0.0] * 13
    for path in itertools.product((0, 1), repeat=12):
        for n in range(1, 13):
            canary = sum(path[:n])
            if evidence(canary, n - canary) >= BOUND:
                expected[n] += math.prod(mine if one else 1 - mine for one in path)
                break
    assert pytest.approx(expected) == list(found.stops)


def test_the_number_of_requests_is_that_of_repeated_trials():
    """
    One failure decides, and each request fails with probability 1/2: a geometric distribution.
    """
    found = first_passage(lambda canary, stable: canary + stable, 1, canary=0.5, stable=0.5, chance=0.5)

    assert (2, 1, 2, 5) == (found.mean, found.quantile(0.5), found.quantile(0.75), found.quantile(0.95))


def test_a_bound_that_is_rarely_reached_has_no_median():
    found = first_passage(worse_evidence(TERMS, 0.1), BOUND, canary=0.01, stable=0.01, chance=0.1, events=50)

    assert math.inf == found.quantile(0.5)


def test_20_000_events_are_added_up_and_what_they_do_not_reach_is_left():
    """
    One failure of the canary decides, and one failure in 2,000 is the canary's.
    """
    found = first_passage(lambda canary, _: canary, 1, canary=0.0005, stable=0.9995, chance=0.5)

    assert 20_001 == len(found.stops)
    assert pytest.approx(1 - 0.9995**20_000, rel=1e-9) == found.reached


def test_a_canary_that_never_fails_is_followed_for_3_000_requests():
    found = rollback_broken(TERMS, canary=0.0, stable=0.0, chance=0.05)

    assert 3001 == len(found.stops)
    assert TERMS.alpha > found.reached


@pytest.mark.parametrize("counts", [Counts(7, 100, 3, 900), Counts(7, 0, 3, 90), Counts(0, 50, 40, 900)])
def test_the_judges_own_evidence_is_what_is_followed_and_more(counts):
    """
    The rest is on a broken canary, and kept back for later; none of it is ever negative.
    """
    test = Worse(TERMS)
    test.add(0.1, counts)

    followed = worse_evidence(TERMS, 0.1)(counts.canary_bad, counts.stable_bad)

    more = [math.exp(part) for part in test.parts[24:]]
    assert pytest.approx(math.exp(followed) + sum(more) + 0.1) == math.exp(test.evidence())


def test_the_paths_of_a_broken_canary_add_up_to_what_all_sequences_of_requests_give():
    """
    All 4 to the 5th of them, each followed by the judge's own bets from the start.
    """
    kinds = list(zip(Counts(*range(4)), (0.5 * 0.5, 0.5 * 0.5, 0.5 * 0.01, 0.5 * 0.99), strict=True))
    terms = replace(TERMS, alpha=0.5)

    found = rollback_broken(terms, canary=0.5, stable=0.01, chance=0.5)

    expected = [0.0] * 6
    for path in itertools.product(kinds, repeat=5):
        test = Worse(terms)
        for n, (kind, _) in enumerate(path, 1):
            test.add(0.5, Counts(*(int(i == kind) for i in range(4))))
            if log_sum(test.parts) >= math.log(2):
                expected[n] += math.prod(probability for _, probability in path)
                break
    assert pytest.approx(expected, abs=1e-6) == list(found.stops[:6])


@pytest.mark.parametrize(
    ("accuracy", "alone", "median"),
    [("90 to 87 %", (0.05, 0.02), 760), ("76 to 71 %", (0.085, 0.035), 484)],
)
def test_paired_requests_find_a_loss_of_accuracy_in_hundreds(accuracy, alone, median):
    """
    Only the canary is wrong, or only stable, in these shares of the pairs.
    """
    canary, stable = alone

    found = first_passage(
        lambda mine, theirs: mixture(TERMS, 0.5, mine, theirs),
        BOUND,
        canary=2 * canary,
        stable=2 * stable,
        chance=0.5,
    )

    assert pytest.approx(median, rel=0.25) == found.quantile(0.5), accuracy
