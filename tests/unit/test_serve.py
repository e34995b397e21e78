"""
The page's server over real sockets: what it answers, and to whom.
"""

import contextlib
import http.client
import logging
import re
import socket
import threading
import time

import pytest

from tfcanary.errors import NoEvidenceError, UnreachableError, UsageError
from tfcanary.report.serve import serving

PAGE = "<!doctype html><p>läuft</p>"


@pytest.fixture
def served():
    """
    A page at a free port.
    """
    with serving("127.0.0.1:0", lambda: PAGE) as url:
        yield int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", url)[1])


def asked(port, method="GET", path="/", *, to="127.0.0.1", **headers):
    connection = http.client.HTTPConnection(to, port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


def raw(port, *lines, whole=False):
    """
    The first line of the answer to a request as it is given, or the whole answer.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        answer = connection.makefile("rb")
        return (answer.read() if whole else answer.readline()).decode()


def test_the_page_is_served_as_it_is_and_never_kept(served):
    status, headers, text = asked(served)

    assert (200, PAGE, "text/html; charset=utf-8", "no-store") == (
        status,
        text,
        headers["Content-Type"],
        headers["Cache-Control"],
    )
    assert str(len(PAGE.encode())) == headers["Content-Length"]
    policy = headers["Content-Security-Policy"].split("; ")
    assert ["default-src 'none'", "style-src 'unsafe-inline'"] == policy[:2]
    assert all(one.endswith(" 'none'") for one in policy[2:])
    assert {"nosniff", "same-origin", "tfcanary"} <= set(headers.values())


def test_a_head_is_the_page_without_its_text(served):
    own = f"Host: 127.0.0.1:{served}"
    whole = raw(served, "HEAD / HTTP/1.1", own, whole=True)

    assert whole.startswith("HTTP/1.0 200 OK\r\n")
    assert whole.endswith("\r\n\r\n")
    assert f"\r\nContent-Length: {len(PAGE.encode())}\r\n" in whole


@pytest.mark.parametrize("path", ["/favicon.ico", "/?x", "/index.html", "/..", "/%2e", "//", "*"])
def test_there_is_one_path(served, path):
    # What urllib and browsers make of two slashes is one.
    expected = 200 if path == "//" else 404

    status, headers, text = asked(served, path=path)

    assert expected == status
    assert "Content-Security-Policy" in headers
    assert status == 200 or text == "Not Found\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"])
def test_there_is_nothing_to_do(served, method):
    status, headers, text = asked(served, method)

    assert (404, "Not Found\n", "no-store") == (status, text, headers["Cache-Control"])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost", "user@127.0.0.1:{port}", "127.0.0.2:{port}",
     "127.0.0.1:{port}/x", "", "[", "127.0.0.1:99999", "localhost.evil.example:{port}"],
)  # fmt: skip
def test_a_name_that_is_not_the_servers_gets_no_page(served, host):
    """
    A site cannot read the page by letting its own name point here.
    """
    status, _, text = asked(served, Host=host.format(port=served))

    assert (421, "Misdirected Request\n") == (status, text)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}"])
def test_the_servers_own_names_get_the_page(served, host):
    assert 200 == asked(served, Host=host.format(port=served))[0]


def test_no_host_two_hosts_and_another_target_get_no_page(served):
    own = f"Host: 127.0.0.1:{served}"

    assert " 421 " in raw(served, "GET / HTTP/1.1")
    assert " 421 " in raw(served, "GET / HTTP/1.1", own, "Host: evil.example")
    assert " 421 " in raw(served, "GET / HTTP/1.1", own, own)
    assert " 404 " in raw(served, f"GET http://127.0.0.1:{served}/ HTTP/1.1", own)
    assert " 200 " in raw(served, "GET / HTTP/1.1", own)
    assert "Bad Request\n" == raw(served, "GET / HTTP/x")


def test_a_page_that_cannot_be_made_is_tried_again():
    errors = [UnreachableError("kubernetes: no\nanswer <b>"), NoEvidenceError("none")]

    def page():
        if errors:
            raise errors.pop(0)
        return PAGE

    with serving("127.0.0.1:0", page, refresh_seconds=7) as url:
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        status, headers, text = asked(port)
        assert (503, "no-store", "text/html; charset=utf-8") == (
            status,
            headers["Cache-Control"],
            headers["Content-Type"],
        )
        assert '<meta http-equiv="refresh" content="7">' in text
        assert '<p class="verdict open">kubernetes: no answer &lt;b&gt;</p>' in text
        assert [503, 200] == [asked(port)[0], asked(port)[0]]


def test_a_mistake_in_the_page_is_one_line_in_the_log(caplog):
    def page():
        raise ZeroDivisionError("a mistake")

    with serving("127.0.0.1:0", page) as url, caplog.at_level(logging.INFO, "tfcanary"):
        with pytest.raises(http.client.RemoteDisconnected):
            asked(int(url.rsplit(":", 1)[1].rstrip("/")))
        until = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < until:
            time.sleep(0.01)

    assert ["the page cannot be made: ZeroDivisionError('a mistake')"] == caplog.messages


def test_requests_leave_nothing_on_the_terminal(served, capfd):
    asked(served)
    asked(served, path="/lost")

    assert ("", "") == tuple(capfd.readouterr())


def test_pages_are_made_one_at_a_time():
    """
    The page asks the cluster, and ten tabs must not ask it ten times at once.
    """
    inside, most = [], []

    def page():
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return PAGE

    with serving("127.0.0.1:0", page) as url:
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        threads = [threading.Thread(target=asked, args=(port,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert [1] * 5 == most


def test_a_client_that_says_nothing_keeps_nobody_waiting(served):
    with socket.create_connection(("127.0.0.1", served)):
        assert 200 == asked(served)[0]


def test_the_server_ends_with_its_context():
    with serving("127.0.0.1:0", lambda: PAGE) as url:
        port = int(url.rsplit(":", 1)[1].rstrip("/"))

    with pytest.raises(ConnectionRefusedError):
        asked(port)
    # And the port is free again at once.
    with serving(f"127.0.0.1:{port}", lambda: PAGE):
        assert 200 == asked(port)[0]


@pytest.mark.parametrize("address", ["0", ":0"])
def test_an_address_without_a_host_is_this_machine_alone(address):
    with serving(address, lambda: PAGE) as url:
        assert url.startswith("http://127.0.0.1:")
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        with pytest.raises(OSError):
            asked(port, to="127.0.0.2")


def test_other_addresses_are_served_where_they_are_named():
    """
    All addresses of the machine: there a name may be anybody's, and an address is nobody's else.
    """
    with serving("0.0.0.0:0", lambda: PAGE) as url:
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        hosts = ("127.0.0.2", "localhost", "evil.example", "127.0.0.1.evil.example")
        assert [200, 200, 421, 421] == [asked(port, Host=f"{host}:{port}")[0] for host in hosts]


def test_a_name_of_the_machine_is_served_by_that_name():
    with serving("localhost:0", lambda: PAGE) as url:
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        assert url.startswith("http://localhost:")
        assert 200 == asked(port, to="localhost")[0]


def test_an_ipv6_address_is_served_in_brackets():
    try:
        with serving("[::1]:0", lambda: PAGE) as url:
            assert url.startswith("http://[::1]:")
            port = int(url.rsplit(":", 1)[1].rstrip("/"))
            assert 200 == asked(port, to="::1")[0]
    except UsageError:
        with pytest.raises(OSError), socket.socket(socket.AF_INET6) as other:
            other.bind(("::1", 0))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", "expected HOST:PORT"),
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:", "expected HOST:PORT"),
        ("127.0.0.1:http", "expected HOST:PORT"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
        ("127.0.0.1:-1", "expected HOST:PORT"),
        ("http://127.0.0.1:80", "expected HOST:PORT"),
        ("127.0.0.1:80/x", "expected HOST:PORT"),
        ("me@127.0.0.1:80", "expected HOST:PORT"),
        ("[::1:80", "expected HOST:PORT"),
        ("192.0.2.1:0", "expected a free port of this machine, got: "),
        ("no-such-host.invalid:0", "expected an address of this machine, got: "),
        ("a..b:0", "expected an address of this machine, got: "),
    ],
)
def test_a_bad_address_is_refused_in_one_line(address, expected):
    with pytest.raises(UsageError) as refused, serving(address, lambda: PAGE):
        pass

    assert str(refused.value).startswith(f"--serve {address!r}: {expected}")
    assert "\n" not in str(refused.value)


def test_a_port_that_is_taken_is_refused_in_one_line(served):
    with pytest.raises(UsageError) as refused, serving(f"127.0.0.1:{served}", lambda: PAGE):
        pass

    assert (
        f"--serve '127.0.0.1:{served}': expected a free port of this machine, got: Address already in use"
        == str(refused.value)
    )
