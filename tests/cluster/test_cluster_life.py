"""
A local cluster beside another: brought up twice, killed and repaired, and taken down without a trace.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tfcanary.cluster import binaries, lifecycle
from tfcanary.cluster.layout import Layout
from tfcanary.cluster.processes import Process, network_of
from tfcanary.paths import ROOT
from tfcanary.wait import NotYet, wait_until

NAME = "life"
COMMAND = ROOT / "scripts/local_cluster.py"

pytestmark = pytest.mark.usefixtures("first_cluster")


@pytest.fixture(scope="module")
def first_cluster(layout: Layout | None) -> Layout:
    """
    The cluster of the other tests, beside which these make a second.
    """
    if layout is None:
        pytest.skip("the cluster under test is not a local one")
    return layout


def cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(COMMAND), *arguments], capture_output=True, text=True, check=False, timeout=590
    )


@dataclass(frozen=True)
class Machine:
    """
    What a cluster could leave behind on the host.
    """

    processes: frozenset[str]
    mounts: frozenset[str]
    namespaces: frozenset[str]
    cgroups: frozenset[str]
    links: frozenset[str]


def machine() -> Machine:
    """
    What names the test's cluster now, or belongs to it.
    """
    processes = set()
    namespaces = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            namespace = str((folder / "ns" / "pid").readlink())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if f"tfserving-canary/{NAME}/" in command:
            processes.add(command)
        namespaces.add(namespace)
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    cgroups = {str(path) for path in Path("/sys/fs/cgroup").glob(f"**/tfcanary-{NAME}*")}
    links = {path.name for path in Path("/sys/class/net").iterdir()}
    return Machine(
        frozenset(processes), frozenset(mounts), frozenset(namespaces), frozenset(cgroups), frozenset(links)
    )


@pytest.fixture(scope="module")
def before() -> Machine:
    return machine()


@pytest.fixture(scope="module")
def life(before: Machine) -> Iterator[Layout]:
    assert not before.processes
    assert not before.cgroups
    said = cluster("up", "--name", NAME)
    assert 0 == said.returncode, said.stderr
    yield Layout(NAME)
    cluster("down", "--name", NAME)


def pids(name: str = NAME) -> dict[str, int]:
    return {line.component: line.pid for line in lifecycle.status(Layout(name)) if line.pid}


def test_status_has_a_line_for_each_component(life: Layout) -> None:
    said = cluster("status", "--name", life.name)

    assert 0 == said.returncode, said.stdout
    components = {line.split()[0]: line.split()[1] for line in said.stdout.splitlines()}
    assert {
        "node": "running",
        "etcd": "running",
        "kube-apiserver": "running",
        "kube-controller-manager": "running",
        "kube-scheduler": "running",
        "containerd": "running",
        "kubelet": "running",
        "kube-proxy": "running",
        "coredns": "running",
        "host-ports": "running",
        "istiod": "ready",
        "istio-cni-node": "ready",
        "istio-ingressgateway": "ready",
    } == components
    printed = json.loads(cluster("status", "--name", life.name, "--json").stdout)
    assert pids() == {line["component"]: line["pid"] for line in printed if line["pid"]}


def test_up_twice_changes_nothing(life: Layout) -> None:
    """
    Every process is still the same, and nothing is started or installed.
    """
    first = pids()

    said = cluster("up", "--name", life.name)

    assert 0 == said.returncode, said.stderr
    assert first == pids()
    assert "starting" not in said.stderr
    assert "installing" not in said.stderr


def test_two_clusters_side_by_side(life: Layout, first_cluster: Layout) -> None:
    """
    Each has processes and ports of its own, and both work.
    """
    assert not set(pids(life.name).values()) & set(pids(first_cluster.name).values())
    assert life.read_ports() != first_cluster.read_ports()
    assert 0 == cluster("status", "--name", first_cluster.name).returncode


@pytest.mark.parametrize(
    "component", ["kube-apiserver", "kubelet", "containerd", "host-ports", "etcd", "kube-proxy"]
)
def test_up_repairs_what_was_killed(life: Layout, component: str) -> None:
    """
    After kill -9 the status shows it, and `up` starts that component and leaves the others alone.
    """
    first = pids()
    victim = Process.of(first[component])
    assert victim is not None
    victim.end_at_once()
    assert 1 == cluster("status", "--name", life.name).returncode

    said = cluster("up", "--name", life.name)

    assert 0 == said.returncode, said.stderr
    after = pids()
    assert first[component] != after[component]
    assert {k: v for k, v in first.items() if k != component} == {
        k: v for k, v in after.items() if k != component
    }


def test_up_repairs_the_gateway(life: Layout) -> None:
    """
    After kill -9 of the gateway's own Envoy, `up` returns when it serves again.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            in_cluster = f"tfcanary-{NAME}" in (folder / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command.startswith(b"/usr/local/bin/envoy") and in_cluster:
            os.kill(int(folder.name), signal.SIGKILL)
            break
    else:
        pytest.fail("the gateway's Envoy was not found")

    said = cluster("up", "--name", life.name)

    assert 0 == said.returncode, said.stderr
    assert 0 == cluster("status", "--name", life.name).returncode


