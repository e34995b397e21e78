"""
Load over REST and gRPC in the background while something is changed, with a record of every request.

The load is *open*: request i is due at i/rate, whatever became of those before it, and its latency counts from
then. A driver that waits for answers would send the fewest requests exactly while the gateway is in trouble.
(`concurrency` instead of `rate` gives the closed kind, for measuring how much goes through.) Nothing is tried
twice. Records are kept as columns, a few tens of bytes each, and every one of them counts: a slice by phase,
API or track keeps all its requests, and an assertion about a slice with none in it is an error.

Times are of the monotonic clock; a step of the wall clock moves nothing.
"""

import asyncio
import contextlib
import enum
import functools
import threading
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self

import grpc.aio

from tfcanary.client.endpoint import CHANNEL_OPTIONS, DEADLINE_SECONDS, MAX_MESSAGE_BYTES, Tls, checked
from tfcanary.contract import METHODS, REVISION_HEADER, TRACK_HEADER, Api
from tfcanary.errors import NoEvidenceError, UnreachableError, UsageError
from tfcanary.text import short
from tfcanary.traffic.calls import NOBODY, Call, Population, User, users_of
from tfcanary.traffic.http1 import RestAnswer, RestPool
from tfcanary.traffic.records import Mark, Recorder, Records
from tfcanary.wait import NotYet, wait_until

CONNECTIONS = 64


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

    name: str
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
        requests: Sequence[Call],
        *,
        rate: float | None = None,
        concurrency: int | None = None,
        most: int | None = None,
        host: str | None = None,
        population: Population | None = None,
        connections: int = CONNECTIONS,
        deadline_seconds: float = DEADLINE_SECONDS,
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
        self._address = checked(address)
        self._rate, self._concurrency, self._most = rate, concurrency, most
        self._host = host or address
        self._authority = host
        self._deadline = deadline_seconds
        self._connections = connections
        self._tls = tls
        self._recorder = Recorder()
        self._marks: list[Mark] = []
        self._requests = [self._prepare(request) for request in requests]
        self._users = users_of(population)
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
        target = len(self._recorder) + n

        def enough() -> None:
            done = len(self._recorder)
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
        return self._recorder.records(self._marks)

    def _prepare(self, request: Call) -> _Prepared:
        if request.call not in METHODS:
            raise UsageError(f"traffic: expected a call of {', '.join(METHODS)}, got {request.call!r}")
        if request.api is Api.GRPC:
            pairs = tuple((name.lower(), value) for name, value in request.headers.items())
            return _Prepared(request.name, request.api, request.call, b"", request.payload, pairs)
        path = f"/v1/models/{request.model}"
        line = f"GET {path}/metadata" if request.call == "metadata" else f"POST {path}:predict"
        head = [f"{line} HTTP/1.1", f"host: {self._host}", "user-agent: tfcanary"]
        if request.payload:
            head += ["content-type: application/json", f"content-length: {len(request.payload)}"]
        head += [f"{name}: {value}" for name, value in request.headers.items()]
        encoded = "".join(f"{entry}\r\n" for entry in head).encode("latin-1")
        return _Prepared(request.name, request.api, request.call, encoded, request.payload, ())

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
        self._rest = RestPool(self._address, self._host, self._connections, self._deadline, self._tls)
        channels = (
            [self._channel() for _ in range(max(1, self._connections // 16))] if self._has_grpc() else []
        )
        self._calls: list[dict[str, Any]] = [
            {call: channel.unary_unary(method) for call, method in METHODS.items()} for channel in channels
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
            *CHANNEL_OPTIONS,
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
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
        user = self._users[number % len(self._users)] if self._users else NOBODY
        if request.api is Api.REST:
            data = b"".join((request.head, user.head, b"\r\n", request.payload))
            self._rest.send(data, functools.partial(self._rest_done, request.name, user.number, due))
        else:
            task = asyncio.ensure_future(self._ask_grpc(number, request, user, due))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    def _rest_done(self, request: str, user: int, due: float, answer: RestAnswer) -> None:
        now = time.perf_counter() - self._start
        revision = answer.headers.get(REVISION_HEADER, "")
        self._row(Api.REST, revision)
        self._recorder.add(
            due=due,
            late=answer.sent - self._start - due,
            latency=now - due,
            request=request,
            user=user,
            status=answer.status,
            track=answer.headers.get(TRACK_HEADER, ""),
            revision=revision,
            error=answer.error,
            digest=zlib.crc32(answer.body),
        )
        self._done()

    async def _ask_grpc(self, number: int, request: _Prepared, user: User, due: float) -> None:
        call = self._calls[number % len(self._calls)][request.call]
        sent = time.perf_counter()
        response, error, code = b"", "", grpc.StatusCode.OK
        found: dict[str, str] = {}
        try:
            made = call(request.payload, metadata=request.metadata + user.metadata, timeout=self._deadline)
            response = await made
            found = _texts(await made.initial_metadata())
        except grpc.aio.AioRpcError as exc:
            code, error = exc.code(), short(f"{exc.code().name} {exc.details() or ''}")
            found = {**_texts(exc.trailing_metadata()), **_texts(exc.initial_metadata())}
        except Exception as exc:  # noqa: BLE001 - whatever it is: a request without a record would be waited for
            code, error = grpc.StatusCode.UNKNOWN, short(f"not sent: {type(exc).__name__} {exc}")
        now = time.perf_counter() - self._start
        revision = found.get(REVISION_HEADER, "")
        self._row(Api.GRPC, revision)
        self._recorder.add(
            due=due,
            late=sent - self._start - due,
            latency=now - due,
            request=request.name,
            user=user.number,
            code=code.value[0],
            track=found.get(TRACK_HEADER, ""),
            revision=revision,
            error=error,
            digest=zlib.crc32(response),
        )
        self._done()

    def _row(self, api: Api, revision: str) -> None:
        before, n = self._rows.get(api, ("", 0))
        self._rows[api] = (revision, n + 1 if revision == before else 1)

    def _done(self) -> None:
        self._in_flight -= 1
        if self._concurrency is not None or not self._in_flight:
            self._idle.set()


def _texts(pairs: Any) -> dict[str, str]:
    return {name: value for name, value in pairs or () if isinstance(value, str)}
