"""
A live VirtualService that differs from the values is a finding.
"""

import pytest

from tfcanary.check.live import live_retries, live_routes
from tfcanary.contract import Api
from tfcanary.judge.verdict import Outcome

REST, GRPC = "/v1/models/", "/tensorflow.serving."


def virtual_service(*http):
    return {"metadata": {"name": "resnet"}, "spec": {"http": list(http)}}


def entry(prefix, weights, **match):
    """
    One HTTP route as the chart renders it.
    """
    return {
        "match": [{"uri": {"prefix": prefix}, **match}],
        "route": [
            {"destination": {"host": "resnet", "subset": track}, "weight": weight}
            for track, weight in weights.items()
        ],
    }


GROUP = {"headers": {"user-group": {"exact": "canary"}}}


@pytest.mark.parametrize(
    ("http", "api", "observed"),
    [
        pytest.param(
            [entry(REST, {"canary": 100}, **GROUP), entry(REST, {"stable": 100})],
            Api.REST,
            "the same",
            id="same",
        ),
        pytest.param(
            [entry(REST, {"canary": 100}, **GROUP), entry(REST, {"stable": 100})],
            Api.GRPC,
            "canary-users: match: no route",
            id="no-route-for-grpc",
        ),
        pytest.param(
            [entry(GRPC, {"canary": 100}, **GROUP), entry(GRPC, {"stable": 75, "canary": 25})],
            Api.GRPC,
            "everyone: match: stable 75 %, canary 25 %",
            id="weight-patched",
        ),
        pytest.param(
            [entry(REST, {"stable": 100})], Api.REST, "canary-users: match: stable 100 %", id="rule-gone"
        ),
        pytest.param(
            [
                entry(REST, {"canary": 100}, headers={"user-group": {"prefix": "canary"}}),
                entry(REST, {"stable": 100}),
            ],
            Api.REST,
            "canary-users: user-group is a longer value: canary 100 %",
            id="rule-changed",
        ),
        pytest.param(
            [entry(REST, {"canary": 100}, headers={"user-group": {}}), entry(REST, {"stable": 100})],
            Api.REST,
            "canary-users: user-group is another value: canary 100 %",
            id="any-value",
        ),
    ],
)
def test_a_live_virtual_service_that_differs_is_a_finding(user_group, http, api, observed):
    """
    The live object is read as Istio reads it, request by request, and compared with the values.
    """
    row = live_routes(virtual_service(*http), user_group, api)

    assert (Outcome.HELD if observed == "the same" else Outcome.FAILED) is row.outcome
    assert observed in row.observed


@pytest.mark.parametrize(
    ("match", "observed"),
    [
        ({"method": {"exact": "GET"}}, "a match by method cannot be judged here"),
        (
            {"headers": {"user-group": {"regex": r"\pL+"}}},
            r"user-group regex '\\pL+' cannot be judged here: bad escape \p",
        ),
    ],
    ids=["method", "another-syntax"],
)
def test_a_match_that_cannot_be_judged_is_not_enough_evidence(user_group, match, observed):
    row = live_routes(virtual_service(entry(REST, {"stable": 100}, **match)), user_group, Api.REST)

    assert Outcome.NOT_ENOUGH is row.outcome
    assert observed in row.observed


@pytest.mark.parametrize(("attempts", "outcome"), [(0, Outcome.HELD), (2, Outcome.FAILED)])
def test_retries_are_those_of_the_routes(attempts, outcome):
    """
    More of them than the values say would hide failures from the check.
    """
    routed = {**entry(REST, {"stable": 100}), "name": "everyone-rest", "retries": {"attempts": attempts}}

    row = live_retries(virtual_service(routed), {})

    assert (outcome, 1) == (row.outcome, row.n)
