"""
From requests to looks: whose fault a status is, due order, slow and unfinished answers, users, pairs.
"""

import http
import random
from dataclasses import replace

import numpy as np
import pytest

from tfcanary.errors import UsageError
from tfcanary.judge.answers import fault_of
from tfcanary.judge.counts import Counts, Pairs
from tfcanary.judge.feed import Feed, Request
from tfcanary.judge.judge import Judge
from tfcanary.judge.look import Look
from tfcanary.judge.plan import PROVABLE, SHARES, Plan
from tfcanary.judge.ruling import Action
from tfcanary.judge.statuses import Blame, blame

PLAN = Plan()
EVERYTHING = Plan(signals=tuple(SHARES), required=PROVABLE, least_requests=1)
GOOD = Request(at=1, weight=10, track="canary", status=200, latency=0.1)


def looks(*requests, plan=PLAN, **more):
    return list(Feed(plan, slow=more.pop("slow", 0.5), **more).looks(requests))


@pytest.mark.parametrize(
    ("status", "code", "whose"),
    [
        *((status, None, Blame.NOBODY) for status in (200, 201, 204)),
        *((status, None, Blame.MODEL) for status in (400, 404, 409, 422, 429, 500, 502, 503, 504, 301)),
        *((status, None, Blame.CLIENT) for status in (401, 403, 405, 411, 413, 415, 431, 499)),
        (None, None, Blame.MODEL),
        (200, 0, Blame.NOBODY),
        *((200, code, Blame.MODEL) for code in (2, 3, 4, 5, 8, 9, 12, 13, 14, 15)),
        *((200, code, Blame.CLIENT) for code in (1, 7, 16)),
    ],
)
def test_whose_fault_a_status_is(status, code, whose):
    assert whose is blame(status, code)


def test_what_is_refused_before_a_model_is_asked_counts_for_neither_track():
    """
    By the statuses' names. Every other one from 300 on is an answer that stable would not have given.
    """
    refused = {
        *(
            "UNAUTHORIZED",
            "FORBIDDEN",
            "METHOD_NOT_ALLOWED",
            "NOT_ACCEPTABLE",
            "PROXY_AUTHENTICATION_REQUIRED",
        ),
        *("REQUEST_TIMEOUT", "LENGTH_REQUIRED", "REQUEST_ENTITY_TOO_LARGE", "REQUEST_URI_TOO_LONG"),
        *("UNSUPPORTED_MEDIA_TYPE", "EXPECTATION_FAILED", "MISDIRECTED_REQUEST", "UPGRADE_REQUIRED"),
        *("REQUEST_HEADER_FIELDS_TOO_LARGE",),
    }

    by_clients = {status for status in range(200, 600) if blame(status, None) is Blame.CLIENT}

    # 499 is Envoy's and nginx's: the client went away.
    assert {499, *(http.HTTPStatus[name] for name in refused)} == by_clients
    assert list(range(200, 300)) == [status for status in range(600) if blame(status, None) is Blame.NOBODY]


def test_requests_are_counted_by_track_and_outcome():
    """
    What a client did wrong counts for neither, and is an answer of its track all the same.
    """
    (look,) = looks(
        GOOD,
        replace(GOOD, status=503),
        replace(GOOD, track="stable"),
        replace(GOOD, track="stable", status=200, code=13),
        replace(GOOD, status=401),
        replace(GOOD, track=""),
    )

    assert Counts(1, 1, 1, 1) == look.errors
    assert (3, 2) == look.routed
    assert 1 == look.unnamed


def test_a_request_that_has_not_ended_is_slow_before_it_fails():
    (look,) = looks(GOOD, replace(GOOD, latency=0.6), replace(GOOD, latency=None, status=None), slow=0.5)

    assert Counts(2, 1, 0, 0) == look.slow
    assert Counts(0, 2, 0, 0) == look.errors


def test_requests_count_in_the_order_in_which_they_were_due():
    """
    However they are given: looks of one second each, in order.
    """
    requests = [replace(GOOD, at=i / 10) for i in range(100)]
    shuffled = random.Random(1).sample(requests, 100)  # noqa: S311 - a shuffle

    assert looks(*requests) == looks(*shuffled)
    assert [pytest.approx(i + 0.9) for i in range(10)] == [look.at for look in looks(*shuffled)]


