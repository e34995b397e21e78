"""
What `explain` says of a request, without a cluster.
"""

import json

import pytest

from tfcanary.commands import check, explain
from tfcanary.paths import CHART
from tfcanary.routing.buckets import bucket
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Request

VALUES = CHART.parents[1] / "values"


def explained(strategy, *options, capsys, models="resnet"):
    """
    What the command prints as JSON.
    """
    files = ["-f", str(VALUES / "models" / f"{models}.yaml"), "-f", str(VALUES / f"{strategy}.yaml")]
    assert 0 == check.main(["explain", *files, *options, "--json"])
    return json.loads(capsys.readouterr().out)


def headers(*pairs):
    return [part for pair in pairs for part in ("--header", pair)]


@pytest.mark.parametrize(
    ("strategy", "options", "route", "weights"),
    [
        pytest.param("stable", [], "everyone", {"stable": 100}, id="stable"),
        pytest.param("promoted", [], "everyone", {"canary": 100}, id="promoted"),
        pytest.param("canary-1", [], "everyone", {"stable": 99, "canary": 1}, id="split"),
        pytest.param(
            "canary-user-group", headers("User-Group=canary"), "canary-users", {"canary": 100}, id="group"
        ),
        pytest.param(
            "canary-user-group", headers("user-group=Canary"), "everyone", {"stable": 100}, id="group-case"
        ),
        pytest.param(
            "canary-users", headers("user-id=bob@example.com"), "testers", {"canary": 100}, id="user"
        ),
        pytest.param(
            "canary-users", headers("user-id=bob@exampleXcom"), "everyone", {"stable": 100}, id="user-dot"
        ),
        pytest.param(
            "canary-region",
            headers("x-client-region=asia-east1"),
            "asia",
            {"stable": 95, "canary": 5},
            id="region",
        ),
        pytest.param(
            "canary-cookie",
            headers("cookie=a=b; model-track=canary"),
            "everyone",
            {"canary": 100},
            id="cookie",
        ),
        pytest.param(
            "canary-cookie",
            headers("cookie=other-model-track=canary"),
            "everyone",
            {"stable": 90, "canary": 10},
            id="cookie-of-another-name",
        ),
        pytest.param(
            "canary-jwt", headers("group=canary"), "everyone", {"stable": 100}, id="forged-claim-header"
        ),
        pytest.param(
            "canary-path",
            ["--path=/canary/v1/models/resnet:predict"],
            "below-canary",
            {"canary": 100},
            id="path",
        ),
        pytest.param(
            "canary-path",
            ["--path=/v1/models/resnet/versions/2:predict"],
            "canary-version",
            {"canary": 100},
            id="version",
        ),
        pytest.param(
            "canary-path",
            ["--path=/v1/models/resnet/versions/20:predict"],
            "everyone",
            {"stable": 100},
            id="longer-version",
        ),
        pytest.param(
            "canary-caller", ["--label=model-track=canary"], "canary-callers", {"canary": 100}, id="caller"
        ),
        pytest.param(
            "canary-caller", headers("model-track=canary"), "everyone", {"stable": 100}, id="outside"
        ),
        pytest.param("blue-green", headers("x-preview=stable"), "old-version", {"stable": 100}, id="old"),
        pytest.param(
            "composed",
            headers("user-group=stable", "x-client-region=europe-west1", "user-id=u2"),
            "opted-out",
            {"stable": 100},
            id="precedence",
        ),
    ],
)
def test_explain_says_which_route_takes_a_request(capsys, strategy, options, route, weights):
    said = explained(strategy, *options, capsys=capsys)

    assert (route, weights) == (said["route"], said["weights"])


def test_explain_says_why_others_passed(capsys):
    said = explained("composed", *headers("x-client-region=europe-west4"), capsys=capsys)

    assert "europe" == said["route"]
    assert [(0, "opted-in"), (1, "opted-out")] == [(one["index"], one["name"]) for one in said["passed"]]
    assert "user-group is None" in said["passed"][0]["why"]


def test_explain_says_what_is_mirrored(capsys):
    assert {"track": "canary", "percent": 25} == explained("shadow", capsys=capsys)["mirror"]


def test_a_path_of_no_api_has_no_route(capsys):
    said = explained("stable", "--path=/v2/models/resnet", capsys=capsys)

    assert (None, 404) == (said["route"], said["status"])


