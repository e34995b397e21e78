"""
Bring a cluster up, say how it is, take it down.
"""

import datetime as dt
import json
import logging
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tfcanary.cluster import (
    binaries,
    components,
    health,
    images,
    istio,
    node,
    packages,
    pki,
    ports,
    preflight,
)
from tfcanary.cluster.components import Component, Programs
from tfcanary.cluster.layout import Layout, Ports, clusters_folder
from tfcanary.cluster.processes import Process, network_of, spawn
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.locks import exclusive
from tfcanary.paths import cache_folder
from tfcanary.wait import NotYet, WaitTimeoutError, wait_until

LOG = logging.getLogger(__name__)

BOOTSTRAP = Path(__file__).with_name("config") / "bootstrap.yaml"
LOG_TAIL_LINES = 15

# One answer too late on a busy machine is no reason to restart what runs.
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Line:
    """
    One line of a cluster's status.
    """

    component: str
    state: str
    pid: int | None
    detail: str

    @property
    def good(self) -> bool:
        """Whether the component works."""
        return self.state in ("running", "ready")


def up(
    layout: Layout,
    *,
    api_port: int | None = None,
    gateway_port: int | None = None,
    install: bool = True,
    pull: bool = False,
) -> Ports:
    """
    Bring the cluster up, or repair it: what runs and works is left alone.

    Args:
        layout: which cluster.
        api_port: 127.0.0.1 port of the apiserver; none takes the next free one from 16443.
        gateway_port: 127.0.0.1 port of the gateway; none takes the next free one from 18080.
        install: whether missing distribution packages may be installed.
        pull: take published images instead of building them here.

    Raises:
        UsageError: a port is taken, or differs from the one the cluster was made with.
        UnreachableError: the machine cannot run it, or something did not start; the end of its log was shown.
    """
    with _alone(layout):
        ports.choose(layout, api_port, gateway_port)
        preflight.prepare(install=install, built=all(map(binaries.is_built, binaries.CLUSTER_TREES)))
        if not pull:
            # Before what takes long, and not after it.
            packages.python_version()
        folders = {name: binaries.ensure(name) for name in binaries.CLUSTER_TREES}
        wanted = images.ensure(pulled=pull)
        # Again, under a lock: another cluster may have come up while this one's programs were built.
        with exclusive(cache_folder() / "ports.lock"):
            chosen = ports.choose(layout, api_port, gateway_port)
            layout.write_ports(chosen)
        for folder in (layout.config, layout.logs, layout.run, layout.models):
            folder.mkdir(parents=True, exist_ok=True)
        pki.ensure(layout, chosen.api)
        _run(layout, chosen, folders, wanted, pull=pull)
    return chosen


def _run(
    layout: Layout, chosen: Ports, folders: Mapping[str, Path], wanted: Sequence[images.Image], *, pull: bool
) -> None:
    """
    Start what does not run: the node, the components in it, and Istio.
    """
    programs = Programs(
        kubernetes=folders["kubernetes"],
        tools=folders["tools"],
        envoy=binaries.envoy(),
        etcd=preflight.require_program("etcd"),
        containerd=preflight.require_program("containerd"),
    )
    first = node.running(layout) or _start_node(layout, folders["tools"] / "pause")
    with _importing(layout, wanted, first, programs, chosen, pull=pull):
        istio.install(layout, chosen, folders=folders, pulled=pull)
        _await_workloads(layout, folders["kubernetes"] / "kubectl", first)


def _alone(layout: Layout) -> AbstractContextManager[None]:
    """
    Keep two commands from changing one cluster at the same time.
    """
    return exclusive(
        _lock(layout),
        busy=f"cluster {layout.name}: expected to be alone, got another `up` or `down` of it; wait for its end",
    )


def _lock(layout: Layout) -> Path:
    return clusters_folder() / f".{layout.name}.lock"


def _start_node(layout: Layout, pause: Path) -> Process:
    """
    Start the node, and remove first what a node that died left behind.
    """
    LOG.info("starting node %s", layout.name)
    node.remove_cgroups(layout.cgroup)
    for left in (layout.run, layout.state / "containerd/state", layout.state / "cni/leases"):
        shutil.rmtree(left, ignore_errors=True)
    layout.run.mkdir()
    plugins = preflight.cni_folder()
    if plugins is None:
        raise UnreachableError("CNI plugins: expected ptp, host-local and loopback, got none")
    (layout.state / "cni/bin").mkdir(parents=True, exist_ok=True)
    # Istio's agent adds its own plugin beside these: the machine's own folder must not change.
    for name in preflight.CNI_PLUGINS:
        shutil.copy2(plugins / name, layout.state / "cni/bin" / name)
    network = layout.state / "cni/net.d/10-pods.conflist"
    if not network.exists():
        # Once Istio's agent has chained its plugin to it, it stays: pods then wait for the agent.
        network.parent.mkdir()
        network.write_text(components.pod_network(layout))
    return node.start(layout, pause)


