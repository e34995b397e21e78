"""
The requests of one check over one API, and what became of them.
"""

import contextlib
import functools
import itertools
import time
from collections.abc import Iterator, Mapping

from tfcanary.client.answer import Answer
from tfcanary.client.endpoint import burst
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.rest import RestClient
from tfcanary.contract import Api
from tfcanary.errors import UnreachableError
from tfcanary.routing.probes import Probe
from tfcanary.traffic.records import CODES, NO_CODE, NO_STATUS, Recorder, Records

# A gateway that went away fails every request at once; a canary that fails some does not fail so many in a row.
UNREACHED_IN_A_ROW = 25
UNNAMED_REVISION = "(none)"

Client = RestClient | GrpcClient


class Ledger:
    """
    All requests over one API, each recorded.
    """

    def __init__(
        self, client: Client, *, concurrency: int, start: float, tracks: Mapping[str, str] | None = None
    ) -> None:
        """
        Begin without requests.

        Args:
            client: sends all of them.
            concurrency: how many requests `ask` sends at a time.
            start: the second 0 of the records, on the monotonic clock.
            tracks: by version, the track of an answer that names only its version.
        """
        self._tracks = tracks or {}
        self.client = client
        self.concurrency = concurrency
        self._start = start
        self._recorder = Recorder()
        self._unreached = 0

    @property
    def api(self) -> Api:
        """
        The API of all requests.
        """
        return self.client.api

    def record(self, answer: Answer, request: str, *, asked: str | None = None) -> Answer:
        """
        Record an answer, and return it.

        Args:
            answer: the answer.
            request: what the records call this kind of request.
            asked: the model version that the request named: then the answer's own says nothing about the track.

        Raises:
            UnreachableError: if nothing answered many requests in a row.
        """
        rest = answer.api is Api.REST
        self._recorder.add(
            due=time.monotonic() - self._start - answer.latency_seconds,
            latency=answer.latency_seconds,
            request=request,
            status=int(answer.status) if rest and answer.status.isdigit() else NO_STATUS,
            code=NO_CODE if rest else CODES.index(answer.status),
            track=self.track(answer, asked=asked) or "",
            version="" if asked else answer.version or "",
            revision=answer.revision or (UNNAMED_REVISION if answer.ok else ""),
            error="" if answer.ok else str(answer),
        )
        self._unreached = 0 if answer.reached else self._unreached + 1
        if self._unreached >= UNREACHED_IN_A_ROW:
            raise UnreachableError(
                f"gateway: nothing answered {self._unreached} {self.api.value} requests in a row "
                f"after {len(self._recorder) - self._unreached} answers; last: {answer}"
            )
        return answer

    def ask(self, probe: Probe, n: int, request: str) -> Iterator[Answer]:
        """
        Ask n times for metadata.

        Answers come in request order: in completion order a faster track would be over-represented among the first.
        """
        ask = functools.partial(self.client.metadata, prefix=probe.prefix, version=probe.version)
        answers = burst(ask, itertools.repeat(probe.headers, n), self.concurrency)
        with contextlib.closing(answers):
            for answer in answers:
                yield self.record(answer, request, asked=probe.version)

    def track(self, answer: Answer, *, asked: str | None = None) -> str | None:
        """
        The track that an answer names: by its header or, where the routes set none, by the version that answered.
        """
        return answer.track or (None if asked else self._tracks.get(answer.version or ""))

    def can_send(self, probe: Probe) -> bool:
        """
        Whether this API can send the probe's request.
        """
        return self.api is Api.REST or not probe.rest_only

    def raw(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """
        Ask for a path that must be refused; it is not recorded, since a refusal is no failure.
        """
        if isinstance(self.client, RestClient):
            return self.client.raw("GET", path, headers)
        return self.client.raw(path, headers)

    def records(self) -> Records:
        """
        The requests so far.
        """
        return self._recorder.records()
