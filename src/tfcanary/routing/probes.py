"""
Requests that prove routes.

For each route there is a request that it must take. There are also near misses (another value, another case, no header,
a wrong name), each with the route that must take it instead. Only both kinds together prove a rule.
"""

import dataclasses
import enum
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tfcanary.contract import rest_path
from tfcanary.errors import UsageError
from tfcanary.routing.buckets import bucket, bucket_header
from tfcanary.routing.regex import example
from tfcanary.routing.route import HeaderMatch, Kind, Request, Route, Routing, Sticky, header_value
from tfcanary.routing.tokens import Token

_METADATA = re.compile(r"[0-9A-Za-z_.-]+")
_VERSION = re.compile(r"/versions/([0-9]+)")


class Aim(enum.Enum):
    """
    What a probe shows about the route that it is aimed at.
    """

    OWN = "the route's own request"
    MATCH = "another request that matches"
    NEAR_MISS = "a request that just misses"


@dataclass(frozen=True, slots=True)
class Probe:
    """
    A request, the route it is aimed at, and the route that must take it.

    Attributes:
        headers: those that the client sends, including the one with its token.
        rest_only: True if gRPC cannot send it: metadata keys are lower-case ASCII, and gRPC paths carry no version.
        prefix: the part of the path before that of the API.
        version: the model version that a REST path names.
        claims: what its token says.
    """

    name: str
    aim: Aim
    aimed_at: Route
    headers: Mapping[str, str] = field(repr=False)
    expected: Route
    rest_only: bool = False
    prefix: str = ""
    version: str | None = None
    claims: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)

    @property
    def only_headers(self) -> bool:
        """
        Whether headers are all that it differs in, and none of them is a token.
        """
        return not (self.prefix or self.version or self.claims)

    def path(self, model: str) -> str:
        """
        The REST path by which it asks for the model's metadata.
        """
        return f"{self.prefix}{rest_path(model, 'metadata', self.version)}"


def _is_metadata(name: str, value: str) -> bool:
    """
    Whether gRPC can send a header, in lower case. It would encode the value of a name that ends in -bin.
    """
    return bool(_METADATA.fullmatch(name)) and not name.lower().endswith("-bin") and value.isascii()


def _examples(match: HeaderMatch) -> list[str]:
    """
    Values that fit: the value itself, and longer ones where the match allows them.
    """
    value = example(match.value) if match.kind is Kind.REGEX else match.value
    more = [value + "-x", "x-" + value] if match.kind is not Kind.EXACT else []
    return [value, *more]


def _changed_headers(
    route: Route, headers: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[str, str], bool]]:
    """
    Headers that differ from fitting ones in one, each named, and whether only REST can send it.
    """
    for match in route.headers:
        if match.name not in headers:
            continue  # the gateway sets it, from the token
        value = headers[match.name]
        others = {name: text for name, text in headers.items() if name != match.name}
        yield f"no {match.name}", others, False
        yield f"{match.name} as x-{match.name}", {**others, f"x-{match.name}": value}, False
        for name, changed in (
            (f"{match.name} is in another case", value.swapcase()),
            (f"{match.name} is another value", f"not-{value}"),
            (f"{match.name} is a longer value", f"{value}-x"),
        ):
            if changed != value:
                yield name, {**others, match.name: changed}, False
        upper = match.name.upper() if match.name != match.name.upper() else match.name.lower()
        if upper != match.name:
            yield f"{match.name} as {upper}", {**others, upper: value}, True


def probes_of(routing: Routing, tokens: Sequence[Token] = ()) -> tuple[Probe, ...]:
    """
    For every route one request that it takes and, condition by condition, requests that just miss it.

    Args:
        routing: the routes.
        tokens: clients' tokens, for routes that ask for one.

    Raises:
        UsageError: if no request is found that reaches some route.
    """
    found: list[Probe] = []
    for index, route in enumerate(routing.routes):
        own = _reaching(routing, index, tokens)
        if own is None:
            continue
        found.append(_aimed(routing, own, headers=_sent(routing, own.headers)))
        for name, changed in _variants(routing, own):
            aimed = _aimed(routing, changed, name=f"{route.name}: {name}")
            aim = Aim.MATCH if aimed.expected.name == route.name else Aim.NEAR_MISS
            found.append(dataclasses.replace(aimed, aim=aim, headers=_sent(routing, aimed.headers)))
    return tuple(found)


