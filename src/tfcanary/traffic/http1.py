"""
HTTP/1.1 for the load driver: a pool of kept-alive connections that sends every request exactly once.

`httptools` parses the responses. The pool is our own because ready-made clients send an idempotent request again
when a kept-alive connection turns out to be closed, and a load driver has to see that failure.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httptools

from tfcanary.client.answer import not_the_model_server
from tfcanary.client.endpoint import CONNECT_SECONDS, MAX_MESSAGE_BYTES, Tls
from tfcanary.text import short
from tfcanary.traffic.records import NO_STATUS

MAX_HEAD_BYTES = 64 * 1024


@dataclass(slots=True)
class RestAnswer:
    """
    How one request ended.

    Attributes:
        sent: when it was written to the connection, in seconds of `time.perf_counter`.
        status: the HTTP status; `NO_STATUS` if none arrived.
        headers: by lower-case name; the last one of each name.
        body: without its transfer encoding.
        error: why this is not the model's answer; empty if it is.
    """

    sent: float
    status: int = NO_STATUS
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""


Done = Callable[[RestAnswer], None]


class RestPool:
    """
    Kept-alive connections to one address. A request that finds none free waits, and its deadline counts meanwhile.
    """

    def __init__(self, address: str, host: str, most: int, deadline: float, tls: Tls | None) -> None:
        """
        Prepare inside a running event loop; nothing is connected yet.

        Args:
            address: HOST:PORT to connect to.
            host: the host name that TLS certificates must have, with or without a port.
            most: the largest number of connections.
            deadline: seconds from `send` to the last byte of the answer.
            tls: how certificates are verified; None connects without TLS.

        Raises:
            UsageError: if the file of authorities is not one of certificates.
        """
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
        Send one whole request and call `done` exactly once, whatever happens.

        The deadline starts now and includes the time that the request waits for a connection.
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
        Send the request that has waited longest, if a connection may be opened for it.
        """
        self._expire()
        if self._waiting and len(self._open) + len(self._connecting) < self._most:
            self._send(*self._waiting.popleft())

    def free(self, connection: "Connection") -> None:
        """
        Take back a connection that has had its answer, and give it to the request that has waited longest.
        """
        self._expire()
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _expire(self) -> None:
        """
        Fail the requests that have waited past their deadline; they were never sent.
        """
        while self._waiting and self._waiting[0][2] <= self._loop.time():
            _, done, _ = self._waiting.popleft()
            done(RestAnswer(time.perf_counter(), error=f"no connection free within {self._deadline:g} s"))

    def lost(self, connection: "Connection") -> None:
        """
        Forget a closed connection; another may take its place.
        """
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._next()

    def close(self) -> None:
        """
        Abort all connections.
        """
        for connection in list(self._open):
            connection.close()


