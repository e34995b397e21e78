"""
The tutorials, typed on a cluster: each command succeeds, and its output has the lines that the page shows.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.cluster import store
from tfcanary.cluster.layout import Layout
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.paths import ROOT
from tfcanary.target import Target

FIRST = "docs/tutorial/first-canary.md"
OWN_MODEL = "docs/tutorial/your-own-model.md"
RELEASE = "resnet"
# What brings the cluster up and down, and what names it to a shell: the session has done both.
SET_UP = ("python3 -m", "export ")

Typed = Callable[[str, Mapping[str, str]], list[str]]


@pytest.fixture
def typed(documents: ModuleType, kubeconfig: Path) -> Typed:
    """
    Type a page's commands, with other words in the place of some, and give what went wrong.
    """
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": programs,
        "KUBECONFIG": str(kubeconfig),
        "NO_PROXY": "*",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }

    def run(page: str, elsewhere: Mapping[str, str]) -> list[str]:
        wrong = []
        for commands, shown in documents.page(page).steps:
            if commands.startswith(SET_UP):
                continue
            script = replaced(commands, elsewhere)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            lacking = documents.unseen([replaced(line, elsewhere) for line in shown], done.stdout)
            if done.returncode or lacking:
                wrong.append(
                    f"{script}: exit code {done.returncode}, lacks {lacking}\n{done.stdout}{done.stderr}"
                )
        return wrong

    return run


def replaced(text: str, elsewhere: Mapping[str, str]) -> str:
    for there, here in elsewhere.items():
        text = text.replace(there, here)
    return text


@pytest.mark.usefixtures("installed")
def test_the_tutorial(
    typed: Typed, documents: ModuleType, namespace: str, kubeconfig: Path, host: str
) -> None:
    """
    From all traffic on stable to 10 % on the canary, checked, and back; in the session's own namespace and host.
    """
    cluster = LiveObjects(Target(namespace=namespace, kubeconfig=kubeconfig))
    elsewhere = {
        "-n resnet": f"-n {namespace}",
        "--namespace resnet": f"--namespace {namespace}",
        "127.0.0.1:18080": gateway_address(cluster, RELEASE),
        "curl -si": f"curl -si -H 'Host: {host}'",
    }

    wrong = typed(FIRST, elsewhere)

    assert any("values/canary-10.yaml" in commands for commands, _ in documents.page(FIRST).steps)
    assert [] == wrong, "\n".join(wrong)


@pytest.fixture
def own_namespace(manager: AClusterManager, layout: Layout | None) -> Iterator[str]:
    """
    The name of a namespace that the tutorial makes itself.
    """
    if layout is None:
        pytest.skip("the tutorial publishes into a local cluster's store")
    name = f"own-model-{uuid.uuid4().hex[:6]}"
    yield name
    helm = ["helm", "uninstall", "flowers", f"--namespace={name}", f"--kubeconfig={manager.kubeconfig}"]
    subprocess.run([*helm, "--ignore-not-found"], check=True)
    for kind, item in (("namespace", name), ("persistentvolume", f"{store.CLAIM}-{name}")):
        manager.kubectl(["delete", kind, item, "--ignore-not-found", "--wait=false"], as_dict=False)


def test_the_tutorial_of_an_own_model(
    typed: Typed, documents: ModuleType, own_namespace: str, layout: Layout, tmp_path: Path
) -> None:
    """
    From a Keras model of three lines to a canary at 10 %, and its check held.
    """
    ports = layout.read_ports()
    assert ports is not None
    elsewhere = {
        "models/flowers/": f"{tmp_path}/flowers/",
        "models/flowers.": f"{tmp_path}/flowers.",
        "-n flowers": f"-n {own_namespace}",
        "--namespace flowers": f"--namespace {own_namespace}",
        "in namespace flowers": f"in namespace {own_namespace}",
        "flowers flowers 2": f"{own_namespace} flowers 2",
        "--model flowers": f"--model flowers --namespace {own_namespace} --name {layout.name}",
        "cluster models": f"cluster models --name {layout.name}",
        "flowers.example": f"{own_namespace}.test",
        "127.0.0.1:18080": f"127.0.0.1:{ports.gateway}",
    }

    wrong = typed(OWN_MODEL, elsewhere)

    steps = documents.page(OWN_MODEL).steps
    assert any("values/canary-10.yaml" in commands and "tfcanary check" in commands for commands, _ in steps)
    assert [] == wrong, "\n".join(wrong)
