"""
The rights that a driver needs, asked for before anything changes.

A right that is missed in the middle sends the rollout back. Known at the start, it costs nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

from tfcanary.errors import ForbiddenError
from tfcanary.kube.objects import LiveObjects

# By API group and resource, the verbs. The chart's Role gives these and no others to its Job.
Rights = Mapping[tuple[str, str], Sequence[str]]

_READ = ("get", "list", "watch")
# How Helm makes a revision: it adds what is new, patches what differs, and removes what is gone.
_OWNED = ("get", "list", "watch", "create", "patch", "delete")
IN_NAMESPACE: Rights = MappingProxyType(
    {
        # Helm's history, and the state, the record and the Lease of a rollout.
        ("", "secrets"): ("get", "list", "create", "update", "delete"),
        ("", "configmaps"): ("get", "list", "watch", "create", "update", "patch", "delete"),
        ("coordination.k8s.io", "leases"): ("get", "create", "update"),
        # The objects of a release.
        ("", "services"): _OWNED,
        ("", "serviceaccounts"): _OWNED,
        ("apps", "deployments"): _OWNED,
        ("autoscaling", "horizontalpodautoscalers"): _OWNED,
        ("policy", "poddisruptionbudgets"): _OWNED,
        ("networking.k8s.io", "networkpolicies"): _OWNED,
        ("networking.istio.io", "gateways"): _OWNED,
        ("networking.istio.io", "virtualservices"): _OWNED,
        ("networking.istio.io", "destinationrules"): _OWNED,
        ("security.istio.io", "authorizationpolicies"): _OWNED,
        ("security.istio.io", "peerauthentications"): _OWNED,
        # Whether the pods are up, why they are not, and what they answer.
        ("", "pods"): _READ,
        ("", "pods/log"): ("get",),
        ("", "pods/portforward"): ("get", "create"),
        ("", "events"): ("list",),
        ("apps", "replicasets"): _READ,
        ("discovery.k8s.io", "endpointslices"): ("list",),
    }
)
AT_GATEWAY: Rights = MappingProxyType(
    {
        ("", "pods"): ("get", "list"),
        ("", "pods/portforward"): ("get", "create"),
        ("", "services"): ("list",),
    }
)
FILTERS: Rights = MappingProxyType({("networking.istio.io", "envoyfilters"): _OWNED})
TOKENS: Rights = MappingProxyType({("security.istio.io", "requestauthentications"): _OWNED})
_AT_A_TIME = 8


def at_gateway(values: Mapping[str, Any]) -> Iterator[Rights]:
    """
    Those in the gateway's namespace, by the release's values.
    """
    yield AT_GATEWAY
    if values["gateway"]["filters"]["enabled"]:
        yield FILTERS
    if values["security"]["jwt"]["jwksUri"]:
        yield TOKENS


def require(live: LiveObjects, rights: Rights, namespace: str) -> None:
    """
    Ask the cluster for rights in a namespace.

    Raises:
        ForbiddenError: if one is missing; all that are missing are named.
        UnreachableError: if the cluster does not answer.
    """
    asked = [(verb, *key) for key, verbs in rights.items() for verb in verbs]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        given = pool.map(lambda one: live.may(one[0], one[2], one[1], namespace), asked)
        missing = [one for one, had in zip(asked, given, strict=True) if not had]
    if missing:
        words = ", ".join(f"{verb} {resource}{group and f'.{group}'}" for verb, group, resource in missing)
        raise ForbiddenError(
            f"rollout: expected the right to {words} in namespace {namespace!r}, got none; "
            "rollout.enabled of the chart gives all that a rollout needs to its Job"
        )
