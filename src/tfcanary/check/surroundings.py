"""
What is around a release: the objects of others, and the configuration of the gateway's and of the models' Envoys.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tfcanary.check.envoy import Proxy, inbound_filters
from tfcanary.check.finding import Finding
from tfcanary.check.live import live_retries
from tfcanary.check.mesh import (
    Gateways,
    Owner,
    Released,
    destination_rules,
    mirrors_of,
    sidecar_filters,
)
from tfcanary.check.pods import by_address, tracks_pods
from tfcanary.check.subject import Around
from tfcanary.contract import GRPC_PORT, PREFIXES, SERVER_PORT
from tfcanary.errors import CanaryError, UnreachableError
from tfcanary.judge.verdict import Outcome
from tfcanary.kube.envoy import EnvoyConfig, gateway_config, sidecar_config
from tfcanary.kube.httproute import attached, is_http_route
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.portforward import PodPort
from tfcanary.kube.virtualservice import gateways_of
from tfcanary.routing.route import Routing
from tfcanary.wait import NotYet, WaitTimeoutError, wait_until

# Clusters and their endpoints reach a gateway on a way of their own, after the pods are Ready.
SETTLE_SECONDS = 10.0
_AT_A_TIME = 8
# The ports of the model servers behind their sidecars.
_PORTS = (GRPC_PORT, SERVER_PORT)
_RULES = "a second DestinationRule for the Service"
_GATEWAYS = (
    "the gateway pods' own configuration (routes and hosts of others, retries, timeouts, mirrors, filters, endpoints); "
    "retries are read from the VirtualService alone"
)
_SIDECARS = "the filters in front of the model servers"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    What to look at.

    Attributes:
        name: that of the release's objects.
        values: those that it should have.
        gateways: the gateway pods; none, if they are not to be asked.
        authority: the host that requests ask for.
        allowed_filters: HTTP filters of others that are known and meant.
    """

    cluster: LiveObjects
    name: str
    values: Mapping[str, Any]
    expected: Routing
    gateways: tuple[PodPort, ...]
    authority: str
    allowed_filters: tuple[str, ...] = ()

    def look(self, timeout_seconds: float) -> Around:
        """
        Look until all is as it should be, or for a while.
        """
        last = Around(())

        def held() -> None:
            nonlocal last
            last = self._look()
            odd = [one.title for one in last.findings if one.outcome is Outcome.FAILED]
            if odd:
                raise NotYet(", ".join(odd))

        with contextlib.suppress(WaitTimeoutError):
            seconds = min(timeout_seconds, SETTLE_SECONDS)
            wait_until("the gateway's configuration", held, timeout_seconds=seconds, interval_seconds=1)
        return last

    def _look(self) -> Around:
        made: list[Finding] = []
        lost: list[str] = []
        for what, part, instead in (
            (_RULES, self._rules, tuple),
            (_GATEWAYS, self._gateways, self._by_object),
            (_SIDECARS, self._sidecars, tuple),
        ):
            try:
                # All of a part, or nothing of it.
                made += list(part())
            except CanaryError as exc:
                lost.append(f"{what}: {exc}")
                made += instead()
        return Around(tuple(made), tuple(lost))

    def _rules(self) -> Iterator[Finding]:
        """
        The DestinationRules, from the namespaces that the gateway looks for them in.
        """
        gateway = (self.values.get("gateway") or {}).get("namespace", "istio-system")
        root = (self.values.get("networkPolicy") or {}).get("istiodNamespace", "istio-system")
        namespaces = dict.fromkeys((self.cluster.namespace, gateway, root))
        rules = [
            rule for space in namespaces for rule in self.cluster.istio_objects("DestinationRule", space)
        ]
        own = (self.cluster.namespace, self.name)
        yield destination_rules(rules, own)
        if is_http_route(self.cluster.virtual_service(self.name)):
            for track in self.expected.tracks:
                yield destination_rules(rules, (own[0], f"{own[1]}-{track}"), track)

    def _gateways(self) -> Iterator[Finding]:
        """
        The gateway pods' own configuration.
        """
        if not self.gateways:
            raise UnreachableError("no gateway pod was asked")
        cluster, service = self.cluster, f"{self.name}.{self.cluster.namespace}"
        virtual_service = cluster.virtual_service(self.name)
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            configs = list(pool.map(lambda pod: gateway_config(cluster, pod, service), self.gateways))
        neighbours = LiveNeighbours(cluster, virtual_service)
        for number, host in enumerate(self._hosts()):
            proxies = [
                Proxy.of(pod.name, config, pod.port, host)
                for pod, config in zip(self.gateways, configs, strict=True)
            ]
            seen = Gateways(proxies, host, self._released(virtual_service))
            # The other findings are the same for every host.
            yield from seen.findings(neighbours) if number == 0 else [seen.routes(neighbours)]

    def _hosts(self) -> tuple[str, ...]:
        exact = (host for host in self.expected.hosts if not host.startswith("*"))
        return tuple(dict.fromkeys((self.authority, *exact)))

    def _released(self, virtual_service: Mapping[str, Any]) -> Released:
        prefixes = {(route.prefix or "") + api for route in self.expected.routes for api in PREFIXES.values()}
        return Released(
            owner=(self.cluster.namespace, attached(virtual_service) or self.name),
            service=(self.cluster.namespace, self.name),
            mirrors=mirrors_of(virtual_service),
            retries=(self.values.get("routing") or {}).get("retryAttempts", 0),
            timeout_seconds=self.expected.timeout_seconds,
            prefixes=tuple(sorted(prefixes)),
            pods=by_address(tracks_pods(self.cluster, self.name, self.expected)),
            hosts=self.expected.hosts,
            model_header=self.expected.model_header,
            model=self.expected.model,
            allowed_filters=self.allowed_filters,
        )

    def _sidecars(self) -> Iterator[Finding]:
        """
        The filters in front of the model servers.
        """
        if not self.gateways:
            raise UnreachableError("no pod was asked")
        tracks = by_address(tracks_pods(self.cluster, self.name, self.expected))
        pods = sorted({name for some in tracks.values() for name in some.values()})
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            configs: list[EnvoyConfig] = list(pool.map(functools.partial(sidecar_config, self.cluster), pods))
        filters = {pod: inbound_filters(config, _PORTS) for pod, config in zip(pods, configs, strict=True)}
        yield sidecar_filters(filters, self.allowed_filters)

    def _by_object(self) -> Iterator[Finding]:
        """
        Where no gateway pod can be asked: the retries that the VirtualService asks for.
        """
        yield live_retries(self.cluster.virtual_service(self.name), self.values)


