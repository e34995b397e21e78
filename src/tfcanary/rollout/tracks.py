"""
The pods of the tracks, asked one by one, past the gateway: a canary at weight 0 answers nobody else.
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tfcanary.check.answers import profile_of
from tfcanary.check.pods import AVAILABLE, in_words
from tfcanary.check.profile import Profile
from tfcanary.check.signatures import difference
from tfcanary.client.answer import Answer, Interface
from tfcanary.client.base import Client
from tfcanary.client.given import Given
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.made import made, why_not
from tfcanary.client.pictures import default_pictures
from tfcanary.client.request import PredictRequest
from tfcanary.client.rest import RestClient
from tfcanary.contract import GRPC_PORT, SERVER_PORT, SERVING_DEFAULT, SERVING_PREPROCESS, Api
from tfcanary.errors import NoEvidenceError, UnreachableError
from tfcanary.judge.feed import CANARY, STABLE, Request
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.portforward import PodPort, forwarded
from tfcanary.metrics.tfserving import version_states
from tfcanary.rollout.cluster import Track

# A first prediction may load what warm-up did not; it is no reason to refuse a version.
DEADLINE_SECONDS = 60.0
_AT_A_TIME = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """
    The answers of both tracks to one input.
    """

    request: PredictRequest
    canary: Answer
    stable: Answer


@dataclass(frozen=True, slots=True)
class Names:
    """
    What a release is called, and its parts.

    Attributes:
        model: the name that TensorFlow Serving knows the model by.
        stable, canary: the tracks.
    """

    release: str
    model: str
    stable: str
    canary: str


@dataclass(slots=True)
class Tracks:
    """
    The pods of one release's tracks.

    Attributes:
        given: the user's requests; without any, pictures or inputs made from the signature.
    """

    live: LiveObjects
    names: Names
    given: Given = field(default_factory=Given)
    _profile: Profile | None = None

    def track(self, name: str) -> Track:
        """
        How many pods a track asks for, and how many are Ready and among the endpoints.
        """
        found = next(
            (
                one
                for one in self.live.listed("deployments", self.names.release)
                if _label(one, "track") == name
            ),
            None,
        )
        if found is None:
            return Track(0, 0, 0, 0)
        template = found["spec"]["template"]["metadata"]["labels"]
        version = str(template.get("app.kubernetes.io/version", "0"))
        ready = self._ready(name, version)
        endpoints = self.live.endpoints(self.names.release)
        return Track(
            int(version) if version.isdigit() else 0,
            int(found["spec"].get("replicas", 1)),
            len(ready),
            len(endpoints.intersection(ready)),
        )

    def examine(self, version: int) -> tuple[str, ...]:
        """
        Compare the interfaces over both APIs, and ask each of the canary's pods for first predictions.

        Returns:
            What is wrong, each in words.

        Raises:
            UnreachableError: if a pod cannot be asked.
        """
        with self._clients(self._one(self.names.stable)) as clients:
            known = {client.api: _interface(client, self.names.stable) for client in clients}
        problems: list[str] = []
        for pod in self._pods(self.names.canary):
            states = version_states(self.live, pod, self.names.model)
            if [str(version)] != [number for number, state in states.items() if state == AVAILABLE]:
                problems.append(f"pod {pod}: expected version {version} {AVAILABLE}, got {in_words(states)}")
                continue
            with self._clients(pod) as clients:
                for client in clients:
                    problems += self._problems(pod, client, known[client.api])
        return tuple(dict.fromkeys(problems))

    def pairs(self, count: int) -> list[Pair]:
        """
        Send both tracks the same inputs, in turn over REST and gRPC.

        Raises:
            NoEvidenceError: if the model takes no input that is known.
            UnreachableError: if a track has no pod that can be asked.
        """
        with (
            self._clients(self._one(self.names.stable)) as stable,
            self._clients(self._one(self.names.canary)) as canary,
        ):
            interface = _interface(stable[0], self.names.stable)
            requests = self.requests(interface)

            def ask(number: int) -> Pair:
                request = requests[number // len(stable) % len(requests)]
                able = [place for place, client in enumerate(stable) if client.api in request.apis]
                api = able[number % len(able)]
                return Pair(request, canary[api].predict(request), stable[api].predict(request))

            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                return list(pool.map(ask, range(count)))

    def interface(self) -> Interface:
        """
        Stable's, over REST.
        """
        with self._clients(self._one(self.names.stable)) as clients:
            return _interface(clients[0], self.names.stable)

    def requests(self, interface: Interface) -> Sequence[PredictRequest]:
        """
        What a model of this interface is asked: the user's requests, pictures, or inputs made from the signature.

        Raises:
            NoEvidenceError: if none is known.
        """
        if self.given.requests:
            return [entry.prepared(interface) for entry in self.given.requests]
        if self.profile(interface).name == "pictures" and SERVING_PREPROCESS in interface:
            declared = interface[SERVING_PREPROCESS]
            key = next(iter(declared.inputs))
            return [
                PredictRequest.one(SERVING_PREPROCESS, key, picture.content, declared)
                for picture in default_pictures()
            ]
        reasons = {name: why_not(signature) for name, signature in interface.items()}
        known = sorted(
            (name for name, reason in reasons.items() if not reason), key=lambda name: name != SERVING_DEFAULT
        )
        if not known:
            said = "; ".join(f"{name} {reason}" for name, reason in sorted(reasons.items()))
            raise NoEvidenceError(
                f"model {self.names.model!r}: expected a signature that inputs can be made for, got {said}; "
                "give requests by --requests FILE"
            )
        return [made(known[0], interface[known[0]])]

    def profile(self, interface: Interface) -> Profile:
        """
        What answers of this interface are looked at for.
        """
        if self._profile is None:
            self._profile = profile_of({(Api.REST, self.names.stable): interface})
        return self._profile

    def records(self, pairs: Sequence[Pair], *, at: float, weight: float) -> Iterator[Request]:
        """
        The pairs as the judge reads requests.

        Args:
            pairs: the answers.
            at: when they were due, in seconds since 1970.
            weight: the canary's, in per cent.
        """
        for pair in pairs:
            key = uuid.uuid4().hex
            answers = {CANARY: pair.canary, STABLE: pair.stable}
            named = {track: self._named(answer, pair.request) for track, answer in answers.items()}
            # A model whose answers name nothing has no class that the tracks could agree on.
            comparable = any(named.values())
            for track, answer in answers.items():
                yield Request(
                    at=at,
                    weight=weight,
                    track=track,
                    latency=answer.latency_seconds,
                    answer=named[track],
                    fault=self._fault(answer, pair.request),
                    pair=key if comparable else f"{track} {key}",
                    label=pair.request.label or "",
                )

    def _named(self, answer: Answer, request: PredictRequest) -> str:
        if answer.prediction is None or self._profile is None:
            return ""
        return self._profile.label(answer.prediction, request) or ""

    def _fault(self, answer: Answer, request: PredictRequest) -> str:
        """
        What is wrong with an answer whatever the input is. One that failed has an error rate instead.
        """
        if not answer.ok or self._profile is None:
            return ""
        return next(self._profile.problems(answer, request), "")

    def _problems(self, pod: str, client: Client, known: Interface) -> Iterator[str]:
        where = f"pod {pod} over {client.api.value}"
        mine = _interface(client, f"pod {pod}")
        if mine != known:
            yield f"{where}: another interface than stable's: {difference(known, mine)}"
            return
        for request in self.requests(mine):
            if client.api not in request.apis:
                continue
            answer = client.predict(request)
            if not answer.ok:
                yield f"{where}: first prediction of {request.signature}: {answer}"
                return
            for problem in self.profile(mine).problems(answer, request):
                yield f"{where}: {request.signature}: {problem}"

    def _ready(self, track: str, version: str | None = None) -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in self.live.listed("pods", self.names.release)
            if _label(pod, "track") == track
            and version in (None, _label(pod, "app.kubernetes.io/version"))
            and "deletionTimestamp" not in pod["metadata"]
            and any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in pod.get("status", {}).get("conditions", ())
            )
        ]

    def _pods(self, track: str) -> list[str]:
        found = sorted(self._ready(track))
        if not found:
            raise UnreachableError(f"track {track}: expected a Ready pod, got none")
        return found

    def _one(self, track: str) -> str:
        return self._pods(track)[0]

    @contextlib.contextmanager
    def _clients(self, pod: str) -> Iterator[tuple[Client, Client]]:
        """
        A client for each API of one pod.
        """

        def port(number: int) -> PodPort:
            return PodPort(pod, self.live.namespace, number)

        with (
            forwarded(self.live, port(SERVER_PORT)) as rest,
            forwarded(self.live, port(GRPC_PORT)) as grpc,
            RestClient(rest, self.names.model, deadline_seconds=DEADLINE_SECONDS) as over_rest,
            GrpcClient(grpc, self.names.model, deadline_seconds=DEADLINE_SECONDS) as over_grpc,
        ):
            yield over_rest, over_grpc


def _interface(client: Client, who: str) -> Interface:
    answer = client.metadata(parse=True)
    if answer.interface is None:
        raise UnreachableError(
            f"{who} over {client.api.value}: expected metadata, got {answer}; "
            "the right to create pods/portforward in its namespace opens a way"
        )
    return answer.interface


def _label(item: Mapping[str, Any], name: str) -> str:
    return str(item["metadata"].get("labels", {}).get(name, ""))
