"""
Istio on the cluster, from its own charts: istiod, the CNI agent, the ingress gateway; and the gateway's filters.
"""

import hashlib
import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcanary.cluster import images
from tfcanary.cluster.layout import (
    GATEWAY_SERVICE_ADDRESS,
    HOST_ADDRESS_ANNOTATION,
    Layout,
    Ports,
    read_record,
)
from tfcanary.errors import UnreachableError
from tfcanary.paths import GATEWAY_CHART

LOG = logging.getLogger(__name__)

NAMESPACE = "istio-system"
# The tree with the CustomResourceDefinitions of the Gateway API, and their name in the record of what is installed.
_KINDS = "gateway-api"
GATEWAY = "istio-ingressgateway"

# Without istio.stats, Envoy's own statistics of each track tell how users' requests end.
_STATISTICS = {
    "inclusionRegexps": [r"cluster\.outbound\|850[01]\|.*\.(upstream_rq(_time|_[0-9]+)|grpc\.[0-9]+)"]
}


@dataclass(frozen=True, slots=True)
class Chart:
    """
    One Helm release.

    Attributes:
        folder: the chart's own, or its name among Istio's.
        workload: what must be rolled out before the next is installed; none if it has no pods.
    """

    release: str
    folder: Path | str
    values: Mapping[str, Any]
    workload: str | None = None

    def content(self) -> bytes:
        """
        What a chart of our own consists of; nothing of one of Istio's, whose version says it.
        """
        if isinstance(self.folder, str):
            return b""
        return b"".join(path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file())


def charts(layout: Layout, ports: Ports, *, pulled: bool) -> list[Chart]:
    """
    The charts with the values for this cluster, in the order of installation.
    """
    hub, tag = (
        (images.PUBLISHED_ISTIO_HUB, images.PUBLISHED_ISTIO_TAG)
        if pulled
        else (images.ISTIO_HUB, images.ISTIO_TAG)
    )
    common = {"hub": hub, "tag": tag, "imagePullPolicy": "IfNotPresent"}
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    istiod: dict[str, Any] = {
        "global": {**common, "proxy": {"resources": small}},
        "pilot": {
            "resources": small,
            "autoscaleEnabled": False,
            "cni": {"enabled": True},
        },
        "meshConfig": {"accessLogFile": "/dev/stdout"},
    }
    if not pulled:
        # An upstream Envoy lacks Istio's own filters: istio.stats, metadata_exchange, istio.alpn.
        istiod["telemetry"] = {"enabled": False}
        istiod["pilot"]["env"] = {
            "PILOT_ENABLE_METADATA_EXCHANGE": "false",
            "PILOT_ENABLE_ALPN_FILTER": "false",
        }
    cni = {
        "global": common,
        "cniBinDir": f"{layout.state}/cni/bin",
        "cniConfDir": f"{layout.state}/cni/net.d",
        "cniNetnsDir": f"{layout.state}/containerd/state/io.containerd.grpc.v1.cri/netns",
        "resources": small,
        # The node's root file system is the host's own, which has no AppArmor profile for containers.
        "useAppArmorAnnotation": False,
    }
    gateway = {
        "service": {
            "type": "ClusterIP",
            "clusterIP": GATEWAY_SERVICE_ADDRESS,
            "annotations": {HOST_ADDRESS_ANNOTATION: f"127.0.0.1:{ports.gateway}"},
        },
        "autoscaling": {"enabled": False},
        "resources": small,
        "imagePullPolicy": "IfNotPresent",
        "podAnnotations": {"proxy.istio.io/config": json.dumps({"proxyStatsMatcher": _STATISTICS})},
    }
    return [
        Chart("istio-base", "base", {}),
        Chart("istio-cni", "istio-cni", cni, "daemonset/istio-cni-node"),
        Chart("istiod", "istio-discovery", istiod, "deployment/istiod"),
        Chart(GATEWAY, "gateway", gateway, f"deployment/{GATEWAY}"),
        # What values/env/local.yaml counts on.
        Chart(GATEWAY_CHART.name, GATEWAY_CHART, {}),
    ]


