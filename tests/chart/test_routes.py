import re

import pytest

API = {"grpc": ("/tensorflow.serving.", 8500), "rest": ("/v1/", 8501)}


def weights(entry):
    """
    What a route sends where.
    """
    return {part["destination"]["subset"]: part["weight"] for part in entry["route"]}


def everyone(**shares):
    """
    Values with a single route.
    """
    return {"routing": {"routes": [{"name": "everyone", "weights": shares}]}}


def test_every_route_serves_both_apis(render, strategy):
    """
    Each route is there for gRPC and for REST, with the same headers, weights and answers; only path and port differ.
    """
    # A REST path that names a version has no like in gRPC, where the message names it.
    routes = [entry for entry in render(strategy).routes if "regex" not in entry["match"][0]["uri"]]
    grpc, rest = routes[0::2], routes[1::2]

    assert len(grpc) == len(rest) > 0
    for entries, api in ((grpc, "grpc"), (rest, "rest")):
        prefix, port = API[api]
        for entry in entries:
            assert entry["name"].endswith(f"-{api}")
            rewritten = entry.pop("rewrite", {"uri": prefix})
            assert {"uri": prefix} == rewritten
            (path,) = [match.pop("uri")["prefix"].removesuffix(prefix) for match in entry["match"]]
            entry["below"] = path
            if "mirror" in entry:
                assert {"number": port} == entry["mirror"].pop("port")
            assert {port} == {part["destination"].pop("port")["number"] for part in entry["route"]}
            entry["name"] = entry["name"].removesuffix(f"-{api}")
    assert grpc == rest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("stable", [("everyone", None, {"stable": 100})], id="stable"),
        pytest.param("canary-10", [("everyone", None, {"canary": 10, "stable": 90})], id="canary-10"),
        pytest.param("canary-30", [("everyone", None, {"canary": 30, "stable": 70})], id="canary-30"),
        pytest.param(
            "canary-user-group",
            [
                ("canary-users", {"user-group": {"exact": "canary"}}, {"canary": 100}),
                ("everyone", None, {"stable": 100}),
            ],
            id="canary-user-group",
        ),
    ],
)
def test_strategy(render, name, expected):
    """
    Each strategy sends requests where its comment says.
    """
    routes = render(name).routes

    got = [
        (entry["name"].rpartition("-")[0], entry["match"][0].get("headers"), weights(entry))
        for entry in routes
    ]
    assert [entry for entry in expected for _ in API] == got


def test_default_is_stable(render):
    """
    Without a strategy, all goes to stable, by the very routes of values/stable.yaml.
    """
    assert render("stable").text == render().text


def test_nothing_of_other_strategies_survives(render, strategy, strategies):
    """
    A strategy that is given after all others holds alone. A key of another strategy that survived would show: the last
    one that sets it comes before this strategy, and nothing overwrites it.
    """
    others = [name for name in strategies if name != strategy]

    assert render(strategy, models="resnet-abn").text == render(*others, strategy, models="resnet-abn").text


def test_any_strategy_may_follow_any(render, before, after):
    """
    Between any two strategies only the VirtualServices change, and the test Pod, which asks for their revision.
    """
    old = render(before, models="resnet-abn").texts
    new = render(after, models="resnet-abn").texts

    assert old.keys() == new.keys()
    changed = {key for key in old if old[key] != new[key]}
    assert {
        ("VirtualService", "resnet"),
        ("VirtualService", "resnet-mesh"),
        ("Pod", "resnet-test"),
    } == changed


def test_last_route_takes_everyone(render, strategy):
    """
    The two last entries match nothing but the path of the API, and no entry before them does.
    """
    rendered = render(strategy)

    for routes in (rendered.routes, rendered.mesh_routes):
        plain = [
            [{"uri": {"prefix": prefix}}] == entry["match"]
            for entry in routes
            for prefix, _ in [API[entry["name"].rpartition("-")[2]]]
        ]
        assert [True, True] == plain[-2:]
        assert not any(plain[:-2])


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        pytest.param({"stable": 0, "canary": 100}, {"canary": 100}, id="stable-0"),
        pytest.param({"stable": 100, "canary": 0}, {"stable": 100}, id="canary-0"),
        pytest.param({"stable": 99, "canary": 1}, {"stable": 99, "canary": 1}, id="canary-1"),
    ],
)
def test_weight_zero_is_a_value(render, shares, expected):
    """
    A track of weight 0 is no destination: Istio would send everything to a lone one of weight 0.
    """
    assert [expected] * 2 == [weights(entry) for entry in render(values=everyone(**shares)).routes]


@pytest.mark.parametrize("kind", ["exact", "prefix", "regex"])
def test_header_matchers(render, kind):
    """
    A header is matched in one of three ways, and several headers must all match.
    """
    headers = {"user-group": {kind: "a|b: 'c' \"d\" # {{ e }} \\d é"}, "x-region": {"exact": "true"}}
    first = {"name": "some", "match": {"headers": headers}, "weights": {"canary": 100}}
    last = {"name": "everyone", "weights": {"stable": 100}}

    routes = render(values={"routing": {"routes": [first, last]}}).routes

    assert [headers] * 2 == [entry["match"][0]["headers"] for entry in routes[:2]]


