"""
Twelve ways of not coming up: the error of the upgrade ends with the cluster's own reason, a line for each track.

The releases lie side by side in one namespace of their own, with a model of a few kilobytes. They are upgraded four at a
time, with short timeouts.
"""

import json
import logging
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from half import MODEL, save
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.chart.values import merge
from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release, releases_in
from tfcanary.check.subject import Options
from tfcanary.cluster import store
from tfcanary.cluster.layout import Layout
from tfcanary.export import manifest, savedmodel
from tfcanary.helm.failures import HelmError
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.readiness import not_up
from tfcanary.paths import CHART
from tfcanary.protos import bare_tensorflow, runtime
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

LOG = logging.getLogger(__name__)
GOOD, NO_MANIFEST, CHANGED, UNKNOWN_OP, BAD_WARMUP, MISSING = 1, 3, 4, 5, 6, 9
# How long a pod takes to be made and to run its init container, and how long until the server has begun too.
SOON, LATER = 20, 60
NOBODY = {"stable": {"version": GOOD}, "canary": {"version": GOOD, "replicas": 0}}


def one(version: int) -> dict[str, Any]:
    """
    One track with pods.
    """
    return {"tracks": merge(NOBODY, {"stable": {"version": version}})}


# By release: the values, the seconds that it gets, and for each track that has pods what its line must have.
CASES: dict[str, tuple[dict[str, Any], int, dict[str, str]]] = {
    "folder": (
        {"tracks": {"stable": {"version": MISSING}, "canary": {"version": NO_MANIFEST, "replicas": 1}}},
        SOON,
        {
            "stable": "container verify-model ended with exit code 1: error: model /store/half/9: expected this folder in "
            "the store, got none; /store/half holds: 1 3 4 5 6; put",
            "canary": "container verify-model ended with exit code 1: error: model /store/half/3: expected manifest.json "
            "in it, got none; write it with: tfcanary export manifest DIR; or serve the model unverified with "
            "modelStore.verifyManifest=false",
        },
    ),
    "sum": (
        one(CHANGED),
        SOON,
        {
            "stable": "container verify-model ended with exit code 1: error: model /store/half/4: the files are not those of"
        },
    ),
    "op": (one(UNKNOWN_OP), LATER, {"stable": "container model-server ended with exit code"}),
    "image": (
        merge(one(GOOD), {"image": {"repository": "localhost/tfcanary/nowhere"}}),
        SOON,
        {"stable": "localhost/tfcanary/nowhere:local"},
    ),
    "cpu": (
        merge(one(GOOD), {"resources": {"requests": {"cpu": "64"}}}),
        SOON,
        {"stable": "has no node: 0/1 nodes are available: 1 Insufficient cpu"},
    ),
    "oom": (
        merge(one(GOOD), {"resources": {"limits": {"memory": "48Mi"}, "requests": {"memory": "32Mi"}}}),
        LATER,
        {
            "stable": "container model-server was killed because it needs more memory than its limit of 48Mi (OOMKilled)"
        },
    ),
    "warmup": (one(BAD_WARMUP), LATER, {"stable": "Failed to parse warmup record"}),
    "claim": (
        merge(one(GOOD), {"modelStore": {"persistentVolumeClaim": {"claimName": "nowhere"}}}),
        SOON,
        {"stable": 'has no node: 0/1 nodes are available: persistentvolumeclaim "nowhere" not found'},
    ),
    "quota": (
        merge(one(GOOD), {"priorityClassName": "PRIORITY"}),
        SOON,
        {"stable": "exceeded quota: none-of-these"},
    ),
    "probe": (
        merge(one(GOOD), {"resources": {"limits": {"cpu": "50m"}}}),
        SOON,
        {"stable": "container model-server is not Ready yet: Unhealthy: Startup probe failed"},
    ),
}
# Nothing that the cluster says is the same twice; this is what every release has.
COMMON = {
    "model": {"name": MODEL},
    "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "2Gi"}},
}


