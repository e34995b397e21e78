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

from tfcanary.check.finding import Finding
from tfcanary.check.report import Report
from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_files, from_release, releases_in
from tfcanary.check.subject import Subject
from tfcanary.contract import Api
from tfcanary.helm.releases import Releases
from tfcanary.judge.verdict import Outcome
from tfcanary.kube.objects import LiveObjects
from tfcanary.paths import VALUES
from tfcanary.report.table import findings_table
from tfcanary.target import Target

RELEASE = "resnet"

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture
def subject(target: Target) -> Callable[..., Subject]:
    def ask(*files: Path) -> Subject:
        return from_release(RELEASE, target, files=files)

    return ask


def of_kind(report: Report, name: str, api: Api) -> list[Finding]:
    return [one for one in report.findings if one.name == name and one.api is api]


@pytest.mark.parametrize("strategy", ["stable", "canary-10", "canary-30", "canary-user-group"])
def test_strategy(strategy: str, releases: Releases, subject: Callable[..., Subject]) -> None:
    """
    After the upgrade every check holds, over REST and over gRPC, fed by real pictures.
    """
    file = VALUES / f"{strategy}.yaml"
    releases.apply(RELEASE, files=[file])

    report = check_gateway(subject(file))

    assert "all" == report.verdict.split()[0], str(findings_table(report))
    assert report.held
    for api in Api:
        assert [Outcome.HELD] * len(subject(file).routing.routes) == [
            one.outcome for one in of_kind(report, "split", api)
        ]
        assert of_kind(report, "answers", api)


def test_split_of_another_strategy_is_found(releases: Releases, subject: Callable[..., Subject]) -> None:
    """
    Counting alone finds traffic that does not move as declared, with no live object to compare with.
    """
    releases.apply(RELEASE, files=[VALUES / "canary-10.yaml"])
    applied = subject()
    blind = from_files(
        [VALUES / "models/resnet.yaml", VALUES / "canary-30.yaml"], gateway=applied.gateway, host=applied.host
    )

    report = check_gateway(blind)

    for api in Api:
        assert [Outcome.FAILED] == [one.outcome for one in of_kind(report, "split", api)]
    assert 1 == report.exit_code


def test_values_that_are_not_live_are_found(releases: Releases, subject: Callable[..., Subject]) -> None:
    """
    Values that were never applied do not hold, although the gateway does what its own routes say.
    """
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])

    report = check_gateway(subject(VALUES / "canary-user-group.yaml"))

    assert 1 == report.exit_code


def test_envoy_has_the_weights(
    releases: Releases, manager: AClusterManager, host: str, subject: Callable[..., Subject]
) -> None:
    """
    The gateway's own route table, read from Envoy, has the declared weights for both protocols.
    """
    releases.apply(RELEASE, files=[VALUES / "canary-30.yaml"])
    check_gateway(subject())

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


def test_pods_are_ready_and_restricted(target: Target) -> None:
    """
    Both tracks run in a namespace that enforces Pod Security restricted, sidecar included.
    """
    pods = LiveObjects(target).pods(RELEASE)

    assert {"stable", "canary"} == {pod.track for pod in pods}
    assert all(pod.ready for pod in pods)


def test_missing_model(releases: Releases, target: Target) -> None:
    """
    A version that the store lacks never becomes ready, and the upgrade is rolled back.
    """
    before = releases.values(RELEASE)
    impatient = releases_in(target, timeout_seconds=10)
    began = time.monotonic()

    with pytest.raises(Exception, match="resnet") as caught:
        impatient.apply(RELEASE, values={"tracks": {"canary": {"version": 9}}})

    assert caught.value.exit_code == 1, f"after {time.monotonic() - began:.0f} s"
    assert before == releases.values(RELEASE)
    assert "deployed" == releases.current(RELEASE).status
