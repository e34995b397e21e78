"""
The local cluster's model store: a folder on the machine, which pods see through a read-only claim.
"""

import filecmp
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcanary.cluster import binaries
from tfcanary.cluster.layout import Layout
from tfcanary.cluster.packages import link_or_copy
from tfcanary.errors import UnreachableError, UsageError

BOUND_SECONDS = 60
CLAIM = "tfcanary-models"
# What the chart takes as model.name, which is the model's folder, and what Kubernetes takes as a namespace.
MODEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
NAMESPACE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# A folder with one of these is a version that a model server can load.
MODEL_FILES = ("saved_model.pb", "model.tflite")
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Published:
    """
    One version of a model in the store of a local cluster.

    Attributes:
        bytes: the size of all its files.
        manifest: whether it has a manifest, which the chart's pods ask for by default.
    """

    namespace: str
    model: str
    version: int
    bytes: int
    manifest: bool


def prepare_namespace(layout: Layout, namespace: str) -> Path:
    """
    Make a namespace as the chart expects one, with a claim on a model folder of its own.

    Sidecars are injected, and pods must fit Pod Security *restricted*.

    Returns:
        The folder that pods of the namespace see as the model store.

    Raises:
        UsageError: the cluster was never brought up.
        UnreachableError: it does not answer.
    """
    _require_up(layout)
    folder = layout.models / namespace
    folder.mkdir(parents=True, exist_ok=True)
    objects = {"apiVersion": "v1", "kind": "List", "items": _objects(namespace, folder)}
    command = [
        str(binaries.program("kubernetes", "kubectl")),
        f"--kubeconfig={layout.kubeconfig}",
        "apply",
        "--filename=-",
    ]
    wait = [
        "wait",
        "--for=jsonpath={.status.phase}=Bound",
        f"--timeout={BOUND_SECONDS}s",
        f"--namespace={namespace}",
    ]
    wanted = json.dumps(objects)
    # A pod of a claim that is not bound yet has no node, and an upgrade that fails meanwhile would name that.
    for given, what in ((wanted, command), ("", [*command[:2], *wait, f"persistentvolumeclaim/{CLAIM}"])):
        done = subprocess.run(what, input=given, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UnreachableError(
                f"namespace {namespace}: expected it to be made, got {done.stderr.strip()}"
            )
    return folder


def publish(version: Path, store: Path, model: str) -> Path:
    """
    Put one exported version into a model store, whole or not at all; one that is there stays.

    Args:
        version: the exported folder, named by its number.
        store: what `prepare_namespace` returned.
        model: the model's folder in the store.
    """
    target = store / model / version.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(version, draft, copy_function=link_or_copy)
        draft.rename(target)
    return target


def publish_own(version: Path, store: Path, model: str, number: int) -> bool:
    """
    Copy a version that other programs wrote into a model store, whole or not at all, and readable by the pods.

    The copy shares no file with the original: what is served does not change with it.

    Returns:
        whether it was copied; a version that is there with the same files stays.

    Raises:
        UsageError: it is no version of a model, the store has another one of that number, or it cannot be copied.
    """
    if not any((version / name).is_file() for name in MODEL_FILES):
        raise UsageError(
            f"{version}: expected a version's directory with {' or '.join(MODEL_FILES)}, got none; "
            "name it as BASE/VERSION"
        )
    target = store / model / str(number)
    if target.exists():
        if _same(version, target):
            return False
        raise UsageError(
            f"{version}: expected a new version, got number {number} of {model}, which is published with other files; "
            "choose another with --version N: pods may be serving that one"
        )
    draft = target.with_name(f".{target.name}.draft")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(version, draft, copy_function=shutil.copyfile)
        for path in (draft, *draft.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        draft.rename(target)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise UsageError(f"{version}: cannot copy it to {target}: {error}") from error
    return True


def _same(one: Path, other: Path) -> bool:
    names = [
        sorted(path.relative_to(top) for path in top.rglob("*") if path.is_file()) for top in (one, other)
    ]
    return names[0] == names[1] and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names[0]
    )


def published(layout: Layout) -> Iterator[Published]:
    """
    List every version in the stores of a local cluster.

    Raises:
        UsageError: the cluster was never brought up.
    """
    _require_up(layout)
    found = [path for path in layout.models.glob("*/*/*") if path.name.isdigit() and path.is_dir()]
    for path in sorted(found, key=lambda path: (*path.parts[-3:-1], int(path.name))):
        sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
        namespace, model = path.parts[-3:-1]
        yield Published(namespace, model, int(path.name), sum(sizes), (path / MANIFEST).is_file())


def _require_up(layout: Layout) -> None:
    if not layout.kubeconfig.exists():
        raise UsageError(
            f"cluster {layout.name}: expected one that was brought up, got none; "
            f"scripts/local_cluster.py up --name {layout.name} makes it"
        )


def _objects(namespace: str, folder: Path) -> list[dict[str, Any]]:
    volume = f"{CLAIM}-{namespace}"
    size = {"storage": "10Gi"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": namespace,
                "labels": {
                    "istio-injection": "enabled",
                    "pod-security.kubernetes.io/enforce": "restricted",
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "capacity": size,
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                # No uid: a namespace of the same name that is made again may claim it again.
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "name": CLAIM,
                    "namespace": namespace,
                },
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM, "namespace": namespace},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "resources": {"requests": size},
                "storageClassName": "",
                "volumeName": volume,
            },
        },
    ]
