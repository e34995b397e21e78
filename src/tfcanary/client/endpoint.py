"""
Where and how a gateway is reached: address, TLS, deadlines, and the options of a gRPC channel.
"""

import re
import ssl
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from tfcanary.client.answer import Answer
from tfcanary.errors import UsageError

DEADLINE_SECONDS = 30.0
CONNECT_SECONDS = 5.0
CONCURRENCY = 8
# A batch of a few 224 by 224 float images, and gRPC's own default of 4 MiB is less than that.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    # One connection of its own: all that this client sends goes down one channel.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", round(CONNECT_SECONDS * 1000)),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """
    How the gateway's certificate is verified; it always is.

    Attributes:
        ca: a PEM file with the authorities to trust; None takes the system's.
    """

    ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """
        For REST.

        Raises:
            UsageError: if the file is not one of certificates.
        """
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as exc:
            raise UsageError(f"--ca {str(self.ca)!r}: expected a PEM file of certificates: {exc}") from exc

    def credentials(self) -> grpc.ChannelCredentials:
        """
        For gRPC.
        """
        self.context()
        return grpc.ssl_channel_credentials(self.ca.read_bytes() if self.ca else None)


def trusting_nobody() -> ssl.SSLContext:
    """
    For plain connections, where httpx would load the system's authorities for nothing: a tenth of a second.
    """
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def checked(address: str) -> str:
    """
    The address, if it is one.
    """
    found = re.fullmatch(
        r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?):([0-9]{1,5})", address
    )
    if not found or not 0 < int(found[3]) < 65536:
        raise UsageError(f"gateway: expected HOST:PORT, got {address!r}")
    return address


def burst(
    ask: Callable[[Mapping[str, str]], Answer], requests: Iterable[Mapping[str, str]], concurrency: int
) -> Generator[Answer, None, None]:
    """
    Ask once for every entry of `requests`, so many at a time, and yield the answers in order.
    """
    pool = ThreadPoolExecutor(concurrency)
    try:
        yield from pool.map(ask, requests)
    finally:
        # Whoever stops listening does not want the rest to be asked.
        pool.shutdown(cancel_futures=True)
