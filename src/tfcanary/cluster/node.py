"""
The node: namespaces held open by one process, and the cgroups under which its pods run.
"""

import datetime as dt
import re
import shlex
from pathlib import Path

from tfcanary.cluster.layout import NODE_ADDRESS, SERVICE_CIDR, Layout
from tfcanary.cluster.processes import Process, spawn
from tfcanary.errors import UnreachableError
from tfcanary.wait import NotYet, wait_until

# What the node's first process does before it becomes `pause`. The mounts stay in its own mount
# namespace and are gone with it: a /run and /var/log of its own keep containerd's shims, pods' network
# namespaces and kubelet's links off the host. Mounts must be shared again for kubelet's
# HostToContainer propagation, and slaves of the host's: the node must hold none of the host's mounts.
_SETUP = """set -e
mount --make-rslave /
mount --make-rshared /
mount --bind /proc/self/ns/net {host_network}
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p {var_log}
mount --bind {var_log} /var/log
hostname {name}
exec unshare --net sh -ec {inside_network}
"""
_NETWORK = """ip link set lo up
ip link add node type bridge
ip address add {address}/24 dev node
ip link set node up
# kube-proxy redirects service addresses on their way out, which there must be.
ip route add {services} dev node
echo 1 > /proc/sys/net/ipv4/ip_forward
exec {pause}
"""

RECORD = "node.json"
MOUNTS = Path("/proc/self/mountinfo")


def running(layout: Layout) -> Process | None:
    """
    The node's first process, if it lives.
    """
    return Process.read(layout.run / RECORD)


def start(layout: Layout, pause: Path) -> Process:
    """
    Make the namespaces and the cgroups, and wait until the node has its address.
    """
    make_cgroups(layout.cgroup)
    layout.host_network.touch()
    script = _SETUP.format(
        name=shlex.quote(layout.name),
        host_network=shlex.quote(str(layout.host_network)),
        var_log=shlex.quote(str(layout.state / "var-log")),
        inside_network=shlex.quote(
            _NETWORK.format(address=NODE_ADDRESS, services=SERVICE_CIDR, pause=shlex.quote(str(pause)))
        ),
    )
    process = spawn(["/bin/sh", "-c", script], log=layout.logs / "node.log", inside=None)
    process.write(layout.run / RECORD)

    def ready() -> None:
        if not process.alive:
            raise UnreachableError(
                f"node: expected it to keep running, got an exit; see {layout.logs}/node.log"
            )
        if Path(f"/proc/{process.pid}/comm").read_text().strip() != pause.name:
            raise NotYet("still setting up")

    wait_until("node", ready, timeout_seconds=10, interval_seconds=0.02)
    return process


def started_at(layout: Layout) -> dt.datetime:
    """
    When the node was started, to the second, by the clock as it was then: it may have been set since.
    """
    return dt.datetime.fromtimestamp(int((layout.run / RECORD).stat().st_mtime), dt.UTC)


def hierarchies() -> list[Path]:
    """
    The mount points of all cgroup hierarchies, version 1 and 2.
    """
    mounts = (line.split() for line in MOUNTS.read_text().splitlines())
    return [Path(fields[4]) for fields in mounts if fields[fields.index("-") + 1] in ("cgroup", "cgroup2")]


def make_cgroups(name: str) -> None:
    """
    Make the pods' parent cgroup, which kubelet expects to find in every hierarchy.

    Raises:
        UnreachableError: the kernel refused, as it does in most containers.
    """
    for hierarchy in hierarchies():
        controllers = hierarchy / "cgroup.controllers"
        try:
            # Beside version 1 hierarchies the version 2 one only names processes; kubelet then leaves it alone.
            if controllers.exists() and hierarchy == Path("/sys/fs/cgroup"):
                wanted = " ".join(f"+{controller}" for controller in controllers.read_text().split())
                (hierarchy / "cgroup.subtree_control").write_text(wanted)
            (hierarchy / name).mkdir(exist_ok=True)
        except OSError as error:
            raise UnreachableError(
                f"cgroup {hierarchy / name}: expected to make it, got {error}; run on the machine itself"
            ) from error


def remove_cgroups(name: str) -> None:
    """
    Remove the cgroup and all below it, children first.
    """

    def removed() -> None:
        try:
            for folder in sorted(root.rglob("*"), key=lambda path: len(path.parts), reverse=True):
                if folder.is_dir():
                    folder.rmdir()
            root.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            raise NotYet(str(error)) from error

    for hierarchy in hierarchies():
        root = hierarchy / name
        wait_until(f"cgroup {root}", removed, timeout_seconds=20)


def mounts_below(folder: Path) -> list[Path]:
    """
    Mount points at or below `folder` that this process sees.
    """
    points = (line.split()[4] for line in MOUNTS.read_text().splitlines())
    # mountinfo writes blanks and backslashes in octal, and names no symbolic link.
    decoded = (Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)) for point in points)
    return [point for point in decoded if point.is_relative_to(folder.resolve())]
