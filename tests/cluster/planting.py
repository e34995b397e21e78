"""
Objects that tests plant with kubectl, past Helm, and take back; and what a check then found.
"""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.check.report import Report
from tfcanary.check.subject import Options
from tfcanary.judge.verdict import Outcome

SYSTEM = "istio-system"
# Enough to find what is planted, with few requests.
QUICK = Options(timeout_seconds=12, alpha=1e-4, power=0.99, detect=40)


def failed(found: Report) -> dict[str, str]:
    """
    What was seen and said by each finding that failed, by its title.
    """
    return {
        one.title: f"{one.observed}; {one.detail}" for one in found.findings if one.outcome is Outcome.FAILED
    }


def versions(objects: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """
    What differs after each change of an object, by its kind and name.

    The version of an object with a status changes without us; its generation does not.
    """
    return {
        f"{one['kind']} {one['metadata']['name']}": str(
            one["metadata"].get("generation") or one["metadata"]["resourceVersion"]
        )
        for one in objects
    }


class Kubectl:
    """
    Plants objects, and takes them back.
    """

    def __init__(self, manager: AClusterManager, namespace: str, folder: Path) -> None:
        self.manager, self.namespace, self.folder = manager, namespace, folder

    def __call__(self, *arguments: str, namespace: str | None = None) -> str:
        """
        Run kubectl in a namespace, the release's by default.
        """
        return str(self.manager.kubectl([*arguments, "-n", namespace or self.namespace], as_dict=False))

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """
        A live object, as it can be made again.
        """
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o", "json", namespace=namespace))
        for key in ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"):
            found["metadata"].pop(key, None)
        found.pop("status", None)
        return found

    def patch(self, kind: str, name: str, *changes: Mapping[str, Any], namespace: str | None = None) -> None:
        """
        Add or replace what stands at some paths of a live object.
        """
        file = self.file([{"op": "add", **one} for one in changes])
        self("patch", kind, name, "--type=json", f"--patch-file={file}", namespace=namespace)

    def file(self, one: Any) -> str:
        """
        An object, or a list, as a file.
        """
        path = self.folder / f"{uuid.uuid4().hex}.yaml"
        path.write_text(yaml.safe_dump(one))
        return str(path)

    @contextmanager
    def planted(self, *objects: Mapping[str, Any]) -> Iterator[None]:
        """
        Objects that are there inside the with block.
        """
        files = [self.file(one) for one in objects]
        for file in files:
            self.manager.kubectl(["apply", "-f", file], as_dict=False)
        try:
            yield
        finally:
            for file in files:
                self.manager.kubectl(["delete", "-f", file, "--ignore-not-found"], as_dict=False)

    def younger(self, kind: str, name: str) -> None:
        """
        Make an object again, so that another is older: times are of whole seconds.
        """
        time.sleep(1.1)
        self.manager.kubectl(["replace", "--force", "-f", self.file(self.get(kind, name))], as_dict=False)


def istio(
    kind: str, name: str, namespace: str, spec: Mapping[str, Any], group: str = "networking"
) -> dict[str, Any]:
    version = "v1alpha3" if kind == "EnvoyFilter" else "v1"
    return {
        "apiVersion": f"{group}.istio.io/{version}",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