def unprobed(routing: Routing, tokens: Sequence[Token] = ()) -> tuple[Route, ...]:
    """
    The routes that no probe reaches: no token fits them, or they are for callers inside the mesh.
    """
    return tuple(
        route for index, route in enumerate(routing.routes) if _reaching(routing, index, tokens) is None
    )


def _reaching(routing: Routing, index: int, tokens: Sequence[Token]) -> Probe | None:
    """
    The route's own request; None if that needs a token that is not given, or a caller inside the mesh.
    """
    route = routing.routes[index]
    matches = [match for match in route.headers if match.name.lower() not in routing.verified]
    by_token = bool(route.claims) or len(matches) < len(route.headers)
    named = _VERSION.search(route.version or "")
    without = by_token and not (tokens and routing.verified)
    if route.labels or without or (route.version and not named):
        return None
    takers = []
    for token in tokens if by_token else (None,):
        for values in itertools.product(*(_examples(match) for match in matches)):
            headers = dict(zip((match.name for match in matches), values, strict=True))
            probe = Probe(
                f"{route.name}: match",
                Aim.OWN,
                route,
                MappingProxyType({**headers, **(token.header if token else {})}),
                route,
                rest_only=named is not None or not all(map(_is_metadata, headers, headers.values())),
                prefix=route.prefix or "",
                version=named[1] if named else None,
                claims=token.claims if token else {},
            )
            request = Request(probe.path(routing.model), probe.headers, probe.claims)
            if route.misses(routing.arriving(request)) is not None:
                continue
            taker = routing.decision(request)
            if taker is not None and taker.route is route:
                return probe
            takers.append(taker.route.name if taker else "no route")
    if by_token and not takers:
        return None
    where = f"routing.routes[{index}] ({route.name})"
    if takers:
        raise UsageError(
            f"{where}: no request was found that reaches it; {takers[0]!r} comes first and takes it; reorder"
        )
    raise UsageError(f"{where}: no request was found that fits its match; use exact or prefix instead")


def _aimed(routing: Routing, probe: Probe, **more: Any) -> Probe:
    """
    The probe with the route that takes it.
    """
    taker = routing.taker(Request(probe.path(routing.model), probe.headers, probe.claims))
    return dataclasses.replace(probe, expected=taker, **more)


def _sent(routing: Routing, headers: Mapping[str, str]) -> Mapping[str, str]:
    """
    The headers, and a bucket header with the number that the gateway computes, too.
    """
    user = header_value(headers, routing.user_header) if routing.user_header else None
    if not user or not any(route.sticky is Sticky.USER for route in routing.routes):
        return headers
    return MappingProxyType({**headers, bucket_header(routing.model): f"{bucket(routing.model, user):02}"})


def _variants(routing: Routing, own: Probe) -> Iterator[tuple[str, Probe]]:
    """
    Requests that differ from a route's own in one condition, each named.
    """
    for name, headers, rest_only in _changed_headers(own.aimed_at, own.headers):
        yield name, dataclasses.replace(own, headers=headers, rest_only=own.rest_only or rest_only)
    if own.prefix:
        yield f"not below {own.prefix}", dataclasses.replace(own, prefix="")
    if own.version:
        yield "no version", dataclasses.replace(own, version=None, rest_only=False)
    if own.claims:
        plain = {name: value for name, value in own.headers.items() if name != "authorization"}
        yield "no token", dataclasses.replace(own, headers=MappingProxyType(plain), claims={})
        # The claims of the token as plain headers, which any client can send.
        said = {name: str(own.claims.get(claim, "")) for name, claim in routing.verified.items()}
        said |= {name: values[0] for name, values in own.aimed_at.claims.items()}
        forged = MappingProxyType({**plain, **said})
        yield "plain headers instead of a token", dataclasses.replace(own, headers=forged, claims={})
