"""
The main job: each strategy by `helm upgrade`, proven at the gateway over REST and gRPC.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary import check, evidence, live, mesh
from tfcanary.predict import Api
from tfcanary.release import Releases
from tfcanary.split import Decision

VALUES = Path(__file__).parents[2] / "values"
RELEASE = "resnet"

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture
def subject(namespace: str, kubeconfig: Path) -> Callable[..., evidence.Subject]:
    def ask(*files: Path) -> evidence.Subject:
        return live.from_release(RELEASE, namespace=namespace, kubeconfig=kubeconfig, files=files)

    return ask


def of_kind(report: evidence.Report, name: str, api: Api) -> list[evidence.Check]:
    return [one for one in report.checks if one.name == name and one.api is api]


@pytest.mark.parametrize("strategy", ["stable", "canary-10", "canary-30", "canary-user-group"])
def test_strategy(strategy: str, releases: Releases, subject: Callable[..., evidence.Subject]) -> None:
    """
    After the upgrade every check holds, over REST and over gRPC, fed by real pictures.
    """
    file = VALUES / f"{strategy}.yaml"
    releases.apply(RELEASE, files=[file])

    report = check.check_gateway(subject(file))

    assert "all" == report.verdict.split()[0], report.table()
    assert report.held
    for api in Api:
        assert [Decision.HELD] * len(subject(file).routing.routes) == [
            one.decision for one in of_kind(report, "split", api)
        ]
        assert of_kind(report, "answers", api)


def test_split_of_another_strategy_is_found(
    releases: Releases, subject: Callable[..., evidence.Subject]
) -> None:
    """
    Traffic that does not move as declared is found by counting alone, with no object to compare with.
    """
    releases.apply(RELEASE, files=[VALUES / "canary-10.yaml"])
    applied = subject()
    blind = live.from_files(
        [VALUES / "models/resnet.yaml", VALUES / "canary-30.yaml"], gateway=applied.gateway, host=applied.host
    )

    report = check.check_gateway(blind)

    for api in Api:
        assert [Decision.FAILED] == [one.decision for one in of_kind(report, "split", api)]
    assert 1 == report.exit_code


def test_values_that_are_not_live_are_found(
    releases: Releases, subject: Callable[..., evidence.Subject]
) -> None:
    """
    Values that were never applied do not hold, although the gateway does as its own routes say.
    """
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])

    report = check.check_gateway(subject(VALUES / "canary-user-group.yaml"))

    assert 1 == report.exit_code


def test_envoy_has_the_weights(
    releases: Releases, manager: AClusterManager, host: str, subject: Callable[..., evidence.Subject]
) -> None:
    """
    The gateway's own route table, read from Envoy, has the declared weights for both protocols.
    """
    releases.apply(RELEASE, files=[VALUES / "canary-30.yaml"])
    check.check_gateway(subject())

    found = envoy_weights(manager, host)

    assert {
        "everyone-grpc": {"stable": 70, "canary": 30},
        "everyone-rest": {"stable": 70, "canary": 30},
    } == found


def envoy_weights(manager: AClusterManager, host: str) -> dict[str, dict[str, int]]:
    """
    Route name to weight by subset, from the configuration dump of the gateway's Envoy.
    """
    gateway = manager.kubectl(["get", "pods", "-A", "-l", "istio=ingressgateway", "-o", "json"])
    pod = gateway["items"][0]["metadata"]
    dump = manager.kubectl(
        ["exec", "-n", pod["namespace"], pod["name"], "--", "pilot-agent", "request", "GET", "config_dump"],
        as_dict=False,
    )
    weights: dict[str, dict[str, int]] = {}
    for route in routes_of(json.loads(dump), host):
        split = route["route"].get("weighted_clusters", {}).get("clusters", [])
        weights[route["name"]] = {one["name"].split("|")[2]: one["weight"] for one in split}
    return weights


def routes_of(dump: dict[str, Any], host: str) -> list[dict[str, Any]]:
    sections = [one for one in dump["configs"] if one["@type"].endswith("RoutesConfigDump")]
    tables = [one["route_config"] for section in sections for one in section.get("dynamic_route_configs", [])]
    hosts = [one for table in tables for one in table.get("virtual_hosts", []) if host in one["domains"]]
    return [route for one in hosts for route in one["routes"]]


def test_pods_are_ready_and_restricted(kubeconfig: Path, namespace: str) -> None:
    """
    Both tracks run in a namespace that enforces Pod Security restricted, sidecar included.
    """
    pods = mesh.Mesh(namespace=namespace, kubeconfig=kubeconfig).pods(RELEASE)

    assert {"stable", "canary"} == {pod.track for pod in pods}
    assert all(pod.ready for pod in pods)


def test_missing_model(releases: Releases, namespace: str, kubeconfig: Path) -> None:
    """
    A version that the store does not have never becomes ready, and the upgrade is taken back.
    """
    before = releases.values(RELEASE)
    impatient = Releases(namespace=namespace, kubeconfig=kubeconfig, timeout_seconds=20)
    began = time.monotonic()

    with pytest.raises(Exception, match="resnet") as caught:
        impatient.apply(RELEASE, values={"tracks": {"canary": {"version": 9}}})

    assert caught.value.exit_code == 1, f"after {time.monotonic() - began:.0f} s"
    assert before == releases.values(RELEASE)
    assert "deployed" == releases.current(RELEASE).status
