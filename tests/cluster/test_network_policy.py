"""
The chart's NetworkPolicy, enforced on the local node by SIG Network's own controller.

Its ordinary CNI plugins ignore NetworkPolicies. Each claim is therefore also seen not to hold without the controller.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release
from tfcanary.cluster import binaries, node, processes
from tfcanary.cluster.layout import API_PORT, NODE_ADDRESS, Layout
from tfcanary.helm.releases import Releases
from tfcanary.paths import VALUES
from tfcanary.report.table import findings_table
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

RELEASE = "resnet"
STRANGER = "stranger"
# The model's two, the metrics that its sidecar merges, the sidecar's health and its own metrics.
PORTS = (8500, 8501, 15020, 15021, 15090)
METRICS = {8501, 15020, 15090}
QUEUE = 100
# Without a program at the queue packets pass: a test that dies leaves a cluster that works.
RULE = [
    "FORWARD",
    "-m",
    "conntrack",
    "--ctstate",
    "NEW",
    "-j",
    "NFQUEUE",
    "--queue-num",
    str(QUEUE),
    "--queue-bypass",
]
SERVE = ["python3", "-m", "http.server", "8000", "--directory", "/proc/self/fdinfo"]
CONNECT = """
import socket, sys
address, *ports = sys.argv[1:]
for port in ports:
    try:
        socket.create_connection((address, int(port)), timeout=2).close()
        print(port)
    except TimeoutError:
        pass
"""
FETCH = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(f"http://{sys.argv[1]}:8000/", timeout=5).status)
except (urllib.error.HTTPError, TimeoutError):
    print("no answer")
"""

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture(scope="module")
def ours(layout: Layout | None) -> Layout:
    if layout is None:
        pytest.skip("the cluster is not a local one, and enforces NetworkPolicies or does not")
    return layout


