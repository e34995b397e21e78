"""
Routes from merged values.

The schema has the rules for types and keys (`tfcanary.chart.schema`). The rules across keys are here, the same as in
the chart's validate.yaml.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tfcanary.chart.schema import require_types
from tfcanary.chart.values import tracks_of
from tfcanary.errors import MissingValueError, UsageError
from tfcanary.paths import CHART
from tfcanary.routing.route import HeaderMatch, Kind, Mirror, Route, Routing, Sticky, cookie_expression

# By key of a match, the key of routing.headers that names its header, and that header's default.
_HEADERS = {
    "userGroups": ("userGroup", "user-group"),
    "users": ("user", "user-id"),
    "regions": ("region", "x-client-region"),
}
# What is read of a release's values. The rest may be as another version of the chart has it.
_READ = (
    ("model", "name"),
    ("tracks", "*", "version"),
    ("routing", "routes"),
    ("routing", "headers"),
    ("routing", "stickyCookie", "name"),
    ("routing", "attribution"),
    ("routing", "timeoutSeconds"),
    ("gateway", "hosts"),
    ("gateway", "port"),
    ("gateway", "byModel"),
    ("gateway", "filters", "enabled"),
    ("security", "jwt", "issuer"),
    ("security", "jwt", "userGroupClaim"),
    ("security", "jwt", "userClaim"),
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_RE2 = re.compile(r"\(\?(=|!|<=|<!)|\\[1-9]")


def from_values(values: Mapping[str, Any], chart: Path = CHART) -> Routing:
    """
    Parse merged values, whose types are those of a chart's schema.

    Raises:
        MissingValueError: if the model's name, the tracks or the routes are missing.
        UsageError: naming the values path, what was expected and what was got.
    """
    require_types(values, chart, read=_READ)
    tracks = tracks_of(values)
    routing, gateway = (values.get(key) or {} for key in ("routing", "gateway"))
    model = (values.get("model") or {}).get("name")
    if not tracks:
        raise MissingValueError("tracks", "at least one track")
    if not routing.get("routes"):
        raise MissingValueError("routing.routes", "a list of routes")
    headers = routing.get("headers") or {}
    routes = _routes(routing["routes"], _Names(tuple(tracks), headers, str(model), tracks))
    if not model:
        raise MissingValueError("model.name", "the model's public name")
    user, group = headers.get("user", "user-id"), headers.get("userGroup", "user-group")
    jwt = (values.get("security") or {}).get("jwt") or {}
    verified = {group: jwt.get("userGroupClaim", "group"), user: jwt.get("userClaim", "sub")}
    by_model = gateway.get("byModel") or {}
    filters = (gateway.get("filters") or {}).get("enabled", True)
    return Routing(
        model=model,
        routes=routes,
        tracks=tuple(tracks),
        attribution=routing.get("attribution", True),
        hosts=tuple(gateway.get("hosts", ["*"])),
        port=gateway.get("port", 80),
        timeout_seconds=routing.get("timeoutSeconds", 35),
        user_header=user if filters else None,
        cookie=(routing.get("stickyCookie") or {}).get("name", "model-track"),
        verified=MappingProxyType(verified if jwt.get("issuer") else {}),
        versions=MappingProxyType(_versions(tracks)),
        model_header=by_model.get("grpcHeader", "x-model") if by_model.get("enabled") else None,
    )


def _versions(tracks: Mapping[str, Any]) -> dict[str, str]:
    """
    The version of each track that has one. A program that reads numbers as floats writes 2 as 2.0.
    """
    named = {track: (settings or {}).get("version") for track, settings in tracks.items()}
    return {track: str(int(version)) for track, version in named.items() if version is not None}


@dataclass(frozen=True, slots=True)
class _Names:
    """
    What routes refer to by name.
    """

    tracks: tuple[str, ...]
    headers: Mapping[str, Any]
    model: str
    versions: Mapping[str, Any]

    def header(self, key: str) -> str:
        return str(self.headers.get(*_HEADERS[key]))

    def require_track(self, path: str, track: str) -> None:
        if track not in self.tracks:
            raise UsageError(f"{path}: expected one of {', '.join(self.tracks)}, got {track!r}")


def _routes(entries: Sequence[Mapping[str, Any]], names: _Names) -> tuple[Route, ...]:
    routes = tuple(_route(f"routing.routes[{i}]", entry, names) for i, entry in enumerate(entries))
    for i, route in enumerate(routes):
        if route.name in {other.name for other in routes[:i]}:
            raise UsageError(
                f"routing.routes[{i}]: every route needs a name of its own, got {route.name!r} again"
            )
        if route.takes_everyone and i < len(routes) - 1:
            raise UsageError(
                f"routing.routes[{i}] ({route.name}): takes everyone, so the routes after it take no request; "
                "give it a match or put it last"
            )
    if not routes[-1].takes_everyone:
        raise UsageError(
            f"routing.routes[{len(routes) - 1}] ({routes[-1].name}): the last route takes everyone else, "
            "so it has no match"
        )
    return routes


def _route(path: str, entry: Mapping[str, Any], names: _Names) -> Route:
    name = entry["name"]
    path = f"{path} ({name})"
    match = entry.get("match") or {}
    prefix, version = _path(f"{path}.match.path", match.get("path") or {}, names)
    return Route(
        name=name,
        headers=tuple(_header_matches(f"{path}.match", match, names)),
        weights=_weights(path, entry["weights"], names.tracks),
        claims=MappingProxyType({claim: tuple(said) for claim, said in (match.get("claims") or {}).items()}),
        labels=MappingProxyType(dict(match.get("sourceLabels") or {})),
        prefix=prefix,
        version=version,
        sticky=Sticky(entry["sticky"]["by"]) if entry.get("sticky") else None,
        mirror=_mirror(f"{path}.mirror", entry.get("mirror"), names),
    )


def _header_matches(path: str, match: Mapping[str, Any], names: _Names) -> list[HeaderMatch]:
    """
    All conditions on headers; user groups, users, regions and cookies are some, too.
    """
    matches = [_header_match(f"{path}.headers", *header) for header in (match.get("headers") or {}).items()]
    for key in _HEADERS:
        if key in match:
            values = match[key]
            alone = len(values) == 1
            text = values[0] if alone else "|".join(map(re.escape, values))
            matches.append(HeaderMatch(names.header(key), Kind.EXACT if alone else Kind.REGEX, text))
    if match.get("cookie"):
        text = cookie_expression(match["cookie"]["name"], match["cookie"]["value"])
        matches.append(HeaderMatch("cookie", Kind.REGEX, text))
    return matches


def _header_match(path: str, name: str, condition: Mapping[str, str]) -> HeaderMatch:
    if not _HEADER_NAME.fullmatch(name):
        raise UsageError(f"{path}: expected an HTTP header's name, got {name!r}")
    ((kind, value),) = condition.items()
    if kind == Kind.REGEX.value:
        if _NOT_RE2.search(value):
            raise UsageError(f"{path}.{name}.regex: RE2 has no look-around or back-references, got {value!r}")
        try:
            re.compile(value)
        except re.error as exc:
            raise UsageError(f"{path}.{name}.regex: not a regular expression: {exc}, got {value!r}") from exc
    return HeaderMatch(name, Kind(kind), value)


def _path(path: str, entry: Mapping[str, str], names: _Names) -> tuple[str | None, str | None]:
    """
    The prefix, or the expression for the paths of a track's version.
    """
    if "prefix" in entry:
        return entry["prefix"].rstrip("/"), None
    if "version" not in entry:
        return None, None
    track = entry["version"]
    names.require_track(f"{path}.version", track)
    # Strategies name tracks; where no models file says which version a track serves, no path is known to be its own.
    version = (names.versions[track] or {}).get("version", "UNKNOWN")
    return None, f"/v1/models/{re.escape(names.model)}/versions/{version}([:/].*)?"


def _mirror(path: str, entry: Mapping[str, Any] | None, names: _Names) -> Mirror | None:
    if not entry:
        return None
    names.require_track(f"{path}.track", entry["track"])
    return Mirror(entry["track"], entry["percent"]) if entry["percent"] else None


def _weights(path: str, weights: Mapping[str, int], tracks: tuple[str, ...]) -> Mapping[str, int]:
    for track in weights:
        if track not in tracks:
            raise UsageError(
                f"{path}: weights name the unknown track {track!r}, expected one of {', '.join(tracks)}"
            )
    total = sum(weights.values())
    if total != 100:
        listed = ", ".join(f"{track}={weight}" for track, weight in weights.items())
        raise UsageError(f"{path}: weights must sum to 100, got {total} ({listed})")
    return MappingProxyType({track: weights.get(track, 0) for track in tracks})
