"""
What a judge is given: counters between two readings, and a plan. What cannot be used is refused, and says why.
"""

import math

import pytest

from tfcanary.errors import UsageError
from tfcanary.judge.counters import Reading, difference
from tfcanary.judge.plan import Plan

NAN = math.nan
BEFORE = Reading(at=10, weight=10, totals={"bad": 3, "good": 100})


@pytest.mark.parametrize(
    ("after_that", "why"),
    [
        (Reading(25, 10, {"bad": 2, "good": 150}), "bad: reset, from 3 to 2"),
        (Reading(25, 10, {"bad": NAN, "good": 150}), "bad: expected a finite total, got nan"),
        (Reading(25, 10, {"bad": -1, "good": 150}), "bad: expected a finite total, got -1"),
        (Reading(25, 10, {"bad": True, "good": 150}), "bad: expected a finite total, got True"),
        (Reading(10, 10, {"bad": 3, "good": 100}), "stale: the reading of 10 s is not after that of 10 s"),
        (Reading(NAN, 10, {"bad": 3, "good": 100}), "stale: "),
        (Reading(25, 50, {"bad": 3, "good": 150}), "the weight changed from 10 to 50 % within the scrape"),
        (Reading(25, 10, {"good": 150}), "expected the counters bad, good, got good"),
        (Reading(25, 10), "expected the counters bad, good, got none"),
    ],
)
def test_a_reading_that_cannot_be_used_says_why(after_that, why):
    found = difference(BEFORE, after_that)

    assert isinstance(found, str)
    assert found.startswith(why)


def test_two_readings_give_what_was_counted_between_them():
    assert {"bad": 0, "good": 50} == difference(BEFORE, Reading(25, 10, {"bad": 3, "good": 150.0}))
    assert {"bad": 0} == difference(Reading(10, 10, {"bad": 0}), Reading(25, 10, {"bad": 0}))


@pytest.mark.parametrize(
    "changed",
    [{"least_requests": 0}, {"least_seconds": 0}, {"horizon": 0.5, "least_seconds": 0.1}, {"stale": 0.5}],
)
def test_a_plan_within_its_limits_is_taken(changed):
    assert Plan(**changed).digest != Plan().digest


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"signals": ()}, "signals: expected some of errors, slow"),
        ({"signals": ("errors", "errors")}, "signals: expected some of"),
        ({"signals": ("p99",)}, "signals: expected some of"),
        ({"required": ()}, "required: expected some of errors, each once, got none"),
        ({"required": ("slow",)}, "required: expected some of errors"),
        ({"signals": ("errors", "classes"), "required": ("classes",)}, "required: expected some of errors,"),
        ({"top": 100}, "top: expected per cent"),
        ({"horizon": 0}, "horizon: expected seconds above 0"),
        ({"horizon": math.inf}, "horizon: expected seconds above 0"),
        ({"stale": NAN}, "stale: expected seconds above 0"),
        ({"least_seconds": 4 * 3600}, "least_seconds: expected seconds from 0"),
        ({"least_requests": -1}, "least_requests: expected"),
        ({"missing": 1}, "missing: expected a share"),
        ({"unit": "session"}, "unit: expected request or user, got 'session'"),
    ],
)
def test_a_plan_that_cannot_be_judged_is_refused(changed, message):
    with pytest.raises(UsageError) as raised:
        Plan(**changed)

    assert str(raised.value).startswith(message)
