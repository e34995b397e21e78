"""
What the gateway's filters do with a request, by a real Envoy: it has the rendered filters, and answers what it then sees.
"""

import re
import socket
from contextlib import contextmanager

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tfcanary.routing.buckets import bucket

TYPES = "type.googleapis.com/envoy.extensions.filters"
ROUTER = "envoy.filters.http.router"
HOSTS = ["a.example", "*.wild.example"]
ISSUER = "https://issuer.example"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = '{"keys":[%s]}' % RSAAlgorithm.to_jwk(KEY.public_key())  # noqa: UP031 - braces are JSON's
VALUES = {
    "gateway": {"hosts": HOSTS, "filters": {"maxBodyBytes": 65536, "requestsPerSecond": 1000}},
    "security": {"jwt": {"issuer": ISSUER, "jwks": KEYS, "audiences": ["resnet"]}},
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


def patched(filters, *istios):
    """
    What EnvoyFilters make of a gateway's chain, which has these filters of Istio's: the filters in order, and settings by
    host.
    """
    chain, hosts = (
        [*istios, {"name": ROUTER, "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}}],
        {},
    )
    for item in sorted(filters, key=lambda one: one["spec"].get("priority", 0)):
        for one in item["spec"]["configPatches"]:
            patch, match = one["patch"], one["match"]
            if one["applyTo"] == "VIRTUAL_HOST":
                domain = match["routeConfiguration"]["vhost"]["name"].removesuffix(":80")
                hosts[domain] = patch["value"]
            elif patch["operation"] == "INSERT_FIRST":
                chain.insert(0, patch["value"])
            else:
                there = match["listener"]["filterChain"]["filter"]["subFilter"]["name"]
                (place,) = (number for number, each in enumerate(chain) if each["name"] == there)
                chain.insert(place + (patch["operation"] == "INSERT_AFTER"), patch["value"])
    assert {*HOSTS, "c.example"} == set(hosts)
    return chain, hosts


def istios_filter(*rules):
    """
    The filter that Istio makes of RequestAuthentications: it is on for every host. Their keys are fetched by istiod.
    """
    providers = {
        f"origins-{number}": {
            "issuer": rule["issuer"],
            "local_jwks": {"inline_string": KEYS},
            "payload_in_metadata": "payload",
            "clear_route_cache": True,
            "claim_to_headers": [
                {"header_name": one["header"], "claim_name": one["claim"]}
                for one in rule.get("outputClaimToHeaders", [])
            ],
        }
        for number, rule in enumerate(rules)
    }
    named = [{"provider_name": name} for name in providers]
    missing = [{"requires_any": {"requirements": [one, {"allow_missing": {}}]}} for one in named]
    either = [
        *named,
        {"requires_all": {"requirements": missing}} if len(rules) > 1 else {"allow_missing": {}},
    ]
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{TYPES}.http.jwt_authn.v3.JwtAuthentication",
            "providers": providers,
            "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": either}}}],
        },
    }


def configuration(chain, hosts, path):
    """
    A gateway with these filters, which answers with the headers that arrived behind them.
    """
    seen = [
        {"header": {"key": f"x-saw-{name}", "value": f"%REQ({name})%"}}
        for name in [*FORGED, "name", "x-envoy-any", "authorization"]
    ]
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200},
        "response_headers_to_add": seen,
    }
    # As Istio writes a match on @request.auth.claims[group].
    claim = {
        "filter": "envoy.filters.http.jwt_authn",
        "path": [{"key": "payload"}, {"key": "group"}],
        "value": {"string_match": {"exact": "staff"}},
    }
    told = {"header": {"key": "x-saw-claim", "value": "staff"}}
    staff = {
        **route,
        "match": {"prefix": "/", "dynamic_metadata": [claim]},
        "response_headers_to_add": [*seen, told],
    }
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {
            # As Istio says it of every gateway.
            "ignore_port_in_host_matching": True,
            "virtual_hosts": [
                {"name": domain, "domains": [domain], "routes": [staff, route], **settings}
                for domain, settings in {**hosts, "*": {}}.items()
            ],
        },
        "http_filters": chain,
    }
    listener = {
        "name": "gateway",
        "address": {"pipe": {"path": str(path)}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener]}}


@pytest.fixture(scope="module", params=["of each release", "of the gateway"])
def filters(request, render, gateway_chart):
    """
    The EnvoyFilters of two releases: the filters are their own, or those that the gateway's chart gives to all. That one is
    the youngest.
    """
    shared = request.param == "of the gateway"
    made = []
    for release, values in {"resnet": VALUES, "other": OTHER}.items():
        gateway = {**values["gateway"], "filters": {**values["gateway"]["filters"], "shared": shared}}
        rendered = render("stable", values={**values, "gateway": gateway}, release=release)
        made.append(rendered.one("EnvoyFilter"))
    return [*made, gateway_chart()] if shared else made


