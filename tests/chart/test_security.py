"""
Who may call what, on the rendered objects.
"""

import ipaddress
import itertools
import json
import re
from hashlib import sha256

import pytest

MODEL = "/v1/models/resnet"
GATEWAY = "cluster.local/ns/istio-system/sa/istio-ingressgateway"
CALLER = {"namespace": "shop", "serviceAccount": "web"}
READER = {"namespace": "monitoring", "serviceAccount": "prometheus"}
JWT = {"security": {"jwt": {"issuer": "https://issuer.example", "jwks": '{"keys":[]}'}}}


def allowed(policy, principal, port, method, path):
    """
    Whether an ALLOW policy lets a request in; Istio compares paths as they are.
    """
    return any(
        any(principal in source["source"]["principals"] for source in rule["from"])
        and any(
            str(port) in to["operation"]["ports"]
            and method in to["operation"]["methods"]
            and path in to["operation"]["paths"]
            for to in rule["to"]
        )
        for rule in policy["spec"]["rules"]
    )


@pytest.mark.parametrize(
    ("principal", "port", "method", "path", "expected"),
    [
        (GATEWAY, 8500, "POST", "/tensorflow.serving.PredictionService/Predict", True),
        (GATEWAY, 8500, "POST", "/tensorflow.serving.PredictionService/GetModelMetadata", True),
        (GATEWAY, 8501, "POST", f"{MODEL}:predict", True),
        (GATEWAY, 8501, "POST", f"{MODEL}/versions/2:predict", True),
        (GATEWAY, 8501, "GET", MODEL, True),
        (GATEWAY, 8501, "GET", f"{MODEL}/versions/1/metadata", True),
        ("cluster.local/ns/shop/sa/web", 8501, "POST", f"{MODEL}:predict", True),
        ("cluster.local/ns/monitoring/sa/prometheus", 8501, "GET", "/monitoring/prometheus/metrics", True),
        (GATEWAY, 8500, "POST", "/tensorflow.serving.ModelService/HandleReloadConfigRequest", False),
        (GATEWAY, 8500, "POST", "/tensorflow.ProfilerService/Profile", False),
        (GATEWAY, 8501, "POST", "/tensorflow.serving.PredictionService/Predict", False),
        (GATEWAY, 8501, "GET", f"{MODEL}:predict", False),
        (GATEWAY, 8501, "POST", f"{MODEL}/metadata", False),
        (GATEWAY, 8501, "GET", "/V1/Models/resnet", False),
        (GATEWAY, 8501, "GET", "//v1/models/resnet", False),
        (GATEWAY, 8501, "GET", "/v1/models%2Fresnet", False),
        (GATEWAY, 8501, "GET", "/v1/models/other", False),
        (GATEWAY, 8501, "GET", f"{MODEL}/versions/3/metadata", False),
        (GATEWAY, 8501, "GET", "/monitoring/prometheus/metrics", False),
        ("cluster.local/ns/monitoring/sa/prometheus", 8501, "POST", f"{MODEL}:predict", False),
        ("cluster.local/ns/istio-system/sa/default", 8501, "POST", f"{MODEL}:predict", False),
        ("cluster.local/ns/shop/sa/default", 8501, "POST", f"{MODEL}:predict", False),
    ],
)
def test_only_who_may_calls_only_what_may(  # noqa: PLR0917 - a table
    render, principal, port, method, path, expected
):
    """
    Everything is refused but the named callers, the named model and the prediction paths.
    """
    values = {"security": {"callers": [CALLER], "metricsReaders": [READER]}}
    policy = render("stable", values=values).one("AuthorizationPolicy")

    assert "ALLOW" == policy["spec"]["action"]
    assert expected is allowed(policy, principal, port, method, path)


def test_policies_select_the_pods(render, strategy, environment):
    """
    The policies hold for the pods of every track, and mTLS is strict.
    """
    rendered = render(strategy, environment=environment)
    selector = rendered.one("Service")["spec"]["selector"]

    assert selector == rendered.one("AuthorizationPolicy")["spec"]["selector"]["matchLabels"]
    assert selector == rendered.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    strict = rendered.one("PeerAuthentication")["spec"]
    assert {"selector": {"matchLabels": selector}, "mtls": {"mode": "STRICT"}} == strict


