"""
Why the pods of a release are not up: classified from what a cluster said, kept while Helm waits, and printed.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

import pytest

from tfcanary import cli
from tfcanary.check.sources import releases_in
from tfcanary.errors import DoesNotHoldError, ForbiddenError, UnreachableError
from tfcanary.helm.failures import HelmError
from tfcanary.helm.releases import Releases
from tfcanary.helm.watch import Watch
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.readiness import NotUp, Read, classified, not_up
from tfcanary.target import Target

POD = "resnet-canary-7c9d"
NODE = {"type": "PodScheduled", "status": "True"}


def pod(
    *, conditions: Any = (NODE,), sidecar: bool = True, track: str = "canary", **status: Any
) -> dict[str, Any]:
    """
    A pod as the API gives it, without what no reason is read from.
    """
    containers = [{"name": "model-server", "resources": {"limits": {"memory": "48Mi"}}}]
    return {
        "metadata": {"name": POD, "namespace": "models", "labels": {"track": track}},
        "spec": {
            "initContainers": [{"name": "verify-model"}, *([{"name": "istio-proxy"}] if sidecar else [])],
            "containers": containers,
        },
        "status": {"phase": "Pending", "conditions": list(conditions), **status},
    }


def deployment(*conditions: Any, track: str = "canary", replicas: int = 1) -> dict[str, Any]:
    return {
        "metadata": {"name": f"resnet-{track}", "labels": {"track": track}, "generation": 2},
        "spec": {"replicas": replicas},
        "status": {"conditions": list(conditions)},
    }


def event(reason: str, message: str, when: str = "2026-01-01T00:00:00Z", field: str = "") -> dict[str, Any]:
    return {
        "type": "Normal" if reason == "Pulled" else "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": when,
        "involvedObject": {"name": POD, "fieldPath": field},
    }


def ended(code: int = 1, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, **more}}


def waits(reason: str, message: str | None = None) -> dict[str, Any]:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def status(name: str, state: Any, last: Any = None, *, ready: bool = False) -> dict[str, Any]:
    return {"name": name, "state": state, "lastState": last or {}, "ready": ready}


RUNS = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
BACK_OFF = waits("CrashLoopBackOff", "back-off 10s restarting failed container")
VERIFIED = status("verify-model", ended(0, "Completed"), ready=True)
SIDECAR = status("istio-proxy", RUNS)
LATER = waits("PodInitializing")
REFUSED = {
    "type": "ReplicaFailure",
    "status": "True",
    "reason": "FailedCreate",
    "message": 'pods "resnet-canary-7c9d" is forbidden: exceeded quota: q, requested: pods=1',
}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no-folder": (
        pod(initContainerStatuses=[status("verify-model", BACK_OFF, ended())]),
        "container verify-model ended with exit code 1: log of verify-model",
    ),
    "wrong-sum-at-once": (
        pod(initContainerStatuses=[status("verify-model", ended())]),
        "container verify-model ended with exit code 1: log of verify-model",
    ),
    "op": (
        pod(
            initContainerStatuses=[VERIFIED, SIDECAR],
            containerStatuses=[status("model-server", BACK_OFF, ended(3))],
        ),
        "container model-server ended with exit code 3: log of model-server",
    ),
    "warmup-again": (
        pod(
            initContainerStatuses=[VERIFIED, SIDECAR],
            containerStatuses=[status("model-server", RUNS, ended(3))],
        ),
        "container model-server ended with exit code 3: log of model-server before",
    ),
    "image": (
        pod(
            initContainerStatuses=[
                status("verify-model", waits("ImagePullBackOff", 'Back-off pulling image "x:1"'))
            ],
            containerStatuses=[status("model-server", LATER)],
        ),
        'container verify-model waits, ImagePullBackOff: Back-off pulling image "x:1"',
    ),
    "secret": (
        pod(containerStatuses=[status("model-server", waits("CreateContainerConfigError"))]),
        "container model-server waits, CreateContainerConfigError: no message",
    ),
    "cpu": (
        pod(
            conditions=[
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 Insufficient cpu.",
                }
            ]
        ),
        "has no node: 0/1 nodes are available: 1 Insufficient cpu.",
    ),
    "oom": (
        pod(containerStatuses=[status("model-server", BACK_OFF, ended(137, "OOMKilled"))]),
        "container model-server was killed because it needs more memory than its limit of 48Mi (OOMKilled)",
    ),
    "no-program": (
        pod(
            containerStatuses=[
                status("model-server", BACK_OFF, ended(128, "StartError", message="no such file"))
            ]
        ),
        "container model-server ended with exit code 128: no such file",
    ),
    "probe": (
        pod(initContainerStatuses=[VERIFIED, SIDECAR], containerStatuses=[status("model-server", RUNS)]),
        "container model-server is not Ready yet: Unhealthy: Startup probe failed: statuscode: 503",
    ),
    "mount": (
        pod(initContainerStatuses=[status("verify-model", LATER)]),
        "container verify-model is not Ready yet: FailedMount: timed out",
    ),
    "evicted": (
        pod(phase="Failed", reason="Evicted", message="The node was low on memory."),
        "Evicted: The node was low on memory.",
    ),
    "no-injection-not-ready": (
        pod(sidecar=False, containerStatuses=[status("model-server", RUNS)]),
        "statuscode: 503; it has no sidecar: namespace models has no injection",
    ),
    "no-injection": (
        pod(sidecar=False, conditions=[NODE, {"type": "Ready", "status": "True"}]),
        "has no sidecar: namespace models has no injection; label it istio-injection=enabled",
    ),
}
EVENTS = [
    event("Unhealthy", "Startup probe failed: statuscode: 503", "2026-01-01T00:00:05Z"),
    event("Unhealthy", "Startup probe failed: statuscode: 500"),
    event("Unhealthy", "sidecar", "2026-01-01T00:00:09Z", "spec.initContainers{istio-proxy}"),
    event("Pulled", "image", "2026-01-01T00:00:09Z"),
    # What kept it from a node once, which it has now.
    event("FailedScheduling", "unbound PersistentVolumeClaims", "2026-01-01T00:00:10Z"),
    # What kept its containers from beginning once; where one has begun, that is past.
    event("FailedMount", "timed out", "2026-01-01T00:00:09Z"),
]
READ = Read(
    events=lambda _: EVENTS,
    last_line=lambda _, container, before: f"log of {container}{' before' if before else ''}",
)


@pytest.mark.parametrize("name", CASES)
def test_a_pod_says_why_it_is_not_up(name: str) -> None:
    """
    Events, states and logs are read where a person would look; what has its own trouble comes before what only waits.
    """
    one, reason = CASES[name]

    found = classified([deployment()], [one], READ)

    assert ["canary"] == list(found.reasons)
    assert found.reasons["canary"].startswith(f"pod {POD}: ")
    assert reason in found.reasons["canary"]
    assert {"canary": 2} == found.generations


def test_a_track_that_is_up_has_no_line() -> None:
    """
    Nor has a pod that is being deleted, a track that is to have none, and the pod of `helm test`, which is of no track.
    """
    ready = pod(conditions=[NODE, {"type": "Ready", "status": "True"}])
    gone = pod(track="stable")
    test = pod(sidecar=False)
    del test["metadata"]["labels"]["track"]
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    found = classified([deployment(), deployment(track="stable", replicas=0)], [ready, gone, test], READ)

    assert {} == found.reasons


def test_pods_that_are_not_made_have_the_reason_of_their_deployment() -> None:
    """
    Over a quota there is no pod to ask, and after an upgrade the old ones are still Ready.
    """
    ready = pod(conditions=[NODE, {"type": "Ready", "status": "True"}])

    for pods in ([], [ready]):
        found = classified([deployment(REFUSED)], pods, READ)
        assert {"canary": f"no new pod is made: {REFUSED['message']}"} == found.reasons


def test_there_is_a_line_for_each_track() -> None:
    """
    Of several pods with trouble one is told, and the number of the others. A track may have none yet.
    """
    first, _ = CASES["oom"]
    tracks = [deployment(), deployment(track="stable"), deployment(track="wide")]

    found = classified(tracks, [first, first, {**pod(track="wide"), **CASES["cpu"][0]}], READ)

    assert "(and 2 more of its pods): container model-server was killed" in found.reasons["canary"]
    assert "no pod is made yet" == found.reasons["stable"]


def forbidden(*_: object) -> Any:
    raise ForbiddenError("403")


def broken(*_: object) -> Any:
    raise UnreachableError("etcd is away")


@pytest.mark.parametrize(
    ("name", "read", "said"),
    [
        pytest.param(
            "op", forbidden, "its log cannot be read: the right to get pods/log is missing", id="log"
        ),
        pytest.param("op", broken, "its log cannot be read: etcd is away", id="log-unreachable"),
        pytest.param(
            "probe", forbidden, "its events cannot be read: the right to list events is missing", id="events"
        ),
        pytest.param("probe", broken, "its events cannot be read: etcd is away", id="events-unreachable"),
        pytest.param("op", lambda *_: "", "exit code 3, and wrote nothing", id="empty"),
    ],
)
def test_what_may_not_be_read_is_said(name: str, read: Callable[..., Any], said: str) -> None:
    found = classified([deployment()], [CASES[name][0]], Read(read, read))

    assert said in found.reasons["canary"]


PODS = "/api/v1/namespaces/models/pods"
OBJECTS: dict[str, Any] = {
    PODS: {"items": [CASES["op"][0]]},
    "/apis/apps/v1/namespaces/models/deployments": {"items": [deployment()]},
    f"{PODS}/{POD}/log": 403,
}


@pytest.mark.parametrize(
    ("answers", "reasons"),
    [
        pytest.param(
            OBJECTS,
            {"canary": f"pod {POD}: container model-server ended with exit code 3; its log"},
            id="log",
        ),
        pytest.param(
            {**OBJECTS, "/apis/apps/v1/namespaces/models/deployments": 403},
            {"canary": f"pod {POD}: container model-server ended with exit code 3; its log cannot be read"},
            id="deployments",
        ),
        pytest.param(
            {PODS: 403}, {"": "why it is not up cannot be read: pods in namespace 'models'"}, id="pods"
        ),
    ],
)
def test_only_the_rights_that_are_there_are_used(
    cluster: Callable[..., Any], answers: Mapping[str, Any], reasons: Mapping[str, str]
) -> None:
    """
    Without the right to read something, the rest is still told.
    """
    found = not_up(lambda: LiveObjects(Target("models", kubeconfig=cluster(answers))), "resnet").reasons

    assert reasons.keys() == found.keys()
    assert all(found[track].startswith(start) for track, start in reasons.items())


@pytest.mark.parametrize("log", [b"unable to retrieve container logs for containerd://4220", 400, 404])
def test_a_log_that_has_gone_meanwhile_is_no_reason(cluster: Callable[..., Any], log: Any) -> None:
    """
    A container ends, or is made again, between the question for its pod and that for its log.
    """
    answers = {**OBJECTS, f"{PODS}/{POD}/log": log}

    found = not_up(lambda: LiveObjects(Target("models", kubeconfig=cluster(answers))), "resnet")

    assert (
        f"pod {POD}: container model-server ended with exit code 3; its log is gone"
        == found.reasons["canary"]
    )
    assert ["canary"] == list(found.fleeting)


# While Helm waits


def seen(generation: int, **reasons: str) -> NotUp:
    return NotUp(reasons, {"stable": 1, "canary": generation})


def gone(generation: int, **reasons: str) -> NotUp:
    return dataclasses.replace(seen(generation, **reasons), fleeting=tuple(reasons))


@pytest.mark.parametrize(
    ("answers", "lines"),
    [
        pytest.param([seen(2, canary="a"), seen(2, canary="b")], ["track canary: b"], id="the-last"),
        pytest.param([seen(2, canary="a"), seen(2)], [], id="it-came-up"),
        pytest.param([seen(2, canary="a"), seen(3)], ["track canary: a"], id="rolled-back"),
        pytest.param([seen(1, canary="a"), seen(2)], [], id="mended-by-the-upgrade"),
        pytest.param([seen(2, canary="a"), NotUp({})], ["track canary: a"], id="uninstalled"),
        pytest.param(
            [seen(2, stable="a", canary="b")], ["track canary: b", "track stable: a"], id="two-tracks"
        ),
        pytest.param([NotUp({"": "why"})], ["why"], id="nothing-can-be-read"),
        pytest.param([seen(2, canary="a"), gone(2, canary="b")], ["track canary: a"], id="gone-meanwhile"),
        pytest.param(
            [gone(2, canary="a"), seen(2, canary="b")], ["track canary: b"], id="gone-and-asked-again"
        ),
        pytest.param([gone(2, canary="a")], ["track canary: a"], id="never-read"),
    ],
)
def test_the_reason_outlives_the_rollback(answers: list[NotUp], lines: list[str]) -> None:
    """
    The rollback removes the pods that knew it. A track that came up by itself has none.
    """
    with Watch(lambda: seen(1), interval_seconds=3600) as watch:
        for answer in answers:
            watch.note(answer)

    assert lines == list(watch.lines)


TIMED_OUT = "Error: UPGRADE FAILED: release resnet failed, and has been rolled back due to atomic being set: timed out"


def test_a_failed_upgrade_has_the_reasons(
    fake_helm: Callable[..., Any], cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The line is Helm's, and the notes are the cluster's. Values that are refused have none.
    """
    monkeypatch.setattr("tfcanary.helm.watch.Watch", Asked)

    def error_of(stderr: str) -> BaseException:
        target = Target("models", kubeconfig=cluster(OBJECTS), helm=str(fake_helm(stderr=stderr, code=1)))
        with pytest.raises(Exception, match="resnet") as caught:
            releases_in(target).apply("resnet")
        return caught.value

    failed = error_of(TIMED_OUT)
    assert isinstance(failed, HelmError)
    assert [True] == [
        note.startswith(f"track canary: pod {POD}: container model-server") for note in failed.__notes__
    ]
    assert not hasattr(
        error_of("Error: execution error at (resnet/templates/validate.yaml:1:1): no"), "__notes__"
    )


