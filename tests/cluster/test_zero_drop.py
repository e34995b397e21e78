"""
Nothing is dropped while the release changes, under an open load over REST and gRPC without retries: every request counts.

Among the cluster's tests is one canary from deployment to tear-down. `nox -s zero_drop` (ZERO_DROP=full) adds what goes
wrong around it: pods killed, gateways and nodes restarted. Each test leaves its figures in reports/zero-drop.
"""

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_kubernetes.providers.base import AClusterManager
from zero_drop_page import zero_drop

from tfcanary.check.propagation import IN_A_ROW
from tfcanary.client.pictures import default_pictures
from tfcanary.client.request import PredictRequest
from tfcanary.cluster.layout import Layout
from tfcanary.contract import SERVING_PREPROCESS, Api
from tfcanary.helm.releases import Releases, Revision
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.virtualservice import route_revision
from tfcanary.paths import ROOT, VALUES
from tfcanary.report.table import phases_table
from tfcanary.target import Target
from tfcanary.traffic.calls import Population, metadata_call, prediction_call
from tfcanary.traffic.driver import Traffic
from tfcanary.traffic.records import Records
from tfcanary.wait import NotYet, wait_until

RELEASE = MODEL = "resnet"
RATE = 100.0
ENOUGH = 10_000
ISTIO, GATEWAY = "istio-system", "istio-ingressgateway"

FULL = os.environ.get("ZERO_DROP") == "full"
full = pytest.mark.skipif(not FULL, reason="long: nox -s zero_drop")


class Scene:
    """
    A release under load.
    """

    def __init__(self, name: str, releases: Releases, cluster: LiveObjects, host: str) -> None:
        self.name = name
        self.releases = releases
        self.cluster = cluster
        self.notes: dict[str, Any] = {}
        self.changes: list[float] = []
        self.propagation: list[float] = []
        cheap = [metadata_call(api, MODEL) for api in Api]
        asked = PredictRequest.one(SERVING_PREPROCESS, "image_bytes", default_pictures()[0].content)
        real = [prediction_call(api, MODEL, asked) for api in Api]
        self.load = Traffic(
            gateway_address(cluster, RELEASE),
            [*cheap * 50, real[0], *cheap * 50, real[1]],
            rate=RATE,
            host=host,
            population=Population(),
        )

    def apply(self, phase: str, *files: Path, **values: Any) -> None:
        """
        Begin a phase with a Helm revision, and wait until both APIs show its routes.

        Helm comes back only when all pods are ready; what it wrote has then often arrived already.
        """
        self.load.mark(phase)
        began = time.monotonic()
        self.releases.apply(RELEASE, files=files, values=values)
        self.propagation.append(self.arrived())
        self.changes.append(time.monotonic() - began)
        self.load.mark(f"{phase}, arrived")

    def arrived(self) -> float:
        """
        Wait until both APIs show the live routes, and say how long that took.
        """
        revision = route_revision(self.cluster.virtual_service(RELEASE))
        return self.load.wait_for_revision(revision, in_a_row=IN_A_ROW)

    def until(self, n: int) -> None:
        """
        Go on until there are this many requests in all.
        """
        missing = n - len(self.load.records())
        if missing > 0:
            self.load.wait_for(missing, timeout_seconds=3 * missing / RATE + 30)

    def keep(self, records: Records) -> Records:
        """
        Leave the figures for the report.
        """
        folder = Path(os.environ.get("REPORTS", ROOT / "reports")) / "zero-drop"
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.name,
            "rate": RATE,
            "all": records.summary(),
            "phases": [phase.summary() for phase in records.phases()],
            "changeSeconds": [round(seconds, 3) for seconds in self.changes],
            "propagationSeconds": [round(seconds, 3) for seconds in self.propagation],
            **self.notes,
        }
        (folder / f"{self.name}.json").write_text(json.dumps(content, indent=2) + "\n")
        runs = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
        (folder / "index.html").write_text(zero_drop(runs))
        (folder / f"{self.name}.txt").write_text(f"{phases_table(records)}\n\n{json.dumps(self.notes)}\n")
        return records


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, installed: Revision, releases: Releases, target: Target, host: str
) -> Iterator[Scene]:
    """
    The release at stable, both tracks with one pod, under load.
    """
    assert installed.status == "deployed"
    name = request.node.name.removeprefix("test_")
    made = Scene(name, releases, LiveObjects(target), host)
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"], values=replicas(stable=1, canary=1))
    with made.load:
        made.arrived()
        yield made


def replicas(**tracks: int) -> dict[str, Any]:
    return {"tracks": {track: {"replicas": n} for track, n in tracks.items()}}