def matches(peer, namespace, labels, address=None):
    """
    Whether a peer of a NetworkPolicy is meant.
    """
    if "ipBlock" in peer:
        return address is not None and ipaddress.ip_address(address) in ipaddress.ip_network(
            peer["ipBlock"]["cidr"]
        )
    if address is not None:
        return False
    named = peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    pods = peer.get("podSelector", {})
    assert pods.keys() <= {"matchLabels", "matchExpressions"}
    among = [one for one in pods.get("matchExpressions", []) if one["operator"] == "In"]
    assert len(among) == len(pods.get("matchExpressions", []))
    return (
        named
        and pods.get("matchLabels", {}).items() <= labels.items()
        and all(labels.get(one["key"]) in one["values"] for one in among)
    )


def connects(rules, side, port, protocol="TCP", **peer):
    """
    Whether some rule lets a connection through.
    """
    return any(
        any(matches(one, **peer) for one in rule[side])
        and any((one["protocol"], one["port"]) == (protocol, port) for one in rule["ports"])
        for rule in rules
    )


IN = {
    "istio-system": {"istio": "ingressgateway"},
    "shop": {"app": "web"},
    "monitoring": {"app": "prometheus"},
}
STRANGERS = {
    "istio-system": {"app": "istiod"},
    "default": {},
    "kube-system": {"k8s-app": "kube-dns"},
    # The gateway's labels, in a namespace that is not the gateway's.
    "elsewhere": {"istio": "ingressgateway"},
}


@pytest.mark.parametrize("port", [22, 80, 443, 8500, 8501, 15000, 15006, 15008, 15012, 15020, 15021, 15090])
def test_connections_in(render, port):
    """
    In come the gateway and the named callers to the two APIs, and readers of metrics to where metrics are.
    """
    values = {"security": {"callers": [CALLER], "metricsReaders": [READER]}}
    rules = render("stable", values=values).one("NetworkPolicy")["spec"]["ingress"]

    got = {name: connects(rules, "from", port, namespace=name, labels=labels) for name, labels in IN.items()}
    api = port in {8500, 8501}
    assert {"istio-system": api, "shop": api, "monitoring": port in {8501, 15020, 15090}} == got
    strangers = [
        connects(rules, "from", port, namespace=name, labels=labels) for name, labels in STRANGERS.items()
    ]
    assert [False] * len(STRANGERS) == strangers
    assert not connects(rules, "from", port, **outside("10.0.0.1"))
    assert not connects(rules, "from", port, "UDP", namespace="istio-system", labels=IN["istio-system"])


def outside(address):
    """
    An address that is no pod's.
    """
    return {"namespace": "", "labels": {}, "address": address}


