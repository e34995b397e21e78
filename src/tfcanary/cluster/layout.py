"""
Where everything of a local cluster is: names, folders, addresses, ports.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcanary.errors import UsageError

DEFAULT_NAME = "demo"

# All clusters use the same addresses: each has a network namespace of its own.
NODE_ADDRESS = "10.99.0.1"
POD_CIDR = "10.244.0.0/16"
POD_SUBNET = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
GATEWAY_SERVICE_ADDRESS = "10.96.0.80"
API_PORT = 6443

# The annotation by which a gateway's Service says where the host reaches it.
HOST_ADDRESS_ANNOTATION = "tfserving-canary/host-address"

NAME = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")


def clusters_folder() -> Path:
    """
    Where each cluster keeps its state, one folder a cluster.
    """
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "tfserving-canary"


@dataclass(frozen=True, slots=True)
class Ports:
    """
    The two TCP ports on 127.0.0.1 by which the host reaches a cluster.
    """

    api: int
    gateway: int


@dataclass(frozen=True, slots=True)
class Layout:
    """
    The files of one cluster.
    """

    name: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UsageError(
                f"--name: expected at most 20 lower-case letters, digits and dashes, starting with a letter, "
                f"got {self.name!r}"
            )

    @property
    def state(self) -> Path:
        """The folder that `down` removes."""
        return clusters_folder() / self.name

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.state / "pki"

    @property
    def config(self) -> Path:
        """What the components read."""
        return self.state / "config"

    @property
    def logs(self) -> Path:
        """One file a component."""
        return self.state / "logs"

    @property
    def run(self) -> Path:
        """One process record a component."""
        return self.state / "run"

    @property
    def models(self) -> Path:
        """The model store that pods mount, one folder a namespace."""
        return self.state / "models"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for the host."""
        return self.state / "kubeconfig"

    @property
    def registries(self) -> Path:
        """What containerd is told of registries: a folder of each, named by its address, with a hosts.toml."""
        return self.config / "registries"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return self.state / "containerd/containerd.sock"

    @property
    def host_network(self) -> Path:
        """A handle on the host's network namespace, mounted only inside the node."""
        return self.state / "host.netns"

    @property
    def cgroup(self) -> str:
        """The cgroup, in every hierarchy, under which all pods run."""
        return f"tfcanary-{self.name}"

    def read_ports(self) -> Ports | None:
        """
        The ports chosen when the cluster was first brought up, if it was.
        """
        kept = read_record(self.state / "ports.json")
        return Ports(**kept) if kept else None

    def write_ports(self, ports: Ports) -> None:
        """
        Keep the ports for later repairs.
        """
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.state / "ports.json").write_text(json.dumps({"api": ports.api, "gateway": ports.gateway}))


def read_record(record: Path) -> dict[str, Any]:
    """
    What a cluster's JSON record says; nothing if there is none, or a crash of the machine cut it short.
    """
    try:
        said: dict[str, Any] = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return said


def existing() -> list[Layout]:
    """
    Every cluster that has state on this machine.
    """
    folders = sorted(clusters_folder().glob("*/"))
    return [Layout(folder.name) for folder in folders if NAME.fullmatch(folder.name)]
