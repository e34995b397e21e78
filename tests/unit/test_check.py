"""
The check at the gateway, against a double that does what it is told: each fault is found, by name.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import math

import pytest
from PIL import Image

from tfcanary.check import ledger, mirrors
from tfcanary.check.live import live_routes
from tfcanary.check.propagation import IN_A_ROW
from tfcanary.check.refusals import CLOSED_METHODS, CLOSED_PATHS
from tfcanary.check.report import SCHEMA, Report
from tfcanary.check.run import check_gateway
from tfcanary.check.subject import GatewayPod, Options, Subject
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.pictures import Picture, decoded, default_pictures
from tfcanary.contract import REVISION_HEADER, TRACK_HEADER, Api
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.judge.split import plan
from tfcanary.judge.verdict import Outcome
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Routing
from tfcanary.routing.tokens import Token
from tfcanary.traffic.records import joined

# Error rates that find what the faults below do, with few requests.
QUICK = Options(alpha=1e-4, power=0.99, detect=40, timeout_seconds=0.5)
# More requests than these are made over each API before the predictions, so a fault in this one is in the middle.
MIDDLE = IN_A_ROW + 15


@pytest.fixture(scope="module")
def pictures():
    return default_pictures()


@pytest.fixture
def tenth(values) -> Routing:
    return from_values(values())


def subject(double, expected, **more):
    return Subject(routing=expected, gateway=double.address, revision="rev-2", release="resnet", **more)


def titles(report, decision=Outcome.FAILED):
    return {row.title for row in report.findings if row.outcome is decision}


def kinds(report, decision=Outcome.FAILED):
    return {(row.name, row.api and row.api.value) for row in report.findings if row.outcome is decision}


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


def shares(stable: int) -> Routing:
    """
    What a gateway does that splits all traffic.
    """
    entry = {"name": "everyone", "weights": {"stable": stable, "canary": 100 - stable}}
    values = {
        "model": {"name": "resnet"},
        "tracks": {"stable": {}, "canary": {}},
        "routing": {"routes": [entry]},
    }
    return from_values(values)


def only(api, change):
    """
    A fault of one API.
    """
    return lambda its, *rest: change(its, *rest) if its is api else rest[-1]


def without(name):
    return lambda _api, _count, headers: {key: value for key, value in headers.items() if key != name}


def stale_after(count, api):
    def attribute(its, seen, headers):
        return {**headers, REVISION_HEADER: "rev-1"} if its is api and seen > count else headers

    return attribute


def canary(change):
    """
    A fault in the canary's outputs.
    """
    return lambda _api, track, outputs: {**outputs, **change(outputs)} if track == "canary" else outputs


def permuted(_api, _track, outputs):
    """
    Probabilities that belong to the classes beside them.
    """
    every = outputs["class_probabilities"]
    return {**outputs, "class_probabilities": every[1:] + every[:1]}


BOTH = frozenset({"REST", "gRPC"})
ANSWERS = {("answers", api) for api in BOTH}


@pytest.mark.parametrize(
    ("faults", "found"),
    [
        pytest.param({"actual": shares(10)}, {("split", api) for api in BOTH}, id="weights-swapped"),
        pytest.param(
            {"actual": shares(100)},
            {("split", api) for api in BOTH},
            id="change-never-applied",
        ),
        pytest.param({"actual": shares(50)}, {("split", api) for api in BOTH}, id="half-instead-of-a-tenth"),
        pytest.param(
            {"choose": only(Api.GRPC, lambda _api, _track: "stable")},
            {("split", "gRPC")},
            id="grpc-left-on-the-old-weights",
        ),
        pytest.param(
            {"choose": only(Api.REST, lambda _api, _track: "canary")},
            {("split", "REST")},
            id="rest-all-to-the-canary",
        ),
        pytest.param(
            {"choose": lambda _api, track: "shadow" if track == "canary" else track},
            {("split", api) for api in BOTH},
            id="a-track-that-has-no-weight-answers",
        ),
        pytest.param({"revision": "rev-1"}, {("propagation", api) for api in BOTH}, id="revision-stale"),
        pytest.param(
            {"attribute": stale_after(0, Api.GRPC)}, {("propagation", "gRPC")}, id="grpc-left-on-the-old-revision"
        ),
        pytest.param(
            {"attribute": stale_after(MIDDLE, Api.REST)}, {("revision", "REST")}, id="revision-goes-back"
        ),
        pytest.param(
            {"attribute": without(REVISION_HEADER)},
            {("propagation", api) for api in BOTH},
            id="revision-missing",
        ),
        pytest.param(
            {"attribute": without(TRACK_HEADER)}, {("split", api) for api in BOTH}, id="track-missing"
        ),
        pytest.param(
            {"status": lambda api, count, *_: 503 if (api, count) == (Api.REST, MIDDLE) else 200},
            {("failed requests", "REST")},
            id="one-503",
        ),
        pytest.param(
            {"status": lambda api, count, *_: 503 if (api, count) == (Api.GRPC, MIDDLE) else 200},
            {("failed requests", "gRPC")},
            id="one-unavailable",
        ),
        pytest.param(
            {"status": lambda *seen: 400 if seen[2:] == ("predict", "canary") else 200},
            {("failed requests", api) for api in BOTH},
            id="canary-refuses-predictions",
        ),
        pytest.param(
            {"outputs": canary(lambda _: {"class_probabilities": [math.nan] * 10})},
            ANSWERS | {("REST = gRPC", None)},
            id="nan",
        ),
        pytest.param(
            {"outputs": canary(lambda given: {"probabilities": [math.inf, *given["probabilities"][1:]]})},
            ANSWERS,
            id="infinity",
        ),
        pytest.param(
            {"outputs": canary(lambda given: {"probabilities": given["probabilities"][::-1]})},
            ANSWERS,
            id="probabilities-rising",
        ),
        pytest.param({"outputs": canary(lambda _: {"probabilities": [0.9, 0.1, 0, 0, 0]})}, ANSWERS, id="not-the-top"),
        pytest.param({"outputs": canary(lambda given: {"labels": given["labels"][:4]})}, ANSWERS, id="four-labels"),
        pytest.param({"outputs": canary(lambda given: {"labels": ["", *given["labels"][1:]]})}, ANSWERS, id="no-label"),
        pytest.param(
            {"outputs": canary(lambda given: {"class_probabilities": [p / 2 for p in given["class_probabilities"]]})},
            ANSWERS,
            id="sum-of-a-half",
        ),
        pytest.param(
            {"outputs": canary(lambda given: {"class_probabilities": [-0.5, 1.5, *given["class_probabilities"][2:]]})},
            ANSWERS,
            id="out-of-range",
        ),
        pytest.param(
            {"outputs": canary(lambda given: {"class_probabilities": [*given["class_probabilities"], 0.0]})},
            {("classes", None)},
            id="one-class-more",
        ),
        pytest.param(
            {"outputs": only(Api.REST, permuted)},
            {("REST = gRPC", None), ("labels", None)},
            id="classes-permuted-over-rest",
        ),
        pytest.param(
            {"classes": 1000, "sure": 0.01, "outputs": only(Api.GRPC, permuted)},
            {("REST = gRPC", None)},
            id="classes-permuted-in-an-unsure-model",
        ),
        pytest.param(
            {"classes": 1000, "sure": 0.01, "outputs": canary(lambda given: {"probabilities": given["class_probabilities"][:5]})},
            ANSWERS,
            id="not-the-top-of-an-unsure-model",
        ),
        pytest.param(
            {"interface": lambda _api, track, found: found if track == "stable" else {**found, "serving_default": ("images", "DT_FLOAT", (-1, 9, 9, 3))}},
            {("interface", None)},
            id="canary-takes-another-size",
        ),
        pytest.param(
            {"interface": lambda _api, _track, found: {"serving_default": found["serving_default"]}},
            {("interface", None)},
            id="signature-missing",
        ),
        pytest.param(
            {"outputs": lambda api, track, given: permuted(api, track, given) if track == "canary" else given},
            {("labels", None)},
            id="canary-permutes-the-classes",
        ),
        pytest.param(
            {"outputs": canary(lambda given: {"labels": [f"breed {label}" for label in given["labels"]]})},
            {("labels", None)},
            id="canary-is-of-another-model",
        ),
        pytest.param(
            {"outputs": canary(lambda given: {"labels": given["labels"][::-1]})},
            {("labels", None)},
            id="canary-sorts-its-labels-the-other-way",
        ),
        pytest.param(
            {"outputs": canary(lambda given: {"class_probabilities": [0.1] * 10, "probabilities": given["probabilities"]})},
            ANSWERS,
            id="canary-answers-a-constant",
        ),
        pytest.param(
            {"outputs": only(Api.GRPC, lambda _api, _track, given: {**given, "class_probabilities": given["class_probabilities"][::-1]})},
            {("REST = gRPC", None), ("labels", None)},
            id="classes-reversed-over-grpc",
        ),
        pytest.param(
            {"attribute": lambda _api, _count, headers: {**headers, TRACK_HEADER: {"stable": "canary", "canary": "stable"}[headers[TRACK_HEADER]]}},
            {("split", api) for api in BOTH},
            id="names-of-the-tracks-swapped",
        ),
        pytest.param(
            {"attribute": lambda _api, count, headers: {**headers, REVISION_HEADER: "rev-1"} if count > IN_A_ROW and headers[TRACK_HEADER] == "canary" else headers},
            {("revision", api) for api in BOTH},
            id="revision-stale-on-the-canarys-route",
        ),
        pytest.param(
            {"status": lambda _api, count, _call, _track: 503 if count > IN_A_ROW and count % 7 == 0 else 200},
            {("failed requests", api) for api in BOTH},
            id="one-pod-of-many-fails",
        ),
        pytest.param(
            {"status": lambda _api, count, _call, track: 404 if count > IN_A_ROW and track == "canary" else 200},
            {("failed requests", api) for api in BOTH},
            id="canary-does-not-know-the-model",
        ),
        pytest.param(
            {"status": lambda api, count, _call, track: 503 if api is Api.GRPC and count > IN_A_ROW and track == "canary" else 200},
            {("failed requests", "gRPC")},
            id="subset-missing-for-grpc",
        ),
        pytest.param(
            {"choose": lambda _api, track: "canary" if track == "stable" else "stable", "attribute": lambda _api, _count, headers: headers},
            {("split", api) for api in BOTH},
            id="stable-and-canary-swapped",
        ),
        pytest.param({"actual": shares(0)}, {("split", api) for api in BOTH}, id="all-to-the-canary"),
        pytest.param(
            {"body": lambda body: b"<html><body>Sign in</body></html>" if b"predictions" in body else body},
            {("failed requests", "REST")},
            id="proxy-answers-html",
        ),
        pytest.param(
            {"interface": only(Api.GRPC, lambda _api, _track, found: {**found, "serving_default": ("pictures", "DT_FLOAT", (-1, 8, 8, 3))})},
            {("interface", None)},
            id="input-renamed-over-grpc",
        ),
        pytest.param(
            {"outputs": only(Api.REST, canary(lambda _: {"class_probabilities": 0.5}))},
            {("answers", "REST"), ("classes", None), ("REST = gRPC", None)},
            id="one-probability-for-all-classes",
        ),
    ],
)  # fmt: skip
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


def test_without_attribution_the_splits_lack_evidence(gateway, tenth, pictures):
    """
    routing.attribution off: what can be seen is checked, the rest is said, exit code 4.
    """
    unnamed = dataclasses.replace(tenth, attribution=False)
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
    assert "not checked: tracks" in report.table()


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
    One stale gateway pod of several: N in a row do not come about.
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


def test_there_are_enough_faults():
    """
    The tables above, the header rules and the live objects: at least forty faults, each with its finding.
    """
    tables = (
        test_a_fault_is_found_by_name,
        test_a_fault_of_a_header_rule_is_found_by_name,
        test_a_live_virtual_service_that_differs_is_a_finding,
        test_a_mirror_that_loses_copies_is_found,
    )
    faults = [mark.args[1] for table in tables for mark in table.pytestmark if mark.name == "parametrize"]
    ids = [param.id for params in faults for param in params]

    assert 40 <= len(ids) == len(set(ids))


@pytest.mark.parametrize(("name", "value"), [("user-group", "größe"), ("x-group-bin", "a"), ("x!group", "a")])
def test_a_header_that_grpc_cannot_send_is_proven_over_rest(gateway, values, pictures, name, value):
    """
    The gateway compares the bytes of UTF-8, which the double's library reads as Latin-1.
    """
    entry = {"name": "group", "match": {"headers": {name: {"exact": value}}}, "weights": {"canary": 100}}
    expected = from_values(values(entry, {"name": "everyone", "weights": {"stable": 100}}))

    def see(_api, headers):
        return {key: text.encode("latin-1").decode() for key, text in headers.items()}

    report = check_gateway(subject(gateway(expected, see_headers=see), expected), QUICK, pictures)

    assert set() == titles(report)
    splits = {title for title in titles(report, Outcome.HELD) if title.startswith("split ")}
    assert {"split group (REST)", "split everyone (REST)", "split everyone (gRPC)"} == splits


def sticky(values, by):
    entry = {"name": "everyone", "sticky": {"by": by}, "weights": {"stable": 70, "canary": 30}}
    return from_values(values(entry))


def setting_cookies(_api, _count, headers):
    return {**headers, "set-cookie": f"model-track={headers[TRACK_HEADER]}; Path=/; HttpOnly"}


@pytest.mark.parametrize("by", ["user", "cookie"])
def test_clients_that_stay_hold(gateway, values, pictures, by):
    """
    Users by their hash, browsers by their cookie: enough of them, several requests each.
    """
    expected = sticky(values, by)
    double = gateway(expected, attribute=setting_cookies)

    report = check_gateway(subject(double, expected), QUICK, pictures)

    assert set() == titles(report)
    rows = [row for row in report.findings if row.name == "sticky"]
    assert [Outcome.HELD] * 2 == [row.outcome for row in rows]
    assert all(row.n >= row.needed > 5 for row in rows)


OWN_CLIENTS = {
    "path": {"path": {"prefix": "/canary"}},
    "user": {"users": ["user-1", "user-2"]},
    "users": {"headers": {"user-id": {"prefix": "staff-"}}},
}


@pytest.mark.parametrize("by", ["user", "cookie"])
@pytest.mark.parametrize("match", OWN_CLIENTS)
@pytest.mark.parametrize("broken", [False, True], ids=["right", "drawn-anew"])
def test_a_sticky_route_is_asked_as_its_own_clients(gateway, values, by, match, broken):
    """
    Another route's clients would say nothing of it, right or wrong.
    """
    entry = {"name": "kept", "match": OWN_CLIENTS[match], "weights": {"stable": 70, "canary": 30}}
    everyone = {"name": "everyone", "weights": {"stable": 100}}
    expected = from_values(values({**entry, "sticky": {"by": by}}, everyone))
    actual = from_values(values(entry, everyone)) if broken else expected

    report = check_gateway(subject(gateway(actual, attribute=setting_cookies), expected), QUICK)

    rows = [row for row in report.findings if row.name == "sticky"]
    assert [Outcome.FAILED if broken else Outcome.HELD] * 2 == [row.outcome for row in rows]


def forgetful(_api, headers):
    return {name: value for name, value in headers.items() if name.lower() not in ("cookie", "user-id")}


@pytest.mark.parametrize(
    ("by", "faults", "found"),
    [
        pytest.param("user", {"see_headers": forgetful}, "instead of", id="users-drawn-anew"),
        pytest.param(
            "cookie",
            {"see_headers": forgetful, "attribute": setting_cookies},
            "instead of",
            id="cookie-ignored",
        ),
        pytest.param("cookie", {}, "the first answer sets no cookie", id="cookie-never-set"),
        pytest.param(
            "cookie",
            {"attribute": lambda _api, _count, headers: {**headers, "set-cookie": "model-track=stable"}},
            "stable instead of canary",
            id="cookie-of-another-track",
        ),
    ],
)
def test_clients_that_do_not_stay_are_found(gateway, values, by, faults, found):
    expected = sticky(values, by)

    report = check_gateway(subject(gateway(expected, **faults), expected), QUICK)

    rows = [row for row in report.findings if row.name == "sticky"]
    assert {Outcome.FAILED} == {row.outcome for row in rows}
    assert all(found in row.observed for row in rows)


def test_a_route_that_cannot_be_reached_is_not_passed_over(gateway, values, pictures):
    """
    Whoever needs a token is not asked for here: not enough evidence, exit code 4.
    """
    claim = {"name": "group", "match": {"claims": {"group": ["canary"]}}, "weights": {"canary": 100}}
    expected = from_values(values(claim, {"name": "everyone", "weights": {"stable": 100}}))

    report = check_gateway(subject(gateway(expected), expected), QUICK, pictures)

    assert {"split group (REST)", "split group (gRPC)"} <= titles(report, Outcome.NOT_ENOUGH)
    assert 4 == report.exit_code


def below_canary(values):
    entry = {"name": "below", "match": {"path": {"prefix": "/canary"}}, "weights": {"canary": 100}}
    return from_values(values(entry, {"name": "everyone", "weights": {"stable": 100}}))


def test_a_path_prefix_is_proven(gateway, values, pictures):
    """
    Below it the canary, elsewhere stable, and beside it nobody; predictions of both tracks.
    """
    expected = below_canary(values)

    report = check_gateway(subject(gateway(expected), expected), QUICK, pictures)

    assert report.held, report.table()
    assert {
        "split below (REST)",
        "no route beside /canary (gRPC)",
        "header rule below: not below /canary (REST)",
    } <= (titles(report, Outcome.HELD))
    assert {"canary, stable"} == {row.observed for row in report.findings if row.name == "answers"}


def test_a_path_beside_the_prefix_that_is_open_is_found(gateway, values, pictures):
    expected = below_canary(values)
    double = gateway(expected, open_paths=("/canaryx",))

    report = check_gateway(subject(double, expected), QUICK, pictures)

    assert {("no route", "REST"), ("no route", "gRPC")} == kinds(report)


GENUINE = Token("head.body.genuine", {"group": "canary"})


def by_claim(values, **security):
    claim = {"name": "group", "match": {"claims": {"group": ["canary"]}}, "weights": {"canary": 100}}
    others = {"security": {"jwt": {"issuer": "https://issuer.test", **security}}}
    return from_values(values(claim, {"name": "everyone", "weights": {"stable": 100}}, **others))


def test_a_claim_is_proven_with_a_token(gateway, values, pictures):
    """
    With the token the canary, without it stable, and a forged one is refused.
    """
    expected = by_claim(values)
    double = gateway(expected, tokens=(GENUINE,))

    report = check_gateway(subject(double, expected, tokens=(GENUINE,)), QUICK, pictures)

    assert report.held, report.table()
    assert {
        "split group (REST)",
        "header rule group: no token (gRPC)",
        "forged token 1 of 1 (gRPC)",
    } <= titles(report, Outcome.HELD)
    assert "genuine" not in report.table() + json.dumps(report.to_json())


def test_a_forged_token_that_is_taken_is_found(gateway, values, pictures):
    expected = by_claim(values)
    double = gateway(expected, tokens=(GENUINE, GENUINE.forged()))

    report = check_gateway(subject(double, expected, tokens=(GENUINE,)), QUICK, pictures)

    assert {("forged token", "REST"), ("forged token", "gRPC")} == kinds(report)


def test_plain_headers_that_do_for_a_token_are_found(gateway, values, pictures):
    """
    A gateway that takes the group from whoever says it.
    """
    expected = by_claim(values)
    group = {
        "name": "group",
        "match": {"headers": {"group": {"exact": "canary"}}},
        "weights": {"canary": 100},
    }
    everyone = {"name": "everyone", "weights": {"stable": 100}}
    double = gateway(from_values(values(group, everyone)), tokens=(GENUINE,))

    report = check_gateway(subject(double, expected, tokens=(GENUINE,)), QUICK, pictures)

    assert "header rule group: plain headers instead of a token (REST)" in titles(report)


def mirroring(values, percent=50):
    mirror = {"track": "canary", "percent": percent}
    return from_values(values({"name": "everyone", "mirror": mirror, "weights": {"stable": 100}}))


def every_other():
    turn = itertools.count()
    return lambda *_: next(turn) % 2


def growing():
    """
    Others' predictions: a thousand between two counts, and none while it is looked at twice.
    """
    seen = itertools.count()
    return lambda _: 1000 * (next(seen) // 2)


def restarting():
    """
    A pod that starts anew between two counts, and none while it is looked at twice.
    """
    seen = itertools.count()
    return lambda _: 1000 // (1 + next(seen) // 2)


def counting(double):
    return lambda track: double.ran[track]


@pytest.fixture
def at_once(monkeypatch):
    """
    The double counts a copy before it answers.
    """
    monkeypatch.setattr(mirrors, "wait_until", functools.partial(_without_pause, mirrors.wait_until))


def _without_pause(wait, *arguments, **options):
    return wait(*arguments, **{**options, "interval_seconds": 0})


@pytest.mark.parametrize("percent", [50, 100])
@pytest.mark.usefixtures("at_once")
def test_a_mirror_is_counted_where_it_arrives(gateway, values, pictures, percent):
    expected = mirroring(values, percent)
    double = gateway(expected)

    report = check_gateway(subject(double, expected, predictions_run=counting(double)), QUICK, pictures)

    assert report.held, report.table()
    rows = [row for row in report.findings if row.name == "mirror"]
    assert [Api.REST, Api.GRPC] == [row.api for row in rows]
    assert all(row.n == row.needed > 3 for row in rows)


@pytest.mark.parametrize(
    ("faults", "found"),
    [
        pytest.param({"mirrored": lambda *_: False}, BOTH, id="mirror-off"),
        pytest.param({"mirrored": lambda api, _: api is Api.REST}, {"gRPC"}, id="mirror-off-over-grpc"),
        pytest.param({"mirrored": lambda _, size: size < 1000}, {"REST"}, id="mirror-abandoned-by-size"),
        pytest.param(
            {"percent": 100, "mirrored": every_other()},
            BOTH,
            id="mirror-of-all-loses-half",
        ),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_a_mirror_that_loses_copies_is_found(gateway, values, pictures, faults, found):
    expected = mirroring(values, faults.get("percent", 50))
    double = gateway(expected, mirrored=faults["mirrored"])

    report = check_gateway(subject(double, expected, predictions_run=counting(double)), QUICK, pictures)

    assert {("mirror", api) for api in found} == kinds(report)


def unreadable(_track):
    raise UnreachableError("pod a: its metrics cannot be read")


@pytest.mark.parametrize(
    ("count", "detail"),
    [
        pytest.param(None, "only the pods of a --release can be asked", id="no-cluster"),
        pytest.param(unreadable, "its metrics cannot be read", id="no-right"),
        pytest.param(growing(), "send predictions to canary", id="others"),
        pytest.param(restarting(), "a pod of canary went", id="restarted"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("at_once")
def test_a_mirror_that_cannot_be_counted_is_not_enough_evidence(gateway, values, pictures, count, detail):
    expected = mirroring(values)

    report = check_gateway(subject(gateway(expected), expected, predictions_run=count), QUICK, pictures)

    assert set() == titles(report)
    assert {("mirror", "REST"), ("mirror", "gRPC")} == kinds(report, Outcome.NOT_ENOUGH)
    assert all(detail in row.detail for row in report.findings if row.name == "mirror")
    assert 4 == report.exit_code


def ordered(values, *, first):
    rules = {
        "opted-in": {"headers": {"user-group": {"exact": "canary"}}},
        "europe": {"headers": {"x-region": {"prefix": "europe-"}}},
    }
    tracks = {"opted-in": "canary", "europe": "stable"}
    names = sorted(rules, key=lambda name: name != first)
    entries = [{"name": name, "match": rules[name], "weights": {tracks[name]: 100}} for name in names]
    everyone = {"name": "everyone", "weights": {"stable": 90, "canary": 10}}
    return from_values(values(*entries, everyone))


def test_the_order_of_two_rules_is_proven(gateway, values, pictures):
    """
    A request that fits both is taken by the first: the rules the other way round are found by that request alone.
    """
    expected = ordered(values, first="opted-in")
    double = gateway(ordered(values, first="europe"))

    report = check_gateway(subject(double, expected), QUICK, pictures)

    assert {"header rule opted-in and europe both match"} == {
        title.removesuffix(" (REST)").removesuffix(" (gRPC)") for title in titles(report)
    }


SECURITY = dataclasses.replace(QUICK, security=True)


def test_what_is_closed_is_seen_to_be_refused(gateway, tenth, pictures):
    report = check_gateway(subject(gateway(tenth), tenth), SECURITY, pictures)

    assert set() == titles(report)
    assert [len(CLOSED_PATHS), len(CLOSED_METHODS)] == [
        row.n for row in report.findings if row.name == "security"
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring/",
        "/V1/",
        "/v1//",
        "/v1/models%2F",
        "/v1/models/resnet-other",
        "/v1/models/resnet/../other",
    ],
)
def test_a_path_that_is_open_is_found_by_name(gateway, tenth, pictures, path):
    """
    Each path that the gateway lets through by mistake is named; asking for it is no failed request.
    """
    double = gateway(tenth, open_paths=(path,))

    report = check_gateway(subject(double, tenth), SECURITY, pictures)

    assert {"security closed paths (REST)"} == titles(report)
    (row,) = (row for row in report.findings if row.title == "security closed paths (REST)")
    assert path in row.observed


def test_what_nobody_answers_is_not_seen_to_be_closed(gateway, tenth, pictures, monkeypatch):
    """
    A call that runs until its deadline may have reached the model server: the other refusals say nothing of it.
    """
    refused = GrpcClient.raw

    def raw(client, method, headers=None):
        answer = refused(client, method, headers)
        late = dataclasses.replace(answer, status="DEADLINE_EXCEEDED", reached=False)
        return late if "Reload" in method else answer

    monkeypatch.setattr(GrpcClient, "raw", raw)

    report = check_gateway(subject(gateway(tenth), tenth), SECURITY, pictures)

    assert {"security closed methods (gRPC)"} == titles(report, Outcome.NOT_ENOUGH)
    (row,) = (row for row in report.findings if row.title == "security closed methods (gRPC)")
    assert "HandleReloadConfigRequest: DEADLINE_EXCEEDED" in row.detail


def door(name, double):
    return GatewayPod(name, lambda: contextlib.nullcontext(double.address))


def test_every_gateway_pod_must_have_the_routes(gateway, tenth, pictures):
    """
    One of two pods is behind, and the balancer never leads there: it is found, and named.
    """
    fresh, stale = gateway(tenth), gateway(tenth, revision="rev-1")
    doors = (door("gateway-a", fresh), door("gateway-b", stale))

    report = check_gateway(subject(fresh, tenth, gateway_pods=doors), QUICK, pictures)

    assert {"propagation pod gateway-b (REST)", "propagation pod gateway-b (gRPC)"} == titles(report)
    assert {"propagation pod gateway-a (REST)", "propagation pod gateway-a (gRPC)"} < titles(
        report, Outcome.HELD
    )


def test_a_gateway_that_is_not_there_cannot_be_reached(tenth, pictures):
    nowhere = Subject(routing=tenth, gateway="127.0.0.1:9", revision="rev-2")

    with pytest.raises(
        UnreachableError, match=r"gateway 127\.0\.0\.1:9: no answer within 0\.5 s.*--gateway HOST:PORT"
    ):
        check_gateway(nowhere, QUICK, pictures)


def test_a_gateway_that_goes_away_leaves_the_report_so_far(gateway, user_group, pictures, monkeypatch):
    """
    Exit code 3, and what was checked before stays in the report.
    """
    monkeypatch.setattr(ledger, "UNREACHED_IN_A_ROW", 3)
    double = gateway(user_group)

    def leave(api, count, *_):
        if (api, count) == (Api.GRPC, MIDDLE):
            double.front.close()
        return 200

    double.status = leave

    report = check_gateway(subject(double, user_group), QUICK, pictures)

    assert "nothing answered 3 gRPC requests in a row" in report.interrupted
    assert 3 == report.exit_code
    assert ("split", "REST") in kinds(report, Outcome.HELD)
    assert {("failed requests", "gRPC")} == kinds(report)


def test_a_report_of_nothing_has_not_held(tenth):
    made = Report(
        model=tenth.model,
        gateway="gateway:80",
        host=None,
        release="",
        routes=tenth.routes,
        revision=None,
        options=QUICK,
        findings=(),
        lost=(),
        seconds=1.0,
        records=joined([]),
    )

    assert not made.held
    assert 4 == made.exit_code
    assert "nothing was checked" == made.verdict


def test_the_json_form_has_every_number(gateway, tenth, pictures):
    report = check_gateway(subject(gateway(tenth), tenth), QUICK, pictures)

    made = json.loads(json.dumps(report.to_json(), allow_nan=False))
    (split,) = (row for row in made["checks"] if row["name"] == "split" and row["api"] == "gRPC")
    assert (SCHEMA, True, 0, "rev-2") == tuple(
        made[key] for key in ("schema", "held", "exitCode", "routeRevision")
    )
    assert {"stable", "canary"} == {share["track"] for share in split["shares"]}
    assert split["needed"] <= split["answers"] == sum(share["count"] for share in split["shares"])
    assert all(share["low"] <= share["count"] <= share["high"] for share in split["shares"])


def test_a_mark_of_the_table_is_on_every_row(gateway, tenth, pictures):
    """
    A reader sees the routes, one line per check with expected and seen, and the verdict last.
    """
    report = check_gateway(subject(gateway(tenth), tenth), QUICK, pictures)

    lines = report.table().splitlines()
    assert "  everyone: everyone else → stable 90 %, canary 10 %" in lines
    assert len(report.findings) == sum(line.startswith("held ") for line in lines)
    assert report.verdict == lines[-1]


def test_a_picture_that_is_none_is_refused_before_any_request(gateway, tenth):
    double = gateway(tenth)

    with pytest.raises(UsageError, match=r"picture 'a\.txt': expected a JPEG file"):
        check_gateway(subject(double, tenth), QUICK, [Picture("a.txt", b"text")])

    assert 0 == double.counts.total()


def test_a_picture_that_is_too_large_to_decode_is_refused():
    """
    A few kilobytes may be a picture of 200 million pixels, which pillow does not decode.
    """
    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "PNG")

    with pytest.raises(UsageError, match=r"picture 'large': expected a JPEG file: .* exceeds limit"):
        decoded(Picture("large", file.getvalue()), 8, 8)


def test_no_picture_is_refused(tenth):
    with pytest.raises(UsageError, match="expected at least one, got none"):
        check_gateway(Subject(tenth, "127.0.0.1:9"), QUICK, [])


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


REST, GRPC = "/v1/models/", "/tensorflow.serving."
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
