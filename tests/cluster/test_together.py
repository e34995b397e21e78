"""
Several models together: as copies in one umbrella chart, and at one host behind a Gateway that exists.
"""

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from half import save
from planting import QUICK, failed, versions
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.chart.values import merge, read_values
from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release, releases_in
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.rest import RestClient
from tfcanary.cluster import store
from tfcanary.cluster.layout import Layout
from tfcanary.export import servable
from tfcanary.helm.releases import Releases
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.paths import CHART
from tfcanary.report.table import findings_table
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

MODELS = ("half", "other")
Values = Mapping[str, Any]


@pytest.fixture(scope="module")
def place(
    manager: AClusterManager, layout: Layout | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """
    A namespace with one small model under two names.
    """
    if layout is None:
        pytest.skip("the models are put into a local cluster's store")
    name = f"together-{uuid.uuid4().hex[:6]}"
    version = tmp_path_factory.mktemp("half") / "1"
    save(version)
    servable.write_manifest(version)
    folder = store.prepare_namespace(layout, name)
    for model in MODELS:
        store.publish_own(version, folder, model, 1)
    yield name
    for kind, item in (("namespace", name), ("persistentvolume", f"{store.CLAIM}-{name}")):
        manager.kubectl(["delete", kind, item, "--wait=false"], as_dict=False)


@pytest.fixture(scope="module")
def target(place: str, kubeconfig: Path) -> Target:
    return Target(namespace=place, kubeconfig=kubeconfig)


@pytest.fixture(scope="module")
def releases(target: Target) -> Releases:
    return releases_in(target)


@pytest.fixture(scope="module")
def values_of(environment: Path) -> Callable[..., dict[str, Any]]:
    """
    The values of a small release of a model.
    """

    def made(model: str, **gateway: Any) -> dict[str, Any]:
        own = {
            "model": {"name": model},
            "tracks": {"stable": {"version": 1, "replicas": 1}, "canary": {"version": 1, "replicas": 0}},
            "gateway": gateway,
        }
        return merge(read_values(environment), own)

    return made


@pytest.fixture(scope="module")
def umbrella(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    An umbrella chart with two copies of the chart, as `helm dependency build` makes it from a folder.
    """
    folder = tmp_path_factory.mktemp("umbrella")
    one = {"name": CHART.name, "version": ">=0-0", "repository": f"file://{CHART}"}
    facts = {"apiVersion": "v2", "name": "platform", "version": "1.0.0"}
    facts["dependencies"] = [one | {"alias": model} for model in MODELS]  # type: ignore[assignment]
    (folder / "Chart.yaml").write_text(yaml.safe_dump(facts))
    subprocess.run(["helm", "dependency", "build", str(folder)], check=True, capture_output=True)
    return folder


def answers(address: str, model: str, host: str, metadata: Mapping[str, str] | None = None) -> None:
    """
    Wait until a model answers over both APIs.
    """

    def asked() -> None:
        with (
            RestClient(address, model, host=host) as rest,
            GrpcClient(address, model, host=host, metadata=metadata) as grpc,
        ):
            found = [client.metadata() for client in (rest, grpc)]
        if odd := [str(one) for one in found if not one.ok or one.track != "stable"]:
            raise NotYet(", ".join(odd))

    wait_until(f"{model} at {host}", asked, timeout_seconds=60)


def test_two_copies_in_one_release(
    releases: Releases, target: Target, umbrella: Path, values_of: Callable[..., dict[str, Any]]
) -> None:
    """
    One installation, both models answer, and the check of one copy holds. A strategy at the top of the values is named.
    """
    place = target.namespace
    values = {model: values_of(model, hosts=[f"{model}.{place}.test"]) for model in MODELS}
    releases.apply("plat", chart=umbrella, values=values)
    address = gateway_address(LiveObjects(target), "plat-half")

    for model in MODELS:
        answers(address, model, f"{model}.{place}.test")
    held = check_gateway(from_release("plat", target, subchart="other"), QUICK)
    assert held.held, str(findings_table(held))

    routes = [{"name": "everyone", "weights": {"stable": 100}}]
    releases.apply("plat", chart=umbrella, values={"routing": {"routes": routes}})
    found = failed(check_gateway(from_release("plat", target, subchart="other"), QUICK))
    releases.uninstall("plat")

    assert ["values other"] == list(found)
    assert "routing at the top, where no copy of the chart reads it" in found["values other"]


@pytest.fixture
def shared(manager: AClusterManager, place: str, tmp_path: Path) -> str:
    """
    A Gateway of the platform's own for every host below one name.
    """
    server = {"port": {"name": "http", "number": 80, "protocol": "HTTP"}, "hosts": [f"*.{place}.test"]}
    gateway = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "shared", "namespace": place},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [server]},
    }
    (tmp_path / "gateway.json").write_text(json.dumps(gateway))
    manager.kubectl(["apply", "-f", str(tmp_path / "gateway.json")], as_dict=False)
    return f"{place}/shared"


def test_two_models_at_one_host(
    releases: Releases, target: Target, shared: str, values_of: Callable[..., dict[str, Any]]
) -> None:
    """
    Two releases have one host at a Gateway that exists: each answers for its own model, and the check of the younger holds.
    """
    host = f"models.{target.namespace}.test"
    together = {"byModel": {"enabled": True}, "filters": {"enabled": False}, "existing": [shared]}
    for model in MODELS:
        releases.apply(model, values=values_of(model, hosts=[host], **together))
    address = gateway_address(LiveObjects(target), "other")

    for model in MODELS:
        answers(address, model, host, {"x-model": model})
    seen = check_gateway(from_release("other", target), QUICK)
    with GrpcClient(address, "other", host=host) as unnamed:
        status = unnamed.metadata().status
    command = [
        "helm",
        "test",
        "other",
        f"--namespace={target.namespace}",
        f"--kubeconfig={target.kubeconfig}",
    ]
    tested = subprocess.run(command, capture_output=True, text=True, check=False)
    for model in MODELS:
        releases.uninstall(model)

    assert "UNIMPLEMENTED" == status
    assert 0 == tested.returncode, tested.stderr
    assert seen.held, str(findings_table(seen))


def test_applied_twice_without_a_difference(
    manager: AClusterManager, target: Target, tmp_path: Path, values_of: Callable[..., dict[str, Any]]
) -> None:
    """
    What Argo CD and Flux compare, the rendering and the live objects, agrees: applying it again changes no object.
    """
    values = values_of("half", hosts=[f"twice.{target.namespace}.test"])
    command = ["helm", "template", "twice", str(CHART), f"--namespace={target.namespace}", "--skip-tests"]
    done = subprocess.run(
        [*command, "-f", "-"], input=json.dumps(values), capture_output=True, text=True, check=True
    )
    (tmp_path / "all.yaml").write_text(done.stdout)

    def applied() -> dict[str, str]:
        listed = manager.kubectl(["apply", "--server-side", "-f", str(tmp_path / "all.yaml"), "-o", "json"])
        return versions(listed["items"])

    try:
        first = applied()
        again = ["apply", "--server-side", "-f", str(tmp_path / "all.yaml")]
        difference = manager.kubectl(["diff", *again[1:]], as_dict=False)
        assert first == applied()
        assert "" == str(difference).strip()
    finally:
        manager.kubectl(["delete", "-f", str(tmp_path / "all.yaml"), "--wait=false"], as_dict=False)