class ResponseReader:
    """
    Reads the responses of one connection, one after the other: the callbacks of `httptools`.

    A connection keeps its reader, because reader and parser refer to each other: one for each request would leave
    all of them to the garbage collector.

    Attributes:
        status: of the final response; `NO_STATUS` until its header is complete.
        headers: of the final response, by lower-case name.
        complete: whether the whole response is in.
        keep_alive: whether the server leaves the connection open after it.
        ends_with_connection: whether only the end of the connection ends the body.
        surplus: whether bytes came after the end of the response.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """
        Expect the next response.
        """
        self.status = NO_STATUS
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self.keep_alive = False
        self.ends_with_connection = False
        self.surplus = False
        self._received = 0
        self._head: list[bytes] = []
        self._head_size = 0
        self._head_complete = False
        self._major = ""

    def feed(self, data: bytes) -> None:
        """
        Read the next bytes from the connection.

        Raises:
            ValueError: if this is not HTTP/1, or the response is larger than `MAX_MESSAGE_BYTES`, or its header
                larger than `MAX_HEAD_BYTES`.
        """
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserInvalidStatusError as exc:
            raise ValueError(f"not HTTP: expected a status of three digits: {exc}") from exc
        except httptools.HttpParserUpgrade as exc:
            raise ValueError("not HTTP: the server changed to another protocol") from exc
        except httptools.HttpParserError as exc:
            if not self.complete:
                raise ValueError(f"not HTTP: {exc}") from exc
            self.surplus = True
        if self._head_complete and self._major != "1":
            raise ValueError(f"not HTTP: expected version 1, got {self._major}")
        head = self._head_size if self._head_complete else self._received
        if head > MAX_HEAD_BYTES:
            raise ValueError(f"a header of more than {MAX_HEAD_BYTES} bytes")
        if self._received > MAX_MESSAGE_BYTES:
            raise ValueError(f"an answer of more than {MAX_MESSAGE_BYTES} bytes")

    def on_message_begin(self) -> None:
        """
        A response begins; after a complete one it was not asked for.
        """
        self.surplus = self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """
        A header of the response; the trailers of a chunked one only count towards the limit.
        """
        if self.complete:
            return
        self._head_size += len(name) + len(value)
        # Trailers come too late to be among the headers, which have been read by then.
        self._head += (name.lower(), value.strip())

    def on_headers_complete(self) -> None:
        """
        The header is in. One of a 1xx response only announces the next.
        """
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._head = []
            return
        # Decoded together: one call for each header costs more than all the parsing.
        head = b"\n".join(self._head).decode("latin-1").split("\n") if self._head else []
        self.headers = dict(zip(head[::2], head[1::2], strict=True))
        self.status, self._head_complete = status, True
        self._major = self._parser.get_http_version().partition(".")[0]
        self.keep_alive = self._parser.should_keep_alive()
        self.ends_with_connection = (
            status not in (204, 304)
            and "content-length" not in self.headers
            and "chunked" not in self.headers.get("transfer-encoding", "")
        )

    def on_body(self, body: bytes) -> None:
        """
        A part of the body.
        """
        if not self.complete:
            self.body += body

    def on_message_complete(self) -> None:
        """
        A response ends; that of a 1xx is not the one that is waited for.
        """
        self.complete = self._head_complete


class Connection(asyncio.Protocol):
    """
    One connection that carries one request at a time.
    """

    def __init__(self, pool: RestPool, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self._pool = pool
        self._loop = loop
        self._deadline = deadline
        self._transport: asyncio.Transport | None = None
        self._done: Done | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reader = ResponseReader()
        self._sent = 0.0
        self._uses = 0
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Keep the transport; asyncio calls this.
        """
        self._transport = transport  # type: ignore[assignment]

    def send(self, data: bytes, done: Done, until: float) -> None:
        """
        Send one whole request; `until` is its deadline on the clock of the event loop.
        """
        self._done = done
        self._reader.begin()
        self._sent = time.perf_counter()
        self._uses += 1
        self._timer = self._loop.call_at(until, self._too_late)
        if self._transport is None or self._transport.is_closing():
            self._fail("connection closed before the request")
            return
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """
        Read a part of the response; asyncio calls this.
        """
        if self._done is None:
            # Bytes that no request asked for: the next answer on this connection could belong to another one.
            self.close()
            return
        try:
            self._reader.feed(data)
        except ValueError as exc:
            self._fail(str(exc))
            self.close()
            return
        if self._reader.complete:
            self._finish()

    def eof_received(self) -> None:
        """
        The server sends no more; asyncio closes the connection.
        """
        self.usable = False

    def connection_lost(self, exc: Exception | None) -> None:
        """
        End the request that is under way: its body may be what the end of the connection completes.
        """
        self.usable = False
        if self._done is not None:
            if self._reader.ends_with_connection and exc is None:
                self._finish()
            else:
                again = f", kept alive for {self._uses - 1} requests before" if self._uses > 1 else ""
                self._fail(f"connection closed without an answer{again}: {exc or 'end of file'}")
        self._pool.lost(self)

    def close(self) -> None:
        """
        Abort the connection at once.
        """
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        reader, body = self._reader, bytes(self._reader.body)
        error = not_the_model_server(reader.status, reader.headers.get("content-type"), body)
        if reader.status != 200:
            error = short(f"{reader.status} {body[:300].decode('utf-8', 'replace')}")
        keep = self.usable and reader.keep_alive and not reader.surplus
        self._answer(RestAnswer(self._sent, reader.status, reader.headers, body, error))
        if keep:
            self._pool.free(self)
        elif self._transport is not None:
            self.usable = False
            self._transport.close()

    def _fail(self, error: str) -> None:
        self._answer(RestAnswer(self._sent, self._reader.status, self._reader.headers, b"", short(error)))

    def _too_late(self) -> None:
        self._fail(f"no answer within {self._deadline:g} s")
        self.close()

    def _answer(self, answer: RestAnswer) -> None:
        if self._timer is not None:
            self._timer.cancel()
        done, self._done = self._done, None
        if done is not None:
            done(answer)
