"""
What the values say the gateway does: the routes, who takes a request, and requests that prove it.

Values come together as Helm brings them together: maps are merged, lists are replaced whole, null takes a key
of the chart's defaults away. From the routes come *probes*: for each route a request that it must take, and
requests that just miss it (another value, another case, no header, a wrong name), each with the route that must
take it instead. A rule is proven in both directions only by both kinds.
"""

import dataclasses
import enum
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tfcanary.errors import UsageError
from tfcanary.jwt import Token

CHART = Path(__file__).parents[2] / "charts" / "tfserving-canary"

# By key of a match, the key of routing.headers that names its header, and that header's default.
_HEADERS = {
    "userGroups": ("userGroup", "user-group"),
    "users": ("user", "user-id"),
    "regions": ("region", "x-client-region"),
}
_MATCHES = ("headers", *_HEADERS, "cookie", "claims", "path", "sourceLabels")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METADATA = re.compile(r"[0-9A-Za-z_.-]+")
_NOT_RE2 = re.compile(r"\(\?(=|!|<=|<!)|\\[1-9]")


class Kind(enum.Enum):
    """
    How a header's value is compared: Istio's three ways, all of them case-sensitive.
    """

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"


class Sticky(enum.Enum):
    """
    How a route keeps a client on its track.
    """

    COOKIE = "cookie"
    USER = "user"


PREFIXES = {"REST": "/v1/", "gRPC": "/tensorflow.serving."}
_VERSION = re.compile(r"/versions/([0-9]+)")
BUCKETS = 100


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """
    One header that must be there, with a value that fits. The name's case does not matter.
    """

    name: str
    kind: Kind
    value: str

    def fits(self, headers: Mapping[str, str]) -> bool:
        """
        Whether the request's headers hold one that fits; a regex must match all of the value, as RE2 does.
        """
        value = _header(headers, self.name)
        if value is None:
            return False
        match self.kind:
            case Kind.EXACT:
                return value == self.value
            case Kind.PREFIX:
                return value.startswith(self.value)
            case Kind.REGEX:
                return re.fullmatch(self.value, value) is not None


@dataclass(frozen=True, slots=True)
class Mirror:
    """
    The track that gets a copy of some of a route's requests.
    """

    track: str
    percent: int


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request as it arrives.

    Attributes:
        path: the HTTP path, for gRPC that of the method.
        claims: what its verified token says; empty without one.
        labels: those of the calling pod inside the mesh; None is a client outside.
    """

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """
    One entry of `routing.routes`: all that it says must fit; nothing means everyone.

    Attributes:
        headers: all conditions on headers, those of user groups, users, regions and cookies among them.
        claims: by claim, the values that a verified token may have.
        labels: the labels that a caller inside the mesh must have.
        prefix: what stands before the path of the API.
        version: the expression for the REST paths of a track's version.
    """

    name: str
    headers: tuple[HeaderMatch, ...]
    weights: Mapping[str, int]
    claims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    prefix: str | None = None
    version: str | None = None
    sticky: Sticky | None = None
    mirror: Mirror | None = None

    @property
    def only_headers(self) -> bool:
        """
        Whether headers are all that decides.
        """
        return not (self.claims or self.labels or self.prefix or self.version)

    @property
    def takes_everyone(self) -> bool:
        """
        Whether it has no match.
        """
        return self.only_headers and not self.headers

    def takes(self, headers: Mapping[str, str]) -> bool:
        """
        Whether this route alone would take an ordinary request with these headers.
        """
        return self.only_headers and all(match.fits(headers) for match in self.headers)

    def misses(self, request: Request) -> str | None:
        """
        The first condition that a request does not fit, in words; None if it fits them all.
        """
        return self._missed_header(request) or self._missed_identity(request) or self._missed_path(request)

    def _missed_header(self, request: Request) -> str | None:
        for match in self.headers:
            if not match.fits(request.headers):
                seen = _header(request.headers, match.name)
                return f"{match.name} is {seen!r}, not {match.kind.value} {match.value!r}"
        return None

    def _missed_identity(self, request: Request) -> str | None:
        for claim, values in self.claims.items():
            said = request.claims.get(claim, ())
            if (
                not set((said,) if isinstance(said, str) else said) & set(values)
                or request.labels is not None
            ):
                return f"no token that the gateway verified says {claim}: {' or '.join(values)}"
        for label, value in self.labels.items():
            if request.labels is None:
                return "the client is outside the mesh"
            if request.labels.get(label) != value:
                return f"the caller's label {label} is {request.labels.get(label)!r}, not {value!r}"
        return None

    def _missed_path(self, request: Request) -> str | None:
        path = request.path.partition("?")[0]
        if self.version is not None:
            return None if re.fullmatch(self.version, path) else f"{path} is no path of its version"
        prefixes = tuple((self.prefix or "") + api for api in PREFIXES.values())
        return None if path.startswith(prefixes) else f"{path} does not start with {' or '.join(prefixes)}"

    def __str__(self) -> str:
        """
        The route in words.
        """
        who = [f"{match.name} {match.kind.value} {match.value!r}" for match in self.headers]
        who += [f"claim {claim} {' or '.join(values)}" for claim, values in self.claims.items()]
        who += [f"caller's label {label} {value!r}" for label, value in self.labels.items()]
        who += [f"path below {self.prefix}"] if self.prefix else []
        who += [f"path {self.version!r}"] if self.version else []
        kept = f", sticky by {self.sticky.value}" if self.sticky else ""
        copied = f", {self.mirror.percent} % mirrored to {self.mirror.track}" if self.mirror else ""
        return f"{' and '.join(who) or 'everyone else'} → {in_words(self.weights)}{kept}{copied}"


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What the gateway does with one request.

    Attributes:
        route: the entry that takes it.
        weights: by track; those of the route, unless the request has a track already.
        why: how the weights came about, in words.
    """

    route: Route
    weights: Mapping[str, int]
    why: str


