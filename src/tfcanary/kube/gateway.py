"""
A release's gateway: where it is reached from here, and the pods behind it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfcanary.contract import HOST_ADDRESS_ANNOTATION
from tfcanary.errors import CanaryError, ForbiddenError, NotFoundError, UnreachableError, UsageError
from tfcanary.kube.httproute import API_VERSION, is_http_route
from tfcanary.kube.objects import LiveObjects, is_ready
from tfcanary.kube.portforward import PodPort
from tfcanary.kube.virtualservice import gateways_of

_TLS_PROTOCOLS = {"HTTPS", "TLS"}
_NEXT_STEP = "give the gateway with --gateway HOST:PORT"


def gateway_address(live: LiveObjects, name: str, *, tls: bool = False) -> str:
    """
    Where the gateway of a release is reached from here, as HOST:PORT.

    The order is: the address that a local cluster publishes (an annotation of the Service, without TLS only), a load
    balancer, a node port.

    Raises:
        UnreachableError: if no Service of the gateway's pods has an address.
        UsageError: if the gateway speaks TLS and `tls` is false, or the other way round.
    """
    services = _services(live, name, tls=tls)
    finds: list[Callable[[LiveObjects, Any, int], Iterator[str]]] = [_balanced, _node_port]
    for find in finds if tls else [_annotated, *finds]:
        for service, port in services:
            for address in find(live, service, port):
                return address
    names = ", ".join(f"{service.metadata.namespace}/{service.metadata.name}" for service, _ in services)
    ports = ", ".join(dict.fromkeys(str(port) for _, port in services))
    raise UnreachableError(
        f"gateway: Service {names} has no address for port {ports} (no load balancer, no node port); "
        f"forward a port to it and {_NEXT_STEP}"
    )


def gateway_pods(
    live: LiveObjects, name: str, *, tls: bool = False, within: str | None = None
) -> tuple[PodPort, ...]:
    """
    The ready pods of a release's gateway, by name, each with the port on which it takes the release's requests.

    Args:
        live: the release's namespace.
        name: the release.
        tls: whether the gateway speaks TLS.
        within: the gateway's namespace, for users who may not list the Services of all.

    Raises:
        UnreachableError: if there is none, or they cannot be listed.
        UsageError: as `gateway_address`.
    """
    found = {
        pod.metadata.name: PodPort(pod.metadata.name, pod.metadata.namespace, _target_port(entry, pod))
        for entry, pod in _pods(live, name, tls=tls, within=within)
    }
    if not found:
        raise UnreachableError(f"gateway: expected ready pods behind Gateway {name!r}, got none")
    return tuple(found[key] for key in sorted(found))


def gateway_accounts(live: LiveObjects, name: str, *, tls: bool = False) -> tuple[tuple[str, str], ...]:
    """
    The identities of a gateway's pods: namespace and service account of each.

    Raises:
        UnreachableError: if they cannot be listed.
        UsageError: as `gateway_address`.
    """
    found = {
        (pod.metadata.namespace, pod.spec.service_account_name or "default")
        for _, pod in _pods(live, name, tls=tls)
    }
    return tuple(sorted(found))


def _pods(live: LiveObjects, name: str, *, tls: bool, within: str | None = None) -> Iterator[tuple[Any, Any]]:
    """
    The ready pods of a gateway that stay, each with the Service's port that leads to it.
    """
    for service, port in _services(live, name, tls=tls, within=within):
        entry = next((entry for entry in service.spec.ports if entry.port == port), None)
        if entry is None:
            continue
        namespace = service.metadata.namespace
        what = f"pods of Service {namespace}/{service.metadata.name}"
        for pod in live.pods_labelled(what, namespace, service.spec.selector):
            if is_ready(pod) and pod.metadata.deletion_timestamp is None:
                yield entry, pod


def _gateways(live: LiveObjects, name: str) -> list[Mapping[str, Any]]:
    """
    The Gateways of a release: its own, or those that its VirtualService names.

    Raises:
        NotFoundError: if there is none.
    """
    try:
        return [live.istio("Gateway", name)]
    except NotFoundError:
        routed = live.virtual_service(name)
        if is_http_route(routed):
            if (gateway := _of_gateway_api(live, routed)) is None:
                raise
            return [gateway]
        places = gateways_of(routed, live.namespace)
        if all(place == (live.namespace, name) for place in places):
            raise
    return [live.istio("Gateway", gateway, namespace) for namespace, gateway in places]


def _services(live: LiveObjects, name: str, *, tls: bool, within: str | None = None) -> list[tuple[Any, int]]:
    """
    The Services in front of a release's gateways, each with the gateway's port with or without TLS.
    """
    found: list[tuple[Any, int]] = []
    wrong: CanaryError | None = None
    for gateway in _gateways(live, name):
        try:
            found += _services_of(live, gateway, name, tls=tls, within=within)
        except (UnreachableError, UsageError) as exc:
            # One of several may be for others, such as an internal one without TLS.
            wrong = wrong or exc
    if wrong is not None and not found:
        raise wrong
    return found


def _services_of(
    live: LiveObjects, gateway: Mapping[str, Any], name: str, *, tls: bool, within: str | None
) -> list[tuple[Any, int]]:
    spec, name = gateway["spec"], (gateway.get("metadata") or {}).get("name", name)
    front = _by_address(spec) if "listeners" in spec else _by_labels(spec)
    port = _port(name, front.servers, tls=tls)
    try:
        found = live.services()
    except ForbiddenError:
        if within is None:
            raise
        found = live.services(within)
    services = [one for one in found if front.takes(one)]
    if not services:
        raise UnreachableError(
            f"gateway: no Service {front.words}, as Gateway {name!r} asks; "
            f"install Istio's gateway, set {front.key}, or {_NEXT_STEP}"
        )
    return [(service, port) for service in services]


def _of_gateway_api(live: LiveObjects, route: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    The Gateway of the Gateway API that an HTTPRoute belongs to, in whatever namespace; None if there is none.
    """
    for parent in (route.get("spec") or {}).get("parentRefs") or ():
        where = {"name": parent["name"], "namespace": parent.get("namespace") or live.namespace}
        return live.read({"apiVersion": API_VERSION, "kind": "Gateway", "metadata": where})
    return None


