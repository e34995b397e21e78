"""
What every part of a check needs: the subject, the error rates, the probes, and how many requests each takes.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfcanary.check.finding import UNNAMED, off
from tfcanary.check.subject import Options, Subject
from tfcanary.client.given import Given
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.pictures import Picture, decoded, default_pictures
from tfcanary.client.rest import RestClient
from tfcanary.errors import UsageError
from tfcanary.judge import split
from tfcanary.routing.probes import Aim, Probe, probes_of
from tfcanary.routing.route import Request, Routing

# Past the deadline of the routes, a client waits this much longer: the gateway's own answer says more.
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Context:
    """
    One run of a check, before its first request.

    Attributes:
        probes: the requests that prove the routes.
        plans: by the name of a probe, how many of its requests to send, and what their answers may be.
        start: the beginning of the run, on the monotonic clock.
        given: requests of the user's for the model.
    """

    subject: Subject
    options: Options
    probes: tuple[Probe, ...]
    plans: Mapping[str, split.Plan]
    start: float
    given: Given = field(default_factory=Given)
    _pictures: list[Picture] = field(default_factory=list)
    _tensors: dict[tuple[int, int], list[Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        subject: Subject,
        options: Options,
        pictures: Sequence[Picture] | None,
        given: Given | None = None,
    ) -> "Context":
        """
        Plan a run.

        Args:
            subject: what is checked.
            options: error rates and times.
            pictures: for a model of pictures; None takes those that scikit-learn ships, once they are needed.
            given: requests of the user's for the model.

        Raises:
            UsageError: if there are no pictures, or one is no picture, or a route cannot be probed.
        """
        if pictures is not None and not pictures:
            raise UsageError("pictures: expected at least one, got none; name them with --picture FILE")
        own = probes_of(subject.routing, subject.tokens)
        probes = (*own, *_matching_two(subject.routing, own))
        plans = {probe.name: _plan(probe, subject, options) for probe in probes}
        made = cls(subject, options, probes, plans, time.monotonic(), given or Given(), list(pictures or ()))
        if pictures is not None:
            # A file that is no picture is found before the first request.
            made.tensors(224, 224)
        return made

    @property
    def routing(self) -> Routing:
        """
        The routes that must hold.
        """
        return self.subject.routing

    @property
    def own_probes(self) -> Iterator[Probe]:
        """
        For each route the request that it must take.
        """
        return (probe for probe in self.probes if probe.aim is Aim.OWN)

    @property
    def tracks_by_version(self) -> Mapping[str, str]:
        """
        Where the routes do not name tracks: by version, the track that serves it.
        """
        return {} if self.routing.attribution else self.routing.by_version

    def shows_tracks(self, probe: Probe) -> bool:
        """
        Whether the answers to a probe say which track gave them: by the routes' header, or by a version that the probe
        did not ask for.
        """
        return self.routing.attribution or bool(self.routing.by_version and not probe.version)

    @property
    def off(self) -> str:
        """
        What answers do not say where the routes name neither track nor revision.
        """
        return off(self.routing)

    def expected_tracks(self) -> tuple[str, ...]:
        """
        The tracks that some request reaches, as answers name them.
        """
        return self.routing.serving() if self.routing.attribution else (UNNAMED,)

    @property
    def has_pictures(self) -> bool:
        """
        Whether there are pictures already, since the user named them.
        """
        return bool(self._pictures)

    def pictures(self) -> Sequence[Picture]:
        """
        The pictures to ask about.

        Raises:
            UsageError: if none were named, and scikit-learn is not installed.
        """
        if not self._pictures:
            self._pictures.extend(default_pictures())
        return self._pictures

    def tensors(self, height: int, width: int) -> list[Any]:
        """
        The pictures at one size: float32 arrays of height, width and RGB, from 0 to 255.
        """
        if (height, width) not in self._tensors:
            self._tensors[height, width] = [decoded(picture, height, width) for picture in self.pictures()]
        return self._tensors[height, width]

    @contextlib.contextmanager
    def clients(self, address: str) -> Iterator[tuple[RestClient, GrpcClient]]:
        """
        One client for each API at HOST:PORT.
        """
        subject = self.subject
        deadline_seconds = self.routing.timeout_seconds + GRACE_SECONDS
        with (
            RestClient(
                address,
                self.routing.model,
                host=subject.host,
                deadline_seconds=deadline_seconds,
                connections=self.options.concurrency,
                tls=subject.tls,
            ) as rest,
            GrpcClient(
                address,
                self.routing.model,
                host=subject.host,
                deadline_seconds=deadline_seconds,
                tls=subject.tls,
                metadata=self.routing.grpc_metadata,
            ) as grpc,
        ):
            yield rest, grpc


def _plan(probe: Probe, subject: Subject, options: Options) -> split.Plan:
    """
    How many of a probe's requests it takes, and what their answers may be.

    A route's own split is told apart from every split that differs enough, and from the split before the change. A
    rule is told apart from the other routes. A route that leaves nothing to chance takes few answers for that; it gets
    enough to find a rule that only some gateway pods follow.
    """
    weights = probe.expected.weights
    asked = Request(probe.path(subject.routing.model), probe.headers, probe.claims)
    was = subject.before.decision(asked) if subject.before else None
    alternatives = [was.weights] if was else []
    detect: float | None = options.detect
    if probe.aim is not Aim.OWN:
        others = [route.weights for route in subject.routing.routes if dict(route.weights) != dict(weights)]
        alternatives += others
        if others and any(0 < weight < 100 for weight in weights.values()):
            detect = None
    return split.sequential(
        weights, alpha=options.alpha, power=options.power, detect=detect, alternatives=alternatives
    )


def _matching_two(expected: Routing, probes: Sequence[Probe]) -> Iterator[Probe]:
    """
    For two routes with conditions, a request that fits both. The first of them must take it.
    """
    own = [
        probe
        for probe in probes
        if probe.aim is Aim.OWN
        and probe.only_headers
        and probe.aimed_at.headers
        and probe.expected.name == probe.aimed_at.name
    ]
    for first, second in itertools.combinations(own, 2):
        one, other = (
            {name.lower(): value for name, value in probe.headers.items()} for probe in (first, second)
        )
        if any(one[name] != other[name] for name in one.keys() & other.keys()):
            continue  # one header cannot have two values
        headers = {**first.headers, **second.headers}
        taker = expected.decide(headers)
        if not (first.aimed_at.takes(headers) and second.aimed_at.takes(headers)):
            continue
        name = f"{first.aimed_at.name} and {second.aimed_at.name} both match"
        yield Probe(name, Aim.MATCH, first.aimed_at, headers, taker)