class Aim(enum.Enum):
    """
    What a probe is to show of the route that it is aimed at.
    """

    OWN = "the route's own request"
    MATCH = "another request that matches"
    NEAR_MISS = "a request that just misses"


@dataclass(frozen=True, slots=True)
class Probe:
    """
    A request, the route it is aimed at, and the route that must take it.

    Attributes:
        headers: those that the client sends, its token's among them.
        rest_only: gRPC cannot ask so: its metadata is ASCII of fewer names, none in upper case; its path has no version.
        prefix: what stands before the path of the API.
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
        version = f"/versions/{self.version}" if self.version else ""
        return f"{self.prefix}{PREFIXES['REST']}models/{model}{version}/metadata"


@dataclass(frozen=True, slots=True)
class Routing:
    """
    What the harness needs to know of a release's values.

    Attributes:
        attribution: whether answers name their track and the route's revision.
        hosts: the gateway's hosts; ``*`` takes every host.
        timeout_seconds: how long the gateway waits for an answer.
        user_header: what names the user for `sticky.by: user`; None where the gateway computes no buckets.
        cookie: the name of the cookie that keeps a client on its track.
        verified: with tokens, the headers that the gateway sets from claims, and takes away from clients.
    """

    model: str
    routes: tuple[Route, ...]
    tracks: tuple[str, ...]
    attribution: bool
    hosts: tuple[str, ...]
    port: int
    timeout_seconds: int
    user_header: str | None = "user-id"
    cookie: str = "model-track"
    verified: Mapping[str, str] = field(default_factory=dict)

    def decide(self, headers: Mapping[str, str]) -> Route:
        """
        The route that takes an ordinary request with these headers: the first that fits.

        Its weights are those that hold for this request: a sticky client's are all on one track.
        """
        return self.taker(Request(f"/v1/models/{self.model}/metadata", headers))

    def taker(self, request: Request) -> Route:
        """
        The route that takes a request, with the weights that hold for it.
        """
        decision = self.decision(request)
        if decision is None:
            raise UsageError("routing.routes: expected a route that takes everyone, got none")
        if decision.weights == decision.route.weights:
            return decision.route
        return dataclasses.replace(decision.route, weights=decision.weights)

    def arriving(self, request: Request) -> Request:
        """
        The request as the routes see it: with verified tokens, some headers are the token's words, or none.
        """
        if request.labels is not None or not self.verified:
            return request
        kept = {name: value for name, value in request.headers.items() if name.lower() not in self.verified}
        for header, claim in self.verified.items():
            said = request.claims.get(claim)
            if isinstance(said, str):
                kept[header] = said
        return dataclasses.replace(request, headers=kept)

    def decision(self, request: Request) -> Decision | None:
        """
        What becomes of a request; None if no route takes it, because its path is none of the model server's.
        """
        request = self.arriving(request)
        if not self.verified and request.claims:
            request = dataclasses.replace(request, claims={})
        for route in self.routes:
            if route.misses(request) is None:
                return self._kept(route, request)
        return None

    def _kept(self, route: Route, request: Request) -> Decision:
        if route.sticky is Sticky.COOKIE:
            for track in sharing(route.weights):
                kept = HeaderMatch("cookie", Kind.REGEX, cookie_expression(self.cookie, track))
                if kept.fits(request.headers):
                    return Decision(route, self._only(track), f"its cookie {self.cookie} says {track}")
            return Decision(route, route.weights, f"it has no cookie {self.cookie} yet, and gets one")
        if route.sticky is Sticky.USER:
            user = _header(request.headers, self.user_header) if self.user_header else None
            if request.labels is not None or not user:
                return Decision(route, route.weights, "no bucket: it is drawn anew each time")
            number = bucket(self.model, user)
            high = 0
            for track in sharing(route.weights):
                high += route.weights[track]
                if number < high:
                    return Decision(route, self._only(track), f"bucket {number} of {BUCKETS} is {track}'s")
        return Decision(route, route.weights, "it is drawn anew each time")

    def _only(self, track: str) -> Mapping[str, int]:
        return MappingProxyType({name: 100 if name == track else 0 for name in self.tracks})

    def unprobed(self, tokens: Sequence[Token] = ()) -> tuple[Route, ...]:
        """
        The routes that no request from outside reaches: with no token that fits, or for callers inside the mesh.
        """
        return tuple(
            route for index, route in enumerate(self.routes) if self._reaching(index, tokens) is None
        )

    def serving(self) -> tuple[str, ...]:
        """
        The tracks that some route sends requests to.
        """
        return tuple(track for track in self.tracks if any(route.weights.get(track) for route in self.routes))

    def probes(self, tokens: Sequence[Token] = ()) -> tuple[Probe, ...]:
        """
        For every route one request that it takes and, condition by condition, requests that just miss it.

        Args:
            tokens: a client's, for routes that ask for one.

        Raises:
            UsageError: if no request is found that reaches some route.
        """
        found: list[Probe] = []
        for index, route in enumerate(self.routes):
            own = self._reaching(index, tokens)
            if own is None:
                continue
            found.append(self._aimed(own, headers=self._sent(own.headers)))
            for name, changed in self._variants(own):
                aimed = self._aimed(changed, name=f"{route.name}: {name}")
                aim = Aim.MATCH if aimed.expected.name == route.name else Aim.NEAR_MISS
                found.append(dataclasses.replace(aimed, aim=aim, headers=self._sent(aimed.headers)))
        return tuple(found)

    def _aimed(self, probe: Probe, **more: Any) -> Probe:
        """
        The probe with the route that takes it.
        """
        taker = self.taker(Request(probe.path(self.model), probe.headers, probe.claims))
        return dataclasses.replace(probe, expected=taker, **more)

    def _sent(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """
        The headers, and the bucket that the gateway finds again whatever a client says.
        """
        user = _header(headers, self.user_header) if self.user_header else None
        if not user or not any(route.sticky is Sticky.USER for route in self.routes):
            return headers
        return MappingProxyType({**headers, bucket_header(self.model): f"{bucket(self.model, user):02}"})

    def _reaching(self, index: int, tokens: Sequence[Token]) -> Probe | None:
        """
        The route's own request; None if it takes a token that is not here, or a caller inside the mesh.
        """
        route = self.routes[index]
        matches = [match for match in route.headers if match.name.lower() not in self.verified]
        by_token = bool(route.claims) or len(matches) < len(route.headers)
        named = _VERSION.search(route.version or "")
        without = by_token and not (tokens and self.verified)
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
                request = Request(probe.path(self.model), probe.headers, probe.claims)
                if route.misses(self.arriving(request)) is not None:
                    continue
                taker = self.decision(request)
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

    def _variants(self, own: Probe) -> Iterator[tuple[str, Probe]]:
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
            # What a token would say, said by the client itself.
            said = {name: str(own.claims.get(claim, "")) for name, claim in self.verified.items()}
            said |= {name: values[0] for name, values in own.aimed_at.claims.items()}
            forged = MappingProxyType({**plain, **said})
            yield "plain headers instead of a token", dataclasses.replace(own, headers=forged, claims={})


def bucket(model: str, user: str) -> int:
    """
    The bucket of a user: what files/bucket.lua of the chart computes at the gateway.
    """
    number = 2166136261
    for byte in f"{model}:{user}".encode():
        number = ((number ^ byte) * 16777619) & 0xFFFFFFFF
    number = ((number ^ (number >> 16)) * 2246822507) & 0xFFFFFFFF
    number = ((number ^ (number >> 13)) * 3266489909) & 0xFFFFFFFF
    return (number ^ (number >> 16)) % BUCKETS


def bucket_header(model: str) -> str:
    """
    The header in which the gateway puts the bucket.
    """
    return f"x-bucket-{model.lower()}"


def cookie_expression(name: str, value: str) -> str:
    """
    An expression for a cookie among others.
    """
    return f"(.*[;,] *)?{re.escape(name)}={re.escape(value)}([;,].*)?"


def sharing(weights: Mapping[str, int]) -> tuple[str, ...]:
    """
    The tracks that get something in the order in which they share the buckets: stable last.
    """
    return tuple(
        sorted((track for track, weight in weights.items() if weight), key=lambda t: (t == "stable", t))
    )


def in_words(weights: Mapping[str, int]) -> str:
    """
    Weights as a reader says them: the tracks that get something, largest first.
    """
    shares = sorted(((weight, track) for track, weight in weights.items() if weight), reverse=True)
    return ", ".join(f"{track} {weight} %" for weight, track in shares)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """
    Put one values file over another, as `helm -f base -f over` does: nulls stay, for the defaults below.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def coalesce(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Put a user's values over the chart's defaults, as Helm does: a null takes the key away.
    """
    merged = {**defaults, **values}
    for key, value in values.items():
        below = defaults.get(key)
        if value is None:
            del merged[key]
        elif isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = coalesce(below, value)
        elif isinstance(value, Mapping):
            merged[key] = coalesce({}, value)
    return merged


def read_values(path: Path) -> dict[str, Any]:
    """
    Read one values file.

    Raises:
        UsageError: if it is missing, is not YAML, is empty, or is not a map.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
        raise UsageError(f"values file {str(path)!r}: cannot be read: {reason}") from exc
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise UsageError(f"values file {str(path)!r}: not YAML: {exc}") from exc
    if values is None:
        raise UsageError(
            f"values file {str(path)!r}: empty; expected a map such as routing: {{routes: [...]}}"
        )
    if not isinstance(values, dict):
        raise UsageError(f"values file {str(path)!r}: expected a map, got {type(values).__name__}")
    return values


def read_files(files: Sequence[Path]) -> dict[str, Any]:
    """
    Read values files and put each over those before it, as `helm -f … -f …` does.
    """
    values: dict[str, Any] = {}
    for file in files:
        values = merge(values, read_values(file))
    return values


def chart_defaults(chart: Path = CHART) -> dict[str, Any]:
    """
    The chart's own values.
    """
    return read_values(chart / "values.yaml")


def check_keys(values: Mapping[str, Any], chart: Path = CHART) -> None:
    """
    Refuse keys that the chart does not know: a misspelt one would leave its default standing, unsaid.

    Raises:
        UsageError: naming the path, and the keys that there are.
    """
    path = chart / "values.schema.json"
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise UsageError(f"chart {str(chart)!r}: values.schema.json cannot be read: {exc}") from exc
    _check_keys("", values, schema, schema.get("definitions", {}))


def _check_keys(path: str, value: object, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> None:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    if isinstance(value, Mapping):
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        for key, below in value.items():
            inner = f"{path}.{key}".removeprefix(".")
            if key in properties:
                _check_keys(inner, below, properties[key], definitions)
            elif isinstance(others, Mapping):
                _check_keys(inner, below, others, definitions)
            elif not others:
                _known(path or "values", value, tuple(properties))
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, below in enumerate(value):
            _check_keys(f"{path}[{index}]", below, schema["items"], definitions)


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
    _known(path, entry, ("name", "match", "weights", "mirror", "sticky"))
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise UsageError(f"{path}.name: expected a name, got {name!r}")
    path = f"{path} ({name})"
    match = entry.get("match") or {}
    if not isinstance(match, Mapping):
        raise UsageError(f"{path}.match: expected a map, got {match!r}")
    _known(f"{path}.match", match, _MATCHES)
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
    _known(path, entry, ("prefix", "version"))
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
    _known(path, entry, ("by",))
    kinds = [kind.value for kind in Sticky]
    if entry.get("by") not in kinds:
        raise UsageError(f"{path}.by: expected one of {', '.join(kinds)}, got {entry.get('by')!r}")
    return Sticky(entry["by"])


def _mirror(path: str, entry: Mapping[str, Any], tracks: tuple[str, ...]) -> Mirror | None:
    if not entry:
        return None
    _known(path, entry, ("track", "percent"))
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
    _known(path, condition, kinds)
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


def _known(path: str, entry: Mapping[Any, Any], valid: Sequence[str]) -> None:
    for key in entry:
        if key not in valid:
            raise UsageError(f"{path}: unknown key {key!r}; expected one of {', '.join(valid)}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)


def _is_metadata(name: str, value: str) -> bool:
    """
    Whether gRPC can send a header, in lower case; what ends in -bin it would encode.
    """
    return bool(_METADATA.fullmatch(name)) and not name.lower().endswith("-bin") and value.isascii()


def _examples(match: HeaderMatch) -> list[str]:
    """
    Values that fit: the value itself, and one with more behind it where that is allowed.
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


def example(pattern: str) -> str:
    """
    A text that the regular expression matches in full, as far as its common parts go.

    It is built by reading the pattern once; whether it does match is for the caller to see.
    """
    text, rest = _alternatives(pattern)
    return text if not rest else text + rest


def _alternatives(pattern: str) -> tuple[str, str]:
    """
    The first of the alternatives up to the closing parenthesis, and what follows it.
    """
    made = ""
    while pattern and pattern[0] not in "|)":
        atom, pattern = _atom(pattern)
        quantifier = re.match(r"[*+?]\??|\{(\d+)[^}]*\}\??", pattern)
        times = 1
        if quantifier:
            pattern = pattern[quantifier.end() :]
            times = int(quantifier[1]) if quantifier[1] else 1
        made += atom * times
    depth = 0
    while pattern and not (pattern[0] == ")" and depth == 0):
        step = 2 if pattern[0] == "\\" else 1
        depth += {"(": 1, ")": -1}.get(pattern[0], 0)
        pattern = pattern[step:]
    return made, pattern[1:]


def _atom(pattern: str) -> tuple[str, str]:
    """
    A text for the first atom of the pattern, and the pattern after it.
    """
    if group := re.match(r"\((\?(P?<\w+>|[a-zA-Z-]*:)|\?[a-zA-Z]+(?=\)))?", pattern):
        return _alternatives(pattern[group.end() :])
    if characters := re.match(r"\[\^?\]?(\\.|[^\]\\])*\]", pattern):
        allowed = re.compile(characters[0])
        alphabet = "a1-_ A." + "".join(map(chr, range(33, 127)))
        fitting = next((character for character in alphabet if allowed.fullmatch(character)), "")
        return fitting, pattern[characters.end() :]
    if escaped := re.match(r"\\(.)", pattern):
        classes = {"d": "1", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "b": "", "A": "", "z": ""}
        return classes.get(escaped[1], escaped[1]), pattern[2:]
    return {".": "x", "^": "", "$": ""}.get(pattern[0], pattern[0]), pattern[1:]
