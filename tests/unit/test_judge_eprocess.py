"""
Likelihood ratios and their mixture, against values worked out by hand.
"""

import math

import pytest

from tfcanary.judge.eprocess import log_mixture, log_ratio, log_sum

HALF = {"stable": 50.0, "canary": 50.0}
TENTH = {"stable": 90.0, "canary": 10.0}


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([0.0, 0.0], math.log(2)),
        ([1000.0, 1000.0], 1000 + math.log(2)),
        ([-math.inf, 0.0], 0.0),
        ([-math.inf, -math.inf], -math.inf),
    ],
)
def test_a_sum_of_logarithms(terms, expected):
    assert expected == pytest.approx(log_sum(terms))


@pytest.mark.parametrize(
    ("other", "weights", "counts", "expected"),
    [
        pytest.param(HALF, TENTH, {"canary": 2}, 2 * math.log(5), id="more"),
        pytest.param(HALF, TENTH, {"canary": 1, "stable": 1}, math.log(5) + math.log(5 / 9), id="both"),
        pytest.param({"stable": 100.0}, TENTH, {"canary": 1}, -math.inf, id="the-other-forbids-it"),
        pytest.param(HALF, {"stable": 100.0}, {"canary": 1}, math.inf, id="the-declared-forbids-it"),
        pytest.param({"stable": 100.0}, TENTH, {"canary": 0}, 0.0, id="none"),
    ],
)
def test_a_ratio_of_likelihoods(other, weights, counts, expected):
    assert expected == pytest.approx(log_ratio(other, weights, counts))


def test_the_mixture_is_the_mean_of_both_halves():
    """
    One answer of stable's: an even mixture over all splits expects it in a half of the cases, as the alternative does.
    """
    assert math.log(0.5 / 0.9) == pytest.approx(log_mixture([HALF], TENTH, {"stable": 1}))
    # Two of the canary's: a third of the cases over all splits, a quarter by the alternative, 1 % as declared.
    assert math.log((1 / 3 + 1 / 4) / 2 / 0.01) == pytest.approx(log_mixture([HALF], TENTH, {"canary": 2}))


def test_an_answer_that_no_weight_allows_is_all_the_evidence_there_is():
    assert math.inf == log_mixture([HALF], {"stable": 100.0}, {"stable": 1, "canary": 1})
    # A track that has no weight and gave no answer says nothing.
    assert math.isfinite(log_mixture([HALF], {"stable": 100.0, "canary": 0.0}, {"stable": 1, "canary": 0}))
