"""
Another application behind the same gateway answers the same with ten releases beside it as alone.

What a filter for everybody breaks: a buffer holds WebSockets, streams and `100 Continue`, and its limit refuses an upload; a
guard takes headers away; a limit counts others' requests.
"""

import http.client
import json
import queue
import socket
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import echo_app
import fleet
import grpc
import httpx
import pytest
from planting import Kubectl, istio
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.cluster.layout import Layout
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

NAME = "echo"
UPLOAD = 40 * 2**20
BURST, AT_A_TIME = 2000, 16
SOCKET_SECONDS = 15
# Headers with this beginning are taken away for releases alone.
EXPECTED = {
    "websocket": b"hello",
    "chat": [b"echo one", b"echo two"],
    "continue": b"HTTP/1.1 100 Continue",
    "upload": {"bytes": UPLOAD},
    "header": "any",
    "burst": {200: BURST},
}


@dataclass(frozen=True, slots=True)
class Application:
    """
    The application at the gateway.
    """

    address: str
    host: str

    def answers(self) -> dict[str, Any]:
        """
        What its clients see.
        """
        return {
            "websocket": self.websocket(),
            "chat": self.chat(),
            "continue": self.expects(),
            "upload": self.upload(),
            "header": self.header(),
            "burst": dict(self.burst()),
        }

    def _connection(self) -> http.client.HTTPConnection:
        address, _, port = self.address.partition(":")
        return http.client.HTTPConnection(address, int(port), timeout=SOCKET_SECONDS)

    def _socket(self, *lines: str) -> socket.socket:
        address, _, port = self.address.partition(":")
        made = socket.create_connection((address, int(port)), timeout=SOCKET_SECONDS)
        made.sendall("\r\n".join([*lines, f"Host: {self.host}", "", ""]).encode())
        return made

    def websocket(self) -> bytes:
        """
        The text that comes back.
        """
        upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        with self._socket("GET /ws HTTP/1.1", *upgrade, key) as made:
            read = made.makefile("rb")
            while read.readline().strip():
                pass
            made.sendall(b"\x81\x85" + bytes(4) + b"hello")
            return read.read(7)[2:]

    def chat(self) -> list[bytes]:
        """
        The answers to two messages, of which the second is sent after the first answer.
        """
        said: queue.Queue[bytes | None] = queue.Queue()
        with grpc.insecure_channel(self.address, options=[("grpc.default_authority", self.host)]) as channel:
            answers = channel.stream_stream(echo_app.CHAT)(iter(said.get, None), timeout=SOCKET_SECONDS)
            found = []
            for message in (b"one", b"two"):
                said.put(message)
                found.append(next(answers))
            said.put(None)
            return found

    def expects(self) -> bytes:
        """
        The first line that comes before the body is sent.
        """
        body = ("Expect: 100-continue", "Transfer-Encoding: chunked")
        with self._socket("POST /up HTTP/1.1", *body) as made:
            return made.makefile("rb").readline().strip()

    def upload(self) -> Any:
        """
        What is said of 40 MiB in chunks.
        """
        connection = self._connection()
        parts = (bytes(65536) for _ in range(UPLOAD // 65536))
        chunked = {"Host": self.host, "Transfer-Encoding": "chunked"}
        connection.request("POST", "/up", body=parts, headers=chunked, encode_chunked=True)
        content = connection.getresponse().read()
        connection.close()
        return json.loads(content)

    def header(self) -> str | None:
        """
        A header of a client, as it arrives.
        """
        headers = {"host": self.host, "x-envoy-any": "any"}
        found = httpx.get(f"http://{self.address}/", headers=headers, trust_env=False).json()
        return str(found.get("x-envoy-any"))

    def burst(self) -> Counter[int]:
        """
        The statuses of many requests, as fast as the machine sends them.
        """
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            parts = pool.map(self._ask_again, [BURST // AT_A_TIME] * AT_A_TIME)
            return sum(parts, Counter())

    def _ask_again(self, times: int) -> Counter[int]:
        connection, statuses = self._connection(), Counter[int]()
        for _ in range(times):
            connection.request("GET", "/", headers={"Host": self.host})
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
        connection.close()
        return statuses


def objects(namespace: str, host: str) -> list[dict[str, Any]]:
    """
    The application's own objects.
    """
    labels = {"app": NAME}
    container = {
        "name": NAME,
        "image": "localhost/tfcanary/modelserver:local",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/app/echo_app.py"],
        "volumeMounts": [{"name": "app", "mountPath": "/app"}],
        "readinessProbe": {"httpGet": {"port": echo_app.HTTP_PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    }
    pod = {"containers": [container], "volumes": [{"name": "app", "configMap": {"name": NAME}}]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    ports = [
        {"name": "http", "port": echo_app.HTTP_PORT, "appProtocol": "http"},
        {"name": "grpc", "port": echo_app.GRPC_PORT, "appProtocol": "grpc"},
    ]
    servers = [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [host]}]

    def to(port: int) -> list[dict[str, Any]]:
        return [{"destination": {"host": NAME, "port": {"number": port}}}]

    routes = [
        {"match": [{"uri": {"prefix": "/echo.Echo/"}}], "route": to(echo_app.GRPC_PORT)},
        {"route": to(echo_app.HTTP_PORT)},
    ]
    where = {"name": NAME, "namespace": namespace}
    code = Path(echo_app.__file__).read_text(encoding="utf-8")
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": {"echo_app.py": code}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": where,
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": where,
            "spec": {"selector": labels, "ports": ports},
        },
        istio("Gateway", NAME, namespace, {"selector": {"istio": "ingressgateway"}, "servers": servers}),
        istio("VirtualService", NAME, namespace, {"hosts": [host], "gateways": [NAME], "http": routes}),
    ]


@pytest.fixture
def application(
    manager: AClusterManager, layout: Layout | None, kubeconfig: Path, tmp_path: Path
) -> Iterator[Application]:
    """
    The application, up and reached through the gateway.
    """
    if layout is None:
        pytest.skip("its pod has the local cluster's image")
    namespace = f"other-team-{uuid.uuid4().hex[:6]}"
    host = f"{namespace}.test"
    manager.kubectl(["create", "namespace", namespace], as_dict=False)
    manager.kubectl(["label", "namespace", namespace, "istio-injection=enabled"], as_dict=False)
    kubectl = Kubectl(manager, namespace, tmp_path)
    with kubectl.planted(*objects(namespace, host)):
        kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=120s")
        address = gateway_address(LiveObjects(Target(namespace=namespace, kubeconfig=kubeconfig)), NAME)
        found = Application(address, host)
        wait_until("the application", lambda: require_there(found), timeout_seconds=60)
        yield found
    manager.kubectl(["delete", "namespace", namespace, "--wait=false"], as_dict=False)


def require_there(application: Application) -> None:
    """
    Require that the application answers at the gateway.
    """
    status = httpx.get(
        f"http://{application.address}/", headers={"host": application.host}, trust_env=False
    ).status_code
    if status != 200:
        raise NotYet(f"status {status}")


@pytest.fixture
def others(kubeconfig: Path) -> Iterator[fleet.Others]:
    """
    Releases to put behind the gateway.
    """
    with fleet.Others(Target(namespace=f"ten-{uuid.uuid4().hex[:6]}", kubeconfig=kubeconfig)) as made:
        yield made


@pytest.mark.parametrize("filters", ["of the gateway", "of each release"])
def test_ten_releases_change_no_answer(application: Application, others: fleet.Others, filters: str) -> None:
    """
    F2. WebSocket, streams, `100 Continue`, an upload above the releases' limit, headers and a burst: the same with them.
    """
    assert EXPECTED == application.answers()

    others.make(range(10), own=filters == "of each release")

    assert EXPECTED == application.answers()
