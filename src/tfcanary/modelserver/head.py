"""
HTTP as uvicorn reads it, but for a request's head: line and headers may not be of any length.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Envoy's own limit, which nothing that comes through a gateway is above.
MOST_BYTES = 64 << 10


class BoundedHead(HttpToolsProtocol):
    """
    A connection that ends when a request's head is longer than that.

    The parser keeps what it has read of a head, and joins it again with every packet.
    """

    _in_head = True
    _head_bytes = 0
    _received = 0

    def data_received(self, data: bytes) -> None:
        """
        Read on.
        """
        self._received = len(data)
        super().data_received(data)
        if self._in_head:
            self._head_bytes += self._received
            if self._head_bytes > MOST_BYTES:
                self.send_400_response(f"Request line and headers are larger than {MOST_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """
        What follows is the body, which has a limit of its own.
        """
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """
        What follows what was just received is the next head.
        """
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = -self._received