@contextmanager
def asking(envoy, folder, chain, hosts):
    """
    A client of a gateway with these filters.
    """
    path = folder / "gateway"
    transport = httpx.HTTPTransport(uds=str(path))
    with (
        envoy(configuration(chain, hosts, path), folder, lambda: answers(path)),
        httpx.Client(transport=transport, timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(filters, envoy, tmp_path_factory):
    """
    A client of the gateway of both releases.
    """
    with asking(envoy, tmp_path_factory.mktemp("envoy"), *patched(filters)) as client:
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


def token(key=KEY, **claims):
    """
    The header with a token, which is a good one unless the claims say otherwise.
    """
    said = {"iss": ISSUER, "aud": "resnet", "group": "staff", "sub": "bob", **claims}
    return {"authorization": f"Bearer {jwt.encode(said, key, algorithm='RS256')}"}


CLAIMS = {"user-group": "staff", "user-id": "bob", "x-bucket-resnet": f"{bucket('resnet', 'bob'):02}"}


def seen_of(answer, names=FORGED):
    """
    Which headers arrived, and whether a route by claim took the request.
    """
    assert 200 == answer.status_code
    return {name: answer.headers.get(f"x-saw-{name}") for name in [*names, "claim"]}


def test_claims_take_the_place_of_what_a_client_says(client):
    """
    A verified token speaks for the user and the group, at the hosts of its release alone; nothing else does.
    """
    answer = client.get("http://gateway/", headers={"host": "a.example", **FORGED, **token()})
    theirs = client.get("http://gateway/", headers={"host": "c.example", **FORGED, **token()})

    assert {**CLAIMS, "claim": "staff"} == seen_of(answer)
    # The token itself does not go on.
    assert "x-saw-authorization" not in answer.headers
    assert {"user-group": "canary", "user-id": "alice", "claim": None} == seen_of(
        theirs, ("user-group", "user-id")
    )
    assert token()["authorization"] == theirs.headers["x-saw-authorization"]


TOKENS = {
    "good": (token(), 200),
    "none": ({}, 200),
    "not-a-token": ({"authorization": "Bearer xxx"}, 401),
    "not-for-us-to-read": ({"authorization": "Basic eDp5"}, 200),
    "expired": (token(exp=1_000_000_000), 401),
    "other-issuer": (token(iss="https://other.example"), 401),
    "other-audience": (token(aud="another"), 403),
    "other-key": (token(OTHER_KEY), 401),
}


@pytest.mark.parametrize("name", sorted(TOKENS))
@pytest.mark.parametrize("host", ["a.example", "b.wild.example:80", "elsewhere.example"])
def test_tokens_are_verified_by_host(client, host, name):
    """
    A token that does not hold is refused at the hosts of its release. Other hosts take the tokens of others, and any.
    """
    headers, expected = TOKENS[name]

    answer = client.get("http://gateway/", headers={"host": host, **headers})

    assert (200 if host == "elsewhere.example" else expected) == answer.status_code


def test_a_preflight_needs_no_token(client):
    """
    Browsers send none, and a route with `gateway.cors` answers.
    """
    asked = {"host": "a.example", "origin": "https://a", "access-control-request-method": "POST"}
    bad = {"authorization": "Bearer xxx"}

    assert 200 == client.options("http://gateway/", headers={**asked, **bad}).status_code


OTHERS = {"issuer": "https://other.example"}


@pytest.mark.parametrize("own", [False, True], ids=["another-application", "a-change"])
def test_istios_own_filter_changes_nothing(own, filters, render, envoy, tmp_path):
    """
    A RequestAuthentication at the same gateway, of another application, or of the release itself while it changes from
    `jwksUri` to `jwks`: the release's tokens speak for their users as before.
    """
    before = {"issuer": ISSUER, "jwksUri": "https://issuer.example/keys"}
    rendered = render("stable", values={**VALUES, "security": {"jwt": before}})
    rules = [OTHERS, *(rendered.one("RequestAuthentication")["spec"]["jwtRules"] if own else [])]
    theirs = token(iss=OTHERS["issuer"])

    with asking(envoy, tmp_path, *patched(filters, istios_filter(*rules))) as client:
        answer = client.get("http://gateway/", headers={"host": "a.example", **FORGED, **token()})
        refused = client.get("http://gateway/", headers={"host": "a.example", **theirs})
        taken = client.get("http://gateway/", headers={"host": "elsewhere.example", **theirs})

    assert {**CLAIMS, "claim": "staff"} == seen_of(answer)
    assert (401, 200) == (refused.status_code, taken.status_code)


@pytest.mark.parametrize("shared", [True, False], ids=["filters-of-the-gateway", "filters-of-each"])
def test_istio_verifies_where_istiod_has_the_keys(shared, render, gateway_chart, envoy, tmp_path):
    """
    With `jwksUri` the claims come from a RequestAuthentication, whose filter is on for every host.
    """
    jwks_uri = {"security": {"jwt": {"issuer": ISSUER, "jwksUri": "https://issuer.example/keys"}}}
    gateway = {"hosts": [*HOSTS, "c.example"], "filters": {"shared": shared}}
    rendered = render("stable", values={**jwks_uri, "gateway": gateway})
    made = [rendered.one("EnvoyFilter"), *([gateway_chart()] if shared else [])]
    rules = rendered.one("RequestAuthentication")["spec"]["jwtRules"]

    with asking(envoy, tmp_path, *patched(made, istios_filter(*rules))) as client:
        answer = client.get("http://gateway/", headers={"host": "a.example", **FORGED, **token()})
        theirs = token(iss=OTHERS["issuer"])
        refused = client.get("http://gateway/", headers={"host": "elsewhere.example", **theirs})

    assert {**CLAIMS, "claim": "staff"} == seen_of(answer)
    assert 401 == refused.status_code


def test_headers_of_claims_are_not_for_clients(filters, gateway):
    """
    Only the gateway writes the headers from which the routes' headers get the claims.
    """
    found = re.findall(r"x-(?:claim|token)-(?:user|group)-[0-9a-f]{12}", str(filters))
    forged = dict.fromkeys(found, "canary")
    assert len(forged) == 4

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
