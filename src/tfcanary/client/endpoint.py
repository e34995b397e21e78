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
import grpc.aio

from tfcanary.client.answer import Answer
from tfcanary.errors import UsageError

DEADLINE_SECONDS = 30.0
CONNECT_SECONDS = 5.0
CONCURRENCY = 8
# A batch of a few 224 by 224 float images is larger than gRPC's own default of 4 MiB.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A call that the gateway never took, because it closed the connection under it (GOAWAY), goes to the next connection,
    # as with every gRPC client. Nothing else is tried twice, since no service config may ask for it.
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_http_proxy", 0),
    # Each channel has a connection of its own instead of sharing one with other channels of this process.
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
        The TLS settings of REST connections.

        Raises:
            UsageError: if the file is not one of certificates.
        """
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as exc:
            raise UsageError(f"--ca {str(self.ca)!r}: expected a PEM file of certificates: {exc}") from exc

    def credentials(self) -> grpc.ChannelCredentials:
        """
        The TLS settings of a gRPC channel.

        Raises:
            UsageError: if the file is not one of certificates.
        """
        # gRPC reports a broken file only as a failed connection; this one names the file.
        self.context()
        return grpc.ssl_channel_credentials(self.ca.read_bytes() if self.ca else None)


def without_authorities() -> ssl.SSLContext:
    """
    A context without authorities, for connections without TLS: httpx would load the system's in 0.1 s, unused.
    """
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def checked(address: str) -> str:
    """
    Return the address if it is HOST:PORT; an IPv6 host stands in brackets.

    Raises:
        UsageError: if it is not, or the port is outside 1 to 65535.
    """
    found = re.fullmatch(
        r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?):([0-9]{1,5})", address
    )
    if not found or not 0 < int(found[3]) < 65536:
        raise UsageError(f"gateway: expected HOST:PORT, got {address!r}")
    return address


def open_channel(
    address: str,
    *,
    host: str | None = None,
    tls: Tls | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> grpc.Channel:
    """
    Open a gRPC channel that repeats no call that was taken and ignores proxies; it connects with its first call.

    Args:
        address: HOST:PORT to connect to.
        host: the authority to ask for, which the certificate must name; None takes it from the address.
        tls: how certificates are verified; None connects without TLS.
        max_message_bytes: the largest message in either direction.

    Raises:
        UsageError: if the address is not HOST:PORT, or the file of authorities is not one of certificates.
    """
    options = _channel_options(host, tls, max_message_bytes)
    if tls is None:
        return grpc.insecure_channel(checked(address), options=options)
    return grpc.secure_channel(checked(address), tls.credentials(), options=options)


def open_aio_channel(
    address: str,
    *,
    host: str | None = None,
    tls: Tls | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> grpc.aio.Channel:
    """
    Open the same channel as `open_channel` does, for the running event loop.
    """
    options = _channel_options(host, tls, max_message_bytes)
    if tls is None:
        return grpc.aio.insecure_channel(checked(address), options=options)
    return grpc.aio.secure_channel(checked(address), tls.credentials(), options=options)


def _channel_options(
    host: str | None, tls: Tls | None, max_message_bytes: int
) -> list[tuple[str, str | int]]:
    options: list[tuple[str, str | int]] = [
        *_CHANNEL_OPTIONS,
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]
    if host:
        options.append(("grpc.default_authority", host))
        if tls is not None:
            options.append(("grpc.ssl_target_name_override", host))
    return options


def burst(
    ask: Callable[[Mapping[str, str]], Answer], requests: Iterable[Mapping[str, str]], concurrency: int
) -> Generator[Answer, None, None]:
    """
    Ask once for every entry of `requests` and yield the answers in request order.

    Args:
        ask: sends one request with the headers it is given.
        requests: the headers of each request.
        concurrency: how many requests are under way at a time.
    """
    pool = ThreadPoolExecutor(concurrency)
    try:
        yield from pool.map(ask, requests)
    finally:
        # The caller stopped iterating: cancel the remaining requests.
        pool.shutdown(cancel_futures=True)
