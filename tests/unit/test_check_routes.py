"""
Each kind of route is proven: headers, sticky clients, paths, claims and their order.
"""

import json

import pytest
from checking import QUICK, kinds, subject, titles

from tfcanary.check.run import check_gateway
from tfcanary.contract import TRACK_HEADER
from tfcanary.judge.verdict import Outcome
from tfcanary.report.as_json import as_json
from tfcanary.report.table import findings_table
from tfcanary.routing.parse import from_values
from tfcanary.routing.tokens import Token

REST, GRPC = "/v1/models/", "/tensorflow.serving."


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
@pytest.mark.parametrize("broken", [False, True], ids=["right", "drawn-for-each-request"])
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
        pytest.param("user", {"see_headers": forgetful}, "instead of", id="users-drawn-for-each-request"),
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
    A route that needs a token is not asked without one: not enough evidence, exit code 4.
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
    The canary answers below the prefix, stable elsewhere, and no track beside it; both tracks predict.
    """
    expected = below_canary(values)

    report = check_gateway(subject(gateway(expected), expected), QUICK, pictures)

    assert report.held, str(findings_table(report))
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

    assert report.held, str(findings_table(report))
    assert {
        "split group (REST)",
        "header rule group: no token (gRPC)",
        "forged token 1 of 1 (gRPC)",
    } <= titles(report, Outcome.HELD)
    assert "genuine" not in str(findings_table(report)) + json.dumps(as_json(report))


def test_a_forged_token_that_is_taken_is_found(gateway, values, pictures):
    expected = by_claim(values)
    double = gateway(expected, tokens=(GENUINE, GENUINE.forged()))

    report = check_gateway(subject(double, expected, tokens=(GENUINE,)), QUICK, pictures)

    assert {("forged token", "REST"), ("forged token", "gRPC")} == kinds(report)


def test_plain_headers_that_do_for_a_token_are_found(gateway, values, pictures):
    """
    A gateway that believes the group that a client claims.
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