def with_tokens(tmp_path, strategy):
    file = tmp_path / "tokens.yaml"
    file.write_text("security: {jwt: {issuer: https://issuer.example, jwks: '{\"keys\": []}'}}\n")
    return explain.read([VALUES / "models" / "resnet.yaml", VALUES / f"{strategy}.yaml", file])


def test_with_tokens_headers_are_the_tokens_words(tmp_path):
    """
    A forged header is taken away; the claim of a verified token takes its place.
    """
    declared = with_tokens(tmp_path, "canary-user-group")
    path = explain.default_path("resnet", "rest")

    forged = explain.explain(declared, Request(path, {"User-Group": "canary"}))
    meant = explain.explain(declared, Request(path, {}, {"group": "canary"}))

    assert ("everyone", ["User-Group"]) == (forged["route"], forged["headersTakenAway"])
    assert "canary-users" == meant["route"]


@pytest.mark.parametrize(
    ("claims", "route"),
    [
        pytest.param({}, "everyone", id="none"),
        pytest.param({"group": "canary"}, "canary-group", id="text"),
        pytest.param({"group": ("staff", "canary")}, "canary-group", id="list"),
        pytest.param({"group": "canary2"}, "everyone", id="longer"),
        pytest.param({"sub": "canary"}, "everyone", id="another-claim"),
    ],
)
def test_claims_count_only_with_tokens(tmp_path, claims, route):
    request = Request(explain.default_path("resnet", "grpc"), {}, claims)
    without = explain.read([VALUES / "models" / "resnet.yaml", VALUES / "canary-jwt.yaml"])

    assert route == explain.explain(with_tokens(tmp_path, "canary-jwt"), request)["route"]
    assert "everyone" == explain.explain(without, request)["route"]


@pytest.mark.parametrize("model", ["resnet", "Other-1"])
@pytest.mark.parametrize("form", ["user-{}", "{:032x}", "{}@example.com", "{}"])
def test_buckets_are_even(model, form):
    """
    Of 10,000 users, whatever their names look like, the first ten buckets hold ten in a hundred, to a point.
    """
    first = sum(bucket(model, form.format(number)) < 10 for number in range(10_000))

    assert 900 <= first <= 1100


def test_a_larger_share_keeps_everyone_who_has_the_canary():
    """
    From 10 to 30 per cent users come to the canary, and none leaves it.
    """
    routes = {
        weight: from_values(
            {
                "model": {"name": "m"},
                "tracks": {"stable": {}, "canary": {}},
                "routing": {
                    "routes": [
                        {
                            "name": "everyone",
                            "sticky": {"by": "user"},
                            "weights": {"stable": 100 - weight, "canary": weight},
                        }
                    ]
                },
            }
        )
        for weight in (10, 30)
    }
    on_canary = {
        weight: {u for u in map(str, range(2000)) if declared.decide({"user-id": u}).weights["canary"]}
        for weight, declared in routes.items()
    }

    assert on_canary[10] < on_canary[30]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--header", "user-group"], "--header: expected NAME=VALUE, got 'user-group'", id="no-value"
        ),
        pytest.param(headers("a=1", "a=2"), "--header: every name once", id="twice"),
        pytest.param(["--api=grpc", "--path=/v1/models/m"], "--path: expected one of grpc", id="other-api"),
    ],
)
def test_mistakes_exit_with_2(capsys, options, message):
    code = check.main(["explain", "-f", str(VALUES / "stable.yaml"), *options])

    assert 2 == code
    assert message in capsys.readouterr().err


def test_a_file_that_helm_would_refuse_is_refused(tmp_path, capsys):
    file = tmp_path / "values.yaml"
    file.write_text("image: {tag: 7}")

    assert 2 == check.main(["explain", "-f", str(file)])
    assert "image.tag: expected a string that matches" in capsys.readouterr().err


def test_words(capsys):
    assert 0 == check.main(
        ["explain", "-f", str(VALUES / "canary-user-group.yaml"), "--header", "user-group=x"]
    )

    assert [
        "routing.routes[0] (canary-users) passes: user-group is 'x', not exact 'canary'",
        "routing.routes[1] (everyone) takes it: stable 100 %; each request is drawn by weight",
    ] == capsys.readouterr().out.splitlines()
