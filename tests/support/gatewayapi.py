"""
What Istio does with a rendered HTTPRoute: the most exact match takes the request, whatever the order of the rules is.

The order is that of `sortHTTPRoutes` in Istio's source, which follows the Gateway API: the kind of the path's match, its
length, the number of headers, and then the order of the rules.
"""

import re
from collections.abc import Mapping
from typing import Any

from tfcanary.routing.route import Request

# By strategy, what the Gateway API cannot say of it.
UNSAID = {
    "ab-test": "sticky.by user",
    "canary-jwt": "match.claims",
    "canary-sticky-users": "sticky.by user",
    "composed": "sticky.by user",
}
_RANKS = {"Exact": 3, "PathPrefix": 2, "RegularExpression": 1}


def answer(http_route: Mapping[str, Any], request: Request) -> tuple[dict[str, int], Any] | None:
    """
    The weights by track and the mirror of the rule that takes a request; None if none does.
    """
    prefix = f"{http_route['metadata']['name']}-"
    headers = {name.lower(): value for name, value in request.headers.items()}
    tries = [(match, rule) for rule in http_route["spec"]["rules"] for match in rule["matches"]]
    for match, rule in sorted(tries, key=lambda one: _exactness(one[0]), reverse=True):
        if _matches(match, request.path.partition("?")[0], headers):
            copies = [one["requestMirror"] for one in rule["filters"] if one["type"] == "RequestMirror"]
            mirrors = [
                {"track": one["backendRef"]["name"].removeprefix(prefix), "percent": one["percent"]}
                for one in copies
            ]
            weights = {one["name"].removeprefix(prefix): one["weight"] for one in rule["backendRefs"]}
            return weights, mirrors[0] if mirrors else None
    return None


def _exactness(match: Mapping[str, Any]) -> tuple[int, int, int]:
    path = match["path"]
    return _RANKS[path["type"]], len(path["value"]), len(match.get("headers", ()))


def _matches(match: Mapping[str, Any], path: str, headers: Mapping[str, str]) -> bool:
    value = match["path"]["value"]
    if match["path"]["type"] == "Exact":
        fits = path == value
    else:
        assert match["path"]["type"] == "PathPrefix"
        fits = path == value or path.startswith(f"{value}/")
    return fits and all(_header(one, headers.get(one["name"])) for one in match.get("headers", ()))


def _header(matcher: Mapping[str, str], said: str | None) -> bool:
    if said is None:
        return False
    if matcher["type"] == "Exact":
        return said == matcher["value"]
    return re.fullmatch(matcher["value"], said) is not None
