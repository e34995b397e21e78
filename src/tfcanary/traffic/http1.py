"""
HTTP/1.1 connections of the load driver. Nothing is tried twice.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tfcanary.client.endpoint import CONNECT_SECONDS, Tls
from tfcanary.text import short
from tfcanary.traffic.records import NO_STATUS


@dataclass(slots=True)
class RestAnswer:
    sent: float
    status: int = NO_STATUS
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""


Done = Callable[[RestAnswer], None]


class RestPool:
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
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
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
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self, self._loop, self._deadline),
                    self._address,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name if self._tls else None,
                )
        except (OSError, TimeoutError) as exc:
            done(RestAnswer(started, error=short(f"no connection: {type(exc).__name__} {exc}")))
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

    def free(self, connection: "Connection") -> None:
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
            done(RestAnswer(time.perf_counter(), error=f"no connection free within {self._deadline:g} s"))

    def lost(self, connection: "Connection") -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._next()

    def close(self) -> None:
        for connection in list(self._open):
            connection.close()


class Connection(asyncio.Protocol):
    """
    One connection, one request at a time; just as much of HTTP/1.1 as answers need.
    """

    def __init__(self, pool: RestPool, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
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
        self._status = NO_STATUS
        self._length: int | None = None  # None before the head is in; -1 chunked; -2 until the end
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, data: bytes, done: Done, until: float) -> None:
        self._done = done
        self._buffer, self._length, self._status, self._headers = b"", None, NO_STATUS, {}
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
            "" if self._status == 200 else short(f"{self._status} {body[:300].decode('utf-8', 'replace')}")
        )
        if not error and "json" not in self._headers.get("content-type", "json"):
            error = short(f"not an answer of the model: {self._headers['content-type']} {body[:80]!r}")
        keep = self._headers.get("connection", "").lower() != "close" and self._length != -2 and self.usable
        self._answer(RestAnswer(self._sent, self._status, self._headers, body, error))
        if keep:
            self._pool.free(self)
        elif self._transport is not None:
            self.usable = False
            self._transport.close()

    def _fail(self, error: str) -> None:
        self._answer(RestAnswer(self._sent, self._status, self._headers, b"", short(error)))

    def _too_late(self) -> None:
        self._fail(f"no answer within {self._deadline:g} s")
        self.close()

    def _answer(self, answer: RestAnswer) -> None:
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
