"""
Forward a port of this machine to one pod, through the Kubernetes API.
"""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import kubernetes.client
import kubernetes.stream
import urllib3.exceptions
from kubernetes.client.exceptions import ApiException

from tfcanary.kube.objects import LiveObjects
from tfcanary.wait import NotYet, WaitTimeoutError, wait_until


@dataclass(frozen=True, slots=True)
class PodPort:
    """
    A port of one pod: a gateway's, on which it takes a release's requests, or a model server's.
    """

    name: str
    namespace: str
    port: int


@contextlib.contextmanager
def forwarded(live: LiveObjects, pod: PodPort) -> Iterator[str]:
    """
    Forward a port of this machine to the pod; it needs the right to create `pods/portforward`.

    Yields:
        HOST:PORT. What cannot be forwarded is a connection that closes at once.
    """
    configuration = live.configuration

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ApiException, OSError, urllib3.exceptions.HTTPError):
                _bridge(configuration, self.request, pod)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bridge(configuration: Any, near: Any, pod: PodPort) -> None:
    # The library turns this client's requests into websockets while it connects: each connection needs its own.
    core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))
    forward = kubernetes.stream.portforward(
        core.connect_get_namespaced_pod_portforward, pod.name, pod.namespace, ports=str(pod.port)
    )
    far = forward.socket(pod.port)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _join(near, far)
    forward.close()

    def disconnected() -> None:
        if forward.websocket.connected:
            raise NotYet("connected")

    with contextlib.suppress(WaitTimeoutError):
        wait_until("end of a port-forward", disconnected, timeout_seconds=5, interval_seconds=0.02)
    # The library leaves the websocket's own socket open where the other side said goodbye first.
    forward.websocket.shutdown()


def _join(near: Any, far: Any) -> None:
    """
    Pass bytes on in both directions until either side ends, and end the other.
    """
    back = threading.Thread(target=_pump, args=(far, near), daemon=True)
    back.start()
    _pump(near, far)
    back.join()


def _pump(source: Any, sink: Any) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    # A socket that is only closed stays open for as long as another thread waits in recv on it.
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
