"""
The local cluster's model store: a folder on the machine, which pods see through a read-only claim.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tfcanary.cluster import binaries
from tfcanary.cluster.images import link_or_copy
from tfcanary.cluster.layout import Layout
from tfcanary.errors import UnreachableError, UsageError

CLAIM = "tfcanary-models"


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
    if not layout.kubeconfig.exists():
        raise UsageError(
            f"cluster {layout.name}: expected one that was brought up, got none; "
            f"scripts/local_cluster.py up --name {layout.name} makes it"
        )
    folder = layout.models / namespace
    folder.mkdir(parents=True, exist_ok=True)
    objects = {"apiVersion": "v1", "kind": "List", "items": _objects(namespace, folder)}
    command = [
        str(binaries.program("kubernetes", "kubectl")),
        f"--kubeconfig={layout.kubeconfig}",
        "apply",
        "--filename=-",
    ]
    done = subprocess.run(command, input=json.dumps(objects), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnreachableError(f"namespace {namespace}: expected it to be made, got {done.stderr.strip()}")
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