def test_a_look_has_one_weight():
    """
    While a new weight spreads, both come side by side; neither look is older than the other.
    """
    mixed = looks(*(replace(GOOD, at=1 + i / 100, weight=(5, 10)[i % 2]) for i in range(20)))

    assert [(5, 1.19), (10, 1.19)] == [(look.weight, look.at) for look in mixed]


def test_a_pair_is_compared_and_no_request_of_a_user():
    """
    The same input, sent to both tracks; with a label, who is right.
    """
    pairs = [
        ("a", "cat", "cat", "cat"),
        ("b", "cat", "dog", "cat"),
        ("c", "cat", "dog", "dog"),
        ("d", "cat", "dog", ""),
    ]
    requests = [
        replace(GOOD, track=track, pair=pair, answer=answer, label=label)
        for pair, stable, canary, label in pairs
        for track, answer in (("stable", stable), ("canary", canary))
    ]

    (look,) = looks(*requests)

    assert Pairs(agree=1, differ=3, canary_wrong=1, stable_wrong=1, same=1) == look.pairs
    assert Counts() == look.errors
    assert (0, 0) == look.routed


def test_the_second_answer_of_a_pair_may_come_later():
    feed = Feed(PLAN, slow=1)
    half = replace(GOOD, pair="a", answer="cat")

    (first,) = feed.looks([half])
    (second,) = feed.looks([replace(half, at=9, track="stable")])

    assert (Pairs(), Pairs(agree=1)) == (first.pairs, second.pairs)


def test_a_user_counts_once():
    """
    The first request, and the first failure. What follows is no new evidence: it goes to the same track.
    """
    plan = Plan(unit="user")
    requests = [replace(GOOD, at=i, user="ann", status=500 if i >= 3 else 200) for i in range(9)]
    requests += [replace(GOOD, at=i, user="bob", track="stable") for i in range(9)]

    given = looks(*requests, plan=plan, sticky=True)

    total = Counts()
    for look in given:
        total = total.plus(look.errors)
    assert Counts(1, 1, 0, 1) == total
    assert (1, 1) == tuple(map(sum, zip(*(look.routed for look in given), strict=True)))


def test_sticky_routes_are_refused_where_requests_are_counted():
    with pytest.raises(UsageError, match="sticky routes: expected the unit user, got request"):
        Feed(PLAN, slow=1, sticky=True)
    with pytest.raises(UsageError, match="records: expected a user in each of them"):
        looks(GOOD, plan=Plan(unit="user"))
    with pytest.raises(UsageError, match="slow and every: expected seconds above 0"):
        Feed(PLAN, slow=0)


def rolled_back_by_a_user_with_bursts(seed, unit):
    """
    Equal tracks, users that always get the same one, and one user in 200 whose requests fail 40 times in a row.
    """
    draw = random.Random(seed)  # noqa: S311 - a simulation
    users = [(f"u{i}", "canary" if draw.random() < 0.1 else "stable", i % 200 == 0) for i in range(3000)]
    requests, at = [], 0.0
    for name, track, fails in draw.sample(users, 3000):
        for _ in range(40 if fails else 3):
            at += 0.01
            requests.append(replace(GOOD, at=at, track=track, user=name, status=500 if fails else 200))
    plan = Plan(unit=unit)
    judge = Judge(plan)
    for look in Feed(plan, slow=1).looks(requests):
        judge.look(look)
        if judge.ruling().action is Action.ROLLBACK:
            return True
    return False


def test_a_failing_user_of_a_sticky_route_rolls_back_only_where_requests_are_counted():
    runs = range(8)

    by_request = sum(rolled_back_by_a_user_with_bursts(seed, "request") for seed in runs)
    by_user = sum(rolled_back_by_a_user_with_bursts(seed, "user") for seed in runs)

    assert by_request >= 2
    assert by_user == 0


