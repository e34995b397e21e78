"""
What an Envoy is configured with, beside what the release says: from a recorded gateway, with one thing changed.

The recording is of a canary at 30 per cent, cut to what is read: tests/unit/support/gateway_dump.json.
"""

import copy
import dataclasses
import json
from pathlib import Path

import pytest

from tfcanary.check.envoy import Mirrored, Proxy
from tfcanary.check.mesh import Gateways, Released, mirrors_of
from tfcanary.judge.verdict import Outcome
from tfcanary.kube.envoy import parsed

SUPPORT = Path(__file__).parent / "support"
RECORDED = json.loads((SUPPORT / "gateway_dump.json").read_text())
HOST = "models.test"
RELEASED = Released(
    owner=("models", "resnet"),
    service=("models", "resnet"),
    mirrors={"everyone-rest": frozenset(), "everyone-grpc": frozenset()},
    retries=0,
    timeout_seconds=35,
    prefixes=("/tensorflow.serving.", "/v1/"),
    pods={"stable": {"10.244.0.11": "resnet-stable-0"}, "canary": {"10.244.0.10": "resnet-canary-0"}},
    hosts=(HOST,),
)


class Neighbours:
    """
    Others, of whom the name is enough; those of a team called `guests` use the release's own Gateway.
    """

    def virtual_service(self, one):
        """
        Its name alone.
        """
        return f"VirtualService {'/'.join(one)}"

    def uses_gateway(self, one):
        """
        Whether it is the guests'.
        """
        return one[0] == "guests"

    def pod(self, address):
        """
        The address alone.
        """
        return f"pod at {address}"


class Recording:
    """
    The recorded configuration, to be changed.
    """

    def __init__(self):
        self.parts = copy.deepcopy(RECORDED)

    @property
    def table(self):
        """
        The routes of the port.
        """
        return self.parts["routes"]["configs"][0]["route_config"]

    @property
    def host(self):
        """
        The release's virtual host.
        """
        return self.table["virtual_hosts"][0]

    def action(self, name="everyone-rest"):
        """
        What a route does.
        """
        return next(route for route in self.host["routes"] if route["name"] == name)["route"]

    @property
    def filters(self):
        """
        The HTTP filters of the listener.
        """
        listener = self.parts["listeners"]["configs"][0]["active_state"]["listener"]
        return listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]

    def cluster(self, subset="canary", port=8501):
        """
        A subset's cluster.
        """
        return next(
            one["cluster"]
            for one in self.parts["clusters"]["configs"]
            if one["cluster"]["name"].startswith(f"outbound|{port}|{subset}|")
        )

    def endpoints(self, subset="canary", port=8501):
        """
        A cluster's endpoints.
        """
        return next(
            one["endpoint_config"]
            for one in self.parts["endpoints"]["configs"]
            if one["endpoint_config"]["cluster_name"].startswith(f"outbound|{port}|{subset}|")
        )

    def proxy(self, pod="gateway-a", host=HOST, port=80):
        """
        A gateway pod that has it.
        """
        names = ("listeners", "routes", "clusters", "endpoints")
        return Proxy.of(pod, parsed(*(self.parts[name] for name in names)), port, host)


def findings(*recordings, released=RELEASED, host=HOST):
    pods = [one.proxy(f"gateway-{letter}", host) for one, letter in zip(recordings, "ab", strict=False)]
    return {row.title: row for row in Gateways(pods, host, released).findings(Neighbours())}


def failed(found):
    return {title: row.observed for title, row in found.items() if row.outcome is Outcome.FAILED}


def test_the_recorded_gateway_is_as_released():
    found = findings(Recording(), Recording())

    assert {
        "routes at the gateway",
        "live retries",
        "live timeouts",
        "live mirrors",
        "filters at the gateway",
        "endpoints stable",
        "endpoints canary",
    } == found.keys()
    assert {Outcome.HELD} == {row.outcome for row in found.values()}
    assert all("the same at 2 gateway pods" == row.observed for row in found.values())


def changed(change):
    made = Recording()
    change(made)
    return made


def foreign(namespace="guests", name="shop", **match):
    config = f"/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}"
    return {
        "name": "",
        "match": match or {"prefix": "/", "headers": [{"name": "x-tenant"}]},
        "metadata": {"filter_metadata": {"istio": {"config": config}}},
        "route": {"cluster": "outbound|80||shop.guests.svc.cluster.local"},
    }