@contextmanager
def _importing(
    layout: Layout,
    wanted: Sequence[images.Image],
    first: Process,
    programs: Programs,
    chosen: Ports,
    *,
    pull: bool,
) -> Iterator[None]:
    """
    Start the components; import what Istio needs before, and the large model server image beside it.
    """
    parts = {component.name: component for component in components.build(layout, chosen, programs)}
    started = False
    for name in ("containerd", "etcd", "kube-apiserver"):
        started |= _ensure_started(layout, parts[name], first, others_started=started)
    _await_healthy(layout, parts["containerd"], first)
    if pull:
        images.pull_into(layout)
    images.import_into(layout, [image for image in wanted if image.reference != images.MODEL_SERVER])
    large = [image for image in wanted if image.reference == images.MODEL_SERVER]
    with images.importing(layout, large):
        _await_healthy(layout, parts["kube-apiserver"], first)
        started |= _ensure_started(layout, parts["host-ports"], first, others_started=started)
        _await_healthy(layout, parts["host-ports"], first)
        _grant(layout, programs.kubernetes / "kubectl")
        for component in parts.values():
            started |= _ensure_started(layout, component, first, others_started=started)
        for component in parts.values():
            _await_healthy(layout, component, first)
        _await_node(layout, programs.kubernetes / "kubectl")
        yield


def _record(layout: Layout, component: Component) -> Path:
    return layout.run / f"{component.name}.json"


def _ensure_started(layout: Layout, component: Component, first: Process, *, others_started: bool) -> bool:
    """
    Start the component unless it runs with this very configuration and works; whether it was started.

    Args:
        layout: of which cluster.
        component: which one.
        first: the node's first process.
        others_started: something that it may need was started just now, and it gets the time to find that again:
            an apiserver connects to a new etcd by itself, after a while.
    """
    changed = [
        path for path, text in component.files.items() if not path.exists() or path.read_text() != text
    ]
    process = Process.read(_record(layout, component))
    if process is not None and not changed:
        patience = component.ready_seconds / 2 if others_started else PATIENCE_SECONDS
        try:
            wait_until(component.name, partial(_works, layout, component, first), timeout_seconds=patience)
        except UnreachableError as seen:
            LOG.info("%s runs but does not work (%s): restarting", component.name, seen)
        else:
            return False
    if process is not None:
        process.end()
    for path in changed:
        path.write_text(component.files[path])
    LOG.info("starting %s", component.name)
    process = spawn(component.arguments, log=layout.logs / f"{component.name}.log", inside=first.pid)
    process.write(_record(layout, component))
    return True


def _works(layout: Layout, component: Component, first: Process) -> None:
    """
    Raise `NotYet` while the component does not work, and `UnreachableError` once it ended.
    """
    if Process.read(_record(layout, component)) is None:
        raise UnreachableError("it ended")
    components.check(component, first)


def _await_healthy(layout: Layout, component: Component, first: Process) -> None:
    works = partial(_works, layout, component, first)
    try:
        wait_until(component.name, works, timeout_seconds=component.ready_seconds, interval_seconds=0.05)
    except UnreachableError as error:
        log = layout.logs / f"{component.name}.log"
        for line in tail(log, LOG_TAIL_LINES):
            LOG.warning("%s | %s", component.name, line)
        seen = error.observed if isinstance(error, WaitTimeoutError) else str(error)
        raise UnreachableError(
            f"{component.name}: expected to work {component.ready_seconds:g} s after its start, got: {seen}; "
            f"the end of {log} is above"
        ) from error


def _grant(layout: Layout, kubectl: Path) -> None:
    """
    Grant what RBAC must grant before the other components can work, once.
    """
    marker = layout.state / "bootstrap.json"
    content = json.dumps(BOOTSTRAP.read_text())
    if not marker.exists() or marker.read_text() != content:
        _kubectl(layout, kubectl, "apply", "--filename", str(BOOTSTRAP))
        marker.write_text(content)


def _await_node(layout: Layout, kubectl: Path) -> None:
    """
    Wait until the node takes pods.
    """

    def ready() -> None:
        said = _kubectl(
            layout,
            kubectl,
            "get",
            "nodes",
            layout.name,
            "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}",
        )
        if said != "True":
            raise NotYet(f"Ready is {said or 'not said'}")

    wait_until(f"node {layout.name}", ready, timeout_seconds=60)