@pytest.mark.parametrize("name", ["on", "null", "010", "1e3", "x-y"])
def test_header_names_are_text(render, name):
    """
    A header keeps its name where YAML would read a number, a truth or nothing.
    """
    first = {"name": "some", "match": {"headers": {name: {"exact": "a"}}}, "weights": {"canary": 100}}
    last = {"name": "everyone", "weights": {"stable": 100}}

    routes = render(values={"routing": {"routes": [first, last]}}).routes

    assert [{name: {"exact": "a"}}] * 2 == [entry["match"][0]["headers"] for entry in routes[:2]]


def test_order_is_kept(render):
    """
    Routes are rendered in the order in which they are written, since the first match wins.
    """
    names = ["zebra", "ant", "mole", "bee"]
    routes = [
        {"name": name, "match": {"headers": {"who": {"exact": name}}}, "weights": {"canary": 100}}
        for name in names
    ]
    values = {"routing": {"routes": [*routes, {"name": "everyone", "weights": {"stable": 100}}]}}

    expected = [f"{name}-{api}" for name in [*names, "everyone"] for api in API]
    assert expected == [entry["name"] for entry in render(values=values).routes]


def test_answers_name_their_track(render, strategy):
    """
    Every destination sets the response header that names its track.
    """
    parts = [part for entry in render(strategy).routes for part in entry["route"]]

    assert [{"x-model-track": part["destination"]["subset"]} for part in parts] == [
        part["headers"]["response"]["set"] for part in parts
    ]


def test_answers_name_the_revision(render, strategy):
    """
    Every route sets the response header that names the revision, which the VirtualService is annotated with.
    """
    rendered = render(strategy)

    assert re.fullmatch("[0-9a-f]{10}", rendered.revision)
    assert [{"response": {"set": {"x-route-revision": rendered.revision}}}] * len(rendered.routes) == [
        entry["headers"] for entry in rendered.routes
    ]


def test_revisions_differ(render, strategies):
    """
    No two strategies share a revision.
    """
    assert len(strategies) == len({render(strategy).revision for strategy in strategies})


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(everyone(stable=99, canary=1), id="weights"),
        pytest.param({"routing": {"timeoutSeconds": 40}}, id="timeout"),
        pytest.param({"routing": {"retryAttempts": 1}}, id="retries"),
        pytest.param({"routing": {"routes": [{"name": "all", "weights": {"stable": 100}}]}}, id="name"),
    ],
)
def test_revision_follows_the_routes(render, values):
    """
    Every change of what the gateway does changes the revision.
    """
    assert render("stable").revision != render("stable", values=values).revision


def test_revision_follows_nothing_else(render):
    """
    What does not change the routes does not change their revision. In another namespace they are another release's.
    """
    values = {"tracks": {"canary": {"version": 7, "replicas": 3}}, "gateway": {"port": 8080}}

    assert render("stable").revision == render("stable", values=values).revision
    assert render("stable").revision == render("stable", environment="gke").revision
    assert render("stable").revision != render("stable", options=("--namespace", "elsewhere")).revision


def test_attribution_can_be_turned_off(render, strategy):
    """
    Without attribution the answers name nothing; the annotation stays for those who read the object.
    """
    rendered = render(strategy, values={"routing": {"attribution": False}})

    assert [] == [entry for entry in rendered.routes if "headers" in entry]
    parts = [part for entry in rendered.routes for part in entry["route"] if "headers" in part]
    assert [] == [part for part in parts if "set" in part["headers"]["response"]]
    assert re.fullmatch("[0-9a-f]{10}", rendered.revision)


def test_gateway_outwaits_the_server(render, strategy):
    """
    The route's timeout exceeds the server's own: the answer that arrives is the server's.
    """
    rendered = render(strategy)
    deployment = rendered.all("Deployment")["resnet-stable"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (flag,) = (flag for flag in container["args"] if flag.startswith("--rest_api_timeout_in_ms="))

    assert {"35s"} == {entry["timeout"] for entry in rendered.routes}
    assert 30_000 == int(flag.partition("=")[2])


@pytest.mark.parametrize(
    ("attempts", "conditions"),
    [(0, {}), (2, {"retryOn": "connect-failure,refused-stream,reset,unavailable,503"})],
)
def test_retries(render, problems_with, attempts, conditions):
    """
    The number of retries is always said, since the mesh retries twice where nothing is said.
    """
    rendered = render("stable", values={"routing": {"retryAttempts": attempts}})

    assert [{"attempts": attempts, **conditions}] * 2 == [entry["retries"] for entry in rendered.routes]
    assert () == problems_with(rendered.virtual_service)


def test_no_retries_by_default(render, strategy):
    """
    Retries would hide a failing canary.
    """
    assert {0} == {entry["retries"]["attempts"] for entry in render(strategy).routes}
