"""
The offline kit on a cluster whose node has no route out: its script and the node reach one registry, which is in the node's own
network, and nothing else.
"""

import errno
import json
import os
import socket
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bundling import export
from half import MODEL, predict, save
from kits import Kit, unpacked, write_layer
from pytest_kubernetes.providers.base import AClusterManager
from registries import Registry, running
from releasing import Checkout, Key, made_key, made_keyrings

from tfcanary.cluster import binaries, images, node, store
from tfcanary.cluster.layout import API_PORT, NODE_ADDRESS, Layout
from tfcanary.cluster.processes import network_of
from tfcanary.export import servable
from tfcanary.paths import ROOT
from tfcanary.target import Target

RELEASE, SECRET, IMAGE = "kit", "registry-credentials", "tfcanary/modelserver"
# What the names in the kit are added to at the registry.
PATH = "site"
LITTLE = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "2Gi"}}


@dataclass(frozen=True, slots=True)
class Inside:
    """
    The network of a local cluster's node, from which there is no way out.
    """

    layout: Layout
    pid: int

    @property
    def prefix(self) -> tuple[str, ...]:
        """
        What runs a program there.
        """
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def route_to(self, address: str) -> str:
        """
        What the kernel says of a way to an address, to which nothing is sent.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with network_of(self.pid), socket.socket(family, socket.SOCK_DGRAM) as probe:
            return errno.errorcode.get(probe.connect_ex((address, 443)), "there is one")

    def kubeconfig(self, target: Path) -> Path:
        """
        The administrator's kubeconfig, for programs in the node's network.
        """
        ports = self.layout.read_ports()
        assert ports is not None
        text = self.layout.kubeconfig.read_text()
        target.write_text(
            text.replace(f"https://127.0.0.1:{ports.api}", f"https://{NODE_ADDRESS}:{API_PORT}")
        )
        return target


@pytest.fixture(scope="module")
def inside(layout: Layout | None) -> Inside:
    if layout is None:
        pytest.skip("only a local cluster's node is known to have no route out")
    first = node.running(layout)
    assert first is not None
    return Inside(layout, first.pid)


@pytest.fixture
def folder() -> Iterator[Path]:
    """
    A folder that goes with the test: the image is in it five times, and pytest would keep that of three runs.
    """
    with tempfile.TemporaryDirectory(prefix="tfcanary-kit-") as name:
        yield Path(name)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What makes a release and a kit; Helm 3 stays on PATH for who installs, behind them.
    """
    folders = ":".join(str(binaries.ensure(tree)) for tree in ("helm4", "helm-docs", "release"))
    monkeypatch.setenv("PATH", f"{folders}:{os.environ['PATH']}")


@pytest.fixture
def kit(inside: Inside, identity: Callable[..., Any], programs: None, folder: Path) -> Kit:  # noqa: ARG001
    """
    Made where the registry of the images and the models is, which is gone after that.
    """
    source, key = Checkout(ROOT), made_key(folder / "key")
    (folder / "pgp").mkdir(mode=0o700)
    said = source.run(
        "package", "--unreleased", f"--output={folder}/dist", *made_keyrings(folder / "pgp").options
    )
    assert 0 == said.code, said.error
    (folder / "outside").mkdir()
    with running(folder / "outside", identity) as outside:
        server, models = _image(outside, folder / "image"), _models(outside, key, folder)
        said = source.run(
            *("kit", f"--dist={folder}/dist", f"--output={folder}/kit.tar", f"--key={key.public}"),
            *(f"--server-image={server}", f"--test-image={server}", f"--models={models}", *outside.options),
        )
        assert 0 == said.code, said.error
    return unpacked(folder / "kit.tar", folder / "unpacked")


def _image(outside: Registry, folder: Path) -> str:
    """
    The model server's image over a layer that no other image has. The node has the image's own layers already, and would not
    ask for them if they were the same from the lowest on.
    """
    found = next(each for each in images.all_images(pulled=False) if each.reference == images.MODEL_SERVER)
    images.ensure_built([found])
    with tarfile.open(found.archive) as archive:
        archive.extractall(folder, filter="data")
    (described,) = json.loads((folder / "manifest.json").read_text())
    config = json.loads((folder / described["Config"]).read_text())["config"]
    layers = [write_layer(folder, str(uuid.uuid4())), *(folder / name for name in described["Layers"])]
    place = f"{outside.address}/{IMAGE}"
    outside.run("crane", "append", *(f"--new_layer={layer}" for layer in layers), f"--new_tag={place}:layers")
    outside.run(
        *("crane", "mutate", f"{place}:layers", "--set-platform=linux/amd64", f"--tag={place}:1"),
        *(f"--env={variable}" for variable in config["Env"]),
        *(f"--entrypoint={','.join(config['Entrypoint'])}", f"--user={config['User']}"),
    )
    return f"{place}@{outside.run('crane', 'digest', f'{place}:1').strip()}"


def _models(outside: Registry, key: Key, folder: Path) -> str:
    version = folder / MODEL / "1"
    save(version)
    servable.write_manifest(version)
    to = f"--to=oci://{outside.address}/models/{MODEL}:1"
    said = export("bundle", version, to, f"--key={key.private}", *outside.options)
    assert 0 == said.code, said.error
    return said.out.strip()