def test_up_takes_over_from_a_killed_helm(life: Layout) -> None:
    """
    Killed in the middle of Istio's installation, helm leaves a revision that is pending, and refuses the next.
    """
    helm = [
        str(binaries.program("tools", "helm")),
        f"--kubeconfig={life.kubeconfig}",
        "--namespace=istio-system",
    ]
    chart = binaries.ensure("istio") / "charts/gateway"
    upgrade = [
        *helm,
        "upgrade",
        "istio-ingressgateway",
        str(chart),
        "--reuse-values",
        "--wait",
        "--set=podAnnotations.again=yes",
    ]
    process = subprocess.Popen(upgrade, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def status() -> str:
        said = subprocess.run(
            [*helm, "status", "istio-ingressgateway", "--output=json"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found: str = json.loads(said)["info"]["status"]
        return found

    def pending() -> None:
        if status() != "pending-upgrade":
            raise NotYet(status())

    wait_until("an upgrade", pending, timeout_seconds=30, interval_seconds=0.02)
    process.kill()
    process.wait()
    assert "pending-upgrade" == status()
    (life.state / "istio.json").unlink()

    done = cluster("up", "--name", NAME)

    assert 0 == done.returncode, done.stderr
    assert "deployed" == status()


def test_up_repairs_the_node(life: Layout) -> None:
    """
    After kill -9 of the node's first process, which ends all of it, `up` brings everything back.
    """
    node = Process.of(pids()["node"])
    assert node is not None
    node.end_at_once()

    said = cluster("up", "--name", life.name)

    assert 0 == said.returncode, said.stderr
    assert 0 == cluster("status", "--name", life.name).returncode


def test_secrets_are_private(life: Layout) -> None:
    """
    Every key and kubeconfig is readable by its owner alone.
    """
    secrets = [life.kubeconfig, *life.pki.glob("*.key"), *life.pki.glob("*.kubeconfig")]

    assert len(secrets) > 10
    assert {0o600} == {path.stat().st_mode & 0o777 for path in secrets}


def test_the_host_sees_two_ports_on_loopback_only(life: Layout) -> None:
    """
    On the host only Envoy listens, on 127.0.0.1, on the apiserver's and the gateway's port.
    """
    ports = life.read_ports()
    assert ports is not None
    table = Path("/proc/self/net/tcp").read_text() + Path("/proc/self/net/tcp6").read_text()
    listening = [line.split()[1] for line in table.splitlines() if re.search(r"\s0A\s", line)]

    mine = {
        address.split(":")[0]
        for address in listening
        if int(address.split(":")[1], 16) in (ports.api, ports.gateway)
    }

    assert {"0100007F"} == mine


def test_a_start_that_fails_shows_the_log(life: Layout) -> None:
    """
    A component that cannot start is named, with the end of its log, and exit code 3.
    """
    before = pids()
    coredns = Process.of(before["coredns"])
    assert coredns is not None
    coredns.end_at_once()
    with network_of(before["node"]):
        squatter = socket.create_server(("0.0.0.0", 53))  # noqa: S104 - in the node's network
    with squatter:
        said = cluster("up", "--name", life.name)

    assert 3 == said.returncode
    assert "coredns | " in said.stderr
    assert "address already in use" in said.stderr
    assert said.stderr.splitlines()[-1].startswith("error: coredns: expected to work")
    assert 0 == cluster("up", "--name", life.name).returncode


def test_occupied_port() -> None:
    """
    A taken port is refused before anything is made.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = cluster("up", "--name", "busy", "--gateway-port", str(port))

    assert 2 == said.returncode
    assert [
        f"error: --gateway-port: expected a free port on 127.0.0.1, got {port}, which is taken; give another"
    ] == (said.stderr.splitlines())
    assert not Layout("busy").state.exists()


def test_not_root() -> None:
    """
    Without root one line names everything that is missing, and what to do instead.
    """
    said = subprocess.run(
        ["unshare", "--user", sys.executable, str(COMMAND), "up", "--name", "nobody"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 3 == said.returncode
    assert 1 == len(said.stderr.splitlines())
    assert "root" in said.stderr
    assert "--context" in said.stderr
    assert not Layout("nobody").state.exists()


def test_down_leaves_nothing(life: Layout, before: Machine) -> None:
    """
    No process, mount, PID namespace, cgroup or link is left, and no state.
    """
    during = machine()
    node = Path(f"/proc/{pids()['node']}/ns")
    own = str((node / "pid").readlink())
    assert during.processes
    assert during.cgroups
    assert own in during.namespaces

    # The number of a namespace that is gone goes to the next one, which may be a pod's of another cluster: an open file
    # keeps this one's. The others would keep their mounts and links.
    with (node / "pid").open("rb"):
        said = cluster("down", "--name", life.name)
        after = machine()

    assert 0 == said.returncode, said.stderr
    assert not after.processes
    assert not after.cgroups
    assert own not in after.namespaces
    assert after.mounts <= before.mounts
    assert after.links <= before.links
    assert not life.state.exists()
    assert 0 == cluster("down", "--name", life.name).returncode
