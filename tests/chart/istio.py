"""
What Istio does with a rendered VirtualService, by its documented rules: the first entry that matches takes the request.

It shares nothing with `tfcanary.routing` but the hash of `sticky.by: user`, so that `explain`, which reads the values, can
be held against what the chart renders of them. On a cluster the tests hold both against a real gateway.
"""

import re
from collections.abc import Mapping
from typing import Any

from tfcanary.routing.buckets import bucket
from tfcanary.routing.route import Request


def at_gateway(values: Mapping[str, Any], request: Request) -> dict[str, str]:
    """
    The headers after the gateway's filters: what only the gateway may say is gone, or said by it.
    """
    headers = {name.lower(): value for name, value in request.headers.items()}
    if not values["gateway"]["filters"]["enabled"]:
        return headers
    bucketed = f"x-bucket-{values['model']['name'].lower()}"
    headers.pop(bucketed, None)
    jwt, names = values["security"]["jwt"], values["routing"]["headers"]
    if jwt["issuer"]:
        for header, claim in ((names["userGroup"], jwt["userGroupClaim"]), (names["user"], jwt["userClaim"])):
            headers.pop(header, None)
            if isinstance(request.claims.get(claim), str):
                headers[header] = request.claims[claim]
    if user := headers.get(names["user"]):
        headers[bucketed] = f"{bucket(values['model']['name'], user):02}"
    return headers


def answer(
    values: Mapping[str, Any], service: Mapping[str, Any], request: Request
) -> tuple[dict[str, int], Any] | None:
    """
    The weights by subset and the mirror of the entry that takes a request; None if none does.
    """
    inside = request.labels is not None
    headers = (
        {name.lower(): value for name, value in request.headers.items()}
        if inside
        else at_gateway(values, request)
    )
    verified = not inside and values["security"]["jwt"]["issuer"]
    for entry in service["spec"]["http"]:
        if any(
            _matches(match, request, headers, request.claims if verified else {}) for match in entry["match"]
        ):
            mirror = entry.get("mirror")
            copied = (
                {"track": mirror["subset"], "percent": entry["mirrorPercentage"]["value"]} if mirror else None
            )
            return {part["destination"]["subset"]: part["weight"] for part in entry["route"]}, copied
    return None


def _matches(
    match: Mapping[str, Any], request: Request, headers: Mapping[str, str], claims: Mapping[str, Any]
) -> bool:
    return (
        _fits(match["uri"], request.path if "prefix" in match["uri"] else request.path.partition("?")[0])
        and all(_header(name, matcher, headers, claims) for name, matcher in match.get("headers", {}).items())
        and match.get("sourceLabels", {}).items() <= (request.labels or {}).items()
    )


def _header(
    name: str, matcher: Mapping[str, str], headers: Mapping[str, str], claims: Mapping[str, Any]
) -> bool:
    claim = re.fullmatch(r"@request\.auth\.claims\[(.+)\]", name)
    if claim is None:
        return name in headers and _fits(matcher, headers[name])
    said = claims.get(claim[1], ())
    return any(_fits(matcher, one) for one in ((said,) if isinstance(said, str) else said))


def _fits(matcher: Mapping[str, str], value: str) -> bool:
    ((kind, wanted),) = matcher.items()
    if kind == "exact":
        return value == wanted
    if kind == "prefix":
        return value.startswith(wanted)
    return re.fullmatch(wanted, value) is not None
