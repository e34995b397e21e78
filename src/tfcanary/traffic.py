"""
Load over REST and gRPC in the background while something is changed, with a record of every request.

The load is *open*: request i is due at i/rate, whatever became of those before it, and its latency counts from
then. A driver that waits for answers would send the fewest requests exactly while the gateway is in trouble.
(`concurrency` instead of `rate` gives the closed kind, for measuring how much goes through.) Nothing is tried
twice. Records are kept as columns, a few tens of bytes each, and every one of them counts: a slice by phase,
API or track keeps all its requests, and an assertion about a slice with none in it is an error.

Times are of the monotonic clock; a step of the wall clock moves nothing.
"""

import array
import asyncio
import contextlib
import dataclasses
import enum
import functools
import json
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from tfcanary import predict
from tfcanary.errors import DoesNotHoldError, NoEvidenceError, UnreachableError, UsageError
from tfcanary.predict import REVISION_HEADER, TRACK_HEADER, Api, Tls
from tfcanary.wait import NotYet, wait_until

CONNECTIONS = 64
SAMPLES = 5

_NO_STATUS = 0
_NO_CODE = -1


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request, made once and sent many times.

    Attributes:
        name: what the records call it.
        call: "metadata" or "predict".
        payload: the REST body or the gRPC message, serialised.
    """

    api: Api
    name: str
    model: str
    call: str
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def metadata(api: Api, model: str, headers: Mapping[str, str] | None = None) -> Request:
    """
    A request for the model's metadata: cheap, and taking the same route as a prediction.
    """
    payload = b"" if api is Api.REST else predict.metadata_message(model).SerializeToString()
    return Request(api, f"metadata {api.value}", model, "metadata", payload, dict(headers or {}))


def prediction(
    api: Api,
    model: str,
    signature: str,
    inputs: tuple[str, predict.Value],
    headers: Mapping[str, str] | None = None,
) -> Request:
    """
    A request for one prediction; `inputs` is the input's name and value.
    """
    if api is Api.REST:
        payload = json.dumps(predict.rest_body(signature, *inputs)).encode()
    else:
        payload = predict.predict_message(model, signature, *inputs).SerializeToString()
    return Request(api, f"predict {signature} {api.value}", model, "predict", payload, dict(headers or {}))


@dataclass(frozen=True, slots=True)
class Population:
    """
    Who sends the requests: so many users, each always of the same region and group.
    """

    users: int = 1000
    regions: Sequence[str] = ("eu", "us", "asia")
    groups: Sequence[str] = ("free", "paid", "canary")

    def headers(self, number: int) -> dict[str, str]:
        """
        The headers of the user who sends request `number`.
        """
        user = number % self.users
        made = {"user-id": f"user-{user}"}
        if self.regions:
            made["x-region"] = self.regions[user % len(self.regions)]
        if self.groups:
            # Not in step with the regions, so that every pair comes about.
            made["user-group"] = self.groups[(user // max(1, len(self.regions))) % len(self.groups)]
        return made


@dataclass(frozen=True, slots=True)
class Mark:
    """
    From here on it is this phase.
    """

    seconds: float
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """
    Requests, one row each, in the order in which they were due.

    Attributes:
        due: when it was to be sent, in seconds since the start.
        late: how much later it was sent.
        latency: from `due` to the last byte of the answer.
        status: the HTTP status; 0 if none came, or for gRPC.
        code: the gRPC code; -1 for REST.
        digest: of the answer's body, to tell answers apart.
        names: the words that `request`, `track`, `revision` and `error` are numbers of.
    """

    due: npt.NDArray[np.float64]
    late: npt.NDArray[np.float32]
    latency: npt.NDArray[np.float32]
    request: npt.NDArray[np.uint16]
    user: npt.NDArray[np.uint32]
    status: npt.NDArray[np.int16]
    code: npt.NDArray[np.int8]
    track: npt.NDArray[np.uint16]
    revision: npt.NDArray[np.uint16]
    error: npt.NDArray[np.uint16]
    digest: npt.NDArray[np.uint32]
    names: tuple[str, ...]
    apis: tuple[Api, ...]
    marks: tuple[Mark, ...]
    about: str = "all requests"

    def __len__(self) -> int:
        return len(self.due)

    @property
    def nbytes(self) -> int:
        """
        The memory that the columns take.
        """
        return sum(getattr(self, name).nbytes for name in _COLUMNS)

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        """
        Which requests did not get the model's answer; each has an error.
        """
        failed: npt.NDArray[np.bool_] = self.error != 0
        return failed

    def phase(self, name: str) -> "Records":
        """
        The requests that were due in this phase; of a name used twice, both times.
        """
        if name not in {mark.name for mark in self.marks}:
            known = ", ".join(mark.name for mark in self.marks)
            raise UsageError(f"phase {name!r}: expected one of {known}")
        starts = np.array([mark.seconds for mark in self.marks])
        which = np.searchsorted(starts, self.due, side="right") - 1
        wanted = np.array([mark.name == name for mark in self.marks])
        return self._where((which >= 0) & wanted[which], name)

    def around(self, name: str, *, before: float, after: float) -> "Records":
        """
        The requests due within so many seconds of the start of a phase.
        """
        found = self._where(np.zeros(len(self), dtype=bool), f"around {name}")
        for mark in self.marks:
            if mark.name == name:
                near = (self.due >= mark.seconds - before) & (self.due < mark.seconds + after)
                found = self._where(near, f"around {name}")
        return found

    def of(
        self, *, api: Api | None = None, track: str | None = None, request: str | None = None
    ) -> "Records":
        """
        The requests over this API, answered by this track, of this name.
        """
        keep = np.ones(len(self), dtype=bool)
        words = [self.about]
        if api is not None:
            numbers = [i for i, its in enumerate(self.apis) if its is api]
            keep &= np.isin(self.request, numbers)
            words.append(api.value)
        if track is not None:
            keep &= self.track == self._number(track)
            words.append(f"by {track}")
        if request is not None:
            keep &= self.request == self._number(request)
            words.append(request)
        return self._where(keep, ", ".join(words))

    def counts(self, column: str) -> Counter[str]:
        """
        How many requests by `track`, `revision`, `request` or `error`; what an answer did not say is left out.
        """
        numbers, counts = np.unique(getattr(self, column), return_counts=True)
        return Counter(
            {self.names[n]: int(count) for n, count in zip(numbers, counts, strict=True) if self.names[n]}
        )

    def outcomes(self) -> Counter[str]:
        """
        How many requests by HTTP status or gRPC code.
        """
        both, counts = np.unique(np.stack([self.status, self.code]), axis=1, return_counts=True)
        found: Counter[str] = Counter()
        for (status, code), count in zip(both.T, counts, strict=True):
            found[_outcome(int(status), int(code))] += int(count)
        return found

    def quantile(self, part: float) -> float:
        """
        The latency that this part of the requests does not exceed.
        """
        return float(np.quantile(self.latency, part)) if len(self) else float("nan")

    def require(self, n: int) -> Self:
        """
        Go on only with at least so many requests.

        Raises:
            NoEvidenceError: if there are fewer.
        """
        if len(self) < max(1, n):
            raise NoEvidenceError(f"{self.about}: expected at least {max(1, n)} requests, got {len(self)}")
        return self

    def assert_none_failed(self, *, at_least: int = 1) -> None:
        """
        Every request got the model's answer, and there are enough of them.

        Raises:
            NoEvidenceError: if there are fewer than `at_least`.
            DoesNotHoldError: with outcomes, latency and the first few of those that failed.
        """
        self.require(at_least)
        failed = int(self.failed.sum())
        if failed:
            raise DoesNotHoldError(
                f"{self.about}: expected 0 of {len(self)} requests to fail, got {failed}; {self.in_words()}; "
                f"first: {' | '.join(self.samples())}"
            )

    def samples(self, most: int = SAMPLES) -> list[str]:
        """
        The first requests that failed, in words.
        """
        found = []
        for i in np.flatnonzero(self.failed)[:most]:
            track = self.names[self.track[i]] or "no track"
            found.append(
                f"at {self.due[i]:.3f} s {self.names[self.request[i]]}: "
                f"{_outcome(int(self.status[i]), int(self.code[i]))} {self.names[self.error[i]]} "
                f"({track}, after {self.latency[i]:.3f} s)"
            )
        return found

    def in_words(self) -> str:
        """
        Outcomes, tracks, latency.
        """
        return (
            f"outcomes {_counted(self.outcomes())}; tracks {_counted(self.counts('track'))}; latency median "
            f"{self.quantile(0.5) * 1000:.0f} ms, 99 % {self.quantile(0.99) * 1000:.0f} ms, "
            f"most {self.quantile(1) * 1000:.0f} ms"
        )

    def summary(self) -> dict[str, Any]:
        """
        The figures of this slice, for a report.
        """
        seconds = float(self.due[-1] - self.due[0]) if len(self) > 1 else 0.0
        return {
            "about": self.about,
            "requests": len(self),
            "failed": int(self.failed.sum()),
            "seconds": round(seconds, 3),
            "perSecond": round((len(self) - 1) / seconds, 1) if seconds else None,
            "outcomes": dict(self.outcomes()),
            "tracks": dict(self.counts("track")),
            "revisions": dict(self.counts("revision")),
            "latencyMs": {
                name: round(self.quantile(part) * 1000, 1) if len(self) else None
                for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
            },
            "lateMs": round(float(self.late.max()) * 1000, 1) if len(self) else None,
            "samples": self.samples(),
        }

    def phases(self) -> "list[Records]":
        """
        Every phase once, in order, those without requests too.
        """
        return [self.phase(name) for name in dict.fromkeys(mark.name for mark in self.marks)]

    def table(self) -> str:
        """
        A line for each phase.
        """
        head = ("phase", "requests", "failed", "per s", "tracks", "p50 ms", "p99 ms", "max ms")
        rows: list[tuple[str, ...]] = [head]
        for phase in [*self.phases(), self]:
            made = phase.summary()
            latency = made["latencyMs"]
            rows.append(
                (
                    phase.about,
                    str(made["requests"]),
                    str(made["failed"]),
                    str(made["perSecond"] or ""),
                    _counted(phase.counts("track")),
                    *(
                        str(latency[name] if latency[name] is not None else "")
                        for name in ("p50", "p99", "max")
                    ),
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def _number(self, name: str) -> int:
        return self.names.index(name) if name in self.names else -1

    def _where(self, keep: npt.NDArray[np.bool_], about: str) -> "Records":
        columns = {name: getattr(self, name)[keep] for name in _COLUMNS}
        return dataclasses.replace(self, **columns, about=about)


_COLUMNS = (
    "due", "late", "latency", "request", "user", "status", "code", "track", "revision", "error", "digest",
)  # fmt: skip
_TYPES = {
    "due": ("d", np.float64), "late": ("f", np.float32), "latency": ("f", np.float32), "request": ("H", np.uint16),
    "user": ("I", np.uint32), "status": ("h", np.int16), "code": ("b", np.int8), "track": ("H", np.uint16),
    "revision": ("H", np.uint16), "error": ("H", np.uint16), "digest": ("I", np.uint32),
}  # fmt: skip


class _Columns:
    """
    Where the driver writes; one thread only.
    """

    def __init__(self) -> None:
        self.columns = {name: array.array(_TYPES[name][0]) for name in _COLUMNS}
        self._appends = tuple(self.columns[name].append for name in _COLUMNS)
        self._numbers: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        return len(self.columns["due"])

    def number(self, name: str) -> int:
        """
        The number of a word; past 60,000 different ones, that of "(others)".
        """
        found = self._numbers.get(name)
        if found is None:
            if len(self._numbers) >= 60_000:
                name = "(others)"
            found = self._numbers.setdefault(name, len(self._numbers))
        return found

    def add(self, *row: float) -> None:
        for append, value in zip(self._appends, row, strict=True):
            append(value)  # type: ignore[arg-type]

    def records(self, apis: tuple[Api, ...], marks: Sequence[Mark]) -> Records:
        made: dict[str, Any] = {
            name: np.array(column, dtype=_TYPES[name][1]) for name, column in self.columns.items()
        }
        order = np.argsort(made["due"], kind="stable")
        return Records(
            **{name: column[order] for name, column in made.items()},
            names=tuple(self._numbers),
            apis=apis,
            marks=tuple(marks),
        )


class State(enum.Enum):
    """
    What a driver is doing.
    """

    NEW = "new"
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(slots=True)
class _Prepared:
    """
    A request as it goes out: for REST all bytes but the user's headers, for gRPC metadata as pairs.
    """

    number: int
    api: Api
    call: str
    head: bytes
    payload: bytes
    metadata: tuple[tuple[str, str], ...]


class Traffic:
    """
    A load that runs in a thread of its own, from the start of a with block to its end.
    """

    def __init__(
        self,
        address: str,
        requests: Sequence[Request],
        *,
        rate: float | None = None,
        concurrency: int | None = None,
        most: int | None = None,
        host: str | None = None,
        population: Population | None = None,
        connections: int = CONNECTIONS,
        deadline_seconds: float = predict.DEADLINE_SECONDS,
        tls: Tls | None = None,
    ) -> None:
        """
        Prepare; nothing is connected yet.

        Args:
            address: HOST:PORT of the gateway.
            requests: sent in turn, again and again.
            rate: requests a second, all APIs together; or
            concurrency: so many at a time, each as soon as one before it is answered.
            most: stop by itself after so many.
            host: the name to ask for.
            population: who sends them; None sends the requests' own headers only.
            connections: at most so many for REST, and a channel for each 16 of them for gRPC (1 at least).
            deadline_seconds: a request without an answer has failed after this.
            tls: how to verify the gateway; None speaks plainly.
        """
        if (rate is None) == (concurrency is None):
            raise UsageError("traffic: expected either rate or concurrency, got both or neither")
        if not requests:
            raise UsageError("traffic: expected at least one request, got none")
        if (rate is not None and rate <= 0) or (concurrency is not None and concurrency < 1):
            raise UsageError(f"traffic: expected a load above 0, got rate={rate}, concurrency={concurrency}")
        self._address = predict.checked(address)
        self._rate, self._concurrency, self._most = rate, concurrency, most
        self._host = host or address
        self._authority = host
        self._deadline = deadline_seconds
        self._connections = connections
        self._tls = tls
        self._columns = _Columns()
        self._marks: list[Mark] = []
        kinds = [(request.name, request.api) for request in requests]
        names = list(dict.fromkeys(kinds))
        # The first numbers are the requests' own, so that a number leads to the API.
        self._apis: tuple[Api, ...] = (Api.REST, *(api for _, api in names))
        if len({name for name, _ in names}) != len(names):
            raise UsageError("traffic: requests of different APIs need different names")
        self._requests = [self._prepare(request, self._columns.number(request.name)) for request in requests]
        self._users = _users(population)
        self._start = 0.0
        self._sent = 0
        self._rows: dict[Api, tuple[str, int]] = {}
        self._state = State.NEW
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broken: BaseException | None = None

    def __enter__(self) -> Self:
        """
        Start.
        """
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="traffic", daemon=True)
        self._thread.start()
        ready.result()
        return self

    def __exit__(self, *_: object) -> None:
        """
        Send no more, and wait for the answers that are on their way.
        """
        self.stop()

    def stop(self) -> Records:
        """
        Send no more, wait for the answers that are on their way, and return all records.
        """
        if self._thread is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        if self._broken is not None:
            raise UnreachableError(f"traffic: the driver broke off: {self._broken!r}") from self._broken
        return self.records()

    def mark(self, name: str) -> None:
        """
        Begin a phase.
        """
        self._marks.append(Mark(time.perf_counter() - self._start, name))

    def wait_for(self, n: int, *, timeout_seconds: float = 60.0) -> None:
        """
        Wait until n more requests have been answered, or have failed.
        """
        target = len(self._columns) + n

        def enough() -> None:
            done = len(self._columns)
            if done < target:
                if self._thread is not None and not self._thread.is_alive():
                    raise NoEvidenceError(f"traffic: ended after {done} requests, expected {target}")
                raise NotYet(f"{done} of {target} requests")

        wait_until(f"{n} more requests", enough, timeout_seconds=timeout_seconds, interval_seconds=0.02)

    def wait_for_revision(self, revision: str, *, in_a_row: int, timeout_seconds: float = 60.0) -> float:
        """
        Wait until the last so many answers over each API carry this revision.

        Returns:
            The seconds it took.
        """
        begun = time.perf_counter()
        apis = {request.api for request in self._requests}

        def arrived() -> None:
            rows = {api: self._rows.get(api, ("no answer", 0)) for api in apis}
            if any(seen != revision or n < in_a_row for seen, n in rows.values()):
                seen = ", ".join(
                    f"{api.value} {seen or 'unnamed'} {n} times" for api, (seen, n) in rows.items()
                )
                raise NotYet(f"in a row {seen}")

        wait_until(f"revision {revision}", arrived, timeout_seconds=timeout_seconds, interval_seconds=0.02)
        return time.perf_counter() - begun

    def join(self) -> Records:
        """
        Wait until `most` requests are done.
        """
        if self._most is None:
            raise UsageError("traffic: join() needs `most`; this load ends only by stop()")
        if self._thread is not None:
            self._thread.join()
        return self.stop()

    def records(self) -> Records:
        """
        The records so far.
        """
        if self._state is State.RUNNING and self._loop is not None:
            made: Future[Records] = Future()
            try:
                self._loop.call_soon_threadsafe(lambda: made.set_result(self._snapshot()))
                return made.result(timeout=10)
            except RuntimeError:
                pass  # it has just ended
        return self._snapshot()

    def _snapshot(self) -> Records:
        return self._columns.records(self._apis, self._marks)

    def _prepare(self, request: Request, number: int) -> _Prepared:
        if request.call not in predict.METHODS:
            raise UsageError(
                f"traffic: expected a call of {', '.join(predict.METHODS)}, got {request.call!r}"
            )
        if request.api is Api.GRPC:
            pairs = tuple((name.lower(), value) for name, value in request.headers.items())
            return _Prepared(number, request.api, request.call, b"", request.payload, pairs)
        path = f"/v1/models/{request.model}"
        line = f"GET {path}/metadata" if request.call == "metadata" else f"POST {path}:predict"
        head = [f"{line} HTTP/1.1", f"host: {self._host}", "user-agent: tfcanary"]
        if request.payload:
            head += ["content-type: application/json", f"content-length: {len(request.payload)}"]
        head += [f"{name}: {value}" for name, value in request.headers.items()]
        encoded = "".join(f"{entry}\r\n" for entry in head).encode("latin-1")
        return _Prepared(number, request.api, request.call, encoded, request.payload, ())

    def _run(self, ready: "Future[None]") -> None:
        try:
            asyncio.run(self._main(ready))
        except BaseException as exc:  # noqa: BLE001 - it is raised again where the caller can see it
            self._broken = exc
            if not ready.done():
                ready.set_exception(exc)
        finally:
            self._state = State.STOPPED

    async def _main(self, ready: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._pending: set[asyncio.Task[None]] = set()
        self._rest = _RestPool(self._address, self._host, self._connections, self._deadline, self._tls)
        channels = (
            [self._channel() for _ in range(max(1, self._connections // 16))] if self._has_grpc() else []
        )
        self._calls: list[dict[str, Any]] = [
            {call: channel.unary_unary(method) for call, method in predict.METHODS.items()}
            for channel in channels
        ]
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._start = time.perf_counter()
        self._marks.insert(0, Mark(0.0, "start"))
        self._state = State.RUNNING
        ready.set_result(None)
        try:
            await (self._open_loop() if self._rate else self._closed_loop())
            while self._in_flight:
                self._idle.clear()
                await self._idle.wait()
        finally:
            self._rest.close()
            for channel in channels:
                await channel.close(None)

    def _has_grpc(self) -> bool:
        return any(request.api is Api.GRPC for request in self._requests)

    def _channel(self) -> grpc.aio.Channel:
        options: list[tuple[str, str | int]] = [
            *predict.CHANNEL_OPTIONS,
            ("grpc.max_receive_message_length", predict.MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", predict.MAX_MESSAGE_BYTES),
        ]
        if self._authority:
            options.append(("grpc.default_authority", self._authority))
        if self._tls is None:
            return grpc.aio.insecure_channel(self._address, options=options)
        if self._authority:
            options.append(("grpc.ssl_target_name_override", self._authority))
        return grpc.aio.secure_channel(self._address, self._tls.credentials(), options=options)

    async def _open_loop(self) -> None:
        assert self._rate is not None  # noqa: S101 - told apart by the caller
        while not self._stopping.is_set() and (self._most is None or self._sent < self._most):
            due = self._sent / self._rate
            ahead = due - (time.perf_counter() - self._start)
            if ahead > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), ahead)
                continue
            self._fire(due)
            # Far behind: let answers be read before more is sent.
            if self._sent % 16 == 0:
                await asyncio.sleep(0)

    async def _closed_loop(self) -> None:
        assert self._concurrency is not None  # noqa: S101 - told apart by the caller
        while not self._stopping.is_set() and (self._most is None or self._sent < self._most):
            while self._in_flight < self._concurrency and (self._most is None or self._sent < self._most):
                self._fire(time.perf_counter() - self._start)
            self._idle.clear()
            await self._idle.wait()

    def _fire(self, due: float) -> None:
        number = self._sent
        self._sent += 1
        self._in_flight += 1
        request = self._requests[number % len(self._requests)]
        user = self._users[number % len(self._users)] if self._users else _NOBODY
        if request.api is Api.REST:
            data = b"".join((request.head, user.head, b"\r\n", request.payload))
            self._rest.send(data, functools.partial(self._rest_done, request.number, user.number, due))
        else:
            task = asyncio.ensure_future(self._ask_grpc(number, request, user, due))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    def _rest_done(self, request: int, user: int, due: float, answer: "_RestAnswer") -> None:
        now = time.perf_counter() - self._start
        number = self._columns.number
        self._row(Api.REST, answer.headers.get(REVISION_HEADER, ""))
        self._columns.add(
            due, answer.sent - self._start - due, now - due, request, user, answer.status, _NO_CODE,
            number(answer.headers.get(TRACK_HEADER, "")), number(answer.headers.get(REVISION_HEADER, "")),
            number(answer.error), zlib.crc32(answer.body),
        )  # fmt: skip
        self._done()

    async def _ask_grpc(self, number: int, request: _Prepared, user: "_User", due: float) -> None:
        call = self._calls[number % len(self._calls)][request.call]
        sent = time.perf_counter()
        response, error, code = b"", "", grpc.StatusCode.OK
        found: dict[str, str] = {}
        try:
            made = call(request.payload, metadata=request.metadata + user.metadata, timeout=self._deadline)
            response = await made
            found = _texts(await made.initial_metadata())
        except grpc.aio.AioRpcError as exc:
            code, error = exc.code(), predict.short(f"{exc.code().name} {exc.details() or ''}")
            found = {**_texts(exc.trailing_metadata()), **_texts(exc.initial_metadata())}
        except Exception as exc:  # noqa: BLE001 - whatever it is: a request without a record would be waited for
            code, error = grpc.StatusCode.UNKNOWN, predict.short(f"not sent: {type(exc).__name__} {exc}")
        now = time.perf_counter() - self._start
        name = self._columns.number
        self._row(Api.GRPC, found.get(REVISION_HEADER, ""))
        self._columns.add(
            due, sent - self._start - due, now - due, request.number, user.number, _NO_STATUS, code.value[0],
            name(found.get(TRACK_HEADER, "")), name(found.get(REVISION_HEADER, "")), name(error), zlib.crc32(response),
        )  # fmt: skip
        self._done()

    def _row(self, api: Api, revision: str) -> None:
        before, n = self._rows.get(api, ("", 0))
        self._rows[api] = (revision, n + 1 if revision == before else 1)

    def _done(self) -> None:
        self._in_flight -= 1
        if self._concurrency is not None or not self._in_flight:
            self._idle.set()


@dataclass(frozen=True, slots=True)
class _User:
    number: int
    head: bytes
    metadata: tuple[tuple[str, str], ...]


_NOBODY = _User(0, b"", ())


def _users(population: Population | None) -> list[_User]:
    if population is None:
        return []
    made = []
    for number in range(population.users):
        headers = population.headers(number)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
        made.append(_User(number, head, tuple(headers.items())))
    return made


@dataclass(slots=True)
class _RestAnswer:
    sent: float
    status: int = _NO_STATUS
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""


Done = Callable[[_RestAnswer], None]


class _RestPool:
    """
    Kept-alive HTTP/1.1 connections; what finds none free waits, and its latency counts on.
    """

    def __init__(self, address: str, host: str, most: int, deadline: float, tls: Tls | None) -> None:
        self._address, _, port = address.rpartition(":")
        self._address = self._address.strip("[]")
        self._port = int(port)
        self._server_name = host.rpartition(":")[0] or host
        self._most = most
        self._deadline = deadline
        self._tls = tls.context() if tls else None
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._waiting: deque[tuple[bytes, Done, float]] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def send(self, data: bytes, done: Done) -> None:
        """
        Send on a connection that is free; from now on the deadline counts, waiting included.
        """
        self._send(data, done, self._loop.time() + self._deadline)

    def _send(self, data: bytes, done: Done, until: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.send(data, done, until)
                return
        if len(self._open) + len(self._connecting) < self._most:
            task = self._loop.create_task(self._connect(data, done, until))
            self._connecting.add(task)
            task.add_done_callback(self._connected)
        else:
            self._waiting.append((data, done, until))

    async def _connect(self, data: bytes, done: Done, until: float) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(predict.CONNECT_SECONDS):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self, self._loop, self._deadline),
                    self._address,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name if self._tls else None,
                )
        except (OSError, TimeoutError) as exc:
            done(_RestAnswer(started, error=predict.short(f"no connection: {type(exc).__name__} {exc}")))
            return
        self._open.add(connection)
        connection.send(data, done, until)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        self._next()

    def _next(self) -> None:
        """
        Serve who waits first, if there may be one connection more: another was lost, or never came about.
        """
        self._give_up()
        if self._waiting and len(self._open) + len(self._connecting) < self._most:
            self._send(*self._waiting.popleft())

    def free(self, connection: "_Connection") -> None:
        self._give_up()
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _give_up(self) -> None:
        """
        Those that waited longer than the deadline have failed without being sent.
        """
        while self._waiting and self._waiting[0][2] <= self._loop.time():
            _, done, _ = self._waiting.popleft()
            done(_RestAnswer(time.perf_counter(), error=f"no connection free within {self._deadline:g} s"))

    def lost(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._next()

    def close(self) -> None:
        for connection in list(self._open):
            connection.close()


class _Connection(asyncio.Protocol):
    """
    One connection, one request at a time; just as much of HTTP/1.1 as answers need.
    """

    def __init__(self, pool: _RestPool, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self._pool = pool
        self._loop = loop
        self._deadline = deadline
        self._transport: asyncio.Transport | None = None
        self._done: Done | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = b""
        self._sent = 0.0
        self._uses = 0
        self._headers: dict[str, str] = {}
        self._status = _NO_STATUS
        self._length: int | None = None  # None before the head is in; -1 chunked; -2 until the end
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, data: bytes, done: Done, until: float) -> None:
        self._done = done
        self._buffer, self._length, self._status, self._headers = b"", None, _NO_STATUS, {}
        self._sent = time.perf_counter()
        self._uses += 1
        self._timer = self._loop.call_at(until, self._too_late)
        if self._transport is None or self._transport.is_closing():
            self._fail("connection closed before the request")
            return
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            # Bytes that nobody asked for: nothing on this connection can be trusted any more.
            self.close()
            return
        self._buffer += data
        try:
            if self._length is None and not self._head():
                return
            body = self._body(ended=False)
        except (ValueError, IndexError) as exc:
            self._fail(f"not HTTP: {exc}")
            self.close()
            return
        if body is not None:
            self._finish(body)

    def eof_received(self) -> None:
        self.usable = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._done is not None:
            body = self._body(ended=True) if self._length is not None else None
            if body is not None and exc is None:
                self._finish(body)
            else:
                again = f", kept alive for {self._uses - 1} requests before" if self._uses > 1 else ""
                self._fail(f"connection closed without an answer{again}: {exc or 'end of file'}")
        self._pool.lost(self)

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def _head(self) -> bool:
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            lines = self._buffer[:end].decode("latin-1").split("\r\n")
            self._buffer = self._buffer[end + 4 :]
            version, status, *_ = lines[0].split(" ", 2)
            if not version.startswith("HTTP/1."):
                raise ValueError(f"expected HTTP/1.1, got {lines[0][:40]!r}")
            if len(status) != 3:
                raise ValueError(f"expected a status of three digits, got {lines[0][:40]!r}")
            self._status = int(status)
            self._headers = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                self._headers[name.lower()] = value.strip()
            if self._status >= 200:
                break  # 1xx announce the answer
        if "chunked" in self._headers.get("transfer-encoding", ""):
            self._length = -1
        elif self._status in (204, 304):
            self._length = 0
        else:
            self._length = int(self._headers.get("content-length", "-2"))
        return True

    def _body(self, *, ended: bool) -> bytes | None:
        """
        The whole body, once it is there.
        """
        if self._length == -1:
            return _unchunked(self._buffer)
        if self._length == -2:
            return self._buffer if ended else None
        assert self._length is not None  # noqa: S101 - the head is in
        return self._buffer[: self._length] if len(self._buffer) >= self._length else None

    def _finish(self, body: bytes) -> None:
        error = (
            ""
            if self._status == 200
            else predict.short(f"{self._status} {body[:300].decode('utf-8', 'replace')}")
        )
        if not error and "json" not in self._headers.get("content-type", "json"):
            error = predict.short(
                f"not an answer of the model: {self._headers['content-type']} {body[:80]!r}"
            )
        keep = self._headers.get("connection", "").lower() != "close" and self._length != -2 and self.usable
        self._answer(_RestAnswer(self._sent, self._status, self._headers, body, error))
        if keep:
            self._pool.free(self)
        elif self._transport is not None:
            self.usable = False
            self._transport.close()

    def _fail(self, error: str) -> None:
        self._answer(_RestAnswer(self._sent, self._status, self._headers, b"", predict.short(error)))

    def _too_late(self) -> None:
        self._fail(f"no answer within {self._deadline:g} s")
        self.close()

    def _answer(self, answer: _RestAnswer) -> None:
        if self._timer is not None:
            self._timer.cancel()
        done, self._done = self._done, None
        if done is not None:
            done(answer)


def _unchunked(data: bytes) -> bytes | None:
    """
    The body of a chunked answer, or None while some of it is missing.
    """
    body, at = b"", 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at:end].split(b";")[0], 16)
        start = end + 2
        if size == 0:
            return body if data.find(b"\r\n", start) >= 0 else None
        if len(data) < start + size + 2:
            return None
        body += data[start : start + size]
        at = start + size + 2


def _texts(pairs: Any) -> dict[str, str]:
    return {name: value for name, value in pairs or () if isinstance(value, str)}


def _outcome(status: int, code: int) -> str:
    if code != _NO_CODE:
        return _CODES.get(code, f"gRPC {code}")
    return str(status) if status else "no answer"


_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "none"
