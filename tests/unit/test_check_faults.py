"""
Each fault at the gateway is found by the checks that are about it, and by no other.
"""

import contextlib
import dataclasses
import itertools
import math

import pytest
from checking import MIDDLE, QUICK, kinds, subject, titles
from faults import FAULTS, stale_after, track_missing

from tfcanary.check.run import check_gateway
from tfcanary.check.subject import GatewayPod, Subject
from tfcanary.contract import REVISION_HEADER, Api
from tfcanary.judge.split import plan
from tfcanary.judge.verdict import Outcome
from tfcanary.report.table import findings_table
from tfcanary.routing.parse import from_values

REST, GRPC = "/v1/models/", "/tensorflow.serving."


@pytest.mark.parametrize("strategy", ["tenth", "user_group"])
def test_a_gateway_that_does_what_the_values_say_holds(request, gateway, pictures, strategy):
    expected = request.getfixturevalue(strategy)

    report = check_gateway(subject(gateway(expected), expected), QUICK, pictures)

    assert set() == titles(report) | titles(report, Outcome.NOT_ENOUGH)
    assert 0 == report.exit_code
    assert f"all {len(report.findings)} checks held" == report.verdict


def test_every_row_rests_on_answers(gateway, user_group, pictures):
    """
    Nothing holds on nothing: each row says how many answers it saw, and a split at least as many as it needs.
    """
    report = check_gateway(subject(gateway(user_group), user_group), QUICK, pictures)

    assert all(row.n > 0 and row.n >= row.needed for row in report.findings)
    assert {"split", "header rule"} == {row.name for row in report.findings if row.needed}


@pytest.mark.parametrize(("faults", "found"), FAULTS)
def test_a_fault_is_found_by_name(gateway, tenth, pictures, faults, found):
    """
    On a canary of ten per cent, each planted fault fails exactly the checks that are about it.
    """
    double = gateway(
        faults.get("actual", tenth), **{name: value for name, value in faults.items() if name != "actual"}
    )

    report = check_gateway(subject(double, tenth), QUICK, pictures)

    assert found == kinds(report)
    assert 1 == report.exit_code


def test_a_track_that_nothing_reached_is_asked_for_one_prediction_of_each_kind(gateway, tenth, pictures):
    """
    Its metadata was asked for often enough to be sure; a prediction may be half a megabyte.
    """
    report = check_gateway(subject(gateway(tenth, **track_missing()), tenth), QUICK, pictures)

    tracks, others, apis = 2, 1, 2
    signatures = ("serving_default", "serving_preprocess")
    asked = report.records.of(request="predict")
    metadata = report.records.of(request="metadata")
    assert len(signatures) * (tracks + others) * apis == len(asked)
    assert 10 * len(asked) < len(metadata)


def ignoring(name):
    return lambda _api, headers: {key: value for key, value in headers.items() if key.lower() != name}


def seeing(change):
    """
    A gateway that reads the header's value, or finds it, in another way than it should.
    """

    def see(_api, headers):
        value = change({key.lower(): text for key, text in headers.items()})
        return {"user-group": value} if value is not None else {}

    return see


RULE = "header rule canary-users: user-group "


@pytest.mark.parametrize(
    ("see", "found"),
    [
        pytest.param(
            ignoring("user-group"), {"split canary-users", RULE + "as USER-GROUP"}, id="header-ignored"
        ),
        pytest.param(
            seeing(lambda headers: headers.get("user-group", "").lower()),
            {RULE + "is in another case"},
            id="value-without-case",
        ),
        pytest.param(
            seeing(lambda headers: headers.get("user-group", "").removesuffix("-x")),
            {RULE + "is a longer value"},
            id="prefix-instead-of-exact",
        ),
        pytest.param(
            seeing(lambda headers: headers.get("user-group", "").removeprefix("not-")),
            {RULE + "is another value"},
            id="any-other-value",
        ),
        pytest.param(
            seeing(lambda headers: headers.get("user-group") or headers.get("x-user-group")),
            {RULE + "as x-user-group"},
            id="another-name",
        ),
        pytest.param(
            seeing(lambda _: "canary"),
            {
                "split everyone",
                "header rule canary-users: no user-group",
                *(
                    RULE + what
                    for what in (
                        "as x-user-group",
                        "is in another case",
                        "is another value",
                        "is a longer value",
                    )
                ),
            },
            id="everyone-is-in-the-group",
        ),
        pytest.param(
            lambda api, headers: {} if api is Api.REST and "USER-GROUP" in headers else headers,
            {RULE + "as USER-GROUP"},
            id="name-with-case",
        ),
    ],
)
def test_a_fault_of_a_header_rule_is_found_by_name(gateway, user_group, pictures, see, found):
    """
    Each way to read a header wrongly fails the requests that are about it, and no other.
    """
    double = gateway(user_group, see_headers=see)

    report = check_gateway(subject(double, user_group), QUICK, pictures)

    assert found == {title.removesuffix(" (REST)").removesuffix(" (gRPC)") for title in titles(report)}


def test_a_missing_track_is_not_enough_evidence(gateway, tenth, pictures):
    """
    A canary that never answers a prediction is not passed over: its rows lack evidence.
    """
    double = gateway(tenth, status=lambda *seen: 503 if seen[2:] == ("predict", "canary") else 200)

    report = check_gateway(subject(double, tenth), QUICK, pictures)

    assert {("answers", "REST"), ("answers", "gRPC"), ("REST = gRPC", None), ("agreement", None)} == kinds(
        report, Outcome.NOT_ENOUGH
    )


