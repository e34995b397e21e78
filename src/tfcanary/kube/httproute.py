"""
What an HTTPRoute of the Gateway API says, as Istio reads it: the entries of a VirtualService, the most exact first.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

GROUP, VERSION, KIND = "gateway.networking.k8s.io", "v1", "HTTPRoute"
API_VERSION = f"{GROUP}/{VERSION}"
# No field of the standard says how often a request is tried again: the chart says it to Envoy by this request header.
RETRIES_HEADER = "x-envoy-max-retries"
_RANKS = {"Exact": 3, "PathPrefix": 2, "RegularExpression": 1}


def named(name: str) -> dict[str, Any]:
    """
    What an HTTPRoute of a name is looked up by.
    """
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}}


def is_http_route(routed: Mapping[str, Any]) -> bool:
    """
    Whether an object with routes is an HTTPRoute; otherwise it is a VirtualService.
    """
    return routed.get("kind") == KIND


def http_entries(routed: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """
    The HTTP routes of a VirtualService; those of an HTTPRoute in its words, a track's Service as a subset.
    """
    if not is_http_route(routed):
        return list((routed.get("spec") or {}).get("http") or ())
    anything: Mapping[str, Any] = {}
    found = [
        (_exactness(match), _entry(routed["metadata"]["name"], rule, match))
        for rule in (routed.get("spec") or {}).get("rules") or ()
        for match in rule.get("matches") or (anything,)
    ]
    return [entry for _, entry in sorted(found, key=lambda one: one[0], reverse=True)]


def attached(routed: Mapping[str, Any]) -> str | None:
    """
    NAMESPACE~NAME of the Gateway that an HTTPRoute belongs to, as Istio writes it; None of a VirtualService.
    """
    if not is_http_route(routed):
        return None
    parent = routed["spec"]["parentRefs"][0]
    return f"{parent.get('namespace') or routed['metadata']['namespace']}~{parent['name']}"


def _exactness(match: Mapping[str, Any]) -> tuple[int, int, bool, int, int]:
    """
    What Istio sorts by, as the Gateway API asks: the path's kind and length, a method, the numbers of headers and queries.
    """
    kind, value = _path(match)
    return (
        _RANKS.get(kind, 0),
        len(value),
        "method" in match,
        len(match.get("headers") or ()),
        len(match.get("queryParams") or ()),
    )


def _path(match: Mapping[str, Any]) -> tuple[str, str]:
    path = match.get("path") or {}
    return path.get("type", "PathPrefix"), path.get("value", "/")


def _entry(name: str, rule: Mapping[str, Any], match: Mapping[str, Any]) -> dict[str, Any]:
    filters: dict[str, Mapping[str, Any]] = {one["type"]: one for one in rule.get("filters") or ()}
    mirrors = [one["requestMirror"] for one in rule.get("filters") or () if one["type"] == "RequestMirror"]
    asked = dict(_headers_set(filters, "RequestHeaderModifier")).get(RETRIES_HEADER)
    return {
        "name": rule.get("name", ""),
        "match": [_match(match)],
        "route": [
            {
                "destination": {"subset": subset(name, backend["name"])},
                "weight": backend.get("weight", 1),
            }
            for backend in rule.get("backendRefs") or ()
        ],
        "mirrors": [
            {
                "destination": {"subset": subset(name, one["backendRef"]["name"])},
                "percentage": {"value": one.get("percent", 100)},
            }
            for one in mirrors
        ],
        "retries": {"attempts": int(asked)} if asked and asked.isdigit() else None,
        "headers": {"response": {"set": dict(_headers_set(filters, "ResponseHeaderModifier"))}},
    }


def _match(match: Mapping[str, Any]) -> dict[str, Any]:
    kind, value = _path(match)
    uri = {
        "Exact": {"exact": value},
        # A prefix ends where a part of the path does.
        "PathPrefix": {"regex": rf"(?s){re.escape(value.rstrip('/'))}(/.*)?"},
        "RegularExpression": {"regex": value},
    }[kind]
    headers = {
        one["name"].lower(): {"regex" if one.get("type") == "RegularExpression" else "exact": one["value"]}
        for one in match.get("headers") or ()
    }
    more = {key: match[key] for key in ("method", "queryParams") if match.get(key)}
    return {"uri": uri, "headers": headers, **more}


def _headers_set(filters: Mapping[str, Mapping[str, Any]], kind: str) -> Iterator[tuple[str, str]]:
    """
    Names and values of the headers that a filter sets; its own key begins with a small letter.
    """
    settings = filters.get(kind, {}).get(kind[0].lower() + kind[1:]) or {}
    for one in settings.get("set") or ():
        yield one["name"].lower(), one["value"]


def subset(name: str, service: str) -> str:
    """
    The track of a release whose own Service this is; another's stays as it is.
    """
    return service.removeprefix(f"{name}-")
