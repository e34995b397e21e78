"""
What the gateway's filters do with a request, by a real Envoy: it has the rendered filters, and answers what it then sees.
"""

import socket

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tfcanary.routing.buckets import bucket

TYPES = "type.googleapis.com/envoy.extensions.filters"
HOSTS = ["a.example", "*.wild.example"]
ISSUER = "https://issuer.example"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = '{"keys":[%s]}' % RSAAlgorithm.to_jwk(KEY.public_key())  # noqa: UP031 - braces are JSON's
VALUES = {
    "gateway": {"hosts": HOSTS, "filters": {"maxBodyBytes": 65536, "requestsPerSecond": 1000}},
    "security": {"jwt": {"issuer": ISSUER, "jwks": KEYS}},
}
# Another release of the same model behind the same gateway, which believes another header.
OTHER = {
    "gateway": {"hosts": ["c.example"], "filters": {"requestsPerSecond": 3}},
    "routing": {"headers": {"user": "name"}},
}
FORGED = {"user-group": "canary", "user-id": "alice", "x-bucket-resnet": "00"}


def answers(path):
    """
    Whether somebody listens there: the file is made before.
    """
    with socket.socket(socket.AF_UNIX) as tried:
        return not tried.connect_ex(str(path))


def patched(filters, count):
    """
    What EnvoyFilters put into a gateway: filters in the order of its chain, and settings by host.
    """
    chain, hosts = [], {}
    for item in filters:
        for one in item["spec"]["configPatches"]:
            patch, match = one["patch"], one["match"]
            if one["applyTo"] == "VIRTUAL_HOST":
                domain = match["routeConfiguration"]["vhost"]["name"].removesuffix(":80")
                hosts[domain] = patch["value"]
            elif patch["operation"] == "INSERT_FIRST":
                chain.insert(0, patch["value"])
            else:
                chain.append(patch["value"])
    assert len(chain) == count
    assert {*HOSTS, "c.example"} == set(hosts)
    return chain, hosts


def verifier(rendered):
    """
    The filter that Istio makes of a RequestAuthentication: it is on for every host.
    """
    (rule,) = rendered.one("RequestAuthentication")["spec"]["jwtRules"]
    provider = {
        "issuer": rule["issuer"],
        "local_jwks": {"inline_string": rule["jwks"]},
        "claim_to_headers": [
            {"header_name": one["header"], "claim_name": one["claim"]} for one in rule["outputClaimToHeaders"]
        ],
    }
    either = [{"provider_name": "one"}, {"allow_missing": {}}]
    rules = [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": either}}}]
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{TYPES}.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"one": provider},
            "rules": rules,
        },
    }


def configuration(chain, hosts, path):
    """
    A gateway with these filters, which answers with the headers that arrived behind them.
    """
    seen = [
        {"header": {"key": f"x-saw-{name}", "value": f"%REQ({name})%"}}
        for name in [*FORGED, "name", "x-envoy-any"]
    ]
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200},
        "response_headers_to_add": seen,
    }
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {
            # As Istio says it of every gateway.
            "ignore_port_in_host_matching": True,
            "virtual_hosts": [
                {"name": domain, "domains": [domain], "routes": [route], **settings}
                for domain, settings in {**hosts, "*": {}}.items()
            ],
        },
        "http_filters": [
            *chain,
            {"name": "router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}},
        ],
    }
    listener = {
        "name": "gateway",
        "address": {"pipe": {"path": str(path)}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener]}}


