"""
What runs in the node, in the order in which it starts: command lines, configuration, health.
"""

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tfcanary.cluster import health
from tfcanary.cluster.layout import (
    API_PORT,
    GATEWAY_SERVICE_ADDRESS,
    NODE_ADDRESS,
    POD_CIDR,
    POD_SUBNET,
    SERVICE_CIDR,
    Layout,
    Ports,
)
from tfcanary.cluster.processes import Process, network_of
from tfcanary.wait import NotYet

PAUSE_IMAGE = "localhost/tfcanary/pause:local"


@dataclass(frozen=True, slots=True)
class Component:
    """
    One long-running program of the node.

    Attributes:
        files: configuration it reads, by path.
        healthy: returns if it works, raises `NotYet` with what was seen if not.
        ready_seconds: how long it may take to become healthy after its start.
        on_host: whether `healthy` looks from the host, and not from the node's network namespace.
    """

    name: str
    arguments: tuple[str, ...]
    healthy: Callable[[], None]
    files: Mapping[Path, str] = field(default_factory=dict)
    ready_seconds: float = 60
    on_host: bool = False


@dataclass(frozen=True, slots=True)
class Programs:
    """
    Where the programs are: built by us, or the machine's.
    """

    kubernetes: Path
    tools: Path
    envoy: Path
    etcd: Path
    containerd: Path


def check(component: Component, first: Process) -> None:
    """
    Raise `NotYet` unless the component answers as it does when it works.
    """
    with nullcontext() if component.on_host else network_of(first.pid):
        component.healthy()


def build(layout: Layout, ports: Ports, programs: Programs) -> list[Component]:
    """
    All components of a cluster, in starting order.
    """
    return [
        _etcd(layout, programs),
        _apiserver(layout, programs),
        _controller_manager(layout, programs),
        _scheduler(layout, programs),
        _containerd(layout, programs),
        _kubelet(layout, programs),
        _kube_proxy(layout, programs),
        _coredns(layout, programs),
        _host_ports(layout, ports, programs),
    ]


def _served(
    layout: Layout, name: str, flags: tuple[str, str] = ("--tls-cert-file", "--tls-private-key-file")
) -> tuple[str, str]:
    return f"{flags[0]}={layout.pki}/{name}.crt", f"{flags[1]}={layout.pki}/{name}.key"


def _etcd(layout: Layout, programs: Programs) -> Component:
    pki = layout.pki
    client, peer = "https://127.0.0.1:2379", "https://127.0.0.1:2380"
    return Component(
        "etcd",
        (
            f"{programs.etcd}",
            f"--data-dir={layout.state}/etcd",
            "--name=node",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=node={peer}",
            *_served(layout, "etcd", ("--cert-file", "--key-file")),
            f"--trusted-ca-file={pki}/ca.crt",
            "--client-cert-auth",
            *_served(layout, "etcd", ("--peer-cert-file", "--peer-key-file")),
            f"--peer-trusted-ca-file={pki}/ca.crt",
            "--peer-client-cert-auth",
            # A test cluster's state need not survive a power cut.
            "--unsafe-no-fsync",
        ),
        health.https(layout, 2379, "/health"),
    )


def _apiserver(layout: Layout, programs: Programs) -> Component:
    pki = layout.pki
    return Component(
        "kube-apiserver",
        (
            f"{programs.kubernetes}/kube-apiserver",
            "--etcd-servers=https://127.0.0.1:2379",
            f"--etcd-cafile={pki}/ca.crt",
            *_served(layout, "etcd", ("--etcd-certfile", "--etcd-keyfile")),
            f"--bind-address={NODE_ADDRESS}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--secure-port={API_PORT}",
            *_served(layout, "kube-apiserver"),
            f"--client-ca-file={pki}/ca.crt",
            "--anonymous-auth=false",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki}/service-account.key",
            f"--service-account-signing-key-file={pki}/service-account.key",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            *_served(
                layout,
                "kube-apiserver-kubelet-client",
                ("--kubelet-client-certificate", "--kubelet-client-key"),
            ),
            # Only this name may speak for others: the aggregation layer shares the client CA.
            f"--requestheader-client-ca-file={pki}/ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            *_served(layout, "front-proxy-client", ("--proxy-client-cert-file", "--proxy-client-key-file")),
            # Otherwise `kubectl logs` looks the node's name up in a DNS that does not know it.
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
        ),
        health.https(layout, API_PORT, "/readyz", NODE_ADDRESS),
    )


def _controller_manager(layout: Layout, programs: Programs) -> Component:
    pki, kubeconfig = layout.pki, layout.pki / "kube-controller-manager.kubeconfig"
    return Component(
        "kube-controller-manager",
        (
            f"{programs.kubernetes}/kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            *_served(layout, "kube-controller-manager"),
            "--allocate-node-cidrs",
            f"--cluster-cidr={POD_CIDR}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            f"--root-ca-file={pki}/ca.crt",
            f"--service-account-private-key-file={pki}/service-account.key",
            f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key",
            "--use-service-account-credentials",
            "--leader-elect=false",
        ),
        health.https(layout, 10257, "/healthz"),
    )


def _scheduler(layout: Layout, programs: Programs) -> Component:
    kubeconfig = layout.pki / "kube-scheduler.kubeconfig"
    return Component(
        "kube-scheduler",
        (
            f"{programs.kubernetes}/kube-scheduler",
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            *_served(layout, "kube-scheduler"),
            "--leader-elect=false",
        ),
        health.https(layout, 10259, "/healthz"),
    )


