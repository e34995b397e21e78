"""
Routes as the values declare them, and the route that takes a request.

The order is Istio's: the first route that fits takes the request.
"""

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from tfcanary.contract import PREFIXES, rest_path
from tfcanary.errors import UsageError
from tfcanary.routing.buckets import BUCKETS, bucket


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
        value = header_value(headers, self.name)
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
        labels: those of the calling pod inside the mesh; None for a client outside.
    """

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """
    One entry of `routing.routes`. A request must fit all its conditions; without conditions it takes every request.

    Attributes:
        headers: all conditions on headers, including those of user groups, users, regions and cookies.
        claims: by claim, the values that a verified token may have.
        labels: the labels that a caller inside the mesh must have.
        prefix: the part of the path before that of the API.
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
        Whether all its conditions are on headers.
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
                seen = header_value(request.headers, match.name)
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
        return f"{' and '.join(who) or 'everyone else'} → {weights_in_words(self.weights)}{kept}{copied}"


@dataclass(frozen=True, slots=True)
class Destination:
    """
    What the gateway does with one request.

    Attributes:
        route: the entry that takes it.
        weights: by track; those of the route, or 100 for the track that the client is kept on.
        why: the reason for the weights, in words.
    """

    route: Route
    weights: Mapping[str, int]
    why: str


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
        versions: by track, the model version that it serves; a track whose values name none is left out.
        verified: with tokens, the headers that the gateway sets from claims, and takes away from clients.
        model_header: the header by which gRPC clients name the model, where other models have the same hosts; None where
            they have none.
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
    versions: Mapping[str, str] = field(default_factory=dict)
    model_header: str | None = None

    @property
    def grpc_metadata(self) -> Mapping[str, str]:
        """
        What every gRPC call to the gateway must send.
        """
        return {self.model_header: self.model} if self.model_header else {}

    @property
    def by_version(self) -> Mapping[str, str]:
        """
        The track by the version that it serves; empty unless every track has one that no other has.
        """
        found = {version: track for track, version in self.versions.items()}
        return found if len(found) == len(self.tracks) else {}

    def decide(self, headers: Mapping[str, str]) -> Route:
        """
        The route that takes an ordinary request with these headers: the first that fits.

        Its weights are those that hold for this request: a sticky client's are all on one track.
        """
        return self.taker(Request(rest_path(self.model, "metadata"), headers))

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
        The request as the routes see it. With verified tokens, some headers come from the token's claims alone.
        """
        if request.labels is not None or not self.verified:
            return request
        kept = {name: value for name, value in request.headers.items() if name.lower() not in self.verified}
        for header, claim in self.verified.items():
            said = request.claims.get(claim)
            if isinstance(said, str):
                kept[header] = said
        return dataclasses.replace(request, headers=kept)

    def decision(self, request: Request) -> Destination | None:
        """
        The route and the weights for a request; None if no route takes it: its path is not the model server's, or it does
        not name the model at a host of several.
        """
        if self.model_header and request.labels is None and not self._named(request):
            return None
        request = self.arriving(request)
        if not self.verified and request.claims:
            request = dataclasses.replace(request, claims={})
        for route in self.routes:
            if route.misses(request) is None:
                return self._kept(route, request)
        return None

    def _named(self, request: Request) -> bool:
        """
        Whether a request names the model: over REST in its path, over gRPC in a header.
        """
        if PREFIXES["gRPC"] in request.path:
            return header_value(request.headers, str(self.model_header)) == self.model
        path = request.path.partition("?")[0]
        return re.fullmatch(f"/v1/models/{re.escape(self.model)}([:/].*)?", path) is not None

    def _kept(self, route: Route, request: Request) -> Destination:
        if route.sticky is Sticky.COOKIE:
            for track in sharing(route.weights):
                kept = HeaderMatch("cookie", Kind.REGEX, cookie_expression(self.cookie, track))
                if kept.fits(request.headers):
                    return Destination(route, self._only(track), f"its cookie {self.cookie} says {track}")
            return Destination(route, route.weights, f"it has no cookie {self.cookie} yet, and gets one")
        if route.sticky is Sticky.USER:
            user = header_value(request.headers, self.user_header) if self.user_header else None
            if request.labels is not None or not user:
                return Destination(route, route.weights, "no bucket: each request is drawn by weight")
            number = bucket(self.model, user)
            high = 0
            for track in sharing(route.weights):
                high += route.weights[track]
                if number < high:
                    return Destination(route, self._only(track), f"bucket {number} of {BUCKETS} is {track}'s")
        return Destination(route, route.weights, "each request is drawn by weight")

    def _only(self, track: str) -> Mapping[str, int]:
        return MappingProxyType({name: 100 if name == track else 0 for name in self.tracks})

    def serving(self) -> tuple[str, ...]:
        """
        The tracks that some route sends requests to.
        """
        return tuple(track for track in self.tracks if any(route.weights.get(track) for route in self.routes))


def asked_host(hosts: Sequence[str]) -> str | None:
    """
    The host to ask for: the first of the gateway's; a wildcard stands for any name below it. None takes the address.
    """
    first = hosts[0]
    return None if first == "*" else first.replace("*", "check", 1)


def cookie_expression(name: str, value: str) -> str:
    """
    A regular expression for the Cookie header: it holds this cookie, among others.
    """
    return f"(.*[;,] *)?{re.escape(name)}={re.escape(value)}([;,].*)?"


def sharing(weights: Mapping[str, int]) -> tuple[str, ...]:
    """
    The tracks with a weight, in the order in which they share the buckets: stable last.
    """
    return tuple(
        sorted((track for track, weight in weights.items() if weight), key=lambda t: (t == "stable", t))
    )


def weights_in_words(weights: Mapping[str, int]) -> str:
    """
    The tracks with a weight, the largest first.
    """
    shares = sorted(((weight, track) for track, weight in weights.items() if weight), reverse=True)
    return ", ".join(f"{track} {weight} %" for weight, track in shares)


def header_value(headers: Mapping[str, str], name: str) -> str | None:
    """
    The value of a header, whatever the case of its name; None if it is not there.
    """
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)
