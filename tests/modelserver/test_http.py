"""
What HTTP itself does: methods, queries, encodings, connections and addresses.

The original: tensorflow_serving/model_servers/{http_server,http_rest_api_handler,http_rest_api_util}.cc, and libevent below
tensorflow_serving/util/net_http/server/internal/{evhttp_server,evhttp_request}.cc.
"""

import contextlib
import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

STATUS = "/v1/models/half"
PREDICT = f"{STATUS}:predict"
BODY = json.dumps({"instances": [1.0]}).encode()
CORS = "access-control-allow-origin"


def said(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json() if answer.content else None


@pytest.mark.parametrize(
    ("method", "target", "status", "error"),
    [
        pytest.param(
            "POST", f"{PREDICT}?key=1", 400, f"Malformed request: POST {PREDICT}?key=1", id="predict"
        ),
        pytest.param("POST", f"{PREDICT}?", 400, f"Malformed request: POST {PREDICT}?", id="empty"),
        pytest.param(
            "GET", f"{STATUS}?x=1", 404, "Could not find any versions of model half?x=1", id="status"
        ),
        pytest.param(
            "GET", f"{STATUS}/metadata?x", 400, f"Malformed request: GET {STATUS}/metadata?x", id="metadata"
        ),
    ],
)
def test_a_query_is_a_part_of_the_path(
    server: Any, method: str, target: str, status: int, error: str
) -> None:
    """EvHTTPRequest::uri_path() has it, and so have the patterns of http_rest_api_util.cc."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port)
    connection.request(method, target, BODY)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()

    assert (status, {"error": error}) == (answer.status, body)


def test_metrics_with_a_query_are_refused(server: Any) -> None:
    """ProcessPrometheusRequest()."""
    answer = server.rest.get("/metrics?x=1")

    assert (400, "Unexpected path: /metrics?x=1. Should be /metrics") == (answer.status_code, answer.text)


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        pytest.param("POST", "/V1/Models/half:predict", 200, None, id="path"),
        pytest.param("POST", f"{STATUS}/VERSIONS/1:predict", 200, None, id="versions"),
        pytest.param(
            "POST", f"{STATUS}:PREDICT", 400, f"Malformed request: POST {STATUS}:PREDICT", id="method"
        ),
        pytest.param("GET", "/V1/MODELS/half", 200, None, id="status"),
        pytest.param("GET", "/v1/models/HALF", 404, "Could not find any versions of model HALF", id="model"),
    ],
)
def test_the_path_may_be_in_any_case_and_the_method_may_not(
    server: Any, method: str, path: str, status: int, error: str | None
) -> None:
    """The patterns ignore case; ProcessRequest() then compares the method's name."""
    answer = server.rest.request(method, path, content=BODY)

    assert (status, error) == (answer.status_code, answer.json().get("error"))


def test_metadata_in_another_case_is_the_status(server: Any) -> None:
    assert "model_version_status" in server.rest.get(f"{STATUS}/METADATA").json()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_malformed_requests(server: Any, method: str) -> None:
    assert (400, {"error": f"Malformed request: {method} {STATUS}"}) == said(
        server.rest.request(method, STATUS)
    )


@pytest.mark.parametrize(("path", "status"), [(STATUS, 400), ("/", 404), ("/metrics", 200)])
def test_head_has_the_status_of_get_only_where_any_method_has(server: Any, path: str, status: int) -> None:
    answer = server.rest.head(path)

    assert (status, b"") == (answer.status_code, answer.content)


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", [STATUS, "/"])
def test_methods_that_libevent_is_not_given_are_not_implemented(server: Any, method: str, path: str) -> None:
    """evhttp_set_allowed_methods() in evhttp_server.cc."""
    answer = server.rest.request(method, path)

    assert (501, "close") == (answer.status_code, answer.headers["connection"])


@pytest.fixture(scope="module")
def cors(share_server: Any, models: Path) -> Iterator[Any]:
    """
    A server that lets browsers read its answers.
    """
    flags = [f"--model_base_path={models}/half", "--model_name=half", "--file_system_poll_wait_seconds=0"]
    return share_server(f"{STATUS}/metadata", *flags, "--rest_api_enable_cors_support")


@pytest.mark.parametrize(
    ("headers", "status"), [({"Origin": "https://a.test"}, 200), ({"Origin": "null"}, 400), ({}, 400)]
)
def test_a_preflight_needs_an_origin(server: Any, cors: Any, headers: dict[str, str], status: int) -> None:
    """RestApiRequestDispatcher::ProcessRequest() of http_server.cc, with the flag or without."""
    for asked, allows in ((server, False), (cors, True)):
        answer = asked.rest.options(PREDICT, headers=headers)

        assert (status, b"", allows) == (answer.status_code, answer.content, CORS in answer.headers)


def test_answers_and_errors_allow_any_origin_with_the_flag(server: Any, cors: Any) -> None:
    """AddCORSHeaders() of http_rest_api_util.cc."""
    got = [asked.rest.post(PREDICT, content=body) for asked in (cors, server) for body in (BODY, b"{")]

    assert [("*", 200), ("*", 400), (None, 200), (None, 400)] == [
        (answer.headers.get(CORS), answer.status_code) for answer in got
    ]
    assert ("POST, GET", "Content-Type") == (
        got[0].headers["access-control-allow-methods"],
        got[0].headers["access-control-allow-headers"],
    )


@pytest.mark.parametrize(
    ("encoding", "inflated"),
    [("gzip", True), ("x-gzip", True), ("gzip, identity", True), ("GZIP", False), ("identity", False)],
)
def test_an_encoding_that_contains_gzip_is_gzip(server: Any, encoding: str, *, inflated: bool) -> None:
    """NeedUncompressGzipContent() of evhttp_request.cc looks for the four letters."""
    body = gzip.compress(BODY) if inflated else BODY

    answer = server.rest.post(PREDICT, content=body, headers={"Content-Encoding": encoding})

    assert (200, {"predictions": [3.5]}) == said(answer)


def exchanged(server: Any, request: bytes, times: int) -> list[bytes]:
    """
    Send a request again and again over one connection; b"" once it is closed.
    """
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        return [answer_on(connection, request) for _ in range(times)]


def answer_on(connection: socket.socket, request: bytes) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        connection.sendall(request)
        while b"]\n" not in received and (part := connection.recv(65536)):
            received += part
    return received.lower()


def request_of(version: str, *headers: str) -> bytes:
    lines = [f"POST {PREDICT} HTTP/{version}", "Host: h", f"Content-Length: {len(BODY)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + BODY


def test_a_connection_of_http_1_0_is_kept_if_asked(server: Any) -> None:
    """As `ab -k` asks. libevent says so in its answer."""
    answers = exchanged(server, request_of("1.0", "Connection: keep-alive"), 3)

    assert 3 == len(answers)
    assert all(b" 200 " in answer and b"connection: keep-alive" in answer for answer in answers)


@pytest.mark.parametrize(("version", "headers"), [("1.0", []), ("1.1", ["Connection: close"])])
def test_other_connections_end_with_their_answer(server: Any, version: str, headers: list[str]) -> None:
    first, last = exchanged(server, request_of(version, *headers), 2)

    assert b"connection: close" in first
    assert b"" == last


@pytest.mark.parametrize("address", ["::1", "127.0.0.1"])
def test_rest_is_served_over_ipv6_and_ipv4(server: Any, address: str) -> None:
    """StartAcceptingRequests() of evhttp_server.cc binds "::" first."""
    connection = http.client.HTTPConnection(address, server.rest_port, timeout=30)
    connection.request("GET", STATUS)
    status = connection.getresponse().status
    connection.close()

    assert 200 == status


def test_without_ipv6_rest_is_served_over_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfcanary.modelserver import command  # noqa: PLC0415 - the module under change

    real = command._listening

    def listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, address, port)

    monkeypatch.setattr(command, "_listening", listening)

    with command._listen(0) as made:
        assert socket.AF_INET == made.family
