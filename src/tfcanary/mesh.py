"""
Read what is live in the cluster: the VirtualService, the pods, the gateway's address. Nothing is written.
"""

import contextlib
import os
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import kubernetes.client
import kubernetes.config
import kubernetes.stream
import urllib3.exceptions
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from tfcanary.errors import NoEvidenceError, UnreachableError, UsageError
from tfcanary.predict import REVISION_HEADER
from tfcanary.routing import HeaderMatch, Kind
from tfcanary.wait import NotYet, WaitTimeoutError, wait_until

HOST_ADDRESS_ANNOTATION = "tfserving-canary/host-address"
REQUEST_SECONDS = 10
# TensorFlow Serving's REST API, and the path that the chart gives its metrics.
SERVER_PORT, METRICS_PATH = 8501, "/monitoring/prometheus/metrics"
_RUNS = ":tensorflow:serving:runtime_latency_count{"

_TLS_PROTOCOLS = {"HTTPS", "TLS"}
_GROUP = "networking.istio.io"
_VERSION = "v1"
_NEXT_STEP = "give the gateway with --gateway HOST:PORT"


@dataclass(frozen=True, slots=True)
class Pod:
    """
    One pod of a release.
    """

    name: str
    track: str
    ready: bool


@dataclass(frozen=True, slots=True)
class PodPort:
    """
    A port of one pod: a gateway's, on which it takes a release's requests, or a model server's.
    """

    name: str
    namespace: str
    port: int


