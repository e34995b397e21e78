"""
A judge that is saved and restored is the same judge.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import looks

from tfcanary.errors import UsageError
from tfcanary.judge.counts import Counts, Pairs
from tfcanary.judge.judge import STATE, Judge, restored
from tfcanary.judge.look import Look
from tfcanary.judge.plan import PROVABLE, SHARES, Plan
from tfcanary.judge.terms import Terms, Tolerance

PLAN = Plan()
EVERYTHING = Plan(signals=tuple(SHARES), required=PROVABLE)

NUMBER = st.integers(0, 1000)
COUNTS = st.builds(Counts, NUMBER, NUMBER, NUMBER, NUMBER)
TWO = st.tuples(NUMBER, NUMBER)
LOOKS = st.lists(
    st.builds(
        Look,
        at=st.floats(0, 10_000),
        weight=st.sampled_from([0.0, 1.0, 5.0, 50.0, 100.0]),
        errors=COUNTS,
        slow=COUNTS,
        pairs=st.builds(Pairs, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER),
        classes=st.dictionaries(st.sampled_from("abc"), TWO),
        faults=st.dictionaries(st.sampled_from(["NaN", "shape"]), TWO),
        cohorts=st.dictionaries(st.sampled_from(["europe", "asia"]), COUNTS),
        problem=st.sampled_from(["", "", "", "no answer"]),
    ),
    max_size=6,
)


@given(given_looks=LOOKS, cut=st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_a_restored_judge_goes_on_as_if_it_had_never_stopped(given_looks, cut):
    """
    Saved after any look: later rulings are equal, and later states byte for byte.
    """
    judge = other = Judge(EVERYTHING)
    for i, look in enumerate(given_looks):
        judge.look(look)
        if i == cut:
            other = restored(EVERYTHING, judge.saved())
        elif other is not judge:
            other.look(look)

    assert judge.ruling() == other.ruling()
    assert judge.saved() == other.saved()


@given(look=LOOKS.filter(bool).map(lambda looks: looks[0]))
@settings(max_examples=50, deadline=None)
def test_a_look_survives_being_written_down(look):
    assert look == Look.from_json(json.loads(json.dumps(look.as_json())))


def test_a_plan_survives_being_written_down():
    changed = Plan(
        terms=Terms(alpha=0.001, slow=Tolerance(3, 0.01)), signals=("errors", "slow"), top=25, unit="user"
    )

    for plan in (PLAN, EVERYTHING, changed):
        assert plan == Plan.from_json(json.loads(json.dumps(plan.as_json())))
    assert 2 == len({PLAN.digest, changed.digest})


def test_the_state_of_a_long_rollout_is_about_a_kilobyte():
    judge, stream = Judge(PLAN), looks(1, per_second=200, weight=10, canary=0.02, stable=0.011)
    for _ in range(3600):
        judge.look(next(stream))

    assert 1500 > len(judge.saved())


def change(state, path, value):
    *keys, last = path
    for key in keys:
        state = state[key]
    state[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["schema"],
            "tfserving-canary/judge-state/1",
            f"judge's state: expected schema {STATE}, got 'tfserv",
        ),
        (["plan"], "0", "judge's state: expected evidence of this plan, got that of another"),
        (["at"], "soon", "judge's state: expected what a judge saved"),
        (["looks"], -1, "judge's state: expected what a judge saved"),
        (["errors", "run"], [1, 2, 3, -4], "judge's state: expected what a judge saved"),
        (["errors", "run"], [1, 2, 3, True], "judge's state: expected what a judge saved"),
        (["errors", "worse", "parts"], [0.0], "judge's state: expected what a judge saved"),
        (
            ["errors", "worse", "parts"],
            [float("nan")] * 26,
            "judge's state: expected what a judge saved, got Value",
        ),
        (
            ["errors", "worse", "parts"],
            [None] * 26,
            "judge's state: expected what a judge saved, got TypeError",
        ),
        (
            ["errors", "worse", "parts"],
            [0.0] * 23 + [None] * 3,
            "judge's state: expected what a judge saved, got T",
        ),
        (
            ["errors", "worse", "parts"],
            [None] + [0.0] * 25,
            "judge's state: expected what a judge saved, got TypeErr",
        ),
        (["errors", "worse", "placed"], 11, "judge's state: expected what a judge saved, got ValueError"),
        (["errors", "worse", "requests"], -1, "judge's state: expected what a judge saved"),
        (["errors"], None, "judge's state: expected what a judge saved"),
        (["tests"], {}, "judge's state: expected what a judge saved"),
        (["split"], [1, 2], "judge's state: expected what a judge saved"),
        (["faults"], {"NaN": [1]}, "judge's state: expected what a judge saved"),
    ],
)
def test_a_state_that_is_not_the_judges_is_refused(path, value, message):
    judge = Judge(EVERYTHING)
    judge.look(Look(at=1, weight=10, errors=Counts(1, 2, 3, 4)))
    state = json.loads(judge.saved())
    change(state, path, value)

    with pytest.raises(UsageError) as raised:
        restored(EVERYTHING, json.dumps(state))

    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '"judge"', "{"])
def test_text_that_is_no_state_is_refused(text):
    with pytest.raises(UsageError, match="judge's state: expected what a judge saved"):
        restored(PLAN, text)


@pytest.mark.parametrize("given_json", [{}, {"terms": 1}, {**PLAN.as_json(), "more": 1}, []])
def test_json_that_is_no_plan_is_refused(given_json):
    with pytest.raises(UsageError, match="plan: expected what a judge wrote"):
        Plan.from_json(given_json)


@pytest.mark.parametrize(
    "given_json",
    [
        {},
        {"at": 1},
        {"at": "1", "weight": 1},
        {"at": 1, "weight": True},
        {"at": 1, "weight": 1, "classes": {"a": [1]}},
        [],
    ],
)
def test_json_that_is_no_look_is_refused(given_json):
    with pytest.raises(UsageError, match="look: expected what a judge wrote"):
        Look.from_json(given_json)