class Asked(Watch):
    """
    A watch that has asked once when the upgrade begins.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        self.note(self._ask())
        return self


def test_pods_outside_the_mesh_are_a_warning(
    fake_helm: Callable[..., Any], tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Helm is content with a pod that is Ready, and nothing guards it.
    """
    answer = {
        "name": "resnet",
        "namespace": "models",
        "version": 7,
        "manifest": "",
        "info": {"status": "deployed", "last_deployed": "2026-01-02T03:04:05Z", "description": "x"},
    }
    helm = fake_helm(stdout=json.dumps(answer), get="")
    ready = classified([deployment()], [CASES["no-injection"][0]], READ)
    releases = Releases(Target("models", helm=str(helm)), lambda *_: None, not_up=lambda _: ready)

    releases.apply("resnet", chart=tmp_path)

    assert "release resnet: track canary: pod" in caplog.text
    assert "has no sidecar" in caplog.text


def test_a_pod_whose_node_has_the_proxy_needs_no_sidecar() -> None:
    ambient = pod(sidecar=False, conditions=[NODE, {"type": "Ready", "status": "True"}])
    ambient["metadata"]["annotations"] = {"ambient.istio.io/redirection": "enabled"}

    assert {} == classified([deployment()], [ambient], READ).reasons


def test_notes_are_lines_below_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    """
    The error is one line, and each note is one line of its own.
    """

    def fails(_: argparse.Namespace) -> int:
        error = DoesNotHoldError("helm upgrade:\nno")
        error.add_note("track canary:\n why")
        error.add_note("track stable: why")
        raise error

    assert 1 == cli.run(cli.Parser(prog="p"), fails, [])
    assert "error: helm upgrade: no\n  track canary: why\n  track stable: why\n" == capsys.readouterr().err