def pod_network(layout: Layout) -> str:
    """
    The CNI configuration; Istio's agent then chains its own plugin to it.
    """
    # Each pod on a link of its own: no bridge, so nothing depends on br_netfilter being loaded.
    addresses = {
        "type": "host-local",
        "dataDir": f"{layout.state}/cni/leases",
        "ranges": [[{"subnet": POD_SUBNET}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugin = {"type": "ptp", "ipMasq": False, "ipam": addresses}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin]}, indent=2)


def _containerd(layout: Layout, programs: Programs) -> Component:
    folder, config = layout.state / "containerd", layout.config / "containerd.toml"

    def healthy() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(str(layout.containerd_socket))
            except OSError as error:
                raise NotYet(f"{layout.containerd_socket}: {error}") from error

    content = f"""version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{layout.containerd_socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  # Without this runc dies where CAP_SYS_RESOURCE is missing: "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{layout.state}/cni/bin"
    conf_dir = "{layout.state}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".registry]
    # It is read at every pull: a registry is added without a restart.
    config_path = "{layout.registries}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
    return Component(
        "containerd",
        (f"{programs.containerd}", "--config", f"{config}"),
        healthy,
        {config: content},
    )


def _kubelet(layout: Layout, programs: Programs) -> Component:
    config, folder = layout.config / "kubelet.yaml", layout.state / "kubelet"
    settings: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{layout.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{layout.pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{layout.pki}/kubelet.key",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "resolvConf": "",
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        "podLogsDir": f"{layout.state}/pod-logs",
        "volumePluginDir": f"{folder}/volume-plugins",
        # A pod that became ready is seen within the second, not within ten.
        "syncFrequency": "5s",
        "serializeImagePulls": False,
    }
    return Component(
        "kubelet",
        (
            f"{programs.kubernetes}/kubelet",
            f"--config={config}",
            f"--kubeconfig={layout.pki}/kubelet.kubeconfig",
            f"--root-dir={folder}",
            f"--hostname-override={layout.name}",
            f"--node-ip={NODE_ADDRESS}",
            f"--cert-dir={layout.pki}",
        ),
        health.http(10248, "/healthz"),
        {config: yaml.safe_dump(settings)},
    )


def _kube_proxy(layout: Layout, programs: Programs) -> Component:
    config = layout.config / "kube-proxy.yaml"
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{layout.pki}/kube-proxy.kubeconfig"},
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": layout.name,
        # A network namespace may not set the host's connection tracking limits.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        # The default waits up to a second before a new endpoint is served.
        "nftables": {"minSyncPeriod": "100ms"},
    }
    return Component(
        "kube-proxy",
        (f"{programs.kubernetes}/kube-proxy", f"--config={config}"),
        health.http(10256, "/healthz"),
        {config: yaml.safe_dump(settings)},
    )


def _coredns(layout: Layout, programs: Programs) -> Component:
    config = layout.config / "Corefile"
    content = f""".:53 {{
    errors
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {layout.pki}/coredns.kubeconfig
    }}
}}
"""
    return Component(
        "coredns",
        (f"{programs.tools}/coredns", "-conf", f"{config}"),
        health.resolves_the_apiserver,
        {config: content},
    )


def _host_ports(layout: Layout, ports: Ports, programs: Programs) -> Component:
    """
    The Envoy whose listeners are in the host's network namespace and whose upstreams are in the node's.
    """
    config = layout.config / "host-ports.json"
    forwarded = {
        "api": (ports.api, NODE_ADDRESS, API_PORT),
        "gateway": (ports.gateway, GATEWAY_SERVICE_ADDRESS, 80),
    }
    resources = {
        "listeners": [_listener(layout, name, port) for name, (port, _, _) in forwarded.items()],
        "clusters": [_upstream(name, address, port) for name, (_, address, port) in forwarded.items()],
    }

    def healthy() -> None:
        health.https(layout, ports.api, "/readyz")()
        try:
            socket.create_connection(("127.0.0.1", ports.gateway), timeout=3).close()
        except OSError as error:
            raise NotYet(f"127.0.0.1:{ports.gateway}: {error}") from error

    arguments = ("-c", f"{config}", "--use-dynamic-base-id", "--concurrency", "2", "--log-level", "warning")
    return Component(
        "host-ports",
        (f"{programs.envoy}", *arguments),
        healthy,
        {config: json.dumps({"static_resources": resources}, indent=2)},
        on_host=True,
    )


def _listener(layout: Layout, name: str, port: int) -> dict[str, Any]:
    """
    Envoy's listener on a port of 127.0.0.1, in the host's network namespace.
    """
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name,
        "cluster": name,
        # An idle port-forward or watch is not for this proxy to end.
        "idle_timeout": "0s",
    }
    address = {
        "address": "127.0.0.1",
        "port_value": port,
        "network_namespace_filepath": str(layout.host_network),
    }
    return {
        "name": name,
        "address": {"socket_address": address},
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
    }


def _upstream(name: str, address: str, port: int) -> dict[str, Any]:
    """
    Envoy's cluster of one address, in the node's network namespace.
    """
    endpoint = {"address": {"socket_address": {"address": address, "port_value": port}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
