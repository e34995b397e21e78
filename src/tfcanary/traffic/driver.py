"""
Load over REST and gRPC in the background while something is changed, with a record of every request.

The load is *open*: request i is due at i/rate, whatever happened to those before it, and its latency counts from
that time. A driver that waits for answers would send the fewest requests exactly while the gateway is in trouble.
(`concurrency` instead of `rate` gives the closed kind, which measures throughput.) No request is sent twice.
Every record counts: a slice by phase, API or track keeps all its requests, and an assertion about an empty slice
is an error.

Times are of the monotonic clock. A step of the wall clock changes none of them.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from tfcanary.client.endpoint import DEADLINE_SECONDS, Tls, checked
from tfcanary.errors import NoEvidenceError, UnreachableError, UsageError
from tfcanary.traffic.calls import Call, Population, encode, user_headers
from tfcanary.traffic.records import Mark, Recorder, Records
from tfcanary.traffic.sender import Load, Sender
from tfcanary.wait import NotYet, wait_until

T = TypeVar("T")
CONNECTIONS = 64


class Traffic:
    """
    A load that runs in a thread of its own while a with block runs.
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
        Prepare the load; nothing is connected yet.

        Args:
            address: HOST:PORT of the gateway.
            requests: sent in turn, again and again.
            rate: requests per second, over both APIs together; or
            concurrency: how many requests are under way at a time.
            most: the number of requests after which the load ends; None ends it only by `stop`.
            host: the host name to ask for; None takes the address.
            population: the users who send the requests; None sends only the requests' own headers.
            connections: the most REST connections; gRPC opens a channel for each 16 of them, and at least one.
            deadline_seconds: a request without an answer fails after this time.
            tls: how the gateway's certificate is verified; None connects without TLS.

        Raises:
            UsageError: for an address, a load or a call that cannot be sent.
        """
        _check_load(requests, rate, concurrency)
        self._load = Load(
            address=checked(address),
            host=host,
            calls=tuple(encode(request, host or address) for request in requests),
            users=user_headers(population),
            rate=rate,
            concurrency=concurrency,
            most=most,
            connections=connections,
            deadline_seconds=deadline_seconds,
            tls=tls,
        )
        self._recorder = Recorder()
        self._marks: list[Mark] = []
        self._ready: Future[tuple[asyncio.AbstractEventLoop, Sender]] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="traffic", daemon=True)

    def __enter__(self) -> Self:
        """
        Start the load.
        """
        self._thread.start()
        self._ready.result()
        return self

    def __exit__(self, *_: object) -> None:
        """
        Stop the load.
        """
        self.stop()

    def stop(self) -> Records:
        """
        Send no more, wait for the answers that are on their way, and return all records.

        Raises:
            UnreachableError: if the driver itself failed.
        """
        if self._ready.done() and not self._ready.exception():
            loop, sender = self._ready.result()
            with contextlib.suppress(RuntimeError):  # the loop has ended and is closed
                loop.call_soon_threadsafe(sender.stop)
            broken = self._ended.exception()
            if broken is not None:
                raise UnreachableError(f"traffic: the driver broke off: {broken!r}") from broken
        return self.records()

    def join(self) -> Records:
        """
        Wait until `most` requests have ended, and return all records.
        """
        if self._load.most is None:
            raise UsageError("traffic: join() needs `most`; this load ends only by stop()")
        concurrent.futures.wait([self._ended])
        return self.stop()

    def mark(self, name: str) -> None:
        """
        Begin a phase; it ends at the next mark.
        """
        self._marks.append(Mark(time.perf_counter() - self._sender().start, name))

    def wait_for(self, n: int, *, timeout_seconds: float = 60.0) -> None:
        """
        Wait until n more requests have ended, with an answer or a failure.

        Raises:
            NoEvidenceError: if the load ends before.
            WaitTimeoutError: if they have not ended in time.
        """
        target = len(self._recorder) + n

        def enough() -> None:
            # Asked before the records are counted: the last ones are written before the end.
            ended = self._ended.done()
            done = len(self._recorder)
            if done < target:
                if ended:
                    raise NoEvidenceError(f"traffic: ended after {done} requests, expected {target}")
                raise NotYet(f"{done} of {target} requests")

        wait_until(f"{n} more requests", enough, timeout_seconds=timeout_seconds, interval_seconds=0.02)

    def wait_for_revision(self, revision: str, *, in_a_row: int, timeout_seconds: float = 60.0) -> float:
        """
        Wait until the latest `in_a_row` answers over each API carry this revision.

        Returns:
            The seconds it took.

        Raises:
            WaitTimeoutError: with the revision that each API showed last.
        """
        began = time.perf_counter()
        sender = self._sender()
        apis = {call.api for call in self._load.calls}

        def arrived() -> None:
            streaks = {api: sender.streaks.get(api, ("no answer", 0)) for api in apis}
            if any(seen != revision or n < in_a_row for seen, n in streaks.values()):
                seen = ", ".join(
                    f"{api.value} {seen or 'unnamed'} {n} times" for api, (seen, n) in streaks.items()
                )
                raise NotYet(f"in a row {seen}")

        wait_until(f"revision {revision}", arrived, timeout_seconds=timeout_seconds, interval_seconds=0.02)
        return time.perf_counter() - began

    def records(self) -> Records:
        """
        The records so far, also while the load runs.
        """
        return self._in_loop(self._snapshot)

    def ended_since(self, first: int) -> tuple[Records, float]:
        """
        The requests that ended after the first so many, in the order in which they were due.

        Returns:
            The records, and the time up to which every request that was due has ended, in seconds since the start.
        """

        def look() -> tuple[Records, float]:
            sender = self._sender()
            oldest = sender.oldest()
            until = time.perf_counter() - sender.start if oldest is None else oldest
            return self._recorder.records(first=first), until

        return self._in_loop(look)

    @property
    def began(self) -> float:
        """
        The start of the load, in seconds since 1970.
        """
        return time.time() - (time.perf_counter() - self._sender().start)

    def _in_loop(self, look: Callable[[], T]) -> T:
        """
        Look at the columns in the loop's thread, in which they grow.
        """
        if self._ready.done() and not self._ended.done():
            made: Future[T] = Future()
            with contextlib.suppress(RuntimeError):  # the loop has just ended and is closed
                self._ready.result()[0].call_soon_threadsafe(lambda: made.set_result(look()))
                # A loop that ends drops the calls it has not made yet.
                futures: list[Future[Any]] = [made, self._ended]
                concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED)
            if made.done():
                return made.result()
            concurrent.futures.wait([self._ended])
        return look()

    def _snapshot(self) -> Records:
        return self._recorder.records(self._marks)

    def _sender(self) -> Sender:
        if not self._ready.done():
            raise UsageError("traffic: expected a load that has started, got one before its with block")
        return self._ready.result()[1]

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as exc:  # noqa: BLE001 - raised again in the caller's thread
            if not self._ready.done():
                self._ready.set_exception(exc)
            self._ended.set_exception(exc)
        else:
            self._ended.set_result(None)

    async def _main(self) -> None:
        sender = Sender(self._load, self._recorder)
        self._marks.insert(0, Mark(0.0, "start"))
        self._ready.set_result((asyncio.get_running_loop(), sender))
        await sender.run()


def _check_load(requests: Sequence[Call], rate: float | None, concurrency: int | None) -> None:
    if (rate is None) == (concurrency is None):
        raise UsageError("traffic: expected either rate or concurrency, got both or neither")
    if not requests:
        raise UsageError("traffic: expected at least one request, got none")
    if (rate is not None and rate <= 0) or (concurrency is not None and concurrency < 1):
        raise UsageError(f"traffic: expected a load above 0, got rate={rate}, concurrency={concurrency}")
