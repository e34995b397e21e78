"""
What a VirtualService says, as Istio reads it, and an HTTPRoute in its place.
"""

import re
from collections.abc import Mapping
from typing import Any

from tfcanary.contract import REVISION_HEADER
from tfcanary.errors import NoEvidenceError
from tfcanary.kube.httproute import http_entries
from tfcanary.routing.route import HeaderMatch, Kind


def route_revision(virtual_service: Mapping[str, Any]) -> str:
    """
    The revision that every answer under this VirtualService carries.

    Raises:
        NoEvidenceError: if its routes set none, or not all the same.
    """
    name = virtual_service["metadata"]["name"]
    http = http_entries(virtual_service)
    found = {
        entry.get("headers", {}).get("response", {}).get("set", {}).get(REVISION_HEADER) for entry in http
    }
    if len(found) == 1 and None not in found:
        return str(found.pop())
    seen = ", ".join(sorted(str(value) for value in found)) or "no routes"
    raise NoEvidenceError(
        f"{virtual_service.get('kind', 'VirtualService')} {name!r}: expected one {REVISION_HEADER} on all its routes, got {seen}; "
        "set routing.attribution to true"
    )


def gateways_of(virtual_service: Mapping[str, Any], namespace: str) -> list[tuple[str, str]]:
    """
    Namespace and name of each Gateway of a VirtualService in a namespace, without the mesh.
    """
    named = (virtual_service.get("spec") or {}).get("gateways") or ()
    places = (str(one).rpartition("/") for one in named if one != "mesh")
    return [(where or namespace, name) for where, _, name in places]


def destination_weights(
    virtual_service: Mapping[str, Any], path: str, headers: Mapping[str, str]
) -> dict[str, int]:
    """
    The weights by subset of the first HTTP route that takes a request, as Istio reads a VirtualService.

    Raises:
        NoEvidenceError: if it has a condition that cannot be judged here.
    """
    for entry in http_entries(virtual_service):
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
