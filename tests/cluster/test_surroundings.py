"""
What else shapes a release's traffic is found on a real gateway, each fault failed by its name, with exit code 1.

Faults are planted with kubectl, past Helm, and taken back. Each was tried first by hand, and every check held.
"""

import functools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from planting import QUICK, SYSTEM, Kubectl, failed, istio
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.check.envoy import OWN_FILTERS, Proxy
from tfcanary.check.propagation import IN_A_ROW
from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release
from tfcanary.check.subject import Subject
from tfcanary.client.rest import RestClient
from tfcanary.helm.failures import ValuesRefusedError
from tfcanary.helm.releases import Releases
from tfcanary.judge.verdict import Outcome
from tfcanary.kube.envoy import gateway_config
from tfcanary.kube.gateway import gateway_pods
from tfcanary.kube.objects import LiveObjects
from tfcanary.paths import VALUES
from tfcanary.report.table import findings_table
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

RELEASE = "resnet"
GATEWAY = {"istio": "ingressgateway"}
# A filter or a policy that is planted or taken back replaces listeners under open connections, and a request may be on
# one of them. What the release's own changes cost is test_zero_drop's affair.
PLANTING_COSTS = {"failed requests (REST)", "failed requests (gRPC)"}

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture
def subject(target: Target) -> Callable[..., Subject]:
    return functools.partial(from_release, RELEASE, target)


def test_a_healthy_release_holds(releases: Releases, subject: Callable[..., Subject]) -> None:
    """
    Nothing is around it that should not be, and every object is as released.
    """
    releases.apply(RELEASE, files=[VALUES / "canary-30.yaml"])

    seen = check_gateway(subject(), QUICK)

    assert seen.held, str(findings_table(seen))
    assert () == seen.lost
    titles = {one.title: one.observed for one in seen.findings}
    assert {
        "routes at the gateway",
        "live retries",
        "live timeouts",
        "live mirrors",
        "filters at the gateway",
        "filters at the models",
        "endpoints stable",
        "endpoints canary",
        "destination rules",
        "sidecars",
        "pods stable",
        "pods canary",
        "version stable (REST)",
        "version canary (gRPC)",
    } <= titles.keys()
    assert titles["live objects"].startswith("all ")


def test_a_second_destination_rule_is_named(
    *, releases: Releases, subject: Callable[..., Subject], kubectl: Kubectl, namespace: str
) -> None:
    """
    F1. An older rule of the same host sends the canary's requests to stable's pods, under the canary's name.
    """
    releases.apply(RELEASE, files=[VALUES / "canary-30.yaml"])
    labels = {"track": "stable"}
    left = istio(
        "DestinationRule",
        "left-by-hand",
        namespace,
        {"host": "resnet", "subsets": [{"name": name, "labels": labels} for name in ("stable", "canary")]},
    )

    with kubectl.planted(left):
        kubectl.younger("destinationrule", RELEASE)
        seen = check_gateway(subject(), QUICK)

    found = failed(seen)
    assert 1 == seen.exit_code
    assert {
        "version canary (REST)",
        "version canary (gRPC)",
        "endpoints canary",
        "destination rules",
    } <= found.keys(), str(findings_table(seen))
    assert f"{namespace}/left-by-hand, older" in found["destination rules"]
    assert "leads to pod resnet-stable-" in found["endpoints canary"]
    assert "1 on " in found["version canary (REST)"]


def test_a_pod_with_the_label_of_another_track_is_named(
    *, releases: Releases, subject: Callable[..., Subject], kubectl: Kubectl
) -> None:
    """
    F1, the second way: a pod of stable's version is one of the canary's pods.
    """
    releases.apply(RELEASE, files=[VALUES / "canary-30.yaml"])
    labels = f"track=stable,app.kubernetes.io/instance={RELEASE}"
    pod = kubectl("get", "pods", "-l", labels, "-o", "name").strip()

    kubectl("label", pod, "track=canary", "--overwrite")
    try:
        # The Deployment says that all is well until its controller has seen the label.
        kubectl("wait", "pod", "-l", labels, "--for=create", "--timeout=60s")
        kubectl("wait", "pod", "-l", labels, "--for=condition=Ready", "--timeout=180s")
        seen = check_gateway(subject(), QUICK)
    finally:
        kubectl("delete", pod, "--wait=true")

    found = failed(seen)
    assert 1 == seen.exit_code
    assert {"pods canary", "version canary (REST)", "version canary (gRPC)"} <= found.keys(), str(
        findings_table(seen)
    )
    assert f"{pod.replace('/', ' ')}: version 1 AVAILABLE" in found["pods canary"]


