"""
What the Envoy of a proxy is configured with, read from its admin port: what it does, whatever objects ask it to.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tfcanary.errors import UnreachableError
from tfcanary.kube.objects import REQUEST_SECONDS, LiveObjects
from tfcanary.kube.portforward import PodPort, forwarded
from tfcanary.text import short

ADMIN_PORT = 15000
# Of one part of a configuration: a gateway of a thousand hosts has a few megabytes.
MOST_BYTES = 64 * 1024 * 1024

_PARTS = ("dynamic_listeners", "dynamic_route_configs", "dynamic_active_clusters", "dynamic_endpoint_configs")


@dataclass(frozen=True, slots=True)
class EnvoyConfig:
    """
    The parts of a configuration, each as Envoy's protos have it in JSON.
    """

    listeners: tuple[Mapping[str, Any], ...]
    routes: tuple[Mapping[str, Any], ...] = ()
    clusters: tuple[Mapping[str, Any], ...] = ()
    endpoints: tuple[Mapping[str, Any], ...] = ()


def gateway_config(live: LiveObjects, pod: PodPort, service: str) -> EnvoyConfig:
    """
    The configuration of a gateway pod; of the clusters, those of one Service and of its tracks' own.

    Args:
        live: the cluster.
        pod: the gateway pod.
        service: NAME.NAMESPACE of the Service.

    Raises:
        UnreachableError: if the pod cannot be asked.
    """
    name, _, namespace = service.partition(".")
    names = rf"outbound\|.*\|{re.escape(name)}(-[^.]+)?\.{re.escape(namespace)}\..*"
    listeners, routes, clusters, endpoints = _read(live, pod, _PARTS, {_PARTS[2]: names, _PARTS[3]: names})
    return parsed(listeners, routes, clusters, endpoints)


def sidecar_config(live: LiveObjects, pod: str) -> EnvoyConfig:
    """
    The inbound listener of a pod's sidecar.

    Raises:
        UnreachableError: if the pod cannot be asked.
    """
    part = _PARTS[0]
    return parsed(*_read(live, PodPort(pod, live.namespace, ADMIN_PORT), (part,), {part: "virtualInbound"}))


def parsed(*parts: Mapping[str, Any]) -> EnvoyConfig:
    """
    The configuration from the answers of the admin port: listeners, and routes, clusters and endpoints if asked for.
    """
    inner = (("active_state", "listener"), ("route_config",), ("cluster",), ("endpoint_config",))
    found = []
    for part, steps in zip(parts, inner, strict=False):
        entries = part.get("configs") or ()
        for step in steps:
            # A listener that is only warming has no active state yet.
            entries = [entry[step] for entry in entries if step in entry]
        found.append(tuple(entries))
    return EnvoyConfig(*found)


def _read(
    live: LiveObjects, pod: PodPort, parts: Sequence[str], names: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    with (
        forwarded(live, PodPort(pod.name, pod.namespace, ADMIN_PORT)) as address,
        httpx.Client(base_url=f"http://{address}", timeout=REQUEST_SECONDS, trust_env=False) as client,
    ):
        try:
            return [_part(client, part, names.get(part)) for part in parts]
        except (httpx.HTTPError, ValueError) as exc:
            raise UnreachableError(
                f"pod {pod.name}: Envoy's configuration at port {ADMIN_PORT} cannot be read: {short(str(exc))}; "
                "the right to create pods/portforward in its namespace opens a way"
            ) from exc


def _part(client: httpx.Client, part: str, names: str | None) -> Mapping[str, Any]:
    asked = {"resource": part, "include_eds": "", **({"name_regex": names} if names else {})}
    content = bytearray()
    with client.stream("GET", "/config_dump", params=asked) as answer:
        answer.raise_for_status()
        for piece in answer.iter_bytes():
            content += piece
            if len(content) > MOST_BYTES:
                raise httpx.ReadError(f"more than {MOST_BYTES} bytes of {part}")
    found = httpx.Response(200, content=bytes(content)).json()
    if not isinstance(found, dict):
        raise ValueError(f"{part} is no object")  # noqa: TRY004 - as with what is no JSON at all
    return found
