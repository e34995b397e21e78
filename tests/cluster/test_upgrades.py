"""
A track's pods and its traffic: taken in one upgrade they are refused, and in two nothing is lost.
"""

import json
import logging
import subprocess
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from tfcanary.chart.values import merge
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.rest import RestClient
from tfcanary.paths import CHART
from tfcanary.wait import NotYet, wait_until

RELEASE = "resnet"
LOG = logging.getLogger(__name__)

TOGETHER = {
    "new-track": (
        {},
        {"tracks": {"challenger": {"version": 2, "replicas": 1}}},
        "challenger",
        "it has no pods yet",
    ),
    "from-no-pods": (
        {"tracks": {"canary": {"replicas": 0}}},
        {"tracks": {"canary": {"replicas": 1}}},
        "canary",
        "0 of its 0 pods are Ready",
    ),
    "another-version": (
        {},
        {"tracks": {"canary": {"version": 1}}},
        "canary",
        "it serves version 2 and this upgrade would change it to 1",
    ),
}


class Load:
    """
    Two REST clients and two gRPC clients that ask without a pause, and how each request ended.
    """

    def __init__(self, address: str, host: str) -> None:
        self.seen = Counter[object]()
        self._stop = threading.Event()
        clients = (RestClient, RestClient, GrpcClient, GrpcClient)
        self._threads = [threading.Thread(target=self._ask, args=(kind, address, host)) for kind in clients]
        self._lock = threading.Lock()

    def _ask(self, kind: Any, address: str, host: str) -> None:
        with kind(address, "resnet", host=host) as client:
            while not self._stop.is_set():
                status = client.metadata().status
                with self._lock:
                    self.seen[status] += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, requests: int) -> None:
        """
        Wait until that many more were answered.
        """
        least = self.seen.total() + requests

        def enough() -> None:
            if self.seen.total() < least:
                raise NotYet(f"{self.seen.total()} of {least} requests")

        wait_until(f"{requests} more requests", enough, timeout_seconds=300)


def upgrade(kubeconfig: Path, namespace: str, *more: Mapping[str, Any]) -> str | None:
    """
    Run a plain `helm upgrade`, and return what it says if it is refused.
    """
    command = [
        "helm",
        "upgrade",
        RELEASE,
        str(CHART),
        f"--namespace={namespace}",
        f"--kubeconfig={kubeconfig}",
        "--reset-then-reuse-values",
        "--wait",
        "--timeout=300s",
        "-f",
        "-",
    ]
    values: dict[str, Any] = {}
    for one in more:
        values = merge(values, one)
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else None


def everyone(**weights: int) -> dict[str, Any]:
    """
    Values with one route.
    """
    return {"routing": {"routes": [{"name": "everyone", "weights": weights}]}}


@pytest.fixture
def plain(stage, releases, kubeconfig, namespace):
    """
    All traffic to stable, two tracks, before and after.
    """
    stage.play("stable")
    yield
    assert upgrade(kubeconfig, namespace, everyone(stable=100)) is None
    tracks: dict[str, Any] = {"canary": {"version": 2, "replicas": 1}}
    if "challenger" in releases.values(RELEASE)["tracks"]:
        tracks["challenger"] = None
    left = {"tracks": tracks, "routing": {"requireReady": True}}
    assert upgrade(kubeconfig, namespace, left) is None


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("name", TOGETHER)
def test_pods_and_their_traffic_in_one_plain_upgrade_lose_nothing(gateway, kubeconfig, namespace, name):
    """
    Under load, one `helm upgrade` that makes or changes a track's pods and gives it half of the traffic is refused with the
    reason. The same change in two steps is taken, and no request fails.
    """
    before, change, track, reason = TOGETHER[name]
    half = everyone(**{"stable": 50, track: 50})
    assert upgrade(kubeconfig, namespace, before) is None

    with Load(gateway.address, gateway.host) as load:
        load.more(200)
        said = upgrade(kubeconfig, namespace, change, half)
        load.more(200)
        steps = [
            upgrade(kubeconfig, namespace, change),
            upgrade(kubeconfig, namespace, half),
            load.more(500),
            upgrade(kubeconfig, namespace, everyone(stable=100)),
        ]
        load.more(200)

    LOG.info("%s: %s", name, dict(load.seen))
    assert f"track {track} has no traffic yet and cannot take it: {reason}" in str(said)
    assert [None] * 4 == steps
    assert {"200", "OK"} == set(load.seen)


@pytest.mark.usefixtures("plain")
def test_without_the_refusal_requests_fail(gateway, kubeconfig, namespace):
    """
    Without the chart's refusal the same upgrade fails requests, and this load sees them.
    """
    _, change, track, _ = TOGETHER["new-track"]
    look_away = {"routing": {"requireReady": False}}

    with Load(gateway.address, gateway.host) as load:
        load.more(200)
        assert (
            upgrade(kubeconfig, namespace, change, everyone(**{"stable": 50, track: 50}), look_away) is None
        )
        load.more(200)

    LOG.info("without the chart's refusal: %s", dict(load.seen))
    assert load.seen["503"] > 0
    assert load.seen["UNAVAILABLE"] > 0


@pytest.mark.usefixtures("plain")
def test_pods_leave_after_their_traffic(gateway, kubeconfig, namespace):
    """
    Under load, an upgrade that takes traffic and pods away together is refused with the reason. One after the other loses
    nothing.
    """
    asleep = {"tracks": {"canary": {"replicas": 0}}}
    assert upgrade(kubeconfig, namespace, everyone(stable=50, canary=50)) is None

    with Load(gateway.address, gateway.host) as load:
        load.more(200)
        said = upgrade(kubeconfig, namespace, everyone(stable=100), asleep)
        load.more(200)
        steps = [
            upgrade(kubeconfig, namespace, everyone(stable=100)),
            upgrade(kubeconfig, namespace, asleep),
        ]
        load.more(500)

    LOG.info("pods after traffic: %s", dict(load.seen))
    assert "tracks.canary.replicas: the track has traffic now and would lose its pods under it" in str(said)
    assert [None] * 2 == steps
    assert {"200", "OK"} == set(load.seen)