def test_another_release_with_the_host_is_named(
    *,
    releases: Releases,
    target: Target,
    environment: Path,
    host: str,
    namespace: str,
) -> None:
    """
    F3. The chart refuses a second release with the host. If told not to look, the release is deployed and dead: its
    revision never comes, and whose it is that comes is said.

    It adds no filter to the gateway: its listeners stay as they are.
    """
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])
    files = [environment, VALUES / "models/resnet.yaml", VALUES / "stable.yaml"]
    values: dict[str, Any] = {"gateway": {"hosts": [host]}, "tracks": {"canary": {"replicas": 0}}}
    with pytest.raises(ValuesRefusedError, match=f"gateway.hosts: {host} is taken .* of release {RELEASE}, "):
        releases.apply("second", files=files, values=values, reuse_values=False)
    values["gateway"]["freeHosts"] = "unchecked"
    try:
        releases.apply("second", files=files, values=values, reuse_values=False)
        second = check_gateway(from_release("second", target), QUICK)
        first = check_gateway(from_release(RELEASE, target), QUICK)
        filters = own_filters(target)
    finally:
        releases.uninstall("second")

    found = failed(second)
    owner = f"VirtualService {namespace}/resnet of release resnet in namespace {namespace}, older"
    assert 1 == second.exit_code
    assert {"propagation (REST)", "propagation (gRPC)", "routes at the gateway"} <= found.keys(), str(
        findings_table(second)
    )
    assert owner in found["propagation (REST)"]
    assert "the older one wins" in found["propagation (REST)"]
    assert owner in found["routes at the gateway"]
    assert first.held, str(findings_table(first))
    assert [f"tfserving-canary.{name}" for name in ("rate", "guard", "size", "bucket")] == filters


def own_filters(target: Target) -> list[str]:
    """
    The chart's filters on the way of a release's requests, in order.
    """
    live = LiveObjects(target)
    pod = gateway_pods(live, RELEASE)[0]
    config = gateway_config(live, pod, f"{RELEASE}.{target.namespace}")
    proxy = Proxy.of(pod.name, config, pod.port, f"{target.namespace}.test")
    return [one["name"] for one in proxy.filters if one["name"].startswith(OWN_FILTERS)]


def retrying(namespace: str) -> dict[str, Any]:
    """
    The gateway tries again five times, for one release's host.
    """
    retry = {"route": {"retry_policy": {"retry_on": "5xx,reset,connect-failure", "num_retries": 5}}}
    return istio(
        "EnvoyFilter",
        f"retries-{namespace}",
        SYSTEM,
        {
            "workloadSelector": {"labels": GATEWAY},
            "configPatches": [
                {
                    "applyTo": "HTTP_ROUTE",
                    "match": {
                        "context": "GATEWAY",
                        "routeConfiguration": {"vhost": {"name": f"{namespace}.test:80"}},
                    },
                    "patch": {"operation": "MERGE", "value": retry},
                }
            ],
        },
    )


def failing(namespace: str) -> dict[str, Any]:
    """
    The canary's sidecars answer 30 % with 503.
    """
    fault = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": {"http_status": 503, "percentage": {"numerator": 30, "denominator": "HUNDRED"}},
    }
    router = {"name": "envoy.filters.http.router"}
    manager = {"name": "envoy.filters.network.http_connection_manager", "subFilter": router}
    return istio(
        "EnvoyFilter",
        "canary-chaos",
        namespace,
        {
            "workloadSelector": {"labels": {"track": "canary"}},
            "configPatches": [
                {
                    "applyTo": "HTTP_FILTER",
                    "match": {
                        "context": "SIDECAR_INBOUND",
                        "listener": {"filterChain": {"filter": manager}},
                    },
                    "patch": {
                        "operation": "INSERT_BEFORE",
                        "value": {"name": "chaos", "typed_config": fault},
                    },
                }
            ],
        },
    )


