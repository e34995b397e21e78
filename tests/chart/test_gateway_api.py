"""
The routes as an HTTPRoute: the same strategies, the same answers, and what cannot be said is refused.
"""

import itertools
import json
import random

import pytest
from gatewayapi import UNSAID, answer

from tfcanary.chart.values import chart_defaults, coalesce, merge, read_files
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Request

GATEWAY_API = {"gateway": {"api": "gateway-api"}}
REST, GRPC = "/v1/models/resnet:predict", "/tensorflow.serving.PredictionService/Predict"
PATHS = [
    REST,
    GRPC,
    "/v1/models/resnet",
    "/v1/models/resnet/versions/2/metadata",
    "/v1/models/resnet/versions/2:predict",
    "/v1/models/resnet/versions/20:predict",
    "/canary/v1/models/resnet:predict",
    f"/canary{GRPC}",
    "/canary/tensorflow.serving.ModelService/GetModelStatus",
    "/canary",
    "/elsewhere",
]
HEADERS = [
    {},
    {"user-group": "canary"},
    {"user-id": "alice"},
    {"user-id": "bob@example.com"},
    {"x-client-region": "europe-west1"},
    {"x-client-region": "asia-east1"},
    {"cookie": "a=b; model-track=canary"},
    {"cookie": "model-track=stable"},
    {"x-preview": "stable"},
]


@pytest.fixture(scope="module")
def said(strategies):
    """
    The strategies that the Gateway API can say.
    """
    return [name for name in strategies if name not in UNSAID]


@pytest.fixture(scope="module")
def values_of(values_folder):
    """
    A strategy's values over the chart's defaults, or those of a list of routes.
    """

    def merged(strategy, routes=None):
        names = ("env/local", "models/resnet", *([strategy] if strategy else []))
        given = read_files([values_folder / f"{name}.yaml" for name in names])
        given = merge(given, {"routing": {"routes": routes}} if routes else {})
        return coalesce(chart_defaults(), merge(given, GATEWAY_API))

    return merged


def expected(routing, request):
    """
    What `explain` says of a request: the weights without zeros, and the mirror.
    """
    decision = routing.decision(request)
    if decision is None:
        return None
    mirror = decision.route.mirror
    copied = {"track": mirror.track, "percent": mirror.percent} if mirror and mirror.percent else None
    return {track: weight for track, weight in decision.weights.items() if weight}, copied


def test_it_agrees_with_explain(render, strategy, values_of):
    """
    Every request goes where `explain` says, though the Gateway API has an order of its own.
    """
    if strategy in UNSAID:
        pytest.skip(UNSAID[strategy])
    routing = from_values(values_of(strategy))
    http_route = render(strategy, values=GATEWAY_API).all("HTTPRoute")["resnet"]

    for path, headers in itertools.product(PATHS, HEADERS):
        request = Request(path, headers)
        assert expected(routing, request) == answer(http_route, request), request


def test_what_cannot_be_said_is_refused(refused, strategies):
    """
    Four strategies need what Istio's own API alone can say, and the message names it.
    """
    assert set(UNSAID) < set(strategies)
    for strategy, words in UNSAID.items():
        assert f"{words} cannot be said with gateway.api=gateway-api" in refused(strategy, values=GATEWAY_API)


def test_only_the_routes_change(render, said):
    """
    Between any two strategies the HTTPRoute changes, the routes inside the mesh, and the test Pod; nothing else.
    """
    texts = {name: render(name, values=GATEWAY_API).texts for name in said}
    changed = set()
    for before, after in itertools.pairwise(texts.values()):
        assert before.keys() == after.keys()
        changed |= {key for key in before if before[key] != after[key]}

    assert {("HTTPRoute", "resnet"), ("VirtualService", "resnet-mesh"), ("Pod", "resnet-test")} == changed


def test_the_pods_and_their_guards_are_the_same(render):
    """
    Another API for the routes replaces no pod and opens nothing.
    """
    istio, other = render("canary-10").texts, render("canary-10", values=GATEWAY_API).texts

    assert {("Gateway", "resnet"), ("VirtualService", "resnet")} == istio.keys() - other.keys()
    tracks = {
        (kind, f"resnet-{track}") for kind in ("Service", "DestinationRule") for track in ("canary", "stable")
    }
    routes = {("HTTPRoute", "resnet"), ("Gateway", "default.resnet")}
    assert tracks | routes == other.keys() - istio.keys()
    differ = {key for key in istio.keys() & other.keys() if istio[key] != other[key]}
    # The revision of the routes is another one.
    assert {("VirtualService", "resnet-mesh"), ("Pod", "resnet-test")} == differ