@pytest.fixture(scope="module")
def enforced(ours: Layout, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """
    A block in which the node enforces NetworkPolicies.
    """
    program = binaries.program("network-policies", "network-policies")
    folder = tmp_path_factory.mktemp("network-policies")
    # The node reaches the API server under its own address, not under the one that is forwarded to the host.
    inner = json.loads(_kubectl(kubeconfig, "config", "view", "--raw", "--output=json"))
    inner["clusters"][0]["cluster"]["server"] = f"https://{NODE_ADDRESS}:{API_PORT}"
    config = folder / "kubeconfig"
    config.touch(mode=0o600)
    config.write_text(json.dumps(inner))
    first = node.running(ours)
    assert first is not None
    try:
        _in_network_of(first, "iptables", "--wait", "--table=mangle", "-A", *RULE)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this kernel hands no packets to programs: {error.stderr}")
    _in_network_of(first, "iptables", "--wait", "--table=mangle", "-D", *RULE)
    command = [str(program), f"--kubeconfig={config}", f"--node={ours.name}", f"--queue={QUEUE}"]

    @contextmanager
    def enforce() -> Iterator[None]:
        log = folder / "network-policies.log"
        process = processes.spawn(command, log=log, inside=first.pid)

        def listening() -> None:
            assert process.alive, log.read_text()
            queues = _in_network_of(first, "cat", "/proc/self/net/netfilter/nfnetlink_queue")
            if str(QUEUE) not in (line.split()[0] for line in queues.splitlines()):
                raise NotYet("no queue")

        try:
            wait_until("the controller at its queue", listening, timeout_seconds=30)
            _in_network_of(first, "iptables", "--wait", "--table=mangle", "-A", *RULE)
            try:
                yield
                assert process.alive, log.read_text()
            finally:
                _in_network_of(first, "iptables", "--wait", "--table=mangle", "-D", *RULE)
        finally:
            process.end()

    return enforce


@dataclass(frozen=True, slots=True)
class Stranger:
    """
    A pod outside the mesh, in a namespace of its own.
    """

    namespace: str
    address: str
    kubeconfig: Path
    release_namespace: str

    def reaches(self) -> set[int]:
        """
        The ports of a stable pod that take a connection.
        """
        pods = json.loads(
            _kubectl(
                self.kubeconfig,
                "get",
                "pods",
                f"--namespace={self.release_namespace}",
                # A release that was uninstalled a moment ago still has pods here, and no NetworkPolicy any more.
                f"-l=track=stable,app.kubernetes.io/instance={RELEASE}",
                "-o=json",
            )
        )
        address = pods["items"][0]["status"]["podIP"]
        said = _kubectl(
            self.kubeconfig,
            "exec",
            STRANGER,
            f"--namespace={self.namespace}",
            "--",
            "python3",
            "-c",
            CONNECT,
            address,
            *map(str, PORTS),
        )
        return {int(port) for port in said.split()}

    def is_reached(self) -> str:
        """
        What a stable pod gets when it asks the stranger: a status, or no answer.
        """
        return _kubectl(
            self.kubeconfig,
            "exec",
            f"deployment/{RELEASE}-stable",
            f"--namespace={self.release_namespace}",
            "--container=model-server",
            "--",
            "python3",
            "-c",
            FETCH,
            self.address,
        ).strip()


@pytest.fixture(scope="module")
def stranger(ours: Layout, kubeconfig: Path, namespace: str) -> Iterator[Stranger]:
    del ours
    own = f"{namespace}-stranger"
    image = _kubectl(
        kubeconfig,
        "get",
        f"deployment/{RELEASE}-stable",
        f"--namespace={namespace}",
        "-o=jsonpath={.spec.template.spec.containers[0].image}",
    )
    container = {"name": STRANGER, "image": image, "imagePullPolicy": "IfNotPresent", "command": SERVE}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": STRANGER, "namespace": own},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    _kubectl(kubeconfig, "create", "namespace", own)
    try:
        _kubectl(kubeconfig, "apply", "-f", "-", given=json.dumps(pod))
        _kubectl(
            kubeconfig,
            "wait",
            f"pod/{STRANGER}",
            f"--namespace={own}",
            "--for=condition=Ready",
            "--timeout=60s",
        )
        address = _kubectl(
            kubeconfig, "get", f"pod/{STRANGER}", f"--namespace={own}", "-o=jsonpath={.status.podIP}"
        )
        yield Stranger(own, address, kubeconfig, namespace)
    finally:
        _kubectl(kubeconfig, "delete", "namespace", own, "--wait=false")


def _in_network_of(process: processes.Process, *arguments: str) -> str:
    command = ["nsenter", f"--net=/proc/{process.pid}/ns/net", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _kubectl(kubeconfig: Path, *arguments: str, given: str | None = None) -> str:
    command = ["kubectl", f"--kubeconfig={kubeconfig}", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout


def test_a_stranger_does_not_connect(stranger: Stranger, enforced: Callable[[], Any]) -> None:
    """
    No port of a model's pod takes a connection from a namespace that the values do not name.
    """
    assert set(PORTS) == stranger.reaches(), "nothing is enforced yet"

    with enforced():
        assert set() == stranger.reaches()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param("callers", {8500, 8501}, id="caller"),
        pytest.param("metricsReaders", METRICS, id="metrics-reader"),
    ],
)
def test_who_is_named_connects_to_what_is_meant(
    stranger: Stranger,
    enforced: Callable[[], Any],
    releases: Releases,
    values: str,
    expected: set[int],
) -> None:
    """
    A caller's namespace reaches the model, a metrics reader's reaches the metrics, and neither reaches more.
    """
    named = {"namespace": stranger.namespace, "serviceAccount": "default"}
    security: Mapping[str, Sequence[Mapping[str, str]]] = {
        "callers": [],
        "metricsReaders": [],
        values: [named],
    }
    releases.apply(RELEASE, values={"security": security})
    try:
        with enforced():
            assert expected == stranger.reaches()
    finally:
        releases.apply(RELEASE, values={"security": {"callers": [], "metricsReaders": []}})


def test_a_model_connects_nowhere_else(stranger: Stranger, enforced: Callable[[], Any]) -> None:
    """
    A model that would send its pictures elsewhere gets no answer.
    """
    assert "200" == stranger.is_reached(), "nothing is enforced yet"

    with enforced():
        assert "no answer" == stranger.is_reached()


def test_what_must_work_works(
    enforced: Callable[[], Any], releases: Releases, target: Target, namespace: str, kubeconfig: Path
) -> None:
    """
    Pods come up (certificates, routes and DNS), traffic moves, and every check of the gateway and `helm test` hold.
    """
    file = VALUES / "canary-10.yaml"
    with enforced():
        for verb in ("restart", "status"):
            _kubectl(
                kubeconfig,
                "rollout",
                verb,
                f"deployment/{RELEASE}-stable",
                f"deployment/{RELEASE}-canary",
                f"--namespace={namespace}",
            )
        releases.apply(RELEASE, files=[file])
        report = check_gateway(from_release(RELEASE, target, files=[file]))
        tested = subprocess.run(
            ["helm", "test", RELEASE, f"--namespace={namespace}", f"--kubeconfig={kubeconfig}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert report.held, str(findings_table(report))
    assert "Succeeded" in tested
