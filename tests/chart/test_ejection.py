"""
Who can eject a pod, by a real Envoy: its routes and its outlier detection are those that Istio makes of what is rendered.

Behind it are two pods, each with a sidecar that turns a reset of its server into a 503, as Istio's does.
"""

import contextlib
import socket
import time
from concurrent import futures

import grpc
import httpx
import pytest

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GRPC = {"content-type": "application/grpc", "te": "trailers"}
STATUSES = ("UNAVAILABLE", "INTERNAL", "UNKNOWN")
# More than consecutiveErrors for each of two pods.
MANY = 24


class Server(grpc.GenericRpcHandler):
    """
    A model server that answers what it is asked for.
    """

    def service(self, _details):
        """
        The one method.
        """
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        """
        The status of this name, after so many milliseconds.
        """
        status, milliseconds = (request.decode() or "OK 0").split()
        if status == "DEADLINE":
            return str(context.time_remaining() or "none").encode()
        time.sleep(int(milliseconds) / 1000)
        if status != "OK":
            context.abort(grpc.StatusCode[status], "as asked")
        return b""


def detection(said):
    """
    Envoy's outlier detection as Istio makes it of a DestinationRule's.
    """
    made = {"enforcing_success_rate": 0, "enforcing_local_origin_success_rate": 0}
    for theirs, ours in (
        ("consecutive5xxErrors", "consecutive_5xx"),
        ("consecutiveGatewayErrors", "consecutive_gateway_failure"),
    ):
        if theirs in said:
            made |= {ours: said[theirs], f"enforcing_{ours}": 100 if said[theirs] else 0}
    if said.get("splitExternalLocalOriginErrors"):
        made["split_external_local_origin_errors"] = True
        if said.get("consecutiveLocalOriginFailures"):
            made["consecutive_local_origin_failure"] = said["consecutiveLocalOriginFailures"]
            made["enforcing_consecutive_local_origin_failure"] = 100
    return made | {
        "interval": said["interval"],
        "base_ejection_time": said["baseEjectionTime"],
        "max_ejection_percent": said["maxEjectionPercent"],
    }


class Gateway:
    """
    A gateway before two pods.
    """

    def __init__(self, port, admin):
        """
        Nothing is asked yet.
        """
        self.url, self._admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"
        self.target = f"127.0.0.1:{port}"

    @property
    def ready(self):
        """
        Whether it is up.
        """
        try:
            return httpx.get(f"{self._admin}/ready").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def ejected(self):
        """
        How many pods get no requests.
        """
        lines = httpx.get(f"{self._admin}/clusters").text.splitlines()
        flags = [line for line in lines if line.startswith("grpc::127.") and "::health_flags::" in line]
        assert len(flags) == 2
        return sum("/failed_outlier_check" in line for line in flags)

    def answer(self, headers, content=b"\0\0\0\0\0", path=PREDICT):
        """
        What a POST is answered, by default to a method of gRPC.
        """
        return httpx.post(self.url + path, headers=headers, content=content, timeout=30)

    def post(self, headers, content=b"\0\0\0\0\0"):
        """
        The HTTP status and the status of gRPC of a POST to a method of gRPC.
        """
        answer = self.answer(headers, content)
        return answer.status_code, answer.headers.get("grpc-status")

    def predict(self, request=b"", timeout=30):
        """
        What a gRPC client gets: the text of the answer, or the name of a status.
        """
        with grpc.insecure_channel(self.target) as channel:
            try:
                return channel.unary_unary(PREDICT)(request, timeout=timeout).decode()
            except grpc.RpcError as exc:
                return exc.code().name