@dataclass(frozen=True, slots=True)
class _Front:
    """
    What a Gateway says of the pods that serve it.

    Attributes:
        servers: as Istio's Gateway has them.
        takes: whether a Service is in front of the pods.
        words: what such a Service does, or is.
        key: the chart's key for it.
    """

    servers: Sequence[Mapping[str, Any]]
    takes: Callable[[Any], bool]
    words: str
    key: str


def _by_labels(spec: Mapping[str, Any]) -> _Front:
    """
    Istio's own Gateway names the labels of the pods.
    """
    selector: Mapping[str, str] = spec.get("selector") or {}
    words = ",".join(f"{label}={value}" for label, value in selector.items())
    return _Front(
        spec["servers"],
        lambda service: selector.items() <= (service.spec.selector or {}).items(),
        f"selects pods labelled {words!r}",
        "gateway.selector",
    )


def _by_address(spec: Mapping[str, Any]) -> _Front:
    """
    The Gateway API's names the host of the pods' Service. With TLS, the chart's other listeners only redirect.
    """
    hosts = {str(one["value"]) for one in spec.get("addresses") or ()}
    listeners = spec.get("listeners") or ()
    secure = any(one["protocol"] in _TLS_PROTOCOLS for one in listeners)
    servers = [
        {
            "port": {"number": one["port"], "protocol": one["protocol"]},
            "tls": {"httpsRedirect": secure and one["protocol"] not in _TLS_PROTOCOLS},
        }
        for one in listeners
    ]
    return _Front(
        servers,
        lambda one: any(host.startswith(f"{one.metadata.name}.{one.metadata.namespace}.") for host in hosts),
        f"has the host name {' or '.join(sorted(hosts)) or 'none'}",
        "gateway.service",
    )


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


def _annotated(_live: LiveObjects, service: Any, _port: int) -> Iterator[str]:
    # The annotation's value has a port of its own.
    address = (service.metadata.annotations or {}).get(HOST_ADDRESS_ANNOTATION)
    if address:
        yield address


def _balanced(_live: LiveObjects, service: Any, port: int) -> Iterator[str]:
    if not any(entry.port == port for entry in service.spec.ports):
        return
    balancer = service.status.load_balancer
    for ingress in (balancer.ingress if balancer else None) or ():
        host = ingress.ip or ingress.hostname
        if host:
            yield _join(host, port)


def _node_port(live: LiveObjects, service: Any, port: int) -> Iterator[str]:
    node_port = next((entry.node_port for entry in service.spec.ports if entry.port == port), None)
    if not node_port:
        return
    for kind in ("ExternalIP", "InternalIP"):
        for node in live.nodes():
            for address in node.status.addresses or ():
                if address.type == kind:
                    yield _join(address.address, node_port)


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


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
