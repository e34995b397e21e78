"""
Another team's application: it echoes HTTP bodies' sizes and headers, WebSocket messages and streams of gRPC.

A pod runs this file alone, with the packages of the model server's image.
"""

import base64
import hashlib
import http.server
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

HTTP_PORT, GRPC_PORT = 8080, 9090
CHAT = "/echo.Echo/Chat"
# RFC 6455, section 1.3.
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def chat(messages: Iterable[bytes], _context: Any) -> Iterator[bytes]:
    """
    Answer each message as soon as it is there.
    """
    for message in messages:
        yield b"echo " + message


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio has no types
    """
    The one method, in both directions a stream of bytes.
    """

    def service(self, details: Any) -> Any:
        """
        What handles a call.
        """
        return grpc.stream_stream_rpc_method_handler(chat) if details.method == CHAT else None


class Handler(http.server.BaseHTTPRequestHandler):
    """
    HTTP/1.1, with WebSockets.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """
        The headers that came, or a WebSocket.
        """
        if self.headers.get("upgrade", "").lower() == "websocket":
            self._websocket()
        else:
            self._answer({name.lower(): value for name, value in self.headers.items()})

    def do_POST(self) -> None:
        """
        The size of the body, which comes in chunks.
        """
        size = 0
        while length := int(self.rfile.readline(), 16):
            size += len(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        self._answer({"bytes": size})

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _websocket(self) -> None:
        key = hashlib.sha1(self.headers["sec-websocket-key"].encode() + MAGIC).digest()  # noqa: S324 - as RFC 6455 says
        self.send_response(101)
        for name, value in (("upgrade", "websocket"), ("connection", "upgrade")):
            self.send_header(name, value)
        self.send_header("sec-websocket-accept", base64.b64encode(key).decode())
        self.end_headers()
        # A short text frame of a client: two bytes, a mask of four, and the text.
        length = self.rfile.read(2)[1] & 127
        mask, text = self.rfile.read(4), self.rfile.read(length)
        plain = bytes(byte ^ mask[place % 4] for place, byte in enumerate(text))
        self.wfile.write(bytes([0x81, length]) + plain)
        self.close_connection = True


def main() -> None:
    """
    Serve both ports.
    """
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Calls(),))
    server.add_insecure_port(f"0.0.0.0:{GRPC_PORT}")
    server.start()
    http.server.ThreadingHTTPServer(("0.0.0.0", HTTP_PORT), Handler).serve_forever()  # noqa: S104 - a pod's own


if __name__ == "__main__":
    main()