@pytest.fixture(scope="module", params=["of each release", "of the gateway"])
def settings(request, render, gateway_chart):
    """
    The filters and the hosts of two releases: the filters are their own, or those that the gateway's chart gives to all.
    """
    shared = request.param == "of the gateway"
    filters, verifiers = [], []
    for release, values in {"resnet": VALUES, "other": OTHER}.items():
        gateway = {**values["gateway"], "filters": {**values["gateway"]["filters"], "shared": shared}}
        rendered = render("stable", values={**values, "gateway": gateway}, release=release)
        filters.append(rendered.one("EnvoyFilter"))
        verifiers += [verifier(rendered)] if "security" in values else []
    chain, hosts = patched([gateway_chart(), *filters], 4) if shared else patched(filters, 8)
    # Istio's own filters come after those that are put first, and before those that are put before the router.
    return [*chain[: len(chain) // 2], *verifiers, *chain[len(chain) // 2 :]], hosts


@pytest.fixture(scope="module")
def client(settings, envoy, tmp_path_factory):
    """
    A client of the gateway.
    """
    folder = tmp_path_factory.mktemp("envoy")
    path = folder / "gateway"
    transport = httpx.HTTPTransport(uds=str(path))
    with (
        envoy(configuration(*settings, path), folder, lambda: answers(path)),
        httpx.Client(transport=transport, timeout=30) as client,
    ):
        yield client


@pytest.fixture
def gateway(client):
    """
    Ask by a host and headers, and get the headers that arrived behind the filters.
    """

    def ask(host, headers):
        answer = client.get("http://gateway/", headers={"host": host, **headers})
        assert 200 == answer.status_code
        return {name: answer.headers.get(f"x-saw-{name}") for name in headers}

    return ask


@pytest.mark.parametrize(
    "host",
    [
        "a.example",
        "A.Example",
        "a.example:80",
        "a.example:",
        "a.example:x",
        "a.example:80x",
        "b.wild.example",
        "b.wild.example:",
    ],
)
def test_clients_do_not_speak_for_the_gateway(gateway, host):
    """
    Headers that only the gateway may set are stripped for every spelling of a host name that Envoy accepts as the release's.
    """
    assert dict.fromkeys(FORGED) == gateway(host, FORGED)


@pytest.mark.parametrize("host", ["c.example", "aa.example", "a.example.c", "wild.example:80"])
def test_other_hosts_are_left_alone(gateway, host):
    """
    Releases with other names behind the same gateway say for themselves whom they believe.
    """
    headers = {"user-group": "canary", "user-id": "alice"}

    assert headers == gateway(host, headers)


def test_claims_take_the_place_of_what_a_client_says(gateway):
    """
    A verified token speaks for the user and the group, at the hosts of its release alone; nothing else does.
    """
    token = jwt.encode({"iss": ISSUER, "group": "staff", "sub": "bob"}, KEY, algorithm="RS256")
    bearer = {"authorization": f"Bearer {token}"}

    claims = {"user-group": "staff", "user-id": "bob", "x-bucket-resnet": f"{bucket('resnet', 'bob'):02}"}
    assert claims == {
        name: said for name, said in gateway("a.example", {**FORGED, **bearer}).items() if name in FORGED
    }
    said = {"user-group": "canary", "user-id": "alice"}
    assert said == {
        name: seen for name, seen in gateway("c.example", {**said, **bearer}).items() if name in said
    }


def test_headers_of_claims_are_not_for_clients(settings, gateway):
    """
    Only the gateway writes the headers from which the routes' headers get the claims.
    """
    (verifying,) = (one for one in settings[0] if one["name"] == "envoy.filters.http.jwt_authn")
    (provider,) = verifying["typed_config"]["providers"].values()
    forged = {one["header_name"]: "canary" for one in provider["claim_to_headers"]}
    assert len(forged) == 2

    assert dict.fromkeys(FORGED) == {
        name: seen for name, seen in gateway("a.example", {**FORGED, **forged}).items() if name in FORGED
    }


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param("a.example", None, id="not-ours"),
        pytest.param("c.example", f"{bucket('resnet', 'bob'):02}", id="theirs"),
    ],
)
def test_another_release_gives_no_buckets_here(gateway, host, expected):
    """
    A client's bucket is that of its host's release, by the header which that release believes, and of no other's.
    """
    headers = {"name": "bob", "x-bucket-resnet": "00"}

    assert {"name": "bob", "x-bucket-resnet": expected} == gateway(host, headers)


@pytest.mark.parametrize(
    ("host", "expected"), [("a.example", None), ("c.example", None), ("elsewhere.example", "5xx")]
)
def test_headers_of_envoy_are_taken_away(gateway, host, expected):
    """
    Envoy's own headers are not for clients of a release to say. What others let theirs say is theirs.
    """
    assert {"x-envoy-any": expected} == gateway(host, {"x-envoy-any": "5xx"})


@pytest.mark.parametrize(
    ("host", "expected"),
    [("a.example", 413), ("b.wild.example:80", 413), ("c.example", 200), ("elsewhere.example", 200)],
)
def test_bodies_are_limited_by_host(client, host, expected):
    """
    A body that one release refuses is let through for the hosts of others.
    """
    answer = client.post("http://gateway/", headers={"host": host}, content=b"0" * 65537)

    assert expected == answer.status_code


@pytest.mark.parametrize(
    ("host", "expected"),
    [("c.example", {200, 429}), ("a.example", {200}), ("elsewhere.example", {200})],
)
def test_rates_are_limited_by_host(client, host, expected):
    """
    Thirty requests are too many for one release, which lets three a second through, and for it alone.
    """
    assert expected == {client.get("http://gateway/", headers={"host": host}).status_code for _ in range(30)}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/tensorflow.serving.PredictionService/Predict", 415, id="grpc"),
        pytest.param("/canary/tensorflow.serving.PredictionService/Predict", 415, id="below-a-prefix"),
        pytest.param("/tensorflow.serving.", 415, id="no-method"),
        pytest.param("/v1/models/resnet:predict", 200, id="rest"),
        pytest.param("/v1/models/resnet:predict?a=/tensorflow.serving.", 200, id="in-the-query"),
    ],
)
def test_paths_of_grpc_are_for_grpc(client, path, expected):
    """
    A prefix that a route takes away is no way around it. Paths of other hosts are theirs.
    """
    seen = {
        host: client.post(f"http://gateway{path}", headers={"host": host}).status_code
        for host in ("a.example", "elsewhere.example")
    }

    assert {"a.example": expected, "elsewhere.example": 200} == seen


def test_a_body_over_the_limit_is_resource_exhausted_over_grpc(client):
    """
    F21. Envoy alone would say UNKNOWN. Over REST it is 413.
    """
    headers = {"host": "a.example", "content-type": "application/grpc", "te": "trailers"}

    answer = client.post(
        "http://gateway/tensorflow.serving.PredictionService/Predict", headers=headers, content=b"0" * 65537
    )

    assert (200, "8") == (answer.status_code, answer.headers["grpc-status"])