@pytest.fixture(scope="module")
def local(layout: Layout | None) -> Layout:
    if layout is None:
        pytest.skip("the models are put into a local cluster's store")
    return layout


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    One good version of a small model, and four that a pod does not serve.
    """
    folder = tmp_path_factory.mktemp(MODEL)
    good = folder / str(GOOD)
    save(good)
    for version in (NO_MANIFEST, CHANGED, UNKNOWN_OP, BAD_WARMUP):
        shutil.copytree(good, folder / str(version))
    graph = folder / str(UNKNOWN_OP) / savedmodel.FILE
    with bare_tensorflow():
        from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415
    message = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
    message.meta_graphs[0].graph_def.node.add(name="x", op="NoSuchOp")
    graph.write_bytes(message.SerializeToString())
    records = folder / str(BAD_WARMUP) / savedmodel.WARMUP
    records.parent.mkdir()
    with runtime().records.TFRecordWriter(str(records)) as writer:
        writer.write(b"\xff not a PredictionLog")
    for version in (GOOD, CHANGED, UNKNOWN_OP, BAD_WARMUP):
        manifest.write(folder / str(version), {"fault": None})
    (folder / str(CHANGED) / "fingerprint.pb").write_bytes(b"changed")
    return folder


@pytest.fixture(scope="module")
def place(manager: AClusterManager, local: Layout, versions: Path) -> Iterator[str]:
    """
    A namespace with these versions, and a quota that takes no pod of one PriorityClass.
    """
    name = f"not-up-{uuid.uuid4().hex[:6]}"
    folder = store.prepare_namespace(local, name)
    for version in versions.iterdir():
        store.publish(version, folder, MODEL)
    manager.kubectl(["create", "priorityclass", name, "--value=0"], as_dict=False)
    quota = ["create", "quota", "none-of-these", f"--namespace={name}", "--hard=pods=0"]
    # kubectl has no option for a selector of PriorityClasses.
    made = manager.kubectl([*quota, "--scopes=", "--dry-run=client", "--output=json"])
    made["spec"]["scopeSelector"] = {
        "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": [name]}]
    }
    apply(manager, made)
    yield name
    uninstall = ["helm", "uninstall", "plain", "unchecked", "--ignore-not-found", f"--namespace={name}"]
    subprocess.run([*uninstall, f"--kubeconfig={manager.kubeconfig}"], check=True)
    for kind, item in (
        ("priorityclass", name),
        ("namespace", name),
        ("persistentvolume", f"{store.CLAIM}-{name}"),
    ):
        manager.kubectl(["delete", kind, item, "--wait=false"], as_dict=False)


def apply(manager: AClusterManager, item: dict[str, Any]) -> None:

    command = ["kubectl", f"--kubeconfig={manager.kubeconfig}", "apply", "--filename=-"]
    subprocess.run(command, input=json.dumps(item), check=True, capture_output=True, text=True)


def values_of(release: str, place: str) -> dict[str, Any]:
    """
    All values of a case, with a host of its own and the PriorityClass of this namespace.
    """
    values, _, _ = CASES[release]
    host = {"gateway": {"hosts": [f"{release}.{place}.test"]}}
    priority = {"priorityClassName": place} if "priorityClassName" in values else {}
    return merge(merge(COMMON, host), merge(values, priority))


@pytest.fixture(scope="module")
def failures(kubeconfig: Path, place: str, environment: Path) -> dict[str, HelmError]:
    """
    How the upgrade of each release failed. A busy node may need longer to come so far: then it gets three times as long.
    """
    target = Target(namespace=place, kubeconfig=kubeconfig)

    def upgrade(release: str, seconds: int) -> HelmError:
        releases = releases_in(target, timeout_seconds=seconds)
        with pytest.raises(HelmError) as caught:
            releases.apply(release, files=[environment], values=values_of(release, place), reuse_values=False)
        return caught.value

    def failure(release: str) -> HelmError:
        _, seconds, expected = CASES[release]
        first = upgrade(release, seconds)
        lines = dict(line.partition(": ")[::2] for line in first.__notes__)
        if all(part in lines.get(f"track {track}", "") for track, part in expected.items()):
            return first
        LOG.info("%s: not so far within %d s: %s", release, seconds, lines)
        return upgrade(release, 3 * seconds)

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(CASES, pool.map(failure, CASES), strict=True))


@pytest.mark.parametrize("release", CASES)
def test_an_upgrade_says_why_it_is_not_up(failures: dict[str, HelmError], release: str) -> None:
    """
    There is a line for each track that has pods, and it has the reason.
    """
    lines = failures[release].__notes__
    expected = CASES[release][2]

    for line in lines:
        LOG.info("%s: %s", release, line)
    assert [f"track {track}" for track in sorted(expected)] == [line.partition(":")[0] for line in lines]
    for line, part in zip(lines, (expected[track] for track in sorted(expected)), strict=True):
        assert part in line
        assert "\n" not in line


def test_a_refused_op_is_named(failures: dict[str, HelmError]) -> None:
    """
    The server's last line has the op.
    """
    assert "NoSuchOp" in failures["op"].__notes__[0]


def test_an_image_that_is_not_found_is_named(failures: dict[str, HelmError]) -> None:
    """
    The init container has the same image, and waits for it first.
    """
    assert "container verify-model waits, " in failures["image"].__notes__[0]


def install(kubeconfig: Path, place: str, release: str, environment: Path, values: dict[str, Any]) -> None:
    """
    Run a plain `helm install` that waits for nothing.
    """
    command = ["helm", "install", release, str(CHART), f"--namespace={place}", f"--kubeconfig={kubeconfig}"]
    subprocess.run(
        [*command, "-f", str(environment), "-f", "-"],
        input=json.dumps(merge(merge(COMMON, {"gateway": {"hosts": [f"{release}.{place}.test"]}}), values)),
        check=True,
        capture_output=True,
        text=True,
    )


def test_a_check_says_why_it_is_not_up(kubeconfig: Path, place: str, environment: Path) -> None:
    """
    Nothing answers for the track that has the traffic, and the check has a line with the reason.
    """
    install(kubeconfig, place, "unchecked", environment, one(MISSING))
    target = Target(namespace=place, kubeconfig=kubeconfig)
    wait_until("the reason", lambda: because(target, "unchecked", "exit code 1"), timeout_seconds=60)

    report = check_gateway(from_release("unchecked", target), Options(timeout_seconds=5))

    (found,) = (finding for finding in report.findings if finding.name == "readiness")
    assert "track stable" == found.about
    assert "error: model /store/half/9: expected this folder in the store" in found.observed
    assert 1 == report.exit_code


def test_a_namespace_without_injection_is_named(
    manager: AClusterManager, kubeconfig: Path, place: str, environment: Path
) -> None:
    """
    The pods are Ready and outside the mesh: nothing guards them.
    """
    target = Target(namespace=place, kubeconfig=kubeconfig)
    manager.kubectl(["label", "namespace", place, "istio-injection-"], as_dict=False)
    try:
        install(kubeconfig, place, "plain", environment, one(GOOD))
        wait_until("the reason", lambda: because(target, "plain", "has no sidecar"), timeout_seconds=90)
    finally:
        manager.kubectl(["label", "namespace", place, "istio-injection=enabled"], as_dict=False)


def because(target: Target, release: str, part: str) -> None:
    """
    Raise NotYet until the reason of the stable track has these words.
    """
    said = not_up(lambda: LiveObjects(target), release).reasons.get("stable", "nothing")
    if part not in said:
        raise NotYet(said)
