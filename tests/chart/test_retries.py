"""
Which failures the gateway asks again, by a real Envoy: its routes are those that Istio makes of what is rendered.

Behind it are two pods. One fails in a given way, and the other answers.
"""

import contextlib
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import httpx
import pytest

PREDICT = {"grpc": "/tensorflow.serving.PredictionService/Predict", "rest": "/v1/models/resnet:predict"}
# Round robin: half of them meet the pod that fails first.
REQUESTS = 20


class Rest(ThreadingHTTPServer):
    """
    A pod over REST that fails or not, and counts what it is asked.
    """

    daemon_threads = True

    def __init__(self, failure):
        """
        Listen at a free port.

        Args:
            failure: a status; "reset" closes the connection instead of an answer; None answers.
        """
        super().__init__(("127.0.0.1", 0), Handler)
        self.failure, self.asked, self.port = failure, 0, self.server_port
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        """
        Listen no more.
        """
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """
    One connection.
    """

    def do_POST(self):
        """
        Answer, or fail as the pod does.
        """
        self.server.asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        if self.server.failure == "reset":
            self.close_connection = True
            return
        self.send_response(self.server.failure or 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        """
        Say nothing.
        """


class Grpc(grpc.GenericRpcHandler):
    """
    A pod over gRPC that fails with a status or not, and counts what it is asked.
    """

    def __init__(self, failure):
        """
        Listen at a free port.
        """
        self.failure, self.asked = failure, 0
        self._server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[self])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, _details):
        """
        The one method.
        """
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def stop(self):
        """
        Listen no more.
        """
        self._server.stop(0)

    def _answer(self, _request, context):
        self.asked += 1
        if self.failure:
            context.abort(grpc.StatusCode[self.failure], "as told")
        return b""


class Gateway:
    """
    A gateway before two pods, asked over one API.
    """

    def __init__(self, api, port, pods):
        """
        Nothing is asked yet.
        """
        self._api, self._port, self.pods = api, port, pods

    def ask(self, size=1):
        """
        The statuses of all requests, in order.
        """
        if self._api == "rest":
            url = f"http://127.0.0.1:{self._port}{PREDICT['rest']}"
            return [httpx.post(url, content=b"0" * size, timeout=30).status_code for _ in range(REQUESTS)]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            return [self._call(channel, b"0" * size) for _ in range(REQUESTS)]

    @staticmethod
    def _call(channel, request):
        try:
            channel.unary_unary(PREDICT["grpc"])(request, timeout=30)
        except grpc.RpcError as exc:
            return exc.code().name
        return "OK"

    @property
    def asked(self):
        """
        How many requests the pods have got.
        """
        return sum(pod.asked for pod in self.pods)


@pytest.fixture
def gateway(render, gateway_chart, envoy, proxies, tmp_path):
    """
    Run a gateway that tries a number of times again, before a pod that fails and one that does not.
    """
    with contextlib.ExitStack() as running:

        def start(api, attempts, failure):
            rendered = render("stable", values={"routing": {"retryAttempts": attempts}})
            pods = [{"rest": Rest, "grpc": Grpc}[api](one) for one in (failure, None)]
            for pod in pods:
                running.callback(pod.stop)
            front, admin = proxies.free_ports(2)
            host, filters = proxies.bound(rendered, gateway_chart(), ("guard", "size"))
            options = {"grpc": {"typed_extension_protocol_options": proxies.HTTP2}, "rest": {}}
            clusters = [
                proxies.cluster(name, [pod.port for pod in pods] if name == api else [], **more)
                for name, more in options.items()
            ]
            listeners = [proxies.listener(front, {"routes": proxies.routes(rendered), **host}, filters)]
            resources = {"listeners": listeners, "clusters": clusters}
            running.enter_context(
                envoy(
                    {"admin": {"address": proxies.address(admin)}, "static_resources": resources},
                    tmp_path,
                    lambda: ready(admin),
                )
            )
            return Gateway(api, front, pods)

        yield start


def ready(admin):
    """
    Whether Envoy is up.
    """
    try:
        return httpx.get(f"http://127.0.0.1:{admin}/ready").status_code == 200
    except httpx.TransportError:
        return False


FAILURES = [
    pytest.param("rest", 503, id="503"),
    pytest.param("rest", "reset", id="no-answer"),
    pytest.param("grpc", "UNAVAILABLE", id="unavailable"),
]


@pytest.mark.parametrize(("api", "failure"), FAILURES)
def test_a_failed_request_is_asked_again_of_another_pod(gateway, api, failure):
    """
    F15. One more try is enough, over both APIs: it goes to the pod that has not failed.
    """
    started = gateway(api, 1, failure)

    assert {"rest": {200}, "grpc": {"OK"}}[api] == set(started.ask())
    failing, answering = started.pods
    assert failing.asked
    assert REQUESTS == answering.asked


@pytest.mark.parametrize(("api", "failure"), FAILURES)
def test_nothing_is_asked_again_by_default(gateway, api, failure):
    """
    A canary that fails is seen to fail.
    """
    started = gateway(api, 0, failure)

    failed = sum(one not in (200, "OK") for one in started.ask())
    assert (REQUESTS // 2, REQUESTS) == (failed, started.asked)


@pytest.mark.parametrize(
    ("api", "failure"),
    [
        pytest.param("rest", 429, id="429"),
        pytest.param("rest", 400, id="400"),
        pytest.param("rest", 500, id="500"),
        pytest.param("rest", 504, id="504"),
        pytest.param("grpc", "RESOURCE_EXHAUSTED", id="resource-exhausted"),
        pytest.param("grpc", "DEADLINE_EXCEEDED", id="deadline-exceeded"),
        pytest.param("grpc", "INTERNAL", id="internal"),
    ],
)
def test_other_answers_are_final(gateway, api, failure):
    """
    A pod that has too much to do is not given more, and what a model answers is its answer.
    """
    started = gateway(api, 2, failure)

    assert {failure, {"rest": 200, "grpc": "OK"}[api]} == set(started.ask())
    assert REQUESTS == started.asked


def test_large_requests_are_asked_again_too(gateway):
    """
    The gateway holds a request until it is answered, up to the limit of the release and not to Envoy's of 1 MiB.
    """
    assert {200} == set(gateway("rest", 1, 503).ask(size=3_000_000))
