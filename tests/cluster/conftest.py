"""
One cluster for all of these tests, whoever runs it, and one namespace for each module.

pytest-kubernetes' external provider names it: `--k8s-provider=external --k8s-kubeconfig=FILE`. Where it is a
local cluster of ours, models and claims are made too; any other brings its own, by `--env FILE`.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.check.sources import releases_in
from tfcanary.cluster import store
from tfcanary.cluster.layout import Layout, clusters_folder
from tfcanary.export.cache import MODEL, RESNETS, exported_resnet
from tfcanary.helm.releases import Releases, Revision
from tfcanary.paths import ROOT
from tfcanary.target import Target

VALUES = ROOT / "values"
RELEASE = "resnet"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--env",
        type=Path,
        help="values file with images, model store and gateway of a cluster that is not ours",
    )


@pytest.fixture(scope="session")
def manager(request: pytest.FixtureRequest, k8s_manager: Callable[[str], Any]) -> AClusterManager:
    """
    The cluster, as pytest-kubernetes gives it.
    """
    if not request.config.getoption("k8s_kubeconfig"):
        message = "no cluster: give --k8s-provider=external --k8s-kubeconfig=FILE, or run `nox -s cluster`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    found: AClusterManager = k8s_manager("external")("external")
    return found


@pytest.fixture(scope="session")
def kubeconfig(manager: AClusterManager) -> Path:
    return Path(str(manager.kubeconfig))


@pytest.fixture(scope="session")
def layout(kubeconfig: Path) -> Layout | None:
    """
    The local cluster's files; None if the cluster is not ours.
    """
    return Layout(kubeconfig.parent.name) if kubeconfig.is_relative_to(clusters_folder()) else None


@pytest.fixture(scope="module")
def namespace(
    request: pytest.FixtureRequest, manager: AClusterManager, layout: Layout | None
) -> Iterator[str]:
    """
    A namespace for one module, with a model store that holds ResNet50 as version 1 and ResNet101 as 2.
    """
    name = f"{request.module.__name__.rpartition('.')[2].replace('_', '-')}-{uuid.uuid4().hex[:6]}"
    if layout is None:
        manager.kubectl(["create", "namespace", name], as_dict=False)
        manager.kubectl(["label", "namespace", name, "istio-injection=enabled"], as_dict=False)
    else:
        folder = store.prepare_namespace(layout, name)
        for version in RESNETS:
            store.publish(exported_resnet(version), folder, MODEL)
    yield name
    manager.kubectl(["delete", "namespace", name, "--wait=false"], as_dict=False)
    if layout is not None:
        manager.kubectl(
            ["delete", "persistentvolume", f"{store.CLAIM}-{name}", "--wait=false"], as_dict=False
        )


@pytest.fixture(scope="module")
def third_version(layout: Layout | None, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """
    A copy of the first model as version 3, for three tracks; a store that is not ours has to have one.
    """
    if layout is not None:
        third = tmp_path_factory.mktemp("models") / "3"
        shutil.copytree(exported_resnet(1), third)
        store.publish(third, layout.models / namespace, MODEL)


@pytest.fixture(scope="module")
def environment(request: pytest.FixtureRequest, layout: Layout | None) -> Path:
    """
    The values file that says where images and models come from.
    """
    if layout is not None:
        return VALUES / "env/local.yaml"
    given: Path | None = request.config.getoption("--env")
    if given is None:
        pytest.fail("--env: expected a values file for a cluster that is not ours, got none")
    return given


@pytest.fixture(scope="module")
def host(namespace: str) -> str:
    """
    A host name of the module's own: all releases share one gateway.
    """
    return f"{namespace}.test"


@pytest.fixture(scope="module")
def releases(namespace: str, kubeconfig: Path) -> Releases:
    return releases_in(Target(namespace=namespace, kubeconfig=kubeconfig))


@pytest.fixture(scope="module")
def installed(releases: Releases, environment: Path, host: str) -> Iterator[Revision]:
    """
    Both tracks, all traffic to stable.
    """
    files = [environment, VALUES / "models/resnet.yaml", VALUES / "stable.yaml"]
    yield releases.apply(RELEASE, files=files, values={"gateway": {"hosts": [host]}})
    # The namespace alone would leave what the release has in the gateway's own.
    releases.uninstall(RELEASE)