def _await_workloads(layout: Layout, kubectl: Path, first: Process) -> None:
    """
    Wait until Istio's pods run in this very node, and the gateway serves.

    Right after a node's start the apiserver still has what the one before reported.
    """
    started = node.started_at(layout)

    def running() -> None:
        said = _kubectl(layout, kubectl, "get", "pods", f"--namespace={istio.NAMESPACE}", "--output=json")
        for pod in json.loads(said)["items"]:
            for container in pod["status"].get("containerStatuses", []):
                since = container["state"].get("running", {}).get("startedAt")
                if not (container["ready"] and since and dt.datetime.fromisoformat(since) >= started):
                    raise NotYet(f"{pod['metadata']['name']} is not ready in this node")

    def serves() -> None:
        with network_of(first.pid):
            health.gateway_serves()

    wait_until("istio-system", running, timeout_seconds=180, interval_seconds=0.5)
    wait_until("gateway", serves, timeout_seconds=60)


def _kubectl(layout: Layout, kubectl: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(kubectl), "--kubeconfig", str(layout.kubeconfig), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        if "NotFound" in done.stderr:
            raise NotYet(done.stderr.strip())
        raise UnreachableError(f"kubectl {arguments[0]}: expected success, got {done.stderr.strip()}")
    return done.stdout.strip()


def tail(log: Path, lines: int) -> list[str]:
    """
    The last lines of a log; none if there is no such file.
    """
    if not log.exists():
        return []
    with log.open("rb") as file:
        # No component writes lines so long that this is too little.
        file.seek(max(0, log.stat().st_size - lines * 4096))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def add_rollout_image(layout: Layout) -> str:
    """
    Build the image of the chart's rollout Job where it is not built, and import it.

    Returns:
        The name that pods ask for.

    Raises:
        UsageError: there is no such cluster.
        UnreachableError: it could not be built or imported.
    """
    _require(layout)
    with _alone(layout):
        image = images.ensure_rollout()
        images.import_into(layout, [image])
    return image.reference


def status(layout: Layout) -> list[Line]:
    """
    A line for each component, and for each of Istio's workloads.

    Raises:
        UsageError: there is no such cluster.
    """
    chosen = _require(layout)
    first = node.running(layout)
    state, pid = ("running", first.pid) if first else ("stopped", None)
    lines = [Line("node", state, pid, str(layout.state))]
    programs = Programs(*(Path("/"),) * 5)
    lines.extend(_line(layout, component, first) for component in components.build(layout, chosen, programs))
    if all(line.good for line in lines):
        lines.extend(_workloads(layout))
    return lines


def _line(layout: Layout, component: Component, first: Process | None) -> Line:
    process = Process.read(_record(layout, component))
    log = str(layout.logs / f"{component.name}.log")
    if process is None or first is None:
        return Line(component.name, "stopped", None, log)
    try:
        components.check(component, first)
    except NotYet as seen:
        return Line(component.name, "unhealthy", process.pid, str(seen))
    return Line(component.name, "running", process.pid, log)


def _workloads(layout: Layout) -> Iterator[Line]:
    kubectl = binaries.program("kubernetes", "kubectl")
    said = _kubectl(
        layout, kubectl, "get", "deployments,daemonsets", "--namespace", istio.NAMESPACE, "--output=json"
    )
    for item in json.loads(said)["items"]:
        state = item["status"]
        ready = state.get("readyReplicas", state.get("numberReady", 0))
        wanted = state.get("replicas", state.get("desiredNumberScheduled", 0))
        good = ready == wanted and wanted > 0
        yield Line(
            item["metadata"]["name"], "ready" if good else "not ready", None, f"{ready} of {wanted} pods"
        )


def export(layout: Layout) -> str:
    """
    The line that makes a shell use the cluster, with the kubectl and helm that were built for it.
    """
    programs = ":".join(str(binaries.ensure(tree)) for tree in ("tools", "kubernetes"))
    return f"export KUBECONFIG={shlex.quote(str(layout.kubeconfig))} PATH={shlex.quote(programs)}:$PATH"


def _require(layout: Layout) -> Ports:
    kept = layout.read_ports()
    if kept is None:
        raise UsageError(
            f"cluster {layout.name}: expected one that was brought up, got none; "
            f"scripts/local_cluster.py up --name {layout.name} makes it"
        )
    return kept


def down(layout: Layout) -> bool:
    """
    End every process of the cluster and remove all it left; return whether there was anything.
    """
    with _alone(layout):
        there = layout.state.exists()
        first = node.running(layout)
        if first is not None:
            LOG.info("ending node %s and all in it", layout.name)
            # The kernel ends every process of a PID namespace with its first.
            first.end_at_once()
        node.remove_cgroups(layout.cgroup)
        held = node.mounts_below(layout.state)
        if held:
            raise UnreachableError(
                f"{layout.state}: expected no mounts, got {held[0]}; umount it and run down again"
            )
        if there:
            LOG.info("removing %s", layout.state)
            shutil.rmtree(layout.state)
        _lock(layout).unlink()
    return there
