"""
What else shapes the traffic: the configuration of every gateway pod beside what the release says. All of it is pure.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tfcanary.check.envoy import (
    Mirrored,
    Proxy,
    host_fits,
    names_another,
    owner,
    strange_filters,
    takes,
    takes_all,
    track_of,
)
from tfcanary.check.finding import Finding, outcome_of, shown
from tfcanary.kube.httproute import http_entries

# An object of Istio's: its namespace and its name.
Owner = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Released:
    """
    What a release says of its routes at the gateway.

    Attributes:
        owner: its VirtualService; with the Gateway API its namespace, and NAMESPACE~NAME of its Gateway.
        service: namespace and name of its Service, which its routes have too.
        mirrors: by the name of each of the VirtualService's routes, where copies go.
        retries: how often a failed request is tried again.
        timeout_seconds: how long the gateway waits for an answer.
        prefixes: what the paths of its requests begin with.
        pods: by track, the name of each pod that gets its requests, by address.
        model: the public name of its model.
        model_header: the header by which gRPC clients name the model, where other models have the same hosts.
        hosts: the hosts of its Gateway; `*` and `*.name` stand for many.
        allowed_filters: HTTP filters of others that are known and meant.
    """

    owner: Owner
    service: Owner
    mirrors: Mapping[str, frozenset[Mirrored]]
    retries: int
    timeout_seconds: int
    prefixes: tuple[str, ...]
    pods: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    model: str = ""
    model_header: str | None = None
    allowed_filters: tuple[str, ...] = ()

    @property
    def of_gateway_api(self) -> bool:
        """
        Whether the routes are an HTTPRoute's: no name of Istio's own has a tilde.
        """
        return "~" in self.owner[1]


class Neighbours(Protocol):
    """
    What the cluster says of objects that are not the release's own.
    """

    def virtual_service(self, one: Owner) -> str:
        """
        Name, release and age of a VirtualService, in words.
        """

    def uses_gateway(self, one: Owner) -> bool:
        """
        Whether a VirtualService gives its routes to the release's own Gateway.
        """

    def pod(self, address: str) -> str:
        """
        The pod with an address, in words.
        """


def within(host: str, wide: str) -> bool:
    """
    Whether a host is one of those that a pattern stands for, and not the pattern itself.
    """
    return host != wide and host_fits(wide, host)


def mirrors_of(virtual_service: Mapping[str, Any]) -> dict[str, frozenset[Mirrored]]:
    """
    By the name of each HTTP route of a VirtualService, where copies of its requests go.
    """
    found = {}
    for entry in http_entries(virtual_service):
        percent = float((entry.get("mirrorPercentage") or {}).get("value", 100))
        to = [(entry["mirror"], percent)] if entry.get("mirror") else []
        to += [
            (one["destination"], float((one.get("percentage") or {}).get("value", 100)))
            for one in entry.get("mirrors") or ()
        ]
        found[entry.get("name", "")] = frozenset(
            Mirrored(one.get("subset", ""), part) for one, part in to if part
        )
    return found


class Gateways:
    """
    The gateway pods of a release, each with its configuration for one host.
    """

    def __init__(self, proxies: Sequence[Proxy], host: str, released: Released) -> None:
        """
        Look at the pods.

        Args:
            proxies: one for each gateway pod.
            host: the host that requests ask for.
            released: what the release says.
        """
        self._proxies = proxies
        self._host = host
        self._released = released

    def findings(self, neighbours: "Neighbours") -> Iterator[Finding]:
        """
        All findings about the pods.
        """
        yield self.routes(neighbours)
        yield self.retries()
        yield self.timeouts()
        yield self.mirrors()
        yield self.filters()
        yield from self.endpoints(neighbours.pod)

    def routes(self, neighbours: "Neighbours") -> Finding:
        """
        The host's requests are taken by the routes of the release's VirtualService, by all of them and no other.
        """
        problems = self._each(lambda proxy: self._route_problems(proxy, neighbours))
        seen = sum(len(proxy.routes) for proxy in self._proxies)
        kind = "HTTPRoute" if self._released.of_gateway_api else "VirtualService"
        routes = f"{len(self._released.mirrors)} routes of {kind} {'/'.join(self._released.service)}"
        ours = f"only the {routes}"
        return self._finding("routes at the gateway", ours, problems, seen, _ROUTES_NEXT)

    def _route_problems(self, proxy: Proxy, neighbours: "Neighbours") -> Iterator[str]:
        if proxy.host is None:
            yield f"no route takes host {self._host}"
            return
        ours = [route for route in proxy.routes if owner(route) == self._released.owner]
        missing = self._released.mirrors.keys() - {route.get("name", "") for route in ours}
        strangers = dict.fromkeys(owner(route) for route in self._before_ours(proxy))
        for one in strangers:
            words = (
                neighbours.virtual_service(one) if one else "a route of no VirtualService (an EnvoyFilter's?)"
            )
            yield f"{words} takes requests before it"
        if missing:
            yield f"{', '.join(sorted(missing))} missing"
        others = {route.get("name", "") for route in ours} - self._released.mirrors.keys()
        if others and self._released.of_gateway_api:
            yield f"{', '.join(sorted(others))} of another HTTPRoute of its Gateway"
        yield from self._hosts_taken(proxy, neighbours)

    def _hosts_taken(self, proxy: Proxy, neighbours: "Neighbours") -> Iterator[str]:
        """
        The hosts of the release's own Gateway that another's VirtualService takes, since it names them more exactly.
        """
        for host in proxy.table.get("virtual_hosts") or ():
            owners = {owner(route) for route in host.get("routes") or ()}
            covered = [
                one for one in host["domains"] if any(within(one, wide) for wide in self._released.hosts)
            ]
            if not covered or self._released.owner in owners:
                continue
            for one in sorted(filter(None, owners)):
                if neighbours.uses_gateway(one):
                    yield f"host {covered[0]} is taken by {neighbours.virtual_service(one)}"

    def _before_ours(self, proxy: Proxy) -> Iterator[Mapping[str, Any]]:
        """
        The routes of others that may take a request before the release's own do.
        """
        left = set(self._released.prefixes)
        for route in proxy.routes:
            if owner(route) == self._released.owner:
                left = {prefix for prefix in left if not takes_all(route, prefix)}
            elif any(takes(route, prefix) for prefix in left) and not self._of_another_model(route):
                yield route

    def _of_another_model(self, route: Mapping[str, Any]) -> bool:
        """
        Whether a route takes only requests that name another model than the release's, at a host of several.
        """
        header = self._released.model_header
        return header is not None and names_another(route, self._released.model, header)

    def retries(self) -> Finding:
        """
        Failed requests are tried again as often as the release says. More often would hide failures from every check.
        """
        wanted = self._released.retries
        problems = self._each(
            lambda proxy: (
                f"{route.get('name', '')} {proxy.retries(route)}"
                for route in self._ours(proxy)
                if proxy.retries(route) != wanted
            )
        )
        hidden = "retries hide from this check what clients of another gateway would see"
        return self._finding("live retries", f"{wanted} on every route", problems, self._count(), hidden)

    def timeouts(self) -> Finding:
        """
        The gateway waits for an answer as long as the release says.
        """
        wanted = f"{self._released.timeout_seconds}s"
        # Where nothing is said, Envoy waits 15 seconds.
        problems = self._each(
            lambda proxy: (
                f"{route.get('name', '')} {said}"
                for route in self._ours(proxy)
                if (said := (route.get("route") or {}).get("timeout", "15s")) != wanted
            )
        )
        return self._finding("live timeouts", f"{wanted} on every route", problems, self._count())

    def mirrors(self) -> Finding:
        """
        Copies go where the release says, and nowhere else.
        """
        wanted, (namespace, name) = self._released.mirrors, self._released.service
        problems = self._each(
            lambda proxy: (
                f"{route.get('name', '')} {_listed(seen)}"
                for route in self._ours(proxy)
                if (seen := proxy.mirrors(route, f"{name}.{namespace}"))
                != wanted.get(route.get("name", ""), frozenset())
            )
        )
        every = frozenset(one for some in wanted.values() for one in some)
        return self._finding("live mirrors", _listed(every), problems, self._count())

    def filters(self) -> Finding:
        """
        The chart's HTTP filters are on the way, and none that neither Istio nor the chart puts there; no fault is injected.
        """
        allowed = self._released.allowed_filters
        missing = self._each(Proxy.missing_filters)
        strange = self._each(lambda proxy: proxy.strange_filters(allowed))
        seen = sum(len(proxy.filters) for proxy in self._proxies)
        advice = "; ".join(
            text for text, found in ((_FILTERS_NEXT, strange), (_MISSING_NEXT, missing)) if found
        )
        return self._finding("filters", _USUAL, [*missing, *strange], seen, advice, about="at the gateway")

    def endpoints(self, others: Callable[[str], str]) -> Iterator[Finding]:
        """
        The gateway sends each track's requests to the track's pods, to all of them and no other.
        """
        for track, pods in self._released.pods.items():
            service = ".".join(reversed(self._released.service))
            problems = self._each(
                functools.partial(_odd, track=track, pods=pods, others=others, service=service)
            )
            seen = len(self._proxies) * max(1, len(pods))
            yield self._finding(
                "endpoints", f"the {len(pods)} pods of {track}", problems, seen, _ENDPOINTS_NEXT, about=track
            )

    def _ours(self, proxy: Proxy) -> Iterator[Mapping[str, Any]]:
        return (route for route in proxy.routes if owner(route) == self._released.owner)

    def _count(self) -> int:
        return sum(len(list(self._ours(proxy))) for proxy in self._proxies)

    def _each(self, problems: Callable[[Proxy], Iterable[str]]) -> list[str]:
        """
        The problems of all pods; one that not all of them have names its pods.
        """
        by_problem: dict[str, list[str]] = {}
        for proxy in self._proxies:
            for problem in dict.fromkeys(problems(proxy)):
                by_problem.setdefault(problem, []).append(proxy.pod)
        every = len(self._proxies)
        return [
            problem if len(pods) == every else f"{problem} at {', '.join(pods)}"
            for problem, pods in by_problem.items()
        ]

    def _finding(
        self, name: str, expected: str, problems: Sequence[str], n: int, detail: str = "", *, about: str = ""
    ) -> Finding:
        same = f"the same at {len(self._proxies)} gateway pods"
        return found(name, about, expected=expected, problems=problems, same=same, n=n, detail=detail)


_ENDPOINTS_NEXT = (
    "a second DestinationRule for the Service, or a stale one? see destination rules and live objects"
)
_ROUTES_NEXT = "of VirtualServices with one host the routes of the oldest come first"
_USUAL = "Istio's and the chart's own"
_FILTERS_NEXT = "an EnvoyFilter or a plugin of others; --allow-filter NAME where it is meant"
_MISSING_NEXT = "upgrade tfserving-gateway in the gateway's namespace, or set gateway.filters.shared=false"


def sidecar_filters(
    filters: Mapping[str, Sequence[Mapping[str, Any]]], allowed: Sequence[str] = ()
) -> Finding:
    """
    No HTTP filter is in front of a model server that Istio does not put there, and no fault is injected.

    Args:
        filters: by pod, those of its sidecar.
        allowed: HTTP filters of others that are known and meant.
    """
    by_problem: dict[str, list[str]] = {}
    for pod, some in filters.items():
        for problem in strange_filters(some, allowed):
            by_problem.setdefault(problem, []).append(pod)
    problems = [f"{problem} at {', '.join(pods)}" for problem, pods in by_problem.items()]
    return found(
        "filters",
        "at the models",
        expected="Istio's own",
        problems=problems,
        same=f"the same at {len(filters)} pods",
        n=sum(map(len, filters.values())),
        detail=_FILTERS_NEXT,
    )


def destination_rules(rules: Sequence[Mapping[str, Any]], service: Owner, about: str = "") -> Finding:
    """
    The release's DestinationRule is the only one for its Service: of several, the older one's subsets win.

    Args:
        rules: those of the namespaces that the gateway looks in.
        service: namespace and name of the Service, and of the release's rule.
        about: the track whose own Service it is.
    """
    namespace, name = service
    for_it = [one for one in rules if _is_for(one, namespace, name)]
    others = [one for one in for_it if _id(one) != service]
    own = next((one for one in for_it if _id(one) == service), None)
    problems = [f"{'/'.join(_id(one))}{_age(one, own)} is for the same Service" for one in others]
    if own is None:
        problems.append(f"{namespace}/{name} is gone")
    return found(
        "destination rules",
        about,
        expected=f"only {namespace}/{name}",
        problems=problems,
        same="the same",
        n=len(for_it),
        detail="of two rules the older one's subsets win; delete the one that is not the release's",
    )


def found(
    name: str,
    about: str,
    *,
    expected: str,
    problems: Sequence[str],
    same: str,
    n: int,
    detail: str = "",
) -> Finding:
    """
    A finding that failed if there are problems.
    """
    return Finding(
        name,
        about,
        None,
        outcome_of(problems),
        expected,
        shown(problems) or same,
        n,
        detail=detail if problems else "",
    )


def _odd(
    proxy: Proxy, *, track: str, pods: Mapping[str, str], others: Callable[[str], str], service: str
) -> Iterator[str]:
    """
    Where a proxy sends a track's requests to other pods than the track's, or not to all of them.
    """
    clusters = [name for name in proxy.clusters if track_of(name, service) == track]
    if not clusters and pods:
        yield "no cluster: the live DestinationRule has no such subset"
    for name in clusters:
        port, seen = name.split("|")[1], proxy.endpoints.get(name, frozenset())
        for address in sorted(seen - pods.keys()):
            yield f"port {port} leads to {others(address)}"
        for address in sorted(pods.keys() - seen):
            yield f"port {port} does not lead to {pods[address]}"


def _is_for(rule: Mapping[str, Any], namespace: str, name: str) -> bool:
    host = str((rule.get("spec") or {}).get("host", ""))
    if "." not in host:
        return host == name and rule["metadata"].get("namespace") == namespace
    # A wildcard is less exact than the release's own rule, and loses.
    return host == f"{name}.{namespace}" or host.startswith(f"{name}.{namespace}.svc")


def _id(one: Mapping[str, Any]) -> Owner:
    return one["metadata"].get("namespace", ""), one["metadata"]["name"]


def _age(one: Mapping[str, Any], own: Mapping[str, Any] | None) -> str:
    """
    Whether an object is older than the release's own, in words.
    """
    made, ours = (str((it or {}).get("metadata", {}).get("creationTimestamp", "")) for it in (one, own))
    return f", {'older' if made < ours else 'newer'}," if made and ours else ""


def _listed(mirrors: Iterable[Mirrored]) -> str:
    return ", ".join(sorted(map(str, mirrors))) or "no mirror"
