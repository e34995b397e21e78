"""
What a Prometheus answers, and what it may answer instead.
"""

import http.server
import json
import threading
import urllib.parse

import pytest

from tfcanary.errors import UnreachableError, UsageError
from tfcanary.metrics import prometheus
from tfcanary.metrics.prometheus import Prometheus

MATRIX = {
    "status": "success",
    "data": {
        "resultType": "matrix",
        "result": [{"metric": {"__name__": "up", "job": "a"}, "values": [[100.5, "1"], [115.5, "2"]]}],
    },
}


@pytest.fixture
def answering():
    """
    A server that gives this status and this body, and remembers what it was asked.
    """
    servers = []

    def serve(body, status=200):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                given = self.rfile.read(int(self.headers["content-length"])).decode()
                asked.append((self.path, dict(urllib.parse.parse_qsl(given)), dict(self.headers)))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_samples_come_with_the_time_of_their_scrape(answering):
    url, asked = answering(MATRIX)

    with Prometheus(f"{url}/prefix/") as source:
        (series,) = source.samples('up{job="a"}', seconds=120, at=130.25)

    assert ((100.5, 1.0), (115.5, 2.0)) == series.samples
    assert {"__name__": "up", "job": "a"} == series.labels
    path, query, headers = asked[0]
    assert "/prefix/api/v1/query" == path
    assert {"query": 'up{job="a"}[120000ms]', "time": "130.250"} == query
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"status": "error", "error": "parse error: unexpected <by>"}, 400, "refused the query: parse error"),
        ({"status": "error", "error": "query timed out"}, 503, "refused the query: query timed out"),
        ([], 200, "refused the query"),
        ({"status": "success", "data": {"result": [{"metric": {}}]}}, 200, "expected series, got KeyError"),
        ({"status": "success", "data": {"result": [{"metric": {}, "values": [[1]]}]}}, 200, "got ValueError"),
        (
            {"status": "success", "data": {"result": [{"metric": [], "values": []}]}},
            200,
            "got AttributeError",
        ),
        (b"<html>Sign in</html>", 200, "expected JSON, got <html>Sign in"),
        (b"no", 403, "expected status 200, got 403; is this its address, and may the token read?"),
        (b"no", 302, "expected status 200, got 302"),
    ],
)
def test_what_is_no_answer_is_named(answering, body, status, said):
    url, _ = answering(body, status)

    with Prometheus(url) as source, pytest.raises(UnreachableError) as error:
        source.samples("up", seconds=60)

    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_answer_without_end_is_cut(answering, monkeypatch):
    monkeypatch.setattr(prometheus, "MOST_BYTES", 1 << 20)
    url, _ = answering(b" " * (2 << 20))

    with (
        Prometheus(url) as source,
        pytest.raises(UnreachableError, match="at most 1 MiB of series, got more"),
    ):
        source.samples("up", seconds=60)


def test_nobody_listens():
    with Prometheus("http://127.0.0.1:1") as source, pytest.raises(UnreachableError, match="ConnectError"):
        source.samples("up", seconds=60)


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "ftp://prometheus", "http://", "http://user:secret@prometheus"]
)
def test_an_address_that_is_none_is_refused_without_its_password(url):
    with pytest.raises(UsageError) as error:
        Prometheus(url)

    assert "secret" not in str(error.value)


def test_a_token_does_not_go_over_http(tmp_path):
    with pytest.raises(UsageError, match="over https only"):
        Prometheus("http://prometheus", token_file=tmp_path / "token")
