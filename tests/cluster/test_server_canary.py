"""
A new model server as the canary: another image for one track, 10 % of the traffic, and back.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from planting import QUICK, Kubectl

from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release
from tfcanary.cluster import images
from tfcanary.cluster.layout import Layout
from tfcanary.helm.releases import Releases, Revision
from tfcanary.paths import VALUES
from tfcanary.report.table import findings_table
from tfcanary.target import Target

RELEASE = "resnet"
SERVER = "model-server"


@pytest.fixture
def other_server(layout: Layout | None, environment: Path) -> Iterator[tuple[str, str]]:
    """
    The tags of the server's image and of another one, which has the same content.
    """
    if layout is None:
        pytest.skip("the image is given another tag on the local cluster's node")
    image = yaml.safe_load(environment.read_text())["image"]
    here, there = (f"{image['repository']}:{tag}" for tag in (image["tag"], "next"))
    images.ctr(layout, ["images", "tag", "--force", here, there])
    yield image["tag"], "next"
    images.ctr(layout, ["images", "rm", there])


def servers(kubectl: Kubectl, track: str) -> dict[str, str]:
    """
    The tag of the server's image in each pod of a track that is not going away.
    """
    pods: dict[str, Any] = yaml.safe_load(kubectl("get", "pods", f"--selector=track={track}", "-o", "yaml"))
    return {
        pod["metadata"]["name"]: container["image"].rpartition(":")[2]
        for pod in pods["items"]
        if "deletionTimestamp" not in pod["metadata"]
        for container in pod["spec"]["containers"]
        if container["name"] == SERVER
    }


def test_another_server_takes_a_tenth_and_goes_back(
    *,
    installed: Revision,
    releases: Releases,
    target: Target,
    kubectl: Kubectl,
    other_server: tuple[str, str],
) -> None:
    """
    Only the canary's pods are made again; the check holds with both servers, and after the way back.
    """
    assert "deployed" == installed.status
    now, following = other_server
    stable, canary = (servers(kubectl, track) for track in ("stable", "canary"))
    assert {now} == {*stable.values(), *canary.values()}

    releases.apply(
        RELEASE,
        files=[VALUES / "stable.yaml"],
        values={"tracks": {"canary": {"image": {"tag": following}}}},
    )
    releases.apply(RELEASE, files=[VALUES / "canary-10.yaml"])
    other = servers(kubectl, "canary")
    seen = check_gateway(from_release(RELEASE, target, files=[VALUES / "canary-10.yaml"]), QUICK)

    assert {following} == set(other.values())
    assert other.keys().isdisjoint(canary)
    assert seen.held, str(findings_table(seen))

    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])
    releases.apply(RELEASE, values={"tracks": {"canary": {"image": None}}})

    assert {now} == set(servers(kubectl, "canary").values())
    assert stable == servers(kubectl, "stable")
