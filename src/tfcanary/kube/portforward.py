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

# The library waits up to 3 s for the other side's goodbye.
END_SECONDS = 10.0


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

    _end(forward)


def _end(forward: Any) -> None:
    """
    Close a port-forward's websocket, once the library's own thread reads from it no more.

    The library leaves it open where the other side said goodbye first. Its thread may also still wait for that goodbye:
    closed under it, the socket's number goes to the next connection of this process, and the thread takes the first
    bytes of that one's answer. A thread that does not end keeps its socket.
    """

    def ended() -> None:
        # Thread names repeat, and the library keeps no thread; one that has ended has no target.
        reader = forward._proxy  # noqa: SLF001 - nothing else tells which thread is this one's
        if any(getattr(thread, "_target", None) == reader for thread in threading.enumerate()):
            raise NotYet("the library's thread reads from it")

    with contextlib.suppress(WaitTimeoutError):
        wait_until("end of a port-forward", ended, timeout_seconds=END_SECONDS, interval_seconds=0.02)
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
