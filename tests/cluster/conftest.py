"""
One cluster, one namespace and one release for all of these tests.

A release takes most of a minute to come up, and an upgrade takes seconds. Each module that uses `installed` therefore
begins with an upgrade that resets every value, which leaves what a first installation would.

pytest-kubernetes' external provider names the cluster: `--k8s-provider=external --k8s-kubeconfig=FILE`. On a local
cluster the models and their claim are made too. Any other cluster brings its own, by `--env FILE`.
"""

import os
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from planting import Kubectl
from pytest_kubernetes.providers.base import AClusterManager
from rolling import FAULTS, Rolling, digits_in_a_namespace

from tfcanary.chart.values import merge
from tfcanary.check.propagation import IN_A_ROW
from tfcanary.check.sources import releases_in
from tfcanary.client.tensors import protos
from tfcanary.cluster import store
from tfcanary.cluster.layout import Layout, clusters_folder
from tfcanary.commands import explain
from tfcanary.export.cache import MODEL, RESNETS, exported_resnet
from tfcanary.helm.releases import Releases, Revision
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.virtualservice import route_revision
from tfcanary.paths import VALUES
from tfcanary.routing.route import Routing
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

RELEASE = "resnet"
# What a request asks for where only its route matters.
PLAIN = {
    "REST": "/v1/models/resnet/metadata",
    "gRPC": "/tensorflow.serving.PredictionService/GetModelMetadata",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--env",
        type=Path,
        help="values file with the images, the model store and the gateway of a cluster that is not a local one",
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
    The local cluster's files; None if the cluster is not a local one.
    """
    return Layout(kubeconfig.parent.name) if kubeconfig.is_relative_to(clusters_folder()) else None


@pytest.fixture(scope="session")
def environment(request: pytest.FixtureRequest, layout: Layout | None) -> Path:
    """
    The values file that says where images and models come from.
    """
    if layout is not None:
        return VALUES / "env/local.yaml"
    given: Path | None = request.config.getoption("--env")
    if given is None:
        pytest.fail("--env: expected a values file for a cluster that is not a local one, got none")
    return given


@pytest.fixture(scope="session")
def namespace(
    manager: AClusterManager, layout: Layout | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """
    A namespace whose model store holds ResNet50 as version 1, ResNet101 as 2 and ResNet50 again as 3.

    A store that is not a local cluster's has to hold the same.
    """
    name = f"cluster-tests-{uuid.uuid4().hex[:6]}"
    if layout is None:
        manager.kubectl(["create", "namespace", name], as_dict=False)
        manager.kubectl(["label", "namespace", name, "istio-injection=enabled"], as_dict=False)
    else:
        folder = store.prepare_namespace(layout, name)
        for version in RESNETS:
            store.publish(exported_resnet(version), folder, MODEL)
        third = tmp_path_factory.mktemp("models") / "3"
        third.symlink_to(exported_resnet(1))
        store.publish(third, folder, MODEL)
    yield name
    # The namespace alone would leave what the release has in the gateway's namespace.
    helm = ["helm", "uninstall", RELEASE, f"--namespace={name}", f"--kubeconfig={manager.kubeconfig}"]
    subprocess.run([*helm, "--ignore-not-found"], check=True)
    manager.kubectl(["delete", "namespace", name, "--wait=false"], as_dict=False)
    if layout is not None:
        manager.kubectl(
            ["delete", "persistentvolume", f"{store.CLAIM}-{name}", "--wait=false"], as_dict=False
        )


@pytest.fixture(scope="session")
def target(namespace: str, kubeconfig: Path) -> Target:
    return Target(namespace=namespace, kubeconfig=kubeconfig)


@pytest.fixture(scope="session")
def host(namespace: str) -> str:
    """
    The release's host name at the gateway.
    """
    return f"{namespace}.test"


@pytest.fixture(scope="session")
def releases(target: Target) -> Releases:
    return releases_in(target)


@pytest.fixture(scope="module")
def models() -> Path:
    """
    The values file with the tracks; a module with other tracks has a fixture of this name.
    """
    return VALUES / "models/resnet.yaml"


@pytest.fixture(scope="module")
def more_values() -> dict[str, Any]:
    """
    Values of the module's own, for which it has a fixture of this name.
    """
    return {}


@pytest.fixture(scope="module")
def installed(
    releases: Releases, environment: Path, models: Path, host: str, more_values: dict[str, Any]
) -> Revision:
    """
    All traffic to stable, and no value of any module before.
    """
    values = merge({"gateway": {"hosts": [host]}}, more_values)
    files = [environment, models, VALUES / "stable.yaml"]
    return releases.apply(RELEASE, files=files, values=values, reuse_values=False)


@dataclass(frozen=True, slots=True)
class Seen:
    """
    How a request ended, which track answered under which routes, and the cookie that came along.

    Attributes:
        status: HTTP's number or gRPC's name.
    """

    status: str
    track: str | None
    revision: str | None
    cookie: str | None


class Gateway:
    """
    The gateway, asked for any path with any headers.
    """

    def __init__(self, address: str, host: str) -> None:
        self.address, self.host = address, host
        limits = httpx.Limits(max_connections=8)
        self.rest = httpx.Client(
            base_url=f"http://{address}", headers={"host": host}, limits=limits, trust_env=False, timeout=30
        )
        self.channel = grpc.insecure_channel(address, options=[("grpc.default_authority", host)])
        request = protos().get_model_metadata_pb2.GetModelMetadataRequest()
        request.model_spec.name = "resnet"
        request.metadata_field.append("signature_def")
        self.message = request.SerializeToString()

    def ask(
        self, api: str, path: str | None = None, headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    ) -> Seen:
        """
        Ask for the model's metadata or for any other path, whatever the answer is.
        """
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if api == "gRPC":
            return self._call(path or PLAIN[api], pairs)
        answer = self.rest.get(path or PLAIN[api], headers=pairs)
        # Every request is a client of its own: httpx would send the cookie along.
        self.rest.cookies.clear()
        return _seen(str(answer.status_code), answer.headers)

    def _call(self, path: str, headers: Sequence[tuple[str, str]]) -> Seen:
        metadata = [(name.lower(), value) for name, value in headers]
        try:
            _, done = self.channel.unary_unary(path).with_call(self.message, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            done = error
        told = {**dict(done.trailing_metadata() or ()), **dict(done.initial_metadata() or ())}
        return _seen(done.code().name, told)

    def close(self) -> None:
        """
        Close the connections.
        """
        self.rest.close()
        self.channel.close()


def _seen(status: str, told: Mapping[str, str]) -> Seen:
    return Seen(status, told.get("x-model-track"), told.get("x-route-revision"), told.get("set-cookie"))


class Stage:
    """
    The release, whose strategy changes.
    """

    def __init__(self, releases: Releases, target: Target, gateway: Gateway, models: Path) -> None:
        self.releases = releases
        self.target = target
        self.cluster = LiveObjects(target)
        self.gateway = gateway
        self.models = models
        self._played: tuple[str, int] | None = None

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """
        What helm says of the release.
        """
        where = (f"--namespace={self.target.namespace}", f"--kubeconfig={self.target.kubeconfig}")
        command = ["helm", *arguments, *where]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def play(self, strategy: str, **values: Any) -> Routing:
        """
        Apply a strategy and wait until the gateway has it; what it declares.

        Nothing is applied if the newest revision of the release is this strategy's own.
        """
        file = VALUES / f"{strategy}.yaml"
        if values or self._played != (strategy, self.releases.current(RELEASE).number):
            applied = self.releases.apply(RELEASE, files=[file], values=values)
            self._played = None if values else (strategy, applied.number)
            revision = self.revision()
            wait_until(
                f"routes {revision} at the gateway", lambda: self._arrived(revision), timeout_seconds=60
            )
        return explain.read([self.models, file])

    def revision(self) -> str:
        """
        The revision of the live routes.
        """
        return str(route_revision(self.cluster.virtual_service(RELEASE)))

    def _arrived(self, revision: str) -> None:
        seen = Counter(self.gateway.ask(api).revision for api in PLAIN for _ in range(IN_A_ROW))
        if set(seen) != {revision}:
            raise NotYet(f"revisions {dict(seen)}")


@pytest.fixture(scope="module")
def gateway(installed: Revision, target: Target, host: str) -> Iterator[Gateway]:
    """
    The gateway of the installed release.
    """
    assert installed.status == "deployed"
    made = Gateway(gateway_address(LiveObjects(target), RELEASE), host)
    yield made
    made.close()


@pytest.fixture(scope="module")
def stage(releases: Releases, target: Target, gateway: Gateway, models: Path) -> Iterator[Stage]:
    """
    The release with all traffic to stable, as it is left too: a track that has traffic cannot go.
    """
    made = Stage(releases, target, gateway, models)
    yield made
    made.play("stable")


@pytest.fixture
def kubectl(manager: AClusterManager, namespace: str, tmp_path: Path) -> Kubectl:
    return Kubectl(manager, namespace, tmp_path)


@pytest.fixture(scope="module")
def place(
    manager: AClusterManager, layout: Layout | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """
    A namespace whose model store has two good versions of digits and two bad ones.
    """
    with digits_in_a_namespace(manager, layout, tmp_path_factory.mktemp("faulty"), faults=FAULTS) as name:
        yield name


@pytest.fixture(scope="module")
def digits_release(place: str, kubeconfig: Path, environment: Path) -> Rolling:
    return Rolling(Target(namespace=place, kubeconfig=kubeconfig), f"{place}.test", environment)


@pytest.fixture
def rolling(digits_release: Rolling) -> Rolling:
    digits_release.when.clear()
    digits_release.reset()
    return digits_release