def test_retries_and_faults_of_others_are_named(
    *, releases: Releases, subject: Callable[..., Subject], kubectl: Kubectl, namespace: str
) -> None:
    """
    F9. An EnvoyFilter retries five times at the gateway and hides a fault that another injects: both are seen there.
    """
    releases.apply(RELEASE, files=[VALUES / "canary-30.yaml"])
    with kubectl.planted(failing(namespace), retrying(namespace)):
        seen = check_gateway(settled(subject, "live retries", "filters at the models"), QUICK)

    found = failed(seen)
    assert 1 == seen.exit_code
    assert {"live retries", "filters at the models"} <= found.keys(), str(findings_table(seen))
    assert "everyone-rest 5" in found["live retries"]
    assert "chaos (HTTPFault) at resnet-canary-" in found["filters at the models"]


def settled(subject: Callable[..., Subject], *names: str) -> Subject:
    """
    A subject whose gateway has the planted fault: a push takes its time.
    """
    asked = subject()

    def arrived() -> None:
        assert asked.around is not None
        seen = asked.around(0.0)
        missing = set(names) - {one.title for one in seen.findings if one.outcome is Outcome.FAILED}
        if missing:
            raise NotYet(", ".join(missing))

    wait_until("a planted fault", arrived, timeout_seconds=30, interval_seconds=0.5)
    return asked


def test_a_filter_of_others_may_be_allowed(
    *, releases: Releases, subject: Callable[..., Subject], kubectl: Kubectl, namespace: str
) -> None:
    """
    A filter at the gateway is named; one that is meant is let through by its name.
    """
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])
    name = f"others.{namespace}"
    lua = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": "function envoy_on_request(handle) end"},
    }
    plugin = istio(
        "EnvoyFilter",
        f"plugin-{namespace}",
        SYSTEM,
        {
            "workloadSelector": {"labels": GATEWAY},
            "configPatches": [
                {
                    "applyTo": "HTTP_FILTER",
                    "match": {
                        "context": "GATEWAY",
                        "listener": {
                            "filterChain": {
                                "filter": {"name": "envoy.filters.network.http_connection_manager"}
                            }
                        },
                    },
                    "patch": {"operation": "INSERT_FIRST", "value": {"name": name, "typed_config": lua}},
                }
            ],
        },
    )

    with kubectl.planted(plugin):
        seen = check_gateway(settled(subject, "filters at the gateway"), QUICK)
        allowed = check_gateway(subject(allowed_filters=[name]), QUICK)

    assert {"filters at the gateway"} == failed(seen).keys() - PLANTING_COSTS, str(findings_table(seen))
    assert f"{name} (Lua)" in failed(seen)["filters at the gateway"]
    assert allowed.held, str(findings_table(allowed))


def test_a_wrong_service_account_of_the_gateway_says_the_value_to_set(
    *, releases: Releases, subject: Callable[..., Subject]
) -> None:
    """
    F16. Every request is refused; the pods' own account is the value to set.
    """
    account = {"serviceAccount": "istio-ingressgateway-service-account"}
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"], values={"gateway": account})
    try:
        seen = check_gateway(subject(), QUICK)
    finally:
        releases.apply(RELEASE, values={"gateway": {"serviceAccount": "istio-ingressgateway"}})
        # The routes are the same as before: no revision says when the pods have the policy.
        wait_until("the pods' policy", lambda: allowed(subject()), timeout_seconds=60, interval_seconds=0.5)

    found = failed(seen)
    assert 1 == seen.exit_code
    assert {"propagation (REST)", "propagation (gRPC)"} <= found.keys(), str(findings_table(seen))
    for api in ("REST", "gRPC"):
        assert "set gateway.serviceAccount=istio-ingressgateway" in found[f"propagation ({api})"]