def weights(canary: int) -> dict[str, Any]:
    entry = {"name": "everyone", "weights": {"stable": 100 - canary, "canary": canary}}
    return {"routing": {"routes": [entry]}}


def test_a_canary_from_deployment_to_tear_down(scene: Scene) -> None:
    """
    A canary goes from 0 over 1, 10 and 50 to 100 %, back, and away: of 10,000 requests, all counted, 0 fail.
    """
    scene.apply("no canary", **replicas(canary=0))
    scene.apply("deploy at 0", **replicas(canary=1))
    for canary in (1, 10, 50, 100, 0):
        scene.apply(f"canary {canary} %", **weights(canary))
        scene.load.wait_for(200)
    scene.apply("tear down", **replicas(canary=0))
    scene.load.wait_for(200)
    scene.until(ENOUGH)

    records = scene.keep(scene.load.stop())

    records.assert_none_failed(at_least=ENOUGH)
    for canary in (0, 1, 10, 50, 100):
        for api in Api:
            records.phase(f"canary {canary} %").of(api=api).assert_none_failed(at_least=20)
    for phase, track in (("canary 100 %", "canary"), ("canary 0 %", "stable"), ("tear down", "stable")):
        assert {track} == settled(records, f"{phase}, arrived")


def settled(records: Records, phase: str) -> set[str]:
    """
    The tracks of the requests that ended in the phase in which they were due: a busy machine sends some in the next one.
    """
    found = records.phase(phase)
    (began,) = (mark.seconds for mark in records.marks if mark.name == phase)
    end = min((mark.seconds for mark in records.marks if mark.seconds > began), default=math.inf)
    ended = found.due + found.latency < end
    return {found.names[number] for number in found.track[ended]}


# What goes wrong around the release


@contextmanager
def measured(scene: Scene, phase: str) -> Iterator[None]:
    """
    A phase from the start of the body until a while after its end.
    """
    scene.load.mark("before")
    scene.load.wait_for(300)
    scene.load.mark(phase)
    yield
    scene.load.wait_for(500, timeout_seconds=120)
    scene.load.mark("after")
    scene.load.wait_for(500, timeout_seconds=120)


@pytest.fixture
def pods(namespace: str, manager: AClusterManager) -> Callable[..., list[dict[str, Any]]]:
    def ready(track: str, n: int, *, not_these: Sequence[str] = ()) -> list[dict[str, Any]]:
        """
        Wait until the track has n ready pods besides these, and nothing is stopping.
        """

        def probe() -> list[dict[str, Any]]:
            command = ["get", "pods", "-n", namespace, "-l", f"track={track}", "-o", "json"]
            found = manager.kubectl(command)["items"]
            good = [
                pod
                for pod in found
                if pod["metadata"]["name"] not in not_these
                and "deletionTimestamp" not in pod["metadata"]
                and any(
                    entry["type"] == "Ready" and entry["status"] == "True"
                    for entry in pod["status"].get("conditions", [])
                )
            ]
            if len(good) != n:
                raise NotYet(f"{len(good)} ready")
            return good

        return wait_until(f"{n} ready pods of {track}", probe, timeout_seconds=180, interval_seconds=0.2)

    return ready


def recovery(records: Records, phase: str) -> dict[str, Any]:
    """
    How many failed, and for how long, from the mark to the last failure.
    """
    of_phase = records.phase(phase)
    begin = next(mark.seconds for mark in records.marks if mark.name == phase)
    failed = records.due[records.failed]
    return {
        "requests": len(of_phase),
        "failed": int(records.failed.sum()),
        "lastFailureAfterSeconds": round(float(failed[-1] - begin), 2) if len(failed) else None,
        "samples": records.samples(),
    }


@full
def test_a_stable_pod_is_deleted(scene: Scene, manager: AClusterManager, namespace: str, pods: Any) -> None:
    """
    One of two stable pods is deleted, as by a scale-down or an eviction: nothing is dropped.
    """
    scene.apply("two pods", **replicas(stable=2))
    gone = pods("stable", 2)[0]["metadata"]["name"]
    with measured(scene, "pod deleted"):
        manager.kubectl(["delete", "pod", gone, "-n", namespace], as_dict=False)
        pods("stable", 2, not_these=[gone])

    records = scene.load.stop()
    scene.notes.update(recovery(records, "pod deleted"))
    scene.keep(records).assert_none_failed(at_least=1000)