class LiveNeighbours:
    """
    The objects around a release, as the cluster has them.
    """

    def __init__(self, cluster: LiveObjects, own: Mapping[str, Any]) -> None:
        """
        Look nothing up yet.

        Args:
            cluster: the live objects.
            own: the release's VirtualService.
        """
        self._cluster = cluster
        self._own = own

    def virtual_service(self, one: Owner) -> str:
        """
        Name, release and age of a VirtualService, in words.
        """
        return in_words(self._read(one), one, self._own)

    def uses_gateway(self, one: Owner) -> bool:
        """
        Whether a VirtualService gives its routes to a Gateway that the release's own has, too.
        """
        if is_http_route(self._own):
            return one[1] == attached(self._own)
        namespace = self._own["metadata"]["namespace"]
        used = gateways_of(self._read(one), one[0])
        return any(gateway in used for gateway in gateways_of(self._own, namespace))

    def pod(self, address: str) -> str:
        """
        The pod with an address, in words.
        """
        with contextlib.suppress(UnreachableError):
            for pod in self._cluster.pods_labelled("pods", self._cluster.namespace, {}):
                if pod.status.pod_ip == address:
                    return f"pod {pod.metadata.name}"
        return address

    def _read(self, one: Owner) -> Mapping[str, Any]:
        namespace, name = one
        wanted = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": name, "namespace": namespace},
        }
        try:
            return self._cluster.read(wanted) or {}
        except UnreachableError:
            return {}


def in_words(virtual_service: Mapping[str, Any], one: Owner, own: Mapping[str, Any]) -> str:
    """
    Name, release and age of a VirtualService of another.

    Args:
        virtual_service: the live object; empty if it may not be read.
        one: its namespace and name.
        own: the release's own VirtualService.
    """
    metadata = virtual_service.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    release = annotations.get("meta.helm.sh/release-name")
    if "~" in one[1]:
        return f"an HTTPRoute of namespace {one[0]} and Gateway {one[1].replace('~', '/')}"
    words = f"VirtualService {'/'.join(one)}"
    if release:
        words += (
            f" of release {release} in namespace {annotations.get('meta.helm.sh/release-namespace', one[0])}"
        )
    made, ours = metadata.get("creationTimestamp"), own["metadata"].get("creationTimestamp")
    return f"{words}, {'older' if made < ours else 'not older'}," if made and ours else words
