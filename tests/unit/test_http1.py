"""
HTTP/1.1 of the load driver: every framing of an answer, and what is none of them.
"""

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest

from tfcanary.client.endpoint import MAX_MESSAGE_BYTES
from tfcanary.contract import Api
from tfcanary.traffic.calls import metadata_call
from tfcanary.traffic.driver import Traffic
from tfcanary.traffic.http1 import MAX_HEAD_BYTES, ResponseReader

REQUESTS = [metadata_call(Api.REST, "resnet")]


@pytest.fixture
def says() -> Iterator[Callable[..., str]]:
    """
    Start servers that answer every request with given bytes, a few at a time, and may then close the connection.
    """
    with contextlib.ExitStack() as stack:

        def start(answer: bytes, *, close: bool = False) -> str:
            class Handler(socketserver.StreamRequestHandler):
                wbufsize = 0
                disable_nagle_algorithm = True

                def handle(self) -> None:
                    with contextlib.suppress(ConnectionError):
                        while any(line == b"\r\n" for line in iter(self.rfile.readline, b"")):
                            for at in range(0, len(answer), 7):
                                self.wfile.write(answer[at : at + 7])
                            if close:
                                return

            server = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"127.0.0.1:{server.server_address[1]}"

        yield start


JSON = b"content-type: application/json\r\n"


@pytest.mark.parametrize(
    ("answer", "close", "error"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n" + JSON + b"content-length: 2\r\n\r\n{}", False, "", id="length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n"
            + JSON
            + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1;x\r\n}\r\n0\r\n\r\n",
            False,
            "",
            id="chunked",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\n{}", True, "", id="until-the-end"),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + JSON + b"content-length: 2\r\n\r\n{}",
            False,
            "",
            id="continue",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n" + JSON + b"connection: close\r\ncontent-length: 2\r\n\r\n{}",
            True,
            "",
            id="close",
        ),
        pytest.param(
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone", False, "404 gone", id="not-found"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
            False,
            "not the model server: text/html",
            id="a-proxy-that-answers-html",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", True, "connection closed without", id="cut-off"
        ),
        pytest.param(b"", True, "connection closed without an answer", id="closed"),
        pytest.param(b"HTTP/1.1 99999 OK\r\n\r\n", False, "expected a status of three digits", id="status"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", False, "not HTTP", id="another-protocol"),
    ],
)
def test_an_answer_is_read_as_http_says(says, answer, close, error):
    """
    Every framing of an answer is read in small pieces; anything else is a failure with its reason.
    """
    address = says(answer, close=close)

    with Traffic(address, REQUESTS, concurrency=1, most=3, deadline_seconds=5) as load:
        records = load.join()

    assert 3 == len(records)
    assert [bool(error)] * 3 == records.failed.tolist()
    assert all(error in said for said in records.counts("error"))


CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n"
    + JSON
    + b"Transfer-Encoding: chunked\r\n\r\n"
    b"3;name=value\r\n[1,\r\n0A\r\n2,3,4,5,6]\r\n0\r\ntrailer: x\r\n\r\n"
)


@pytest.mark.parametrize("at", range(1, len(CHUNKED)))
def test_a_chunked_answer_may_be_split_anywhere(at):
    """
    Two packets, cut at every byte: the body and the headers are the same, and the last byte completes them.
    """
    reader = ResponseReader()

    reader.feed(CHUNKED[:at])
    assert not reader.complete
    reader.feed(CHUNKED[at:])

    assert reader.complete
    assert not reader.surplus
    assert (200, b"[1,2,3,4,5,6]") == (reader.status, bytes(reader.body))
    assert {"content-type": "application/json", "transfer-encoding": "chunked"} == reader.headers


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_without_a_body_ends_with_its_header(status):
    reader = ResponseReader()

    reader.feed(b"HTTP/1.1 " + status + b"\r\netag: x\r\n\r\n")

    assert reader.complete
    assert reader.keep_alive


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"])
def test_bytes_after_an_answer_are_told_and_change_nothing_in_it(more):
    reader = ResponseReader()

    reader.feed(b"HTTP/1.1 404 Not Found\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}" + more)

    assert reader.complete
    assert reader.surplus
    assert (404, b"{}", "2") == (reader.status, bytes(reader.body), reader.headers["content-length"])


def test_a_connection_with_surplus_bytes_is_not_used_again(says):
    """
    Each answer brings bytes of another one: every request has a connection of its own, and its own answer.
    """
    address = says(b"HTTP/1.1 200 OK\r\n" + JSON + b"content-length: 2\r\n\r\n{}HTTP/1.1 500 No\r\n")

    with Traffic(address, REQUESTS, concurrency=1, connections=1, most=5, deadline_seconds=5) as load:
        records = load.join()

    assert {"200": 5} == records.outcomes()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_HEAD_BYTES, "a header of more than", id="endless-header"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\ncontent-length: 0\r\n\r\n",
            "a header of more than",
            id="long-header",
        ),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_HEAD_BYTES // 25),
            "a header of more than",
            id="endless-hints",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * MAX_MESSAGE_BYTES, "an answer of more than", id="endless-body"
        ),
        pytest.param(b"HTTP/2.0 200 OK\r\n\r\n", "not HTTP: expected version 1, got 2", id="version"),
        pytest.param(
            b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
            "not HTTP: the server changed to another protocol",
            id="upgrade",
        ),
    ],
)
def test_an_answer_has_limits(answer, error):
    reader = ResponseReader()

    def feed() -> None:
        for at in range(0, len(answer), 65536):
            reader.feed(answer[at : at + 65536])

    with pytest.raises(ValueError, match=error):
        feed()


def test_a_header_at_the_limit_is_read():
    reader = ResponseReader()

    reader.feed(b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD_BYTES - 16) + b"\r\ncontent-length: 0\r\n\r\n")

    assert reader.complete


def test_an_answer_that_never_comes_has_its_deadline(says):
    with Traffic(says(b"HTTP/1.1 2"), REQUESTS, concurrency=1, most=1, deadline_seconds=0.2) as load:
        records = load.join()

    assert {"no answer within 0.2 s": 1} == records.counts("error")


def test_the_deadline_counts_while_a_request_waits_for_a_connection(says):
    """
    One connection, and a gateway that never answers: all fail at their own deadline, not one after the other.
    """
    with Traffic(
        says(b"HTTP/1.1 2"), REQUESTS, rate=1000, most=10, connections=1, deadline_seconds=0.2
    ) as load:
        records = load.join()

    assert 10 == records.failed.sum()
    assert 1 > records.latency.max()