@full
def test_a_stable_pod_is_killed(scene: Scene, layout: Layout | None, pods: Any) -> None:
    """
    The server of one of two stable pods is killed: only requests sent there before the gateway hears of it are dropped.
    """
    if layout is None:
        pytest.skip("the cluster is not a local one: its processes cannot be killed from here")
    scene.apply("two pods", **replicas(stable=2))
    victim = pods("stable", 2)[0]
    with measured(scene, "server killed"):
        kill_server(victim)
        pods("stable", 2)

    records = scene.load.stop()
    scene.notes.update(recovery(records, "server killed"))
    scene.keep(records)
    assert 0.05 > records.failed.mean()
    records.phase("after").assert_none_failed(at_least=100)


@full
def test_the_only_canary_pod_is_deleted(
    scene: Scene, manager: AClusterManager, namespace: str, pods: Any
) -> None:
    """
    At ten per cent the only canary pod is deleted and the release goes back: only the canary's share fails, for a short while.
    """
    scene.apply("canary-10", VALUES / "canary-10.yaml")
    gone = pods("canary", 1)[0]["metadata"]["name"]
    with measured(scene, "canary gone"):
        manager.kubectl(["delete", "pod", gone, "-n", namespace, "--wait=false"], as_dict=False)
        scene.apply("rolled back", VALUES / "stable.yaml")
        scene.notes["rolledBackSeconds"] = round(scene.changes[-1], 2)
    pods("canary", 1, not_these=[gone])

    records = scene.load.stop()
    scene.notes.update(recovery(records, "canary gone"))
    scene.keep(records)
    records.phase("after").assert_none_failed(at_least=100)
    assert not records.of(track="stable").require(1000).failed.any()
    assert (scene.notes["lastFailureAfterSeconds"] or 0) <= 10


@full
def test_the_gateway_restarts(scene: Scene, manager: AClusterManager) -> None:
    """
    Another gateway pod takes over, and the first one drains.
    """
    with measured(scene, "gateway restarted"):
        rollout(manager, ISTIO, GATEWAY)

    records = scene.load.stop()
    scene.notes.update(recovery(records, "gateway restarted"))
    scene.keep(records).assert_none_failed(at_least=1000)


@full
def test_the_stable_track_rolls(scene: Scene, manager: AClusterManager, namespace: str) -> None:
    """
    `kubectl rollout restart` of the track that has all the traffic.
    """
    with measured(scene, "rollout restart"):
        rollout(manager, namespace, f"{RELEASE}-stable")

    records = scene.load.stop()
    scene.notes.update(recovery(records, "rollout restart"))
    scene.keep(records).assert_none_failed(at_least=1000)


@full
def test_the_node_is_drained(scene: Scene, manager: AClusterManager, namespace: str, pods: Any) -> None:
    """
    A drain evicts both stable pods, one after the other as the disruption budget allows: nothing is dropped.

    The only node is not cordoned: the evicted pods need somewhere to go.
    """
    scene.apply("two pods", **replicas(stable=2))
    first = [pod["metadata"]["name"] for pod in pods("stable", 2)]
    with measured(scene, "evicted"):
        for name in first:
            evict(manager, namespace, name)
        pods("stable", 2, not_these=first)

    records = scene.load.stop()
    scene.notes.update(recovery(records, "evicted"))
    scene.keep(records).assert_none_failed(at_least=1000)


def rollout(manager: AClusterManager, namespace: str, deployment: str) -> None:
    name = f"deployment/{deployment}"
    manager.kubectl(["rollout", "restart", name, "-n", namespace], as_dict=False)
    manager.kubectl(["rollout", "status", name, "-n", namespace, "--timeout=180s"], as_dict=False)


def evict(manager: AClusterManager, namespace: str, pod: str) -> None:
    """
    Ask for the eviction until the disruption budget allows it.
    """
    body = json.dumps(
        {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    )
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    command = ["kubectl", f"--kubeconfig={manager.kubeconfig}", "create", "--raw", path, "-f", "-"]

    def probe() -> None:
        done = subprocess.run(command, input=body, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotYet(done.stderr.strip())

    wait_until(f"eviction of {pod}", probe, timeout_seconds=180, interval_seconds=0.5)


def kill_server(pod: dict[str, Any]) -> None:
    """
    SIGKILL to the model server of a pod: its processes are the host's, found by the pod's cgroup.
    """
    uid = pod["metadata"]["uid"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                uid in (process / "cgroup").read_text()
                and b"model_server" in (process / "cmdline").read_bytes()
            ):
                os.kill(int(process.name), signal.SIGKILL)
                return
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError(f"no model server of pod {pod['metadata']['name']} among the processes")
