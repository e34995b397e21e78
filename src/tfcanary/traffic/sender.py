"""
What a load does inside its event loop: send each request at its time, and record how it ended.
"""

import asyncio
import contextlib
import functools
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio

from tfcanary.client.endpoint import Tls, open_aio_channel
from tfcanary.contract import METHODS, REVISION_HEADER, TRACK_HEADER, Api
from tfcanary.text import short
from tfcanary.traffic.calls import EncodedCall, UserHeaders
from tfcanary.traffic.http1 import RestAnswer, RestPool
from tfcanary.traffic.records import NO_CODE, NO_STATUS, Recorder

# One HTTP/2 connection carries many requests at a time.
_REQUESTS_PER_CHANNEL = 16


@dataclass(frozen=True, slots=True)
class Load:
    """
    What is sent, where to, and how much of it; `Traffic` explains each field.
    """

    address: str
    host: str | None
    calls: tuple[EncodedCall, ...]
    users: tuple[UserHeaders, ...]
    rate: float | None
    concurrency: int | None
    most: int | None
    connections: int
    deadline_seconds: float
    tls: Tls | None


@dataclass(frozen=True, slots=True)
class _Sent:
    """
    A request on its way, which leaves one record.
    """

    number: int
    call: EncodedCall
    user: UserHeaders
    due: float


class Sender:
    """
    Sends one load. It is made and used inside the event loop, except for `streaks` and `start`, which any thread reads.

    Attributes:
        start: when the load began, in seconds of `time.perf_counter`.
        streaks: for each API, the revision of its latest answer and how many answers in a row had it.
    """

    def __init__(self, load: Load, recorder: Recorder) -> None:
        self._load = load
        self._recorder = recorder
        self._pool = RestPool(
            load.address, load.host or load.address, load.connections, load.deadline_seconds, load.tls
        )
        has_grpc = any(call.api is Api.GRPC for call in load.calls)
        self._channels = [
            open_aio_channel(load.address, host=load.host, tls=load.tls)
            for _ in range(max(1, load.connections // _REQUESTS_PER_CHANNEL) if has_grpc else 0)
        ]
        self._methods: list[dict[str, Any]] = [
            {call: channel.unary_unary(method) for call, method in METHODS.items()}
            for channel in self._channels
        ]
        self._stopping = asyncio.Event()
        self._answered = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent = 0
        # By number, when each request that is under way was due.
        self._under_way: dict[int, float] = {}
        self.streaks: dict[Api, tuple[str, int]] = {}
        self.start = time.perf_counter()

    async def run(self) -> None:
        """
        Send until stopped or until `most` requests are sent, then wait for the answers that are on their way.
        """
        load = self._load
        try:
            if load.rate is not None:
                await self._open_loop(load.rate)
            elif load.concurrency is not None:
                await self._closed_loop(load.concurrency)
            while self._under_way:
                self._answered.clear()
                await self._answered.wait()
        finally:
            self._pool.close()
            for channel in self._channels:
                await channel.close(None)

    def stop(self) -> None:
        """
        Send no more.
        """
        self._stopping.set()

    def oldest(self) -> float | None:
        """
        When the oldest of the requests under way was due, in seconds since the start; None if there is none.
        """
        return min(self._under_way.values(), default=None)

    def _may_send(self) -> bool:
        return not self._stopping.is_set() and (self._load.most is None or self._sent < self._load.most)

    async def _open_loop(self, rate: float) -> None:
        while self._may_send():
            due = self._sent / rate
            ahead = due - (time.perf_counter() - self.start)
            if ahead > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), ahead)
                continue
            self._send(due)
            # While the loop is behind, answers still have to be read.
            if self._sent % 16 == 0:
                await asyncio.sleep(0)

    async def _closed_loop(self, concurrency: int) -> None:
        while self._may_send():
            while len(self._under_way) < concurrency and self._may_send():
                self._send(time.perf_counter() - self.start)
            self._answered.clear()
            await self._answered.wait()

    def _send(self, due: float) -> None:
        number = self._sent
        self._sent += 1
        self._under_way[number] = due
        load = self._load
        sent = _Sent(number, load.calls[number % len(load.calls)], load.users[number % len(load.users)], due)
        call = sent.call
        if call.api is Api.REST:
            data = b"".join((call.head, sent.user.lines, b"\r\n", call.payload))
            self._pool.send(data, functools.partial(self._rest_done, sent))
        else:
            task = asyncio.ensure_future(
                self._ask_grpc(sent, self._methods[number % len(self._methods)][call.call])
            )
            # The event loop itself keeps no reference to a task.
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _rest_done(self, sent: _Sent, answer: RestAnswer) -> None:
        self._record(
            sent, answer.sent, answer.headers, status=answer.status, error=answer.error, body=answer.body
        )

    async def _ask_grpc(self, sent: _Sent, method: Any) -> None:
        began = time.perf_counter()
        response, error, code = b"", "", grpc.StatusCode.OK
        headers: dict[str, str] = {}
        metadata = sent.call.metadata + sent.user.metadata
        try:
            call = method(sent.call.payload, metadata=metadata, timeout=self._load.deadline_seconds)
            response = await call
            headers = _string_headers(await call.initial_metadata())
        except grpc.aio.AioRpcError as exc:
            code, error = exc.code(), short(f"{exc.code().name} {exc.details() or ''}")
            headers = {
                **_string_headers(exc.trailing_metadata()),
                **_string_headers(exc.initial_metadata()),
            }
        except Exception as exc:  # noqa: BLE001 - without a record, the end would wait for this request for ever
            code, error = grpc.StatusCode.UNKNOWN, short(f"not sent: {type(exc).__name__} {exc}")
        self._record(sent, began, headers, code=code.value[0], error=error, body=response)

    def _record(
        self,
        sent: _Sent,
        began: float,
        headers: Mapping[str, str],
        *,
        error: str,
        body: bytes,
        status: int = NO_STATUS,
        code: int = NO_CODE,
    ) -> None:
        now = time.perf_counter() - self.start
        revision = headers.get(REVISION_HEADER, "")
        before, n = self.streaks.get(sent.call.api, ("", 0))
        self.streaks[sent.call.api] = (revision, n + 1 if revision == before else 1)
        self._recorder.add(
            due=sent.due,
            late=began - self.start - sent.due,
            latency=now - sent.due,
            request=sent.call.name,
            user=sent.user.number,
            status=status,
            code=code,
            track=headers.get(TRACK_HEADER, ""),
            revision=revision,
            error=error,
            digest=zlib.crc32(body),
        )
        del self._under_way[sent.number]
        if self._load.concurrency is not None or not self._under_way:
            self._answered.set()


def _string_headers(pairs: Any) -> dict[str, str]:
    return {name: value for name, value in pairs or () if isinstance(value, str)}