def test_without_attribution_equal_versions_leave_the_splits_without_evidence(gateway, tenth, pictures):
    """
    routing.attribution off: what can be seen is checked, the rest is said, exit code 4.
    """
    unnamed = dataclasses.replace(tenth, attribution=False, versions={"stable": "1", "canary": "1"})
    double = gateway(tenth, attribute=lambda *_: {})

    report = check_gateway(
        Subject(routing=unnamed, gateway=double.address, lost=("tracks",)), QUICK, pictures
    )

    assert set() == titles(report)
    assert 4 == report.exit_code
    assert {"split", "propagation", "revision", "REST = gRPC"} == {
        name for name, _ in kinds(report, Outcome.NOT_ENOUGH)
    }
    assert ("failed requests", "REST") in kinds(report, Outcome.HELD)
    assert "not checked: tracks" in str(findings_table(report))


def test_without_a_cluster_the_first_revision_must_stay(gateway, tenth, pictures):
    double = gateway(tenth, attribute=stale_after(MIDDLE, Api.GRPC))

    report = check_gateway(Subject(routing=tenth, gateway=double.address), QUICK, pictures)

    assert "rev-2" == report.revision
    assert {"revision (gRPC)"} == titles(report)


def test_the_routes_are_waited_for(gateway, tenth, pictures):
    """
    Old revisions and failures at the start are what waiting is for; they are no finding.
    """
    double = gateway(
        tenth,
        attribute=lambda _api, count, headers: (
            {**headers, REVISION_HEADER: "rev-1"} if count < 3 else headers
        ),
        status=lambda _api, count, *_: 404 if count < 2 else 200,
    )

    report = check_gateway(subject(double, tenth), dataclasses.replace(QUICK, timeout_seconds=10), pictures)

    assert report.held


def test_a_revision_that_comes_and_goes_has_not_arrived(gateway, tenth, pictures):
    """
    One stale gateway pod of several: N in a row are never reached.
    """

    def attribute(_api, count, headers):
        return {**headers, REVISION_HEADER: "rev-1"} if count % 7 == 0 else headers

    report = check_gateway(subject(gateway(tenth, attribute=attribute), tenth), QUICK, pictures)

    assert {"propagation (REST)", "propagation (gRPC)"} == titles(report)
    assert "rev-1" in report.findings[0].observed


def test_one_broken_pod_of_three_is_met(gateway, tenth, pictures):
    """
    One of three canary pods answers NaN: knowing how many there are, the check asks until it would have met each.
    """
    turn = itertools.count()

    def broken(_api, track, outputs):
        if track == "canary" and next(turn) % 3 == 2:
            return {**outputs, "class_probabilities": [math.nan] * 10}
        return outputs

    double = gateway(tenth, outputs=broken)

    report = check_gateway(subject(double, tenth, pods={"stable": 1, "canary": 3}), QUICK, pictures)

    assert {"answers"} == {name for name, _ in kinds(report)} - {"REST = gRPC"}


@pytest.mark.parametrize("shape", [(), (-1, 784), (-1, 10**9, 10**9, 3)])
def test_a_model_that_takes_no_pictures_is_found(gateway, tenth, pictures, shape):
    """
    There is nothing to ask it; the report says what it takes, and is whole.
    """

    def interface(_api, _track, found):
        return {**found, "serving_default": ("x", "DT_FLOAT", shape)}

    report = check_gateway(subject(gateway(tenth, interface=interface), tenth), QUICK, pictures)

    assert {("interface", None)} == kinds(report)
    (row,) = (row for row in report.findings if row.name == "interface")
    assert f"serving_default takes x DT_FLOAT{list(shape)}, expected one picture" in row.observed


def test_the_route_before_the_change_is_told_apart(gateway, values, pictures):
    """
    Half the weight taken back, which `detect` is too coarse for: with the routes before it known, the sample grows.
    """

    def routes(canary):
        entry = {"name": "everyone", "weights": {"stable": 100 - canary, "canary": canary}}
        return from_values(values(entry))

    double = gateway(routes(20))
    coarse = dataclasses.replace(QUICK, detect=90)

    report = check_gateway(subject(double, routes(10), before=routes(20)), coarse, pictures)

    assert {("split", "REST"), ("split", "gRPC")} == kinds(report)
    assert plan(routes(10).routes[0].weights, alpha=1e-4, power=0.99, detect=90).n < min(
        row.needed for row in report.findings if row.name == "split"
    )


def gateway_pod(name, double):
    return GatewayPod(name, lambda: contextlib.nullcontext(double.address))


def test_every_gateway_pod_must_have_the_routes(gateway, tenth, pictures):
    """
    One of two pods is behind, and the balancer never leads there: it is found, and named.
    """
    fresh, stale = gateway(tenth), gateway(tenth, revision="rev-1")
    pods = (gateway_pod("gateway-a", fresh), gateway_pod("gateway-b", stale))

    report = check_gateway(subject(fresh, tenth, gateway_pods=pods), QUICK, pictures)

    assert {"propagation pod gateway-b (REST)", "propagation pod gateway-b (gRPC)"} == titles(report)
    assert {"propagation pod gateway-a (REST)", "propagation pod gateway-a (gRPC)"} < titles(
        report, Outcome.HELD
    )
