"""
HTTP as uvicorn reads it, with a limit for a request's head, and with what libevent does that uvicorn does not.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Envoy's own limit is 60 KiB, which no request through a gateway exceeds.
MOST_BYTES = 64 << 10
# In an ASGI scope: whether the target has a query, which may be empty.
QUERY = "tfcanary.query"


class BoundedHead(HttpToolsProtocol):
    """
    A connection that ends when a request's head is larger than `MOST_BYTES`.

    The parser keeps the part of a head that it has read, and copies it again with every packet.
    """

    _in_head = True
    _head_bytes = 0
    _received = 0

    def data_received(self, data: bytes) -> None:
        """
        Parse a packet, and refuse a head that has become too large.
        """
        self._received = len(data)
        super().data_received(data)
        if self._in_head:
            self._head_bytes += self._received
            if self._head_bytes > MOST_BYTES:
                self.send_400_response(f"Request line and headers are larger than {MOST_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """
        Stop counting, because the body that follows has its own limit, and keep a connection of HTTP/1.0 that asks for it.
        """
        self._in_head = False
        self.scope[QUERY] = b"?" in self.url  # type: ignore[literal-required]
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0" and self.parser.should_keep_alive():
            self.cycle.keep_alive = True
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"keep-alive")]

    def on_message_complete(self) -> None:
        """
        Count the next head, without the packet that ended this request.
        """
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = -self._received