def install(layout: Layout, ports: Ports, *, folders: Mapping[str, Path], pulled: bool) -> None:
    """
    Install the releases that are not there with these very values, and wait for their pods.

    Args:
        layout: of the cluster.
        ports: of the cluster.
        folders: by its name, that of each tree of programs.
        pulled: whether Istio's images are the published ones.

    Raises:
        UnreachableError: Helm or a rollout failed, with what was said.
    """
    istio, tools, kubernetes = (folders[name] for name in ("istio", "tools", "kubernetes"))
    record = layout.state / "istio.json"
    installed = read_record(record)
    if installed.get(_KINDS) != folders[_KINDS].name:
        LOG.info("applying the kinds of the Gateway API")
        _apply_kinds(layout, kubernetes, folders[_KINDS] / "crds")
        installed[_KINDS] = folders[_KINDS].name
        record.write_text(json.dumps(installed, indent=2))
    waiting: list[str] = []
    for chart in charts(layout, ports, pulled=pulled):
        values = json.dumps(chart.values, sort_keys=True)
        key = hashlib.sha256(f"{istio.name}\0{values}".encode() + chart.content()).hexdigest()
        if installed.get(chart.release) != key:
            if chart.release == GATEWAY:
                # The gateway's pods get their image from istiod's webhook, which must answer first.
                _roll_out(layout, kubernetes, waiting)
                waiting.clear()
            LOG.info("installing %s", chart.release)
            _forget_pending(layout, kubernetes, chart.release)
            file = layout.config / f"{chart.release}.json"
            file.write_text(values)
            _call(
                layout,
                [
                    str(tools / "helm"),
                    "upgrade",
                    "--install",
                    chart.release,
                    str(istio / "charts" / chart.folder),
                    "--namespace",
                    NAMESPACE,
                    "--create-namespace",
                    "--values",
                    str(file),
                ],
            )
            installed[chart.release] = key
            record.write_text(json.dumps(installed, indent=2))
        if chart.workload:
            waiting.append(chart.workload)
    _roll_out(layout, kubernetes, waiting)


def _apply_kinds(layout: Layout, kubernetes: Path, folder: Path) -> None:
    """
    Give the cluster the standard kinds of the Gateway API. Istio sees them come, and needs no restart.
    """
    files = [f"--filename={file}" for file in sorted(folder.glob("gateway.networking.k8s.io_*s.yaml"))]
    kinds = [one for one in files if "_vap_" not in one]
    _call(layout, [str(kubernetes / "kubectl"), "apply", "--server-side", "--force-conflicts", *kinds])


def _forget_pending(layout: Layout, kubernetes: Path, release: str) -> None:
    """
    Remove the pending revision that a killed helm left: because of it helm would refuse every later one.

    No other helm can be at work on it, because one command at a time changes a cluster. The objects that the revision
    made stay, and the next revision takes them over.
    """
    _call(
        layout,
        [
            str(kubernetes / "kubectl"),
            "delete",
            "secrets",
            f"--namespace={NAMESPACE}",
            "--ignore-not-found",
            f"--selector=owner=helm,name={release},status in (pending-install,pending-upgrade,pending-rollback)",
        ],
    )


def _roll_out(layout: Layout, kubernetes: Path, workloads: Sequence[str]) -> None:
    for workload in workloads:
        LOG.info("waiting for %s", workload)
        _call(
            layout,
            [
                str(kubernetes / "kubectl"),
                "rollout",
                "status",
                workload,
                f"--namespace={NAMESPACE}",
                "--timeout=180s",
            ],
        )


def _call(layout: Layout, command: Sequence[str]) -> None:
    environment = {
        "KUBECONFIG": str(layout.kubeconfig),
        "HOME": str(layout.state / "helm"),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise UnreachableError(
            f"{Path(command[0]).name} {' '.join(command[1:4])}: expected success, got {tail}"
        )