def allowed(subject: Subject) -> None:
    """
    So many answers in a row that no connection of before is left.
    """
    with RestClient(subject.gateway, RELEASE, host=subject.host) as client:
        for _ in range(IN_A_ROW):
            answer = client.metadata()
            if not answer.ok:
                raise NotYet(str(answer))


@pytest.fixture
def other_team(manager: AClusterManager) -> Iterator[str]:
    name = f"otherteam-{uuid.uuid4().hex[:6]}"
    manager.kubectl(["create", "namespace", name], as_dict=False)
    yield name
    manager.kubectl(["delete", "namespace", name, "--wait=false"], as_dict=False)


def elsewhere(namespace: str, team: str, host: str, **match: Any) -> dict[str, Any]:
    route = {"directResponse": {"status": 418}, **match}
    return istio(
        "VirtualService",
        "shop",
        team,
        {"hosts": [host], "gateways": [f"{namespace}/{RELEASE}"], "http": [route]},
    )


def test_another_teams_routes_on_the_host_are_named(
    *,
    releases: Releases,
    subject: Callable[..., Subject],
    kubectl: Kubectl,
    namespace: str,
    host: str,
    other_team: str,
) -> None:
    """
    F22. Requests with one header go elsewhere, which no request of the check has.
    """
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])
    match = [{"headers": {"x-tenant": {"exact": "acme"}}}]

    with kubectl.planted(elsewhere(namespace, other_team, host, match=match)):
        kubectl.younger("virtualservice", RELEASE)
        seen = check_gateway(settled(subject, "routes at the gateway"), QUICK)

    found = failed(seen)
    assert {"routes at the gateway"} == found.keys() - PLANTING_COSTS, str(findings_table(seen))
    assert f"VirtualService {other_team}/shop, older, takes requests" in found["routes at the gateway"]
    assert 1 == seen.exit_code


def test_a_host_that_another_team_takes_is_named(
    *,
    releases: Releases,
    subject: Callable[..., Subject],
    kubectl: Kubectl,
    namespace: str,
    other_team: str,
) -> None:
    """
    F22. The release has all hosts below a name; another's VirtualService takes one of them at its own Gateway.
    """
    wide, taken = f"*.{namespace}.test", f"shop.{namespace}.test"
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"], values={"gateway": {"hosts": [wide]}})

    with kubectl.planted(elsewhere(namespace, other_team, taken)):
        seen = check_gateway(settled(subject, "routes at the gateway"), QUICK)

    found = failed(seen)
    assert {"routes at the gateway"} == found.keys() - PLANTING_COSTS, str(findings_table(seen))
    assert f"host {taken} is taken by VirtualService {other_team}/shop" in found["routes at the gateway"]
    assert f"asked for host check.{namespace}.test, of the gateway's hosts {wide}" in str(
        findings_table(seen)
    )


def test_pods_without_a_sidecar_are_named(
    *, releases: Releases, subject: Callable[..., Subject], kubectl: Kubectl, namespace: str
) -> None:
    """
    A namespace without injection: requests are answered, and no policy of the mesh holds.
    """
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])
    label = ("label", "namespace", namespace)
    try:
        kubectl.manager.kubectl([*label, "istio-injection-"], as_dict=False)
        kubectl("rollout", "restart", f"deployment/{RELEASE}-stable")
        kubectl("rollout", "status", f"deployment/{RELEASE}-stable", "--timeout=180s")
        findings = subject().findings
    finally:
        kubectl.manager.kubectl([*label, "istio-injection=enabled", "--overwrite"], as_dict=False)
        kubectl("rollout", "restart", f"deployment/{RELEASE}-stable")
        kubectl("rollout", "status", f"deployment/{RELEASE}-stable", "--timeout=180s")

    (row,) = (one for one in findings if one.name == "sidecars")
    assert Outcome.FAILED is row.outcome
    assert "no istio-proxy in pod resnet-stable-" in row.observed
