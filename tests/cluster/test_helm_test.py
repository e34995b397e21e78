"""
`helm test` of a model that is no picture's: it passes for the release that answers, and for no other.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from half import MODEL, half_in_a_namespace
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.cluster.layout import Layout
from tfcanary.paths import CHART

Helm = Callable[..., subprocess.CompletedProcess[str]]
LITTLE = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "2Gi", "cpu": "2"}}


@pytest.fixture(scope="module")
def place(
    manager: AClusterManager, layout: Layout | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """
    A namespace with the model as `manifest` leaves it, where each pod must have a CPU limit.
    """
    if layout is None:
        pytest.skip("the model is put into a local cluster's store")
    with half_in_a_namespace(manager, layout, tmp_path_factory.mktemp(MODEL), "helm-test") as name:
        quota = ["create", "quota", "limited", f"--namespace={name}", "--hard=limits.cpu=32"]
        manager.kubectl(quota, as_dict=False)
        yield name


@pytest.fixture(scope="module")
def helm(kubeconfig: Path, place: str) -> Iterator[Helm]:
    """
    Run helm in this namespace, with values as its input.
    """

    def run(*arguments: str, **values: Any) -> subprocess.CompletedProcess[str]:
        command = ["helm", *arguments, f"--namespace={place}", f"--kubeconfig={kubeconfig}"]
        if values:
            command += ["-f", "-"]
        return subprocess.run(
            command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=300
        )

    yield run
    run("uninstall", "first", "second", "--ignore-not-found")


def test_only_the_release_that_answers_passes(
    helm: Helm, manager: AClusterManager, environment: Path, place: str
) -> None:
    """
    Two releases share a host, and the gateway takes the older one's routes: the younger one's test fails and says so. In
    a namespace with a quota on CPU limits the test's pod has one.
    """
    values = {
        "model": {"name": MODEL},
        "tracks": {"stable": {"version": 1}, "canary": {"version": 1, "replicas": 0}},
        "gateway": {"hosts": [f"{place}.test"]},
        "resources": LITTLE,
        "helmTest": {"resources": {"limits": {"cpu": "1"}}},
    }
    tests = {}
    for release in ("first", "second"):
        # Without this the chart refuses the second one.
        values["gateway"]["freeHosts"] = "unchecked" if tests else "namespace"
        installed = helm(
            "install", release, str(CHART), "-f", str(environment), "--wait", "--timeout=120s", **values
        )
        assert 0 == installed.returncode, installed.stderr
        tests[release] = helm("test", release, "--timeout=120s")

    logs = {
        release: manager.kubectl(["logs", f"{release}-test", f"--namespace={place}"], as_dict=False)
        for release in tests
    }
    assert 0 == tests["first"].returncode, logs["first"]
    assert "REST: serving_default predicted\ngRPC: serving_default predicted" in logs["first"]
    assert 0 != tests["second"].returncode
    assert "another release or application answers for the host" in logs["second"]


def test_a_pod_without_a_limit_is_refused(helm: Helm) -> None:
    """
    The quota is real: with the default resources the test's pod is not made.
    """
    changed = helm(
        "upgrade",
        "first",
        str(CHART),
        "--reset-then-reuse-values",
        "--set",
        "helmTest.resources.limits.cpu=null",
        "--timeout=60s",
    )
    assert 0 == changed.returncode, changed.stderr

    refused = helm("test", "first", "--timeout=60s")

    assert 0 != refused.returncode
    assert "failed quota: limited: must specify limits.cpu for: predict" in refused.stderr
