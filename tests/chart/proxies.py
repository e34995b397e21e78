"""
A gateway as Istio configures Envoy from what is rendered: routes, filters of the release's host, and clusters of pods.
"""

import contextlib
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

TYPES = "type.googleapis.com/envoy.extensions"
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
# What Istio says of every retry: a pod that failed is not asked again while there is another.
ANOTHER_POD = {
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": f"{TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }
    ],
    "host_selection_retry_max_attempts": 5,
}
# The names of the clusters, by the port of the Service.
CLUSTERS = {8500: "grpc", 8501: "rest"}

Config = dict[str, Any]


def free_ports(count: int) -> list[int]:
    """
    Ports at which nobody listens.
    """
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def routes(rendered: Any) -> list[Config]:
    """
    The routes that Istio makes of the entries of the gateway's VirtualService, with one cluster for all tracks.
    """
    made = []
    for entry in rendered.virtual_service["spec"]["http"]:
        timeout = entry["timeout"]
        # Istio takes a single destination's headers for those of the route.
        (part,) = entry["route"]
        said = {**entry["headers"]["response"]["set"], **part["headers"]["response"]["set"]}
        action = {
            "cluster": CLUSTERS[part["destination"]["port"]["number"]],
            "timeout": timeout,
            "max_grpc_timeout": timeout,
            **_retries(entry["retries"]),
        }
        made += [
            {
                "match": {"prefix": match["uri"]["prefix"]},
                "route": action,
                "response_headers_to_add": [
                    {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
                    for name, value in said.items()
                ],
            }
            for match in entry["match"]
        ]
    return made


def _retries(said: Mapping[str, Any]) -> Config:
    if not said["attempts"]:
        return {}
    conditions = said["retryOn"].split(",")
    statuses = [int(one) for one in conditions if re.fullmatch(r"\d{3}", one)]
    words = [one for one in conditions if not one.isdigit()]
    return {
        "retry_policy": {
            "retry_on": ",".join([*words, *["retriable-status-codes"][: len(statuses)]]),
            "retriable_status_codes": statuses,
            "num_retries": said["attempts"],
            **ANOTHER_POD,
        }
    }


def bound(rendered: Any, gateway: Config, kinds: Sequence[str] = ("guard",)) -> tuple[Config, list[Config]]:
    """
    The settings of a release's host, and the filters of a gateway that they turn on.

    Args:
        rendered: what the release renders.
        gateway: the EnvoyFilter of the gateway's own chart.
        kinds: which filters.
    """
    patches = [
        one for item in (gateway, rendered.one("EnvoyFilter")) for one in item["spec"]["configPatches"]
    ]
    ends = tuple(f".{kind}" for kind in kinds)
    filters = [
        one["patch"]["value"] for one in patches if one["patch"]["value"].get("name", "").endswith(ends)
    ]
    (host,) = (one["patch"]["value"] for one in patches if one["applyTo"] == "VIRTUAL_HOST")
    names = {one["name"] for one in filters}
    settings = {name: said for name, said in host["typed_per_filter_config"].items() if name in names}
    assert len(settings) == len(kinds)
    return {**host, "typed_per_filter_config": settings}, filters


def listener(port: int, host: Config, filters: Sequence[Config] = ()) -> Config:
    """
    A proxy at a port.
    """
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "any",
        "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], **host}]},
        "http_filters": [*filters, router],
    }
    return {
        "name": str(port),
        "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def address(port: int) -> Config:
    """
    A port of this machine.
    """
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, ports: Sequence[int], **more: Any) -> Config:
    """
    A cluster of what listens at these ports.
    """
    endpoints = [{"endpoint": {"address": address(port)}} for port in ports]
    return {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **more,
    }