def test_tracks_have_services_of_their_own(render):
    """
    A rule sends requests to a Service of each track, whose pods are the track's alone, kept alive as the chart says.
    """
    rendered = render("canary-10", values=merge(GATEWAY_API, {"tracks": {"stable": {"replicas": 2}}}))

    for track in ("stable", "canary"):
        name = f"resnet-{track}"
        service, rule = rendered.all("Service")[name], rendered.all("DestinationRule")[name]
        pods = rendered.all("Deployment")[name]["spec"]["selector"]["matchLabels"]
        assert pods == service["spec"]["selector"]
        assert rendered.all("Service")["resnet"]["spec"]["ports"] == service["spec"]["ports"]
        assert name == rule["spec"]["host"]
        policy = rule["spec"]["trafficPolicy"]
        assert rendered.all("DestinationRule")["resnet"]["spec"]["trafficPolicy"].items() <= policy.items()
        assert ("outlierDetection" in policy) == (track == "stable")


def test_every_rule_keeps_the_promises(render, said):
    """
    Each rule names the revision, waits as long as the values say, tries nothing again, and names its tracks.
    """
    values = merge(GATEWAY_API, {"routing": {"timeoutSeconds": 41}})
    for strategy in said:
        rendered = render(strategy, values=values)
        for rule in rendered.all("HTTPRoute")["resnet"]["spec"]["rules"]:
            filters = {one["type"]: one for one in rule["filters"]}
            (retries,) = filters["RequestHeaderModifier"]["requestHeaderModifier"]["set"]
            assert {"name": "x-envoy-max-retries", "value": "0"} == retries
            (revision,) = filters["ResponseHeaderModifier"]["responseHeaderModifier"]["set"]
            assert (
                revision["value"]
                == rendered.all("HTTPRoute")["resnet"]["metadata"]["annotations"][
                    "tfserving-canary/route-revision"
                ]
            )
            assert {"request": "41s"} == rule["timeouts"]
            for backend in rule["backendRefs"]:
                (modifier,) = backend["filters"]
                (track,) = modifier["responseHeaderModifier"]["set"]
                assert f"resnet-{track['value']}" == backend["name"]


def test_the_cookie_is_set_once_drawn(render):
    """
    Only the rules that draw a track set the cookie.
    """
    rendered = render(
        "canary-cookie",
        values=merge(GATEWAY_API, {"gateway": {"tls": {"enabled": True, "credentialName": "c"}}}),
    )
    cookies = {
        (rule["name"], backend["name"]): one["value"]
        for rule in rendered.all("HTTPRoute")["resnet"]["spec"]["rules"]
        for backend in rule["backendRefs"]
        for modifier in backend["filters"]
        for one in modifier["responseHeaderModifier"].get("add", ())
    }

    ending = "; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax; Secure"
    assert {
        (f"everyone-{api}", f"resnet-{track}"): f"model-track={track}{ending}"
        for api in ("grpc", "rest")
        for track in ("stable", "canary")
    } == cookies


def test_tls(render):
    """
    With TLS the routes are at its port alone, with the certificate of the gateway's namespace; the other port redirects.
    """
    tls = {"enabled": True, "credentialName": "model-tls"}
    hosts = ["a.example", "b.example"]
    values = merge(GATEWAY_API, {"gateway": {"tls": tls, "hosts": hosts}})
    rendered = render("stable", values=values)
    routes = rendered.all("HTTPRoute")
    listeners = rendered.one("Gateway")["spec"]["listeners"]

    assert [
        ("http-0", "a.example", 80),
        ("https-0", "a.example", 443),
        ("http-1", "b.example", 80),
        ("https-1", "b.example", 443),
    ] == [(one["name"], one["hostname"], one["port"]) for one in listeners]
    for name, section in (("resnet", "https"), ("resnet-redirect", "http")):
        spec = routes[name]["spec"]
        assert hosts == spec["hostnames"]
        assert [f"{section}-0", f"{section}-1"] == [one["sectionName"] for one in spec["parentRefs"]]
    (rule,) = routes["resnet-redirect"]["spec"]["rules"]
    assert {"scheme": "https", "port": 443, "statusCode": 301} == rule["filters"][0]["requestRedirect"]
    certificates = [one["tls"]["certificateRefs"] for one in listeners if "tls" in one]
    assert [[{"group": "", "kind": "Secret", "name": "model-tls"}]] * 2 == certificates


