"""
Routes from merged values.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tfcanary.errors import UsageError
from tfcanary.routing.route import HeaderMatch, Kind, Mirror, Route, Routing, Sticky, cookie_expression

# By key of a match, the key of routing.headers that names its header, and that header's default.
_HEADERS = {
    "userGroups": ("userGroup", "user-group"),
    "users": ("user", "user-id"),
    "regions": ("region", "x-client-region"),
}
_MATCHES = ("headers", *_HEADERS, "cookie", "claims", "path", "sourceLabels")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_RE2 = re.compile(r"\(\?(=|!|<=|<!)|\\[1-9]")


def from_values(values: Mapping[str, Any]) -> Routing:
    """
    Parse merged values.

    Raises:
        UsageError: naming the values path, what was expected and what was got.
    """
    tracks = _map(values, "tracks")
    if not tracks:
        raise UsageError("tracks: expected at least one track, got none")
    routing = _map(values, "routing")
    gateway = _map(values, "gateway")
    names = tuple(map(str, tracks))
    model = _map(values, "model").get("name")
    routes = _routes(routing.get("routes"), _Names(names, _map(routing, "headers"), str(model), tracks))
    attribution = routing.get("attribution", True)
    if not isinstance(attribution, bool):
        raise UsageError(f"routing.attribution: expected true or false, got {attribution!r}")
    if not isinstance(model, str) or not model:
        raise UsageError(f"model.name: expected the model's public name, got {model!r}")
    hosts = gateway.get("hosts", ["*"])
    if not isinstance(hosts, list) or not hosts or not all(isinstance(host, str) for host in hosts):
        raise UsageError(f"gateway.hosts: expected a list of host names, got {hosts!r}")
    port = gateway.get("port", 80)
    if not _is_int(port) or not 1 <= port <= 65535:
        raise UsageError(f"gateway.port: expected a port number, got {port!r}")
    timeout = routing.get("timeoutSeconds", 35)
    if not _is_int(timeout) or timeout < 1:
        raise UsageError(f"routing.timeoutSeconds: expected a number of seconds, got {timeout!r}")
    filters = _map(gateway, "filters").get("enabled", True)
    user = _map(routing, "headers").get("user", "user-id")
    group = _map(routing, "headers").get("userGroup", "user-group")
    jwt = _map(_map(values, "security"), "jwt")
    verified = {group: jwt.get("userGroupClaim", "group"), user: jwt.get("userClaim", "sub")}
    return Routing(
        model=model,
        routes=routes,
        tracks=names,
        attribution=attribution,
        hosts=tuple(hosts),
        port=port,
        timeout_seconds=timeout,
        user_header=user if filters else None,
        cookie=_map(routing, "stickyCookie").get("name", "model-track"),
        verified=MappingProxyType(verified if jwt.get("issuer") else {}),
    )


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


def _routes(entries: object, names: _Names) -> tuple[Route, ...]:
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"routing.routes: expected a list of routes, got {entries!r}")
    routes = tuple(_route(f"routing.routes[{i}]", entry, names) for i, entry in enumerate(entries))
    for i, route in enumerate(routes):
        if route.name in {other.name for other in routes[:i]}:
            raise UsageError(
                f"routing.routes[{i}]: every route needs a name of its own, got {route.name!r} again"
            )
        if route.takes_everyone and i < len(routes) - 1:
            raise UsageError(
                f"routing.routes[{i}] ({route.name}): takes everyone, so the routes after it take no one; "
                "give it a match or put it last"
            )
    if not routes[-1].takes_everyone:
        raise UsageError(
            f"routing.routes[{len(routes) - 1}] ({routes[-1].name}): the last route takes everyone else, "
            "so it has no match"
        )
    return routes


def _route(path: str, entry: object, names: _Names) -> Route:
    if not isinstance(entry, Mapping):
        raise UsageError(f"{path}: expected a map of name, match and weights, got {entry!r}")
    known_keys(path, entry, ("name", "match", "weights", "mirror", "sticky"))
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise UsageError(f"{path}.name: expected a name, got {name!r}")
    path = f"{path} ({name})"
    match = entry.get("match") or {}
    if not isinstance(match, Mapping):
        raise UsageError(f"{path}.match: expected a map, got {match!r}")
    known_keys(f"{path}.match", match, _MATCHES)
    headers = match.get("headers") or {}
    if not isinstance(headers, Mapping):
        raise UsageError(f"{path}.match.headers: expected a map of header names, got {headers!r}")
    matches = [_header_match(f"{path}.match.headers", *header) for header in headers.items()]
    for key in _HEADERS:
        if key in match:
            values = _values(f"{path}.match.{key}", match[key])
            alone = len(values) == 1
            text = values[0] if alone else "|".join(map(re.escape, values))
            matches.append(HeaderMatch(names.header(key), Kind.EXACT if alone else Kind.REGEX, text))
    cookie = _map(match, "cookie")
    if cookie:
        text = cookie_expression(_text(f"{path}.match.cookie", cookie, "name"),
                                 _text(f"{path}.match.cookie", cookie, "value"))  # fmt: skip
        matches.append(HeaderMatch("cookie", Kind.REGEX, text))
    prefix, version = _path(f"{path}.match.path", _map(match, "path"), names)
    claims = _map(match, "claims")
    return Route(
        name=name,
        headers=tuple(matches),
        weights=_weights(path, entry.get("weights"), names.tracks),
        claims=MappingProxyType({str(c): _values(f"{path}.match.claims.{c}", v) for c, v in claims.items()}),
        labels=MappingProxyType({str(k): str(v) for k, v in _map(match, "sourceLabels").items()}),
        prefix=prefix,
        version=version,
        sticky=_sticky(f"{path}.sticky", _map(entry, "sticky")),
        mirror=_mirror(f"{path}.mirror", _map(entry, "mirror"), names.tracks),
    )


def _path(path: str, entry: Mapping[str, Any], names: _Names) -> tuple[str | None, str | None]:
    if not entry:
        return None, None
    known_keys(path, entry, ("prefix", "version"))
    if len(entry) != 1:
        raise UsageError(f"{path}: expected one of prefix, version, got {entry!r}")
    if "prefix" in entry:
        return _text(path, entry, "prefix").rstrip("/"), None
    track = _text(path, entry, "version")
    if track not in names.tracks:
        raise UsageError(f"{path}.version: expected one of {', '.join(names.tracks)}, got {track!r}")
    # Strategies name tracks; where no models file says which version a track serves, no path is known to be its own.
    version = _map(names.versions, track).get("version", "UNKNOWN")
    return None, f"/v1/models/{re.escape(names.model)}/versions/{version}([:/].*)?"


def _sticky(path: str, entry: Mapping[str, Any]) -> Sticky | None:
    if not entry:
        return None
    known_keys(path, entry, ("by",))
    kinds = [kind.value for kind in Sticky]
    if entry.get("by") not in kinds:
        raise UsageError(f"{path}.by: expected one of {', '.join(kinds)}, got {entry.get('by')!r}")
    return Sticky(entry["by"])


def _mirror(path: str, entry: Mapping[str, Any], tracks: tuple[str, ...]) -> Mirror | None:
    if not entry:
        return None
    known_keys(path, entry, ("track", "percent"))
    track, percent = entry.get("track"), entry.get("percent")
    if track not in tracks:
        raise UsageError(f"{path}.track: expected one of {', '.join(tracks)}, got {track!r}")
    if not isinstance(percent, int) or isinstance(percent, bool) or not 0 <= percent <= 100:
        raise UsageError(f"{path}.percent: expected a whole number from 0 to 100, got {percent!r}")
    return Mirror(track, percent) if percent else None


def _values(path: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v for v in values):
        raise UsageError(f"{path}: expected a list of texts, got {values!r}")
    return tuple(values)


def _text(path: str, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{path}.{key}: expected text, got {value!r}")
    return value


def _header_match(path: str, name: object, condition: object) -> HeaderMatch:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise UsageError(f"{path}: expected an HTTP header's name, got {name!r}")
    path = f"{path}.{name}"
    kinds = tuple(kind.value for kind in Kind)
    if not isinstance(condition, Mapping) or len(condition) != 1:
        raise UsageError(f"{path}: expected exactly one of {', '.join(kinds)}, got {condition!r}")
    known_keys(path, condition, kinds)
    kind, value = next(iter(condition.items()))
    if not isinstance(value, str) or not value:
        raise UsageError(f"{path}.{kind}: expected text, got {value!r}; quote numbers and true/false")
    if kind == Kind.REGEX.value:
        if _NOT_RE2.search(value):
            raise UsageError(f"{path}.regex: RE2 has no look-around or back-references, got {value!r}")
        try:
            re.compile(value)
        except re.error as exc:
            raise UsageError(f"{path}.regex: not a regular expression: {exc}, got {value!r}") from exc
    return HeaderMatch(name, Kind(kind), value)


def _weights(path: str, weights: object, tracks: tuple[str, ...]) -> Mapping[str, int]:
    if not isinstance(weights, Mapping) or not weights:
        raise UsageError(f"{path}: expected weights, a map from track to per cent, got {weights!r}")
    for track, weight in weights.items():
        if track not in tracks:
            raise UsageError(
                f"{path}: weights name the unknown track {track!r}, expected one of {', '.join(tracks)}"
            )
        if not _is_int(weight) or not 0 <= weight <= 100:
            raise UsageError(
                f"{path}: weights.{track}: expected a whole number from 0 to 100, got {weight!r}"
            )
    total = sum(weights.values())
    if total != 100:
        listed = ", ".join(f"{track}={weight}" for track, weight in weights.items())
        raise UsageError(f"{path}: weights must sum to 100, got {total} ({listed})")
    return MappingProxyType({track: weights.get(track, 0) for track in tracks})


def _map(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{key}: expected a map, got {value!r}")
    return value


def known_keys(path: str, entry: Mapping[Any, Any], valid: Sequence[str]) -> None:
    for key in entry:
        if key not in valid:
            raise UsageError(f"{path}: unknown key {key!r}; expected one of {', '.join(valid)}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