@pytest.fixture
def site(inside: Inside, identity: Callable[..., Any], programs: None, folder: Path) -> Iterator[Registry]:  # noqa: ARG001
    """
    A registry in the node's network, whose authority containerd is told.
    """
    _forget_image(inside.layout)
    (folder / "site").mkdir()
    with running(folder / "site", identity, host=NODE_ADDRESS, prefix=inside.prefix) as found:
        told = inside.layout.registries / found.address
        told.mkdir(parents=True)
        (told / "hosts.toml").write_text(f'[host."https://{found.address}"]\n  ca = "{found.ca}"\n')
        yield found
        _forget_image(inside.layout)
        (told / "hosts.toml").unlink()
        told.rmdir()


def _forget_image(layout: Layout) -> None:
    """
    Remove the image from the node, under each of its names. It asks for no layer that one of them keeps, and a run that was
    broken off leaves them.
    """
    names: dict[str, list[str]] = {}
    for line in images.ctr(layout, ["images", "list"]).splitlines()[1:]:
        name, _, digest, *_ = line.split()
        names.setdefault(digest, []).append(name)
    for found in names.values():
        if any(f"/{PATH}/{IMAGE}@" in name for name in found):
            for name in found:
                images.ctr(layout, ["images", "remove", "--sync", name])


@pytest.fixture
def place(inside: Inside, manager: AClusterManager, site: Registry) -> Iterator[str]:
    """
    A namespace with a claim whose folder is empty, and with the password of the registry.
    """
    name = f"kit-{uuid.uuid4().hex[:6]}"
    store.prepare_namespace(inside.layout, name)
    secret = ("create", "secret", "generic", SECRET, f"--namespace={name}")
    kind = ("--type=kubernetes.io/dockerconfigjson", f"--from-file=.dockerconfigjson={site.credentials}")
    manager.kubectl([*secret, *kind], as_dict=False)
    yield name
    where = (f"--namespace={name}", f"--kubeconfig={manager.kubeconfig}")
    subprocess.run(["helm", "uninstall", RELEASE, "--ignore-not-found", *where], check=True)
    for kind, item in (("namespace", name), ("persistentvolume", f"{store.CLAIM}-{name}")):
        manager.kubectl(["delete", kind, item, "--wait=false"], as_dict=False)


def test_the_node_has_no_route_out(inside: Inside) -> None:
    """
    To no address of the internet, by neither protocol; to its own there is one.
    """
    assert "there is one" == inside.route_to(NODE_ADDRESS)
    for address in ("192.0.2.1", "1.1.1.1", "2001:db8::1", "2606:4700:4700::1111"):
        assert "ENETUNREACH" == inside.route_to(address), address


def test_it_installs_where_there_is_no_route_out(
    inside: Inside, kit: Kit, site: Registry, place: str, manager: AClusterManager
) -> None:
    """
    The script runs in the node's network. Kubernetes before 1.35 reads the model from a claim.
    """
    folder = kit.folder.parent
    values = folder / "half.json"
    values.write_text(json.dumps(_values(place)))

    said = kit.install(
        *(f"--registry={site.address}/{PATH}", *site.options, f"--pull-secret={SECRET}"),
        *(f"--claim={store.CLAIM}", f"--models-to={inside.layout.models / place}"),
        *(f"--release={RELEASE}", f"--namespace={place}", f"--model-values={values}"),
        *("--", "--timeout=420s"),
        prefix=inside.prefix,
        KUBECONFIG=str(inside.kubeconfig(folder / "kubeconfig")),
        HOME=str(folder),
    )
    assert 0 == said.code, said.error
    answer = predict(Target(namespace=place, kubeconfig=inside.layout.kubeconfig), RELEASE)

    assert {"predictions": [1.0, 2.5]} == answer.json()
    assert "stable" == answer.headers["x-model-track"]
    digest = kit.contents["image", "image"][1]
    wanted = f"{site.address}/{PATH}/{IMAGE}@{digest}"
    pods = json.loads(
        str(manager.kubectl(["get", "pods", f"-n={place}", "-l=track=stable", "-o=json"], as_dict=False))
    )
    assert {wanted} == {
        container["image"]
        for pod in pods["items"]
        for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"])
        if "istio" not in container["name"]
    }
    _assert_pulled(site, f"{PATH}/{IMAGE}", digest)


def _assert_pulled(site: Registry, repository: str, digest: str) -> None:
    """
    The node asked the registry for the image by its digest, and for each of its layers.
    """
    asked = [line for line in site.log.splitlines() if '"containerd/' in line]
    layers = json.loads(site.blob(digest).read_text())["layers"]
    assert layers
    for path in (f"manifests/{digest}", *(f"blobs/{layer['digest']}" for layer in layers)):
        assert any(f'"GET /v2/{repository}/{path} HTTP/1.1" 200' in line for line in asked), path


def _values(place: str) -> dict[str, Any]:
    return {
        "model": {"name": MODEL},
        "tracks": {"stable": {"version": 1}, "canary": {"version": 1, "replicas": 0}},
        "gateway": {"hosts": [f"{place}.test"], "filters": {"shared": True}},
        "server": {"drainSeconds": 10},
        "resources": LITTLE,
    }