@pytest.mark.parametrize(
    ("service", "address"),
    [
        pytest.param("edge", "edge.istio-system.svc.cluster.local", id="name"),
        pytest.param("edge.web.svc.corp.example", "edge.web.svc.corp.example", id="host-name"),
    ],
)
def test_the_gateway_is_found_by_its_service(render, service, address):
    """
    The Gateway binds to the pods that are there, in the gateway's namespace unless a host name says another.
    """
    gateway = render("stable", values=merge(GATEWAY_API, {"gateway": {"service": service}})).one("Gateway")

    assert [{"type": "Hostname", "value": address}] == gateway["spec"]["addresses"]
    # Istio looks for the Service in the Gateway's own namespace.
    assert "istio-system" == gateway["metadata"]["namespace"]
    (listener,) = gateway["spec"]["listeners"]
    allowed = {"matchLabels": {"kubernetes.io/metadata.name": "default"}}
    assert {"from": "Selector", "selector": allowed} == listener["allowedRoutes"]["namespaces"]


@pytest.mark.parametrize(
    "strategy_values",
    [{}, {"gateway": {"tls": {"enabled": True, "credentialName": "c"}, "cors": {"allowOrigins": ["*"]}}}],
    ids=["plain", "all"],
)
def test_objects_are_valid(render, said, problems_with, strategy_values):
    """
    Every object keeps the published schema, which the API server of the local cluster has too.
    """
    for strategy in said:
        for item in render(strategy, values=merge(GATEWAY_API, strategy_values)).objects.values():
            assert () == problems_with(item)


@pytest.fixture
def said_of(complaint, chart, values_folder):
    """
    What the chart says against values, or nothing.
    """
    files = [f"-f={values_folder / name}.yaml" for name in ("env/local", "models/resnet")]
    command = ("template", "resnet", str(chart), "--kube-version=1.34.4", *files, "-f=-")
    return lambda values: complaint(*command, stdin=json.dumps(values))


def drawn_routes(draw):
    """
    A list of routes with matches by chance; the last takes everyone.
    """
    names = ["a", "b", "c"]
    made = []
    for index in range(draw.choice([1, 2, 3])):
        headers = {
            name: {"exact": draw.choice("xy")} for name in draw.sample(names, draw.choice([0, 1, 1, 2]))
        }
        path = draw.choice([None, None, {"version": "canary"}, {"prefix": "/canary"}])
        match = {key: value for key, value in (("headers", headers), ("path", path)) if value}
        route = {"name": f"r{index}", "weights": {draw.choice(["stable", "canary"]): 100}}
        route["match"] = match or {"headers": {"a": {"exact": "x"}}}
        if draw.random() < 0.3:
            route |= {"sticky": {"by": "cookie"}, "weights": {"stable": 50, "canary": 50}}
        made.append(route)
    return [*made, {"name": "everyone", "weights": {"stable": 100}}]


def test_the_order_of_the_list_holds_or_is_refused(render, said_of, values_of):
    """
    Lists of routes by chance: either the order of the Gateway API gives what the list's order gives, or the chart refuses.
    """
    draw = random.Random(14)  # noqa: S311 - nothing secret
    taken = refused = 0
    requests = [
        Request(path, {**dict(zip("abc", texts, strict=True)), **cookie})
        for path in (
            REST,
            GRPC,
            "/v1/models/resnet/versions/2:predict",
            "/canary/v1/models/resnet",
            f"/canary{GRPC}",
        )
        for texts in itertools.product(["", "x", "y"], repeat=3)
        for cookie in ({}, {"cookie": "model-track=canary"})
    ]
    for _ in range(40):
        routes = drawn_routes(draw)
        values = merge(GATEWAY_API, {"routing": {"routes": routes}})
        message = said_of(values)
        if message:
            assert "more exact than" in message or "never reached" in message, message
            refused += "more exact than" in message
            continue
        taken += 1
        routing = from_values(values_of(None, routes))
        http_route = render(values=values).all("HTTPRoute")["resnet"]
        for request in requests:
            assert expected(routing, request) == answer(http_route, request), (routes, request)
    assert min(taken, refused) >= 8, (taken, refused)