@pytest.fixture
def gateway(render, gateway_chart, envoy, proxies, tmp_path):
    """
    Run a gateway before two pods, of which so many are there.
    """
    with contextlib.ExitStack() as running:

        def grpc_cluster(name, ports, **more):
            options = {"typed_extension_protocol_options": proxies.HTTP2}
            return proxies.cluster(name, ports, **options, **more)

        def start(pods=2, *, silent=False, values=None):
            rendered = render("stable", values={"tracks": {"stable": {"replicas": 2}}, **(values or {})})
            (stable,) = (
                subset
                for subset in rendered.one("DestinationRule")["spec"]["subsets"]
                if subset["name"] == "stable"
            )
            front, admin, *sidecars = proxies.free_ports(4)
            host, filters = proxies.bound(rendered, gateway_chart())
            if silent:
                # They accept connections and never answer.
                for port in sidecars[pods:]:
                    running.enter_context(socket.create_server(("127.0.0.1", port)))
            clusters = [proxies.cluster("rest", sidecars if silent else [])]
            listeners = [proxies.listener(front, {"routes": proxies.routes(rendered), **host}, filters)]
            for port in sidecars[:pods]:
                server = grpc.server(futures.ThreadPoolExecutor(MANY), handlers=[Server()])
                clusters.append(grpc_cluster(f"server-{port}", [server.add_insecure_port("127.0.0.1:0")]))
                server.start()
                running.callback(server.stop, 0)
                to = {"cluster": f"server-{port}", "timeout": "0s"}
                every = {"match": {"prefix": "/"}, "route": to}
                listeners.append(proxies.listener(port, {"routes": [every]}))
            clusters.append(
                grpc_cluster(
                    "grpc",
                    sidecars,
                    outlier_detection=detection(stable["trafficPolicy"]["outlierDetection"]),
                    common_lb_config={"healthy_panic_threshold": {"value": 0}},
                )
            )
            made = Gateway(front, admin)
            resources = {"listeners": listeners, "clusters": clusters}
            running.enter_context(
                envoy(
                    {"admin": {"address": proxies.address(admin)}, "static_resources": resources},
                    tmp_path,
                    lambda: made.ready,
                )
            )
            return made

        yield start


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"content-type": "application/json", "te": "trailers"}, id="json"),
        pytest.param({"content-type": "application/grpc-web+proto", "te": "trailers"}, id="grpc-web"),
        pytest.param({"content-type": "application/grpcx", "te": "trailers"}, id="another-type"),
        pytest.param({"content-type": "application/grpc"}, id="no-trailers"),
    ],
)
def test_what_is_no_grpc_is_answered_by_the_gateway(gateway, headers):
    """
    F5. The server resets it, which would be a 503 of the track. It never gets there.
    """
    started = gateway()

    seen = {started.post(headers) for _ in range(MANY)}

    # A client that says it speaks gRPC is told in the words of gRPC: UNKNOWN.
    assert {(200, "2") if headers.get("content-type") == "application/grpc" else (415, None)} == seen
    assert 0 == started.ejected


def test_the_gateways_own_answer_names_the_routes_and_no_track(gateway):
    """
    No track has answered. What was expected is in the body.
    """
    answer = gateway().answer({})

    assert "expected gRPC, with content-type application/grpc and te trailers" == answer.text
    assert answer.headers["x-route-revision"]
    assert "x-model-track" not in answer.headers


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;a=b"])
def test_grpc_passes(gateway, kind):
    """
    Each content type that the server takes gets there.
    """
    assert (200, None) == gateway().post({**GRPC, "content-type": kind})


def test_no_answer_ejects_a_pod(gateway):
    """
    F5. A client may choose requests that fail, and deadlines that nobody can keep: no status of an answer counts.
    """
    started = gateway()

    statuses = {name: {started.predict(f"{name} 0".encode()) for _ in range(MANY)} for name in STATUSES}
    slow = b"\0\0\0\0\x06OK 300"
    for headers in ({**GRPC, "grpc-timeout": "1m"}, {**GRPC, "grpc-timeout": "20m"}):
        with futures.ThreadPoolExecutor(MANY) as pool:
            for status in pool.map(lambda said: started.post(said, slow), [headers] * MANY):
                statuses.setdefault("late", set()).add(status[1])

    # 4 is DEADLINE_EXCEEDED. The router would have said 14, UNAVAILABLE.
    assert {"late": {"4"}, **{name: {name} for name in STATUSES}} == statuses
    assert 0 == started.ejected


@pytest.mark.parametrize(("given", "most"), [(5, 5), (0.7, 0.7), (3600, 30), (None, 30)])
def test_the_server_learns_the_clients_deadline(gateway, given, most):
    """
    The router does not read it, and the server does: it can give up with the client. None is later than that of REST.
    """
    left = float(gateway().predict(b"DEADLINE 0", timeout=given))

    assert most - 2 < left <= most


def test_a_time_out_of_the_gateway_is_one_of_grpc(gateway):
    """
    F21. The router alone would say UNAVAILABLE, which clients try again. Over REST it is 504.
    """
    values = {"server": {"timeoutSeconds": 1}, "routing": {"timeoutSeconds": 2}}
    started = gateway(pods=0, silent=True, values=values)

    assert "DEADLINE_EXCEEDED" == started.predict()
    assert 504 == started.answer({}, path="/v1/models/resnet:predict").status_code


def test_a_pod_that_is_gone_is_ejected(gateway):
    """
    Connections to a lost pod fail: it is out after consecutiveErrors of them, and every later request is answered.
    """
    started = gateway(pods=1)

    first = [started.predict() for _ in range(MANY)]

    assert 1 == started.ejected
    # Half of all would fail if it stayed; a request may already be on its way to it when it is taken out.
    assert 5 <= first.count("UNAVAILABLE") < MANY // 2
    assert {""} == {started.predict() for _ in range(MANY)}