class Mesh:
    """
    The live objects of one namespace. TLS is verified as the kubeconfig says.
    """

    def __init__(
        self, *, namespace: str = "default", kubeconfig: Path | None = None, context: str | None = None
    ) -> None:
        """
        Read the kubeconfig; nothing is connected yet.

        Raises:
            UnreachableError: if there is no kubeconfig, or it has no such context.
        """
        self._namespace = namespace
        configuration = kubernetes.client.Configuration()
        try:
            kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig) if kubeconfig else None,
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
        except ConfigException as exc:
            raise UnreachableError(
                f"kubeconfig {str(kubeconfig or os.environ.get('KUBECONFIG') or '~/.kube/config')!r}: {exc}; "
                "name a cluster with --kubeconfig FILE and --context NAME, or do without one: "
                "--gateway HOST:PORT --values FILE"
            ) from exc
        configuration.retries = False
        self._server = configuration.host
        client = kubernetes.client.ApiClient(configuration)
        # A few reads, far apart: a connection that is kept would only be left open.
        client.set_default_header("Connection", "close")  # type: ignore[no-untyped-call]
        self._configuration = configuration
        self._core = kubernetes.client.CoreV1Api(client)
        self._custom = kubernetes.client.CustomObjectsApi(client)

    def virtual_service(self, name: str) -> dict[str, Any]:
        """
        The live VirtualService of a release.
        """
        return self._istio("virtualservices", "VirtualService", name)

    def gateway(self, name: str) -> dict[str, Any]:
        """
        The live Gateway of a release.
        """
        return self._istio("gateways", "Gateway", name)

    def routing_object(self, kind: str, name: str) -> dict[str, Any] | None:
        """
        A live VirtualService or DestinationRule; None if there is none.
        """
        try:
            return self._istio(f"{kind.lower()}s", kind, name)
        except UsageError:
            return None

    def pods(self, release: str) -> tuple[Pod, ...]:
        """
        The pods of a release, with the track that each serves.
        """
        found = self._call(
            "pods",
            self._core.list_namespaced_pod,
            self._namespace,
            label_selector=f"app.kubernetes.io/instance={release}",
        )
        return tuple(
            Pod(
                name=pod.metadata.name,
                track=pod.metadata.labels.get("track", ""),
                ready=_is_ready(pod),
            )
            for pod in found.items
        )

    def gateway_address(self, name: str, *, tls: bool = False) -> str:
        """
        Where the gateway of a release is reached from here, as HOST:PORT.

        In this order: the address that a local cluster publishes (an annotation of the Service, for what is not TLS),
        a load balancer, a node port.

        Raises:
            UnreachableError: if no Service of the gateway's pods has an address.
            UsageError: if the gateway speaks TLS and is to be asked without, or the other way round.
        """
        services, port = self._gateway_services(name, tls=tls)
        finds: list[Callable[[Any, int], Iterator[str]]] = [_balanced, self._node_port]
        for find in finds if tls else [_annotated, *finds]:
            for service in services:
                for address in find(service, port):
                    return address
        names = ", ".join(f"{service.metadata.namespace}/{service.metadata.name}" for service in services)
        raise UnreachableError(
            f"gateway: Service {names} has no address for port {port} (no load balancer, no node port); "
            f"forward a port to it and {_NEXT_STEP}"
        )

    def gateway_pods(self, name: str, *, tls: bool = False) -> tuple[PodPort, ...]:
        """
        The pods of a release's gateway that are ready; each has to be given the routes for itself.

        Raises:
            UnreachableError: if there is none, or they cannot be listed.
            UsageError: as `gateway_address`.
        """
        services, port = self._gateway_services(name, tls=tls)
        found = {}
        for service in services:
            entry = next((entry for entry in service.spec.ports if entry.port == port), None)
            if entry is None:
                continue
            selector = ",".join(f"{label}={value}" for label, value in service.spec.selector.items())
            namespace = service.metadata.namespace
            pods = self._call(
                f"pods of Service {namespace}/{service.metadata.name}",
                self._core.list_namespaced_pod,
                namespace,
                label_selector=selector,
            )
            for pod in pods.items:
                if _is_ready(pod) and pod.metadata.deletion_timestamp is None:
                    found[pod.metadata.name] = PodPort(pod.metadata.name, namespace, _target_port(entry, pod))
        if not found:
            raise UnreachableError(f"gateway: expected ready pods behind Gateway {name!r}, got none")
        return tuple(found[key] for key in sorted(found))

    def predictions(self, release: str, track: str) -> int:
        """
        How many predictions the pods of a track have run, as their servers count them.

        Raises:
            UnreachableError: if a pod cannot be asked.
        """
        total = 0
        for pod in self.pods(release):
            if pod.track == track and pod.ready:
                server = PodPort(pod.name, self._namespace, SERVER_PORT)
                with self.forwarded(server) as address:
                    total += _counted(pod.name, address)
        return total

    @contextlib.contextmanager
    def forwarded(self, pod: PodPort) -> Iterator[str]:
        """
        Forward a port of this machine to the pod, through the API server; it needs the right to `pods/portforward`.

        Yields:
            HOST:PORT. What cannot be forwarded is a connection that closes at once.
        """

        class Handler(socketserver.BaseRequestHandler):
            def handle(handler) -> None:  # noqa: N805 - self is the mesh
                with contextlib.suppress(ApiException, OSError, urllib3.exceptions.HTTPError):
                    self._bridge(handler.request, pod)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _bridge(self, near: Any, pod: PodPort) -> None:
        # The library turns this client's requests into websockets while it connects: each connection needs its own.
        core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(self._configuration))
        forward = kubernetes.stream.portforward(
            core.connect_get_namespaced_pod_portforward, pod.name, pod.namespace, ports=str(pod.port)
        )
        far = forward.socket(pod.port)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _joined(near, far)
        forward.close()

        def disconnected() -> None:
            if forward.websocket.connected:
                raise NotYet("connected")

        with contextlib.suppress(WaitTimeoutError):
            wait_until("end of a port-forward", disconnected, timeout_seconds=5, interval_seconds=0.02)
        # The library leaves the websocket's own socket open where the other side said goodbye first.
        forward.websocket.shutdown()

    def _gateway_services(self, name: str, *, tls: bool) -> tuple[list[Any], int]:
        """
        The Services in front of a release's gateway, and the gateway's port, for TLS or for what is not.
        """
        spec = self.gateway(name)["spec"]
        selector: Mapping[str, str] = spec.get("selector") or {}
        port = _port(name, spec["servers"], tls=tls)
        services = [
            service
            for service in self._call("Services", self._core.list_service_for_all_namespaces).items
            if selector.items() <= (service.spec.selector or {}).items()
        ]
        if not services:
            words = ",".join(f"{label}={value}" for label, value in selector.items())
            raise UnreachableError(
                f"gateway: no Service selects pods labelled {words!r}, as Gateway {name!r} asks; "
                f"install Istio's gateway, set gateway.selector, or {_NEXT_STEP}"
            )
        return services, port

    def _node_port(self, service: Any, port: int) -> Iterator[str]:
        node_port = next((entry.node_port for entry in service.spec.ports if entry.port == port), None)
        if not node_port:
            return
        for kind in ("ExternalIP", "InternalIP"):
            for node in self._call("nodes", self._core.list_node).items:
                for address in node.status.addresses or ():
                    if address.type == kind:
                        yield _join(address.address, node_port)

    def _istio(self, plural: str, kind: str, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._call(
                f"{kind} {name!r}",
                self._custom.get_namespaced_custom_object,
                _GROUP,
                _VERSION,
                self._namespace,
                plural,
                name,
            )
        except LookupError as exc:
            raise UsageError(
                f"{kind} {name!r}: not found in namespace {self._namespace!r}; "
                "is it this release, this namespace, and does the cluster have Istio?"
            ) from exc
        return found

    def _call(self, what: str, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, _request_timeout=REQUEST_SECONDS, **options)
        except ApiException as exc:
            if exc.status == 404:
                raise LookupError(what) from exc
            raise UnreachableError(
                f"{what}: the cluster at {self._server} answered {exc.status} {exc.reason}"
            ) from exc
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise UnreachableError(
                f"{what}: the cluster at {self._server} cannot be reached: {exc}; "
                "is it up, and is it the one of --kubeconfig and --context?"
            ) from exc


def _counted(pod: str, address: str) -> int:
    """
    The predictions of all models on a server's page of metrics; one that ran none has no line of them.
    """
    try:
        page = httpx.get(f"http://{address}{METRICS_PATH}", timeout=REQUEST_SECONDS, trust_env=False)
        page.raise_for_status()
    except httpx.HTTPError as exc:
        raise UnreachableError(
            f"pod {pod}: its metrics at port {SERVER_PORT} cannot be read: {exc}; "
            "the right to create pods/portforward in its namespace opens a way"
        ) from exc
    return sum(
        int(float(line.rpartition(" ")[2])) for line in page.text.splitlines() if line.startswith(_RUNS)
    )


def route_revision(virtual_service: Mapping[str, Any]) -> str:
    """
    The revision that every answer under this VirtualService carries.

    Raises:
        NoEvidenceError: if its routes set none, or not all the same.
    """
    name = virtual_service["metadata"]["name"]
    http = virtual_service["spec"].get("http") or []
    found = {
        entry.get("headers", {}).get("response", {}).get("set", {}).get(REVISION_HEADER) for entry in http
    }
    if len(found) == 1 and None not in found:
        return str(found.pop())
    seen = ", ".join(sorted(str(value) for value in found)) or "no routes"
    raise NoEvidenceError(
        f"VirtualService {name!r}: expected one {REVISION_HEADER} on all its routes, got {seen}; "
        "set routing.attribution to true"
    )


def destination_weights(
    virtual_service: Mapping[str, Any], path: str, headers: Mapping[str, str]
) -> dict[str, int]:
    """
    The weights by subset of the first HTTP route that takes a request, as Istio reads a VirtualService.

    Raises:
        NoEvidenceError: if it has a condition that cannot be judged here.
    """
    for entry in virtual_service["spec"].get("http") or []:
        matches = entry.get("match") or [{}]
        if any(_fits(match, path, headers) for match in matches):
            destinations = entry.get("route") or []
            alone = 100 if len(destinations) == 1 else 0
            weights: dict[str, int] = {}
            for destination in destinations:
                subset = destination["destination"].get("subset", "")
                weights[subset] = weights.get(subset, 0) + destination.get("weight", alone)
            return weights
    return {}


def _fits(match: Mapping[str, Any], path: str, headers: Mapping[str, str]) -> bool:
    unknown = set(match) - {"uri", "headers", "name"}
    if unknown:
        raise NoEvidenceError(
            f"VirtualService: a match by {', '.join(sorted(unknown))} cannot be judged here"
        )
    conditions = {**match.get("headers", {}), **({":path": match["uri"]} if "uri" in match else {})}
    request = {**headers, ":path": path}
    for name, condition in conditions.items():
        # A header without a condition has to be there, whatever it says.
        kind, value = next(iter(condition.items()), (Kind.REGEX.value, "(?s).*"))
        try:
            fits = HeaderMatch(name, Kind(kind), value).fits(request)
        except (ValueError, re.error) as exc:
            raise NoEvidenceError(
                f"VirtualService: {name} {kind} {value!r} cannot be judged here: {exc}"
            ) from exc
        if not fits:
            return False
    return True


def _is_ready(pod: Any) -> bool:
    return any(
        condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or ()
    )


def _target_port(entry: Any, pod: Any) -> int:
    """
    The pod's port behind a Service's, which may be named.
    """
    target = entry.target_port if entry.target_port is not None else entry.port
    if isinstance(target, int):
        return target
    if str(target).isdigit():
        return int(target)
    for container in pod.spec.containers:
        for port in container.ports or ():
            if port.name == target:
                return int(port.container_port)
    return int(entry.port)


def _joined(near: Any, far: Any) -> None:
    """
    Pass bytes on in both directions until either side ends, and end the other.
    """
    back = threading.Thread(target=_pump, args=(far, near), daemon=True)
    back.start()
    _pump(near, far)
    back.join()


def _pump(source: Any, sink: Any) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    # A socket that is only closed stays open for as long as another thread waits in recv on it.
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def _port(name: str, servers: Sequence[Mapping[str, Any]], *, tls: bool) -> int:
    """
    The port of the first of a Gateway's servers that speaks TLS, or that does not.
    """
    for server in servers:
        port: int = server["port"]["number"]
        if (server["port"].get("protocol") in _TLS_PROTOCOLS) is not tls:
            continue
        if (server.get("tls") or {}).get("httpsRedirect"):
            raise UsageError(
                f"Gateway {name!r}: expected answers on port {port}, got redirections to TLS; "
                "add --tls, and --ca FILE for authorities of your own"
            )
        return port
    got = ", ".join(f"{server['port'].get('protocol')} on {server['port']['number']}" for server in servers)
    raise UsageError(
        f"Gateway {name!r}: expected a server {'with' if tls else 'without'} TLS, got {got}; "
        f"{'leave --tls out' if tls else 'add --tls'}"
    )


def _annotated(service: Any, port: int) -> Iterator[str]:
    del port  # the annotation has its own
    address = (service.metadata.annotations or {}).get(HOST_ADDRESS_ANNOTATION)
    if address:
        yield address


def _balanced(service: Any, port: int) -> Iterator[str]:
    if not any(entry.port == port for entry in service.spec.ports):
        return
    balancer = service.status.load_balancer
    for ingress in (balancer.ingress if balancer else None) or ():
        host = ingress.ip or ingress.hostname
        if host:
            yield _join(host, port)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