RETRY = {"retry_on": "5xx", "num_retries": 5}
CANARY = "outbound|8501|canary|resnet.models.svc.cluster.local"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@pytest.mark.parametrize(
    ("change", "title", "observed"),
    [
        pytest.param(
            lambda made: made.host["routes"].insert(0, foreign()),
            "routes at the gateway",
            "VirtualService guests/shop takes requests before it",
            id="another-team-with-a-match",
        ),
        pytest.param(
            lambda made: made.host["routes"].insert(1, foreign("models", "second", prefix="/v1/")),
            "routes at the gateway",
            "VirtualService models/second takes requests before it",
            id="another-release-between",
        ),
        pytest.param(
            lambda made: made.host["routes"].insert(0, foreign(safe_regex={"regex": "/v1.*"})),
            "routes at the gateway",
            "VirtualService guests/shop takes",
            id="by-an-expression",
        ),
        pytest.param(
            lambda made: made.host["routes"].insert(0, foreign(path="/v1/models/resnet:predict")),
            "routes at the gateway",
            "VirtualService guests/shop takes",
            id="one-path",
        ),
        pytest.param(
            lambda made: made.host["routes"].insert(0, {"name": "x", "match": {"prefix": "/"}}),
            "routes at the gateway",
            "a route of no VirtualService (an EnvoyFilter's?) takes requests before it",
            id="of-nobody",
        ),
        pytest.param(
            lambda made: made.host["routes"].pop(),
            "routes at the gateway",
            "everyone-rest missing",
            id="route-missing",
        ),
        pytest.param(
            lambda made: made.table.update(virtual_hosts=[]),
            "routes at the gateway",
            f"no route takes host {HOST}",
            id="host-missing",
        ),
        pytest.param(
            lambda made: made.table["virtual_hosts"].append(
                {"name": "exact", "domains": [HOST.upper()], "routes": [foreign()]}
            ),
            "routes at the gateway",
            "VirtualService guests/shop takes",
            id="a-more-exact-host",
        ),
        pytest.param(
            lambda made: made.action().update(retry_policy=RETRY),
            "live retries",
            "everyone-rest 5",
            id="retries",
        ),
        pytest.param(
            lambda made: made.action("everyone-grpc").update(retry_policy={"retry_on": "5xx"}),
            "live retries",
            "everyone-grpc 1",
            id="retries-without-a-number",
        ),
        pytest.param(
            lambda made: made.host.update(retry_policy=RETRY),
            "live retries",
            "everyone-grpc 5; everyone-rest 5",
            id="retries-of-the-host",
        ),
        pytest.param(
            lambda made: made.cluster()["typed_extension_protocol_options"][OPTIONS].update(
                retry_policy=RETRY
            ),
            "live retries",
            "everyone-rest 5",
            id="retries-of-the-cluster",
        ),
        pytest.param(
            lambda made: made.action().update(timeout="5s"), "live timeouts", "everyone-rest 5s", id="timeout"
        ),
        pytest.param(
            lambda made: made.action().pop("timeout"),
            "live timeouts",
            "everyone-rest 15s",
            id="envoys-own-timeout",
        ),
        pytest.param(
            lambda made: made.action().update(request_mirror_policies=[{"cluster": CANARY}]),
            "live mirrors",
            "everyone-rest 100 % to canary",
            id="mirror",
        ),
        pytest.param(
            lambda made: made.action().update(
                request_mirror_policies=[{"cluster": CANARY.replace("resnet", "digits")}]
            ),
            "live mirrors",
            "everyone-rest 100 % to outbound|8501|canary|digits.models.svc.cluster.local",
            id="mirror-to-another-service",
        ),
        pytest.param(
            lambda made: made.host.update(request_mirror_policies=[{"cluster": "elsewhere"}]),
            "live mirrors",
            "everyone-grpc 100 % to elsewhere; everyone-rest 100 % to elsewhere",
            id="mirror-of-the-host",
        ),
        pytest.param(
            lambda made: made.table.update(request_mirror_policies=[{"cluster": "elsewhere"}]),
            "live mirrors",
            "everyone-grpc 100 % to elsewhere; everyone-rest 100 % to elsewhere",
            id="mirror-of-the-table",
        ),
        pytest.param(
            lambda made: made.filters.insert(
                0, {"name": "others", "typed_config": {"@type": "type/a.b.Lua"}}
            ),
            "filters at the gateway",
            "others (Lua)",
            id="filter-of-others",
        ),
        pytest.param(
            lambda made: next(one for one in made.filters if one["name"].endswith("fault"))[
                "typed_config"
            ].update(abort={"http_status": 503}),
            "filters at the gateway",
            "envoy.filters.http.fault (HTTPFault)",
            id="a-fault-in-istios-own-filter",
        ),
        pytest.param(
            lambda made: made.host["routes"][0].update(
                typed_per_filter_config={"envoy.filters.http.fault": {}}
            ),
            "filters at the gateway",
            "envoy.filters.http.fault on route everyone-grpc",
            id="a-fault-on-one-route",
        ),
        pytest.param(
            lambda made: made.action()["weighted_clusters"]["clusters"][0].update(
                typed_per_filter_config={"envoy.filters.http.fault": {}}
            ),
            "filters at the gateway",
            "envoy.filters.http.fault on route everyone-rest",
            id="a-fault-on-one-weight",
        ),
        pytest.param(
            lambda made: made.host.update(typed_per_filter_config={"tfserving-canary.guard": {}}),
            "filters at the gateway",
            "tfserving-canary.guard is not on the way",
            id="a-guard-that-is-bound-and-not-there",
        ),
        pytest.param(
            lambda made: made.endpoints().update(endpoints=made.endpoints("stable")["endpoints"]),
            "endpoints canary",
            "port 8501 leads to pod at 10.244.0.11; port 8501 does not lead to resnet-canary-0",
            id="stale-subset",
        ),
        pytest.param(
            lambda made: made.endpoints("canary", 8500)["endpoints"][0]["lb_endpoints"][0].update(
                health_status="UNHEALTHY"
            ),
            "endpoints canary",
            "port 8500 does not lead to resnet-canary-0",
            id="a-pod-that-gets-nothing",
        ),
        pytest.param(
            lambda made: made.parts["clusters"].update(configs=[]),
            "endpoints canary",
            "no cluster: the live DestinationRule has no such subset",
            id="no-subset",
        ),
    ],
)
def test_what_else_shapes_the_traffic_is_named(change, title, observed):
    found = failed(findings(changed(change)))

    assert observed in found[title]


