"""
What an Envoy does with the requests for one host, worked out from its configuration. All of it is pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfcanary.kube.envoy import EnvoyConfig

_MANAGER = "envoy.filters.network.http_connection_manager"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_PARTS_OF = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}
# What Istio puts into a proxy by itself, or for objects of its own API that say what they allow.
ISTIOS_FILTERS = frozenset(
    {
        *("istio.alpn", "istio.metadata_exchange", "istio.stats", "istio_authn", "istio.peer_metadata"),
        *(
            f"envoy.filters.http.{name}"
            for name in (
                *("cors", "fault", "grpc_stats", "grpc_web", "router", "alpn", "upstream_codec"),
                *("rbac", "jwt_authn", "ext_authz", "peer_metadata", "metadata_exchange", "stateful_session"),
            )
        ),
    }
)
# The chart's own, of any release: each is off on the listener, and on for the hosts of its release alone.
OWN_FILTERS = "tfserving-canary."
_FAULT = "envoy.filters.http.fault"
# Istio writes a VirtualService's CORS on its routes, which `gateway.cors` asks for. It sends no request elsewhere.
_CORS = "envoy.filters.http.cors"


@dataclass(frozen=True, slots=True)
class Mirrored:
    """
    Where copies go, and the percentage of requests that is copied.
    """

    subset: str
    percent: float

    def __str__(self) -> str:
        return f"{self.percent:g} % to {self.subset}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """
    What one proxy has for one host.

    Attributes:
        pod: the proxy's pod.
        filters: the HTTP filters on the way, in order.
        table: the route configuration.
        host: the virtual host that takes the requests; None if there is none.
        clusters: by name.
        endpoints: by cluster, the addresses that may get requests.
    """

    pod: str
    filters: tuple[Mapping[str, Any], ...]
    table: Mapping[str, Any]
    host: Mapping[str, Any] | None
    clusters: Mapping[str, Mapping[str, Any]]
    endpoints: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, pod: str, config: EnvoyConfig, port: int, authority: str) -> "Proxy":
        """
        Look up a host.

        Args:
            pod: the proxy's pod.
            config: its configuration.
            port: on which it takes the requests.
            authority: HOST or HOST:PORT, as requests name it.
        """
        manager = next(_managers(config, port, _without_port(authority)), {})
        name = (manager.get("rds") or {}).get("route_config_name")
        table = next(
            (one for one in config.routes if one.get("name") == name), manager.get("route_config") or {}
        )
        return cls(
            pod,
            tuple(manager.get("http_filters") or ()),
            table,
            virtual_host(table, authority),
            {one["name"]: one for one in config.clusters},
            {one["cluster_name"]: frozenset(_addresses(one)) for one in config.endpoints},
        )

    @property
    def routes(self) -> tuple[Mapping[str, Any], ...]:
        """
        The routes of the host, in order.
        """
        return tuple((self.host or {}).get("routes") or ())

    def retries(self, route: Mapping[str, Any]) -> int:
        """
        How often a failed request of a route is tried again, as the route, its host or its cluster asks.
        """
        action = route.get("route") or {}
        policies = [action.get("retry_policy") or (self.host or {}).get("retry_policy")]
        policies += [self._options(cluster).get("retry_policy") for cluster in clusters_of(action)]
        # Envoy tries once where the policy does not say how often.
        return max((int(policy.get("num_retries", 1)) for policy in policies if policy), default=0)

    def mirrors(self, route: Mapping[str, Any], service: str) -> frozenset[Mirrored]:
        """
        Where copies of a route's requests go, as the route, its host, its table or its cluster asks.

        Args:
            route: one of the host's.
            service: NAME.NAMESPACE of the Service whose subsets are called by their names alone.
        """
        action = route.get("route") or {}
        key = "request_mirror_policies"
        policies = action.get(key) or (self.host or {}).get(key) or self.table.get(key) or []
        policies = [
            *policies,
            *(one for name in clusters_of(action) for one in self._options(name).get(key) or ()),
        ]
        return frozenset(
            Mirrored(_subset(one.get("cluster", ""), service), _percent(one)) for one in policies
        )

    def _options(self, cluster: str) -> Mapping[str, Any]:
        options = (self.clusters.get(cluster) or {}).get("typed_extension_protocol_options") or {}
        found: Mapping[str, Any] = options.get(_OPTIONS) or {}
        return found

    def strange_filters(self, allowed: Sequence[str] = ()) -> Iterator[str]:
        """
        The filters on the way of the host's requests that neither Istio nor the chart puts there, and faults.
        """
        yield from strange_filters(self.filters, allowed)
        places: list[tuple[str, Mapping[str, Any]]] = [("the host", self.host or {})]
        for route in self.routes:
            places.append((f"route {route.get('name', '')}", route))
            weighted = ((route.get("route") or {}).get("weighted_clusters") or {}).get("clusters") or ()
            places += [(f"route {route.get('name', '')}", one) for one in weighted]
        for where, place in places:
            for name in place.get("typed_per_filter_config") or {}:
                if not name.startswith(OWN_FILTERS) and name not in allowed and name != _CORS:
                    yield f"{name} on {where}"

    def missing_filters(self) -> Iterator[str]:
        """
        The chart's filters that the host is bound to and that are not on the way: they do nothing.
        """
        there = {one.get("name", "") for one in self.filters}
        for name in (self.host or {}).get("typed_per_filter_config") or {}:
            if name.startswith(OWN_FILTERS) and name not in there:
                yield f"{name} is not on the way"


def strange_filters(filters: Sequence[Mapping[str, Any]], allowed: Sequence[str] = ()) -> Iterator[str]:
    """
    Of a list of HTTP filters, those that neither Istio nor the chart puts there, and faults.
    """
    for one in filters:
        name = one.get("name", "")
        settings = set(one.get("typed_config") or {}) - {"@type"}
        kind = (one.get("typed_config") or {}).get("@type", "").rpartition(".")[2]
        known = name in ISTIOS_FILTERS or name.startswith((OWN_FILTERS, "istio."))
        if name in allowed or (known and not (name == _FAULT and settings)):
            continue
        yield f"{name} ({kind})" if kind else name


def inbound_filters(config: EnvoyConfig, ports: Sequence[int]) -> tuple[Mapping[str, Any], ...]:
    """
    The HTTP filters of a sidecar in front of these ports of its pod.
    """
    found = (
        entry
        for listener in config.listeners
        for chain in listener.get("filter_chains") or ()
        if (chain.get("filter_chain_match") or {}).get("destination_port") in ports
        for manager in _manager(chain)
        for entry in manager.get("http_filters") or ()
    )
    return tuple({entry.get("name", ""): entry for entry in found}.values())


def virtual_host(table: Mapping[str, Any], authority: str) -> Mapping[str, Any] | None:
    """
    The virtual host that takes an authority, as Envoy looks for it: exact, longest suffix, longest prefix, any.
    """
    name = authority.lower()
    if table.get("ignore_port_in_host_matching"):
        name = _without_port(name)
    by_domain: dict[str, Mapping[str, Any]] = {
        domain.lower(): one for one in table.get("virtual_hosts") or () for domain in one["domains"]
    }
    if name in by_domain:
        return by_domain[name]
    suffixes = [
        domain
        for domain in by_domain
        if domain != "*" and domain.startswith("*") and name.endswith(domain[1:])
    ]
    prefixes = [
        domain
        for domain in by_domain
        if domain != "*" and domain.endswith("*") and name.startswith(domain[:-1])
    ]
    for domains in (suffixes, prefixes):
        if domains:
            return by_domain[max(domains, key=len)]
    return by_domain.get("*")


def owner(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """
    Namespace and name of the object of Istio's that a route or a cluster is made from; None if it names none.
    """
    metadata = ((entry.get("metadata") or {}).get("filter_metadata") or {}).get("istio") or {}
    parts = str(metadata.get("config", "")).split("/namespaces/", 1)
    steps = parts[1].split("/") if len(parts) == 2 else []
    return (steps[0], steps[2]) if len(steps) == 3 else None


def clusters_of(action: Mapping[str, Any]) -> tuple[str, ...]:
    """
    The clusters that a route's action sends requests to.
    """
    weighted = (action.get("weighted_clusters") or {}).get("clusters") or ()
    names = [action.get("cluster"), *(one.get("name") for one in weighted)]
    return tuple(name for name in names if name)


def takes(route: Mapping[str, Any], prefix: str) -> bool:
    """
    Whether a route may take some request whose path begins with this.
    """
    match = route.get("match") or {}
    if "path" in match:
        return str(match["path"]).startswith(prefix)
    begin = match.get("prefix", match.get("path_separated_prefix"))
    # By an expression it may take anything.
    return begin is None or prefix.startswith(begin) or begin.startswith(prefix)


def takes_all(route: Mapping[str, Any], prefix: str) -> bool:
    """
    Whether a route takes every request whose path begins with this: no later route gets any of them.
    """
    match = route.get("match") or {}
    begin = match.get("prefix")
    return begin is not None and prefix.startswith(begin) and not set(match) - {"prefix", "case_sensitive"}


def names_another(route: Mapping[str, Any], model: str, header: str) -> bool:
    """
    Whether a route takes only requests that name another model: REST in the path, gRPC in a header.
    """
    match = route.get("match") or {}
    path = str((match.get("safe_regex") or {}).get("regex", ""))
    named = re.match(r"/v1/models/((?:[^/()\\[\]]|\\.)+)(\(|/)", path)
    if named:
        return re.sub(r"\\(.)", r"\1", named[1]) != model
    exact = [
        (one.get("string_match") or {}).get("exact")
        for one in match.get("headers") or ()
        if str(one.get("name", "")).lower() == header
    ]
    return any(one is not None and one != model for one in exact)


def _managers(config: EnvoyConfig, port: int, name: str) -> Iterator[Mapping[str, Any]]:
    """
    What handles the HTTP connections to a port, for a name that TLS clients ask for.
    """
    for listener in config.listeners:
        address = (listener.get("address") or {}).get("socket_address") or {}
        if address.get("port_value") != port:
            continue
        for chain in listener.get("filter_chains") or ():
            names = (chain.get("filter_chain_match") or {}).get("server_names") or ()
            if not names or any(host_fits(one, name) for one in names):
                yield from _manager(chain)


def _manager(chain: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for entry in chain.get("filters") or ():
        if entry.get("name") == _MANAGER:
            yield entry.get("typed_config") or {}


def host_fits(pattern: str, name: str) -> bool:
    """
    Whether a host is the one of a pattern, or one of those that `*` or `*.name` stands for.
    """
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def _addresses(endpoints: Mapping[str, Any]) -> Iterator[str]:
    for group in endpoints.get("endpoints") or ():
        for one in group.get("lb_endpoints") or ():
            if one.get("health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN"):
                address = (one.get("endpoint") or {}).get("address") or {}
                yield (address.get("socket_address") or {}).get("address", "")


def _subset(cluster: str, service: str) -> str:
    parts = cluster.split("|")
    return parts[2] if len(parts) == 4 and parts[2] and parts[3].startswith(f"{service}.") else cluster


def _percent(policy: Mapping[str, Any]) -> float:
    fraction = (policy.get("runtime_fraction") or {}).get("default_value")
    if fraction is None:
        return 100.0
    return 100 * float(fraction.get("numerator", 0)) / _PARTS_OF[fraction.get("denominator", "HUNDRED")]


def _without_port(authority: str) -> str:
    name, _, port = authority.rpartition(":")
    return name if name and port.isdigit() else authority
