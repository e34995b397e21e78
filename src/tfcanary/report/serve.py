"""
Serve one page from this machine, to browsers on it.

A web site that somebody opens meanwhile must not read the page. It cannot by a name of its own that it lets point here (DNS
rebinding), since only the served names are answered.
"""

import contextlib
import ipaddress
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tfcanary.errors import CanaryError, UsageError
from tfcanary.report.rollout_page import unreachable_page

# Where an address has no host, only this machine can connect.
LOOPBACK = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Seconds for a client to say what it wants.
_PATIENCE = 10

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def serving(address: str, page: Callable[[], str], *, refresh_seconds: float = 5.0) -> Iterator[str]:
    """
    Serve a page until the context ends.

    Args:
        address: `HOST:PORT`, `:PORT` or `PORT`; this machine alone can connect unless the host is another one. Port 0 is any
            that is free.
        page: makes the page at each request, one at a time. Where it raises an error of the harness, as while the cluster
            cannot be reached, the answer is 503 with that line, and tries again.
        refresh_seconds: until it does.

    Yields:
        The page's URL.

    Raises:
        UsageError: if the address is none, or cannot be served at.
    """
    host, port = _parts(address)
    family, bound = _resolved(address, host, port)
    try:
        server = _Server(family, bound, page, refresh_seconds)
    except OSError as exc:
        raise UsageError(
            f"--serve {address!r}: expected a free port of this machine, got: {exc.strerror}"
        ) from exc
    with server:
        server.names = _names(host, server.server_name)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield f"http://{_bracketed(host)}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def _parts(address: str) -> tuple[str, int]:
    """
    The host and the port of an address.
    """
    wrong = f"--serve {address!r}: expected HOST:PORT, as in {LOOPBACK}:8090"
    try:
        parts = urlsplit(f"//{f':{address}' if address.isascii() and address.isdigit() else address}")
        host, port = parts.hostname or LOOPBACK, parts.port
    except ValueError as exc:
        raise UsageError(f"{wrong}, got: {exc}") from exc
    if port is None or parts.netloc != f"{address if ':' in address else ':' + address}" or "@" in address:
        raise UsageError(f"{wrong}, got another form")
    return host, port


def _resolved(address: str, host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise UsageError(f"--serve {address!r}: expected an address of this machine, got: {exc}") from exc
    return found[0][0], found[0][4]


def _names(host: str, bound: str) -> frozenset[str] | None:
    """
    The hosts that a request may name besides; None for any address, where the server listens at all of them.
    """
    if ipaddress.ip_address(bound.partition("%")[0]).is_unspecified:
        return None
    loopback = ("localhost",) if ipaddress.ip_address(bound.partition("%")[0]).is_loopback else ()
    return frozenset((host, bound, *loopback))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server(ThreadingHTTPServer):
    """
    The page's server.
    """

    daemon_threads = True

    def __init__(
        self, family: socket.AddressFamily, bound: Any, page: Callable[[], str], refresh_seconds: float
    ) -> None:
        self.address_family = family
        self._page, self._refresh = page, refresh_seconds
        self._one_at_a_time = threading.Lock()
        self.names: frozenset[str] | None = frozenset()
        super().__init__(bound, _Handler)

    def server_bind(self) -> None:
        """
        Bind without asking a name server for this machine's name, which may take seconds.
        """
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def made(self) -> tuple[HTTPStatus, str]:
        """
        The page, or why there is none now.
        """
        try:
            with self._one_at_a_time:
                return HTTPStatus.OK, self._page()
        except CanaryError as exc:
            return HTTPStatus.SERVICE_UNAVAILABLE, unreachable_page(" ".join(str(exc).split()), self._refresh)

    def serves(self, named: str) -> bool:
        """
        Whether a request's Host is one of this server's.
        """
        try:
            parts = urlsplit(f"//{named}")
            host, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if port != self.server_port or parts.netloc != named or "@" in named:
            return False
        if self.names is not None:
            return host in self.names
        # A name may be anybody's; an address cannot be made to point elsewhere.
        return host == "localhost" or _is_address(host)

    def handle_error(self, *_about: Any) -> None:
        """
        Log what went wrong in one line: a traceback would be written over the live view. Clients that go away are no news.
        """
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            _log.error("the page cannot be made: %r", error)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    """
    GET and HEAD of `/`; whatever else is asked for is not there.
    """

    server: _Server
    timeout = _PATIENCE

    def do_GET(self) -> None:
        """
        Answer with the page.
        """
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not self.server.serves(hosts[0]):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path == "/":
            status, text = self.server.made()
            self._answer(status, text, "text/html; charset=utf-8")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def send_error(self, code: int, *_words: Any, **_more: Any) -> None:
        """
        Refuse in one line. A method that there is none of is as little there as another path.
        """
        status = HTTPStatus.NOT_FOUND if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._answer(status, f"{status.phrase}\n", "text/plain; charset=utf-8")

    def _answer(self, status: HTTPStatus, text: str, kind: str) -> None:
        content = text.encode("utf-8", "replace")
        self.close_connection = True
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """
        What serves, without the versions that a client need not know.
        """
        return "tfcanary"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """
        Log nothing on the terminal, which shows the rollout.
        """
        _log.debug(format, *args)
