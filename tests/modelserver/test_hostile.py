"""
Requests that try to exhaust the server's memory or its connections.
"""

import contextlib
import gzip
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tfcanary.modelserver.limits import require_shallow

HALF = "/v1/models/half:predict"


def resident_mib(server: Any) -> float:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def works(server: Any) -> bool:
    answer = server.rest.post(HALF, json={"instances": [1.0]})
    return (answer.status_code, answer.json()) == (200, {"predictions": [3.5]})


@pytest.fixture(scope="module")
def roomy(share_server: Any, models: Path) -> Any:
    """
    A server with the default limits.
    """
    return share_server(
        "/v1/models/half/metadata",
        "--model_name=half",
        f"--model_base_path={models}/half",
        "--file_system_poll_wait_seconds=0",
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="lists"),
        pytest.param(b'{"instances": ' + b'{"x":' * 100_000 + b"1" + b"}" * 100_000 + b"}", id="objects"),
        pytest.param(b'{"instances": ' + b"[" * 65 + b"1" + b"]" * 65 + b"}", id="one-more-than-allowed"),
    ],
)
def test_json_that_is_nested_deeper_than_the_limit_is_refused(server: Any, body: bytes) -> None:
    answer = server.rest.post(HALF, content=body)

    assert answer.status_code == 400
    assert answer.json() == {"error": "JSON Parse error: nested deeper than 64 levels"}
    assert works(server)


def test_brackets_in_strings_are_no_depth(server: Any) -> None:
    text = '[{"\\' * 100

    answer = server.rest.post(
        "/v1/models/mixed:predict", json={"signature_name": "strings", "instances": [text]}
    )

    assert answer.json()["predictions"][0]["upper"] == text


def test_a_string_of_escaped_quotes_that_never_ends_takes_no_longer_than_any_other() -> None:
    """Matching again from each quote would take half a minute, in which no other request is answered."""
    began = time.monotonic()

    require_shallow(b'{"instances": ["' + b'\\"' * 50_000, 64)

    assert time.monotonic() - began < 5


def test_the_limits_come_from_the_environment(open_server: Any, models: Path) -> None:
    server = open_server(
        "/v1/models/half/metadata",
        "--model_name=half",
        f"--model_base_path={models}/half",
        TFCANARY_MAX_JSON_DEPTH="2",
        TFCANARY_MAX_INFLATED_BYTES="100",
    )
    inflates = gzip.compress(b'{"instances": [1.0' + b" " * 100 + b"]}")

    assert server.rest.post(HALF, content=b'{"instances": [[1.0]]}').json() == {
        "error": "JSON Parse error: nested deeper than 2 levels"
    }
    assert server.rest.post(HALF, content=inflates, headers={"Content-Encoding": "gzip"}).status_code == 413
    assert works(server)


def test_a_million_keys_are_refused_and_their_memory_is_given_back(roomy: Any) -> None:
    body = json.dumps({f"k{number}": 0 for number in range(1_000_000)}).encode()
    statuses = [roomy.rest.post(HALF, content=body).status_code for _ in range(2)]
    before = resident_mib(roomy)
    statuses += [roomy.rest.post(HALF, content=body).status_code for _ in range(2)]

    assert statuses == [400] * 4
    assert resident_mib(roomy) - before < 64
    assert works(roomy)


def test_a_thousand_to_one_bomb_is_refused_before_it_is_large(roomy: Any) -> None:
    bomb = gzip.compress(b'{"instances": [1.0' + b" " * (200 << 20) + b"]}", 9)
    before = resident_mib(roomy)

    answer = roomy.rest.post(HALF, content=bomb, headers={"Content-Encoding": "gzip"})

    assert len(bomb) * 900 < 200 << 20
    assert answer.status_code == 413
    assert resident_mib(roomy) - before < 128
    assert works(roomy)


def test_ten_thousand_made_up_models_are_one_line_on_the_page(server: Any) -> None:
    answered = 0
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        for first in range(0, 10_000, 100):
            names = (f"made-up-{number}" for number in range(first, first + 100))
            connection.sendall(
                b"".join(f"GET /v1/models/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for name in names)
            )
            answers = b""
            while answers.count(b'"error"') < 100:
                received = connection.recv(1 << 16)
                assert received, answers
                answers += received
            answered += answers.count(b"HTTP/1.1 404 ")

    page = server.rest.get("/metrics").text
    assert answered == 10_000
    assert "made-up" not in page
    assert works(server)


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"GET /v1/models/", id="line"),
        pytest.param(b"GET /v1/models/half HTTP/1.1\r\nHost: ", id="header"),
    ],
)
def test_a_head_without_an_end_is_refused(server: Any, beginning: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):  # the server closes it while more is being sent
            connection.sendall(beginning)
            for _ in range(64):
                connection.sendall(b"x" * (1 << 14))
            answer = connection.recv(1 << 10)

    assert answer[:13] in {b"", b"HTTP/1.1 400 "}
    assert works(server)


def test_heads_are_counted_one_by_one_and_without_their_bodies(server: Any) -> None:
    """Four requests on one connection, sent at once: together their heads are larger than the limit."""
    body = b'{"instances": [1.0' + b" " * (100 << 10) + b"]}"
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nX-More: %b\r\nContent-Length: %d\r\n\r\n"
    request = head % (HALF.encode(), b"x" * (30 << 10), len(body)) + body
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        connection.sendall(request * 4)
        answers = b""
        while answers.count(b"3.5") < 4:
            received = connection.recv(1 << 16)
            assert received, answers
            answers += received

    assert answers.count(b"HTTP/1.1 200 ") == 4


def test_connections_that_never_finish_a_request_hold_up_no_other(server: Any) -> None:
    """Half of them stop in the headers, half in the body."""
    halves = [
        b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-",
        b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ]
    slow = [socket.create_connection(("127.0.0.1", server.rest_port)) for _ in range(400)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(halves[number % 2])
        assert all(works(server) for _ in range(50))
    finally:
        for connection in slow:
            connection.close()
    assert works(server)