def test_what_is_wrong_at_one_gateway_pod_names_the_pod():
    odd = changed(lambda made: made.action().update(retry_policy=RETRY))

    assert {"live retries": "everyone-rest 5 at gateway-b"} == failed(findings(Recording(), odd))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda made: made.host["routes"].append(foreign()), id="after-ours-it-takes-nothing"),
        pytest.param(lambda made: made.host["routes"].insert(0, foreign(prefix="/shop")), id="another-path"),
        pytest.param(
            lambda made: made.table["virtual_hosts"].append(
                {"name": "o", "domains": ["other.test", "*"], "routes": [foreign()]}
            ),
            id="another-host",
        ),
        pytest.param(
            lambda made: made.filters.insert(0, {"name": "tfserving-canary.size.others.digits"}),
            id="a-filter-of-another-release",
        ),
    ],
)
def test_what_does_not_shape_it_is_no_alarm(change):
    assert {} == failed(findings(changed(change)))


@pytest.mark.parametrize(("team", "found"), [("guests", True), ("neighbours", False)])
def test_a_host_below_a_wildcard_is_taken_only_at_the_releases_own_gateway(team, found):
    """
    Another Gateway may have hosts of its own on the same port; that is what a gateway is shared for.
    """
    shop = {"name": "shop", "domains": ["shop.models.test"], "routes": [foreign(team)]}

    def change(made):
        made.host["domains"] = ["*.models.test"]
        made.table["virtual_hosts"].append(shop)

    wide = dataclasses.replace(RELEASED, hosts=("*.models.test",))
    seen = failed(findings(changed(change), released=wide, host="check.models.test"))

    said = {"routes at the gateway": f"host shop.models.test is taken by VirtualService {team}/shop"}
    assert (said if found else {}) == seen


def test_a_filter_that_is_meant_is_allowed():
    odd = changed(lambda made: made.filters.insert(0, {"name": "others", "typed_config": {}}))
    allowing = dataclasses.replace(RELEASED, allowed_filters=("others",))

    assert {"filters at the gateway": "others"} == failed(findings(odd))
    assert {} == failed(findings(odd, released=allowing))


def test_a_mirror_is_compared_with_the_virtual_services():
    spec = {
        "http": [
            {"name": "everyone-rest", "mirror": {"subset": "canary"}, "mirrorPercentage": {"value": 50}},
            {"name": "everyone-grpc"},
        ]
    }
    released = dataclasses.replace(RELEASED, mirrors=mirrors_of({"spec": spec}))
    half = {"default_value": {"numerator": 500_000, "denominator": "MILLION"}}
    policy = {"cluster": CANARY, "runtime_fraction": half}
    mirroring = changed(lambda made: made.action().update(request_mirror_policies=[policy]))

    assert frozenset({Mirrored("canary", 50.0)}) == released.mirrors["everyone-rest"]
    assert {} == failed(findings(mirroring, released=released))
    assert {"live mirrors": "everyone-rest no mirror"} == failed(findings(Recording(), released=released))


def test_cors_on_a_route_is_no_filter_of_others():
    """
    It is what Istio makes of `gateway.cors`.
    """
    cors = {"typed_per_filter_config": {"envoy.filters.http.cors": {}}}

    assert {} == failed(findings(changed(lambda made: made.host["routes"][0].update(cors))))