GOOD_OUTPUT = np.full((2, 4), 0.25, dtype=np.float32)


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (GOOD_OUTPUT, ""),
        (GOOD_OUTPUT.astype(np.float64), "dtype float64 instead of float32"),
        (GOOD_OUTPUT[0], "shape (4,) instead of (-1, 4)"),
        (GOOD_OUTPUT[:, :3], "shape (2, 3) instead of (-1, 4)"),
        (np.float32([[0.25, 0.25, np.nan, 0.5]]), "NaN"),
        (np.float32([[0.25, 0.25, np.inf, 0.5]]), "infinite"),
        (np.float32([[0.25, 0.25, 0.25, 0.3]]), "probabilities that do not sum to 1"),
        (np.float32([[0.25, 0.25, -0.25, 0.75]]), "probability outside 0 and 1"),
        (np.float32([[1.25, 0.25, -0.25, -0.25]]), "probability outside 0 and 1"),
        (np.float32([[0.2505, 0.25, 0.25, 0.25]]), ""),
        (np.float32([[0.2515, 0.25, 0.25, 0.25]]), "probabilities that do not sum to 1"),
        (np.float32([[0, 1, 0, 0]]), ""),
        (np.float32([[-0.0009, 1.0009, 0, 0]]), ""),
        (np.float32([[-0.0011, 1, 0.0011, 0]]), "probability outside 0 and 1"),
        (np.float32([[-0.0009, -0.0009, 1.0018, 0]]), "probability outside 0 and 1"),
    ],
)
def test_an_answer_that_no_input_explains_is_named(output, fault):
    assert fault == fault_of(output, shape=(-1, 4), dtype=np.float32, distribution=True)


def test_the_last_axis_is_the_distribution():
    """
    Of two images with three boxes of two classes each.
    """
    output = np.full((2, 3, 2), 0.5, dtype=np.float32)

    assert "" == fault_of(output, shape=(-1, 3, 2), dtype=np.float32, distribution=True)


def test_an_output_that_is_no_distribution_may_sum_to_anything():
    assert "" == fault_of(GOOD_OUTPUT * 9, shape=(-1, 4), dtype=np.float32)
    assert "" == fault_of(np.array([[1, 2]]), shape=(1, -1), dtype=np.int64, distribution=True)


def stream(fault, n=3000):
    """
    Requests at 10 %, every tenth input also sent to both tracks, with a fault of the canary.
    """
    draw, classes = random.Random(7), "abcdefghij"  # noqa: S311 - a simulation
    for i in range(n):
        at, truth = i / 50, draw.choice(classes)
        tracks = ("canary", "stable") if i % 10 == 0 else ("canary" if draw.random() < 0.1 else "stable",)
        for track in tracks:
            request = Request(
                at,
                10,
                track,
                status=200,
                code=0 if i % 2 else None,
                latency=draw.uniform(0.01, 0.05),
                answer=truth,
                pair=str(i) if len(tracks) > 1 else "",
                label=truth if len(tracks) > 1 else "",
            )
            yield fault(request) if track == "canary" else request


FAULTS = {
    "gRPC code 13": lambda one: replace(one, code=None if one.code is None else 13),
    "REST 404": lambda one: one if one.code is not None else replace(one, status=404),
    "permuted classes": lambda one: replace(one, answer="bcdefghija"["abcdefghij".index(one.answer)]),
    "NaN": lambda one: replace(one, fault="NaN"),
    "ten times the latency": lambda one: replace(one, latency=10 * one.latency),
    "black hole": lambda one: replace(one, track="", status=None, code=None, latency=None),
}


def first_rollback(requests):
    judge = Judge(EVERYTHING)
    for look in Feed(EVERYTHING, slow=0.08).looks(requests):
        judge.look(look)
        if judge.ruling().action is Action.ROLLBACK:
            return judge.at
    return None


def only_5xx(requests):
    """
    Whether a bar of 99 % answers without an HTTP status of 500 or more ever fails in a minute of the canary's answers.
    """
    minutes = {}
    for request in requests:
        if request.track == "canary" and request.status is not None:
            minutes.setdefault(request.at // 60, []).append(request.status >= 500)
    return any(sum(bad) > 0.01 * len(bad) for bad in minutes.values())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_no_5xx_shows_is_found(fault):
    """
    Within 30 seconds at 50 requests a second and 10 %, and by no metric of HTTP statuses.
    """
    found = first_rollback(stream(FAULTS[fault]))

    assert found is not None
    assert 30 > found
    assert not only_5xx(stream(FAULTS[fault]))


def test_a_healthy_canary_is_not_rolled_back_by_any_signal():
    assert first_rollback(stream(lambda one: one)) is None
    assert only_5xx(stream(lambda one: replace(one, status=500)))


def test_answers_without_a_track_do_not_promote():
    judge = Judge(PLAN)
    for at in (1, 20):
        judge.look(Look(at=at, weight=50, errors=Counts(0, 900, 0, 900), unnamed=100))

    assert "wait: 200 of 3,800 (5.3 %) answers of this step name no track" == judge.ruling().sentence
