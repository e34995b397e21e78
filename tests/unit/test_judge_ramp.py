"""
The next weight: what it is, and that the harm stays within what is allowed.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_judge import ReferenceJudge

from tfcanary.errors import UsageError
from tfcanary.judge.counts import Counts
from tfcanary.judge.events import Event
from tfcanary.judge.look import Look
from tfcanary.judge.ramp import Ramp
from tfcanary.judge.terms import Terms

TERMS = Terms()
RAMP = Ramp()
COUNT = st.integers(0, 5000)


@given(
    counts=st.tuples(COUNT, COUNT, COUNT, COUNT),
    weight=st.sampled_from(RAMP.ladder),
    per_second=st.sampled_from([2, 20, 200, 2000]),
    reaction=st.sampled_from([5, 19]),
)
@settings(max_examples=100, deadline=None)
def test_the_next_weight_is_the_specifications(counts, weight, per_second, reaction):
    """
    Of one step, with few failures and with many.
    """
    for scale in (1, 40):
        one = [counts[0] // scale, counts[1], counts[2] // scale, counts[3]]
        expected, event = ReferenceJudge(), Event("errors", TERMS)
        expected.add(weight / 100, *one)
        event.add(Look(at=0, weight=weight, errors=Counts(*one)))
        proven = event.not_worse() >= 2.995732273553991

        wanted = expected.next_weight(
            weight / 100, rps=per_second, seconds=reaction, answers=10, ladder=(0.01, 0.05, 0.25, 0.5)
        )
        got = RAMP.next_weight(
            weight, excess=event.most_excess(), proven=proven, per_second=per_second, reaction=reaction
        )

        assert pytest.approx(100 * wanted) == got


@pytest.mark.parametrize(
    ("per_second", "reaction", "first"),
    [(2, 5, 5), (20, 5, 5), (200, 5, 1), (200, 19, None), (40, 5, 5), (41, 5, 1), (200.1, 1, 1)],
)
def test_the_first_weight_is_what_the_traffic_allows(per_second, reaction, first):
    """
    10 bad answers, by a canary that answers nothing but errors until the weight is 0 again. 200 requests a second at 1 % for
    19 seconds are 38.
    """
    assert first == RAMP.first_weight(per_second, reaction)


def test_without_evidence_the_weight_stays():
    assert RAMP.next_weight(5, excess=1.0, proven=False, per_second=200, reaction=5) == 5


def test_a_bounded_excess_lets_the_weight_grow():
    """
    10 / (200 x 5 s x 4 %) is 25 %.
    """
    assert RAMP.next_weight(5, excess=0.04, proven=False, per_second=200, reaction=5) == 25
    assert RAMP.next_weight(5, excess=0.041, proven=False, per_second=200, reaction=5) == 5


def test_no_step_is_larger_than_the_growth():
    assert RAMP.next_weight(1, excess=0, proven=True, per_second=1, reaction=1) == 5


def test_a_high_base_rate_does_not_stop_the_ramp():
    """
    With 5 % of failures in both tracks, the bound on the excess stays too wide for 200 requests a second; the proof is there.
    """
    event = Event("errors", TERMS)
    event.add(Look(at=0, weight=25, errors=Counts(50, 950, 150, 2850)))

    assert RAMP.next_weight(25, excess=event.most_excess(), proven=False, per_second=200, reaction=5) == 25
    assert event.not_worse() >= 2.9957
    assert RAMP.next_weight(25, excess=event.most_excess(), proven=True, per_second=200, reaction=5) == 50


def test_the_top_of_the_ladder_is_its_end():
    assert RAMP.next_weight(50, excess=0, proven=True, per_second=20, reaction=5) == 50


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ladder": ()}, "ladder: expected weights"),
        ({"ladder": (0, 5)}, "ladder: expected weights above 0"),
        ({"ladder": (5, 100)}, "ladder: expected weights above 0 and below 100"),
        ({"ladder": (5, 5)}, "ladder: expected rising weights, got 5 and then 5"),
        ({"ladder": (1, 6)}, "ladder: expected steps of at most 5 times, got 1 and then 6"),
        ({"growth": 2.0}, "ladder: expected steps of at most 2 times, got 1 and then 5"),
        ({"answers": 0}, "ramp: expected answers above 0"),
        ({"first": 0.5}, "ramp: expected answers above 0, first from 1"),
        ({"dwell": -1}, "ramp: expected"),
    ],
)
def test_a_ramp_that_would_stay_is_refused(changed, message):
    with pytest.raises(UsageError) as raised:
        Ramp(**changed)

    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("excess", "per_second", "expected"),
    [
        pytest.param(1.0, 200, 5, id="just-enough"),
        pytest.param(1.0, 200.1, 1, id="a-little-more"),
        pytest.param(0.0, 500_000, 5, id="no-excess-is-bounded"),
        pytest.param(-0.1, 500_000, 5, id="nor-a-negative-one"),
    ],
)
def test_the_next_weight_is_10_bad_answers_exactly(excess, per_second, expected):
    """
    At a reaction of one second: 5 % of 200 a second are 10, and an excess of zero is taken to be a millionth.
    """
    assert expected == RAMP.next_weight(1, excess=excess, proven=False, per_second=per_second, reaction=1)


def test_the_defaults_are_the_specifications():
    """
    10 bad answers for each reaction, steps of 5 times at most, 5 % to begin with, and 10 s for a step.
    """
    assert ((1, 5, 25, 50), 10, 5, 5, 10) == (
        *(RAMP.ladder, RAMP.answers, RAMP.growth, RAMP.first, RAMP.dwell),
    )


def test_the_limits_of_a_ramp():
    """
    What is just allowed, and what is just refused.
    """
    for allowed in ({"answers": 0.5}, {"dwell": 0.0}, {"dwell": 0.5}, {"first": 1.0}, {"ladder": (1.0, 5.0)}):
        assert Ramp(**allowed)
    for refused in ({"answers": 0.0}, {"dwell": -0.5}, {"first": 0.5}, {"ladder": (1.0, 5.002)}):
        with pytest.raises(UsageError, match=r"^(ramp|ladder): expected"):
            Ramp(**refused)
