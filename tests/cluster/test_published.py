"""
What others get: a release is packaged, published and verified, and installed from the registry by its digest.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from half import MODEL, half_in_a_namespace, predict
from pytest_kubernetes.providers.base import AClusterManager
from registries import Registry, running
from releasing import KEY_PASSWORD, Checkout, made_key, made_keyrings

from tfcanary.cluster import binaries
from tfcanary.cluster.layout import Layout
from tfcanary.paths import ROOT
from tfcanary.target import Target

RELEASE = "published"
LITTLE = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "2Gi"}}


@pytest.fixture(scope="module")
def place(
    manager: AClusterManager, layout: Layout | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if layout is None:
        pytest.skip("the model is put into a local cluster's store")
    with half_in_a_namespace(manager, layout, tmp_path_factory.mktemp(MODEL), "published") as name:
        yield name


@pytest.fixture
def registry(
    identity: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """
    A registry on the host; Helm 3 stays on PATH for who installs, behind the programs that publish.
    """
    folders = ":".join(str(binaries.ensure(tree)) for tree in ("helm4", "helm-docs", "release"))
    monkeypatch.setenv("PATH", f"{folders}:{os.environ['PATH']}")
    (tmp_path / "registry").mkdir()
    with running(tmp_path / "registry", identity) as found:
        yield found


def test_a_chart_is_installed_by_the_digest_that_was_verified(
    place: str, environment: Path, kubeconfig: Path, registry: Registry, tmp_path: Path
) -> None:
    """
    Package, publish, verify, install with Helm 3, and predict through the gateway.
    """
    source = Checkout(ROOT)
    keyring, key, dist = made_keyrings(_made(tmp_path / "pgp")), made_key(tmp_path), tmp_path / "dist"
    packaged = source.run("package", "--unreleased", f"--output={dist}", *keyring.options)
    assert 0 == packaged.code, packaged.error
    published = source.run(
        *("publish", f"oci://{registry.address}/charts", f"--dist={dist}", f"--key={key.private}"),
        *registry.options,
        COSIGN_PASSWORD=KEY_PASSWORD,
    )
    assert 0 == published.code, published.error
    chart = published.out.splitlines()[0]
    verified = source.run(
        "verify", chart, f"--key={key.public}", f"--keyring={keyring.public}", *registry.options
    )
    assert 0 == verified.code, verified.error

    where = (f"--namespace={place}", f"--kubeconfig={kubeconfig}")
    helm = str(binaries.program("tools", "helm"))
    values = tmp_path / "values.json"
    values.write_text(json.dumps(_values(place)))
    options = (f"--values={environment}", f"--values={values}", "--wait", "--timeout=180s")
    try:
        registry.run(helm, "install", RELEASE, chart, *options, *where)
        answer = predict(Target(namespace=place, kubeconfig=kubeconfig), RELEASE)
    finally:
        subprocess.run([helm, "uninstall", RELEASE, "--ignore-not-found", *where], check=True)

    assert {"predictions": [1.0, 2.5]} == answer.json()
    assert "stable" == answer.headers["x-model-track"]


def _made(folder: Path) -> Path:
    # GnuPG's socket has a path of at most 108 bytes, and its folder is its owner's alone.
    folder.mkdir(mode=0o700)
    return folder


def _values(place: str) -> dict[str, Any]:
    return {
        "model": {"name": MODEL},
        "tracks": {"stable": {"version": 1}, "canary": {"version": 1, "replicas": 0}},
        "gateway": {"hosts": [f"{place}.test"]},
        "resources": LITTLE,
    }