# Where a pod may want to go, and what of it is let through, by environment (* is every other one).
OUT = {
    "dns": (
        {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        {"*": {("UDP", 53), ("TCP", 53)}},
    ),
    "dns-cache": (
        {"namespace": "kube-system", "labels": {"k8s-app": "node-local-dns"}},
        {"*": {("UDP", 53), ("TCP", 53)}},
    ),
    "dns-cache-address": (outside("169.254.20.10"), {"*": {("UDP", 53), ("TCP", 53)}}),
    "istiod": ({"namespace": "istio-system", "labels": {"app": "istiod"}}, {"*": {("TCP", 15012)}}),
    "gateway": ({"namespace": "istio-system", "labels": {"istio": "ingressgateway"}}, {"*": set()}),
    "false-istiod": ({"namespace": "default", "labels": {"app": "istiod"}}, {"*": set()}),
    "false-dns": ({"namespace": "default", "labels": {"k8s-app": "kube-dns"}}, {"*": set()}),
    "neighbour": ({"namespace": "default", "labels": {}}, {"*": set()}),
    "api-server": (outside("10.96.0.1"), {"*": set()}),
    "metadata-server": (
        outside("169.254.169.254"),
        {"*": set(), "gke": {("TCP", 80), ("UDP", 53), ("TCP", 53)}},
    ),
    "bucket": (outside("199.36.153.9"), {"*": set(), "gke": {("TCP", 443)}}),
    "internet": (outside("142.250.0.1"), {"*": set()}),
}
PORTS = [
    ("UDP", 53),
    ("UDP", 443),
    *(
        ("TCP", port)
        for port in (
            22,
            53,
            80,
            443,
            988,
            2379,
            6443,
            8080,
            8500,
            8501,
            10250,
            15008,
            15010,
            15012,
            15014,
            15017,
        )
    ),
]


@pytest.mark.parametrize("destination", OUT)
def test_connections_out(render, environment, destination):
    """
    Over all destinations and ports, out go only questions to DNS and to istiod: no metadata server, no API server, no
    internet; and of a bucket's cloud no more than it needs.
    """
    rules = render("stable", environment=environment).one("NetworkPolicy")["spec"]["egress"]
    peer, let_through = OUT[destination]

    got = {(protocol, port) for protocol, port in PORTS if connects(rules, "to", port, protocol, **peer)}
    assert let_through.get(environment, let_through["*"]) == got


@pytest.mark.parametrize(
    "address",
    [
        *(
            "::/0",
            "::1/128",
            "fd00::a/128",
            "fd00::/8",
            "2001:db8:0:1:2:3:4:5/64",
            "1::5:6:7:8/1",
            "1:2:3:4:5:6:7::/112",
        ),
        *(
            "10.0.0.0/8",
            "1:2/64",
            "::1",
            "::/129",
            "1::2::3/64",
            "1:2:3:4:5:6:7:8:9/64",
            ":::/64",
            "g::/64",
            "12345::/64",
        ),
        *("1:2:3:4:5:6:7/64", ":1/64", "fd00:/8", "::/01", "1:2:3:4:5:6:7:8::/64"),
    ],
)
def test_addresses_are_of_both_families(chart, address):
    """
    F19. What Python takes for a range of addresses is one, and nothing else.
    """
    try:
        ipaddress.ip_network(address, strict=False)
    except ValueError:
        valid = False
    else:
        # Python takes an address without a length, and a length with a zero before it.
        valid = re.search(r"/(0|[1-9]\d*)$", address) is not None

    pattern = json.loads((chart / "values.schema.json").read_text())["definitions"]["cidr"]["pattern"]
    assert valid == (re.fullmatch(pattern, address) is not None)


def test_ipv6_reaches_the_policy(render):
    """
    Of DNS and of further destinations.
    """
    egress = [{"cidr": "2001:db8::/32", "ports": [443]}]
    values = {"networkPolicy": {"dnsAddresses": ["fd00::a/128"], "egress": egress}}

    rules = render("stable", values=values).one("NetworkPolicy")["spec"]["egress"]

    assert {"fd00::a/128", "2001:db8::/32"} == {
        peer["ipBlock"]["cidr"] for rule in rules for peer in rule["to"] if "ipBlock" in peer
    }


def test_tls(render):
    """
    With TLS there is no plain port that answers: it redirects, and nothing older than 1.2 is spoken.
    """
    values = {"gateway": {"tls": {"enabled": True, "credentialName": "resnet-tls"}}}
    plain, secure = render("stable", values=values).one("Gateway")["spec"]["servers"]

    assert {"httpsRedirect": True} == plain["tls"]
    assert {"name": "https", "number": 443, "protocol": "HTTPS"} == secure["port"]
    assert {
        "mode": "SIMPLE",
        "credentialName": "resnet-tls",
        "minProtocolVersion": "TLSV1_2",
    } == secure["tls"]


def patches(item):
    """
    The filters that the gateway gets by an EnvoyFilter, by the first words of their names.
    """
    found = [patch["patch"]["value"] for patch in of_kind(item, "HTTP_FILTER")]
    return {value["name"].split(".")[1]: value for value in found}


def of_kind(item, kind):
    """
    What an EnvoyFilter patches in the gateway's configuration, of one kind.
    """
    return [patch for patch in item["spec"]["configPatches"] if kind == patch["applyTo"]]


def limits(rendered):
    """
    The settings of the filters by host and port, by the first words of the filters' names.
    """
    return {
        patch["match"]["routeConfiguration"]["vhost"]["name"]: {
            name.split(".")[1]: settings
            for name, settings in patch["patch"]["value"]["typed_per_filter_config"].items()
        }
        for patch in of_kind(rendered.one("EnvoyFilter"), "VIRTUAL_HOST")
    }


def test_filters_lie_with_the_gateway(render):
    """
    An EnvoyFilter is read in its own namespace only, by the proxies that it selects.
    """
    values = {"gateway": {"namespace": "edge", "selector": {"istio": None, "app": "edge"}}}
    item = render("stable", values=values).one("EnvoyFilter")

    assert "edge" == item["metadata"]["namespace"]
    assert {"labels": {"app": "edge"}} == item["spec"]["workloadSelector"]


def test_limits(render):
    """
    The body's size and the rate are limited by the values, for the release's hosts alone; a rate of 0 is none.
    """
    filters = {"maxBodyBytes": 70000, "requestsPerSecond": 7}
    rendered = render(
        "stable", values={"gateway": {"filters": filters, "hosts": ["a.example", "*.b.example"]}}
    )
    found = limits(rendered)
    free = render("stable", values={"gateway": {"filters": {"requestsPerSecond": 0}}})

    assert {"a.example:80", "*.b.example:80"} == set(found)
    for one in found.values():
        assert 70000 == one["size"]["buffer"]["max_request_bytes"]
        assert 7 == one["rate"]["token_bucket"]["tokens_per_fill"]
    assert {"guard", "bucket", "size"} == set(limits(free)["*:80"])
    assert "rate" not in patches(free.one("EnvoyFilter"))


@pytest.mark.parametrize("shared", [False, True])
def test_limits_are_bound_to_hosts(render, gateway_chart, shared):
    """
    A request for another host passes: every filter is disabled where no host turns it on.
    """
    rendered = render("stable", values={"gateway": {"filters": {"shared": shared}}})
    found = patches(gateway_chart() if shared else rendered.one("EnvoyFilter"))
    own = {} if not shared else patches(rendered.one("EnvoyFilter"))

    assert {} == own
    assert {"guard", "bucket", "rate", "size"} == {name for name, value in found.items() if value["disabled"]}
    (bound,) = limits(rendered).values()
    assert found.keys() == bound.keys()
    assert all("default_source_code" not in found[name]["typed_config"] for name in ("guard", "bucket"))
    assert "token_bucket" not in found["rate"]["typed_config"]


def test_limits_hold_with_tls(render):
    """
    Envoy has a host for each port.
    """
    values = {"gateway": {"tls": {"enabled": True, "credentialName": "resnet-tls"}, "hosts": ["a.example"]}}

    assert {"a.example:80", "a.example:443"} == set(limits(render("stable", values=values)))


def test_filters_can_be_turned_off(render):
    """
    Who may not write into the gateway's namespace renders nothing there.
    """
    objects = render("stable", values={"gateway": {"filters": {"enabled": False}}}).objects

    assert {"default"} == {item["metadata"]["namespace"] for item in objects.values()}


@pytest.mark.parametrize(
    ("values", "stripped"),
    [
        pytest.param({}, {"x-bucket-resnet", "x-client-deadline"}, id="plain"),
        pytest.param(
            JWT,
            {
                *("x-bucket-resnet", "x-client-deadline", "user-id", "user-group"),
                *(
                    f"x-{writer}-{claim}-{sha256(b'default.resnet').hexdigest()[:12]}"
                    for writer, claim in itertools.product(("claim", "token"), ("user", "group"))
                ),
            },
            id="tokens",
        ),
    ],
)
def test_headers_that_clients_may_not_say(render, values, stripped):
    """
    The bucket and the hidden deadline always, and with tokens the headers that the token speaks for, and its own.
    """
    (shared,) = limits(render("stable", values=values)).values()
    own = patches(render("stable", environment="kind", values=values).one("EnvoyFilter"))["guard"]
    codes = (
        shared["guard"]["source_code"]["inline_string"],
        own["typed_config"]["source_codes"]["guard"]["inline_string"],
    )

    for code in codes:
        (line,) = (line for line in code.splitlines() if line.startswith("local set_here = "))
        assert stripped == set(re.findall('"([^"]+)"', line))


def test_every_container_is_bounded(render, environment):
    """
    Every container of every pod has requests and a limit of memory.
    """
    rendered = render("stable", environment=environment)
    pods = [item["spec"]["template"]["spec"] for item in rendered.all("Deployment").values()]
    pods.append(rendered.one("Pod")["spec"])

    containers = [one for pod in pods for key in ("initContainers", "containers") for one in pod.get(key, [])]
    assert len(containers) >= 3
    assert all({"cpu", "memory"} == one["resources"]["requests"].keys() for one in containers)
    assert all("memory" in one["resources"]["limits"] for one in containers)
