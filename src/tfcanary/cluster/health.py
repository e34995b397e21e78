"""
Health checks: each returns if a component works, and raises `NotYet` with what it saw if not.
"""

import http.client as http_client
import os
import socket
import ssl
import struct
from collections.abc import Callable

from tfcanary.cluster.layout import API_SERVICE_ADDRESS, GATEWAY_SERVICE_ADDRESS, NODE_ADDRESS, Layout
from tfcanary.wait import NotYet


def https(layout: Layout, port: int, path: str, host: str = "127.0.0.1") -> Callable[[], None]:
    """
    A health check over verified TLS, with the administrator's certificate.
    """

    def healthy() -> None:
        context = ssl.create_default_context(cafile=layout.pki / "ca.crt")
        context.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")
        _answers_200(http_client.HTTPSConnection(host, port, timeout=3, context=context), path)

    return healthy


def gateway_serves() -> None:
    """
    Raise `NotYet` unless a gateway pod has its routes; to be called in the node's network namespace.
    """
    http(15021, "/healthz/ready", GATEWAY_SERVICE_ADDRESS)()


def http(port: int, path: str, host: str = "127.0.0.1") -> Callable[[], None]:
    """
    A health check without TLS.
    """

    def healthy() -> None:
        _answers_200(http_client.HTTPConnection(host, port, timeout=3), path)

    return healthy


def _answers_200(connection: http_client.HTTPConnection, path: str) -> None:
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read(200).decode(errors="replace")
    except (OSError, http_client.HTTPException) as error:
        raise NotYet(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise NotYet(f"HTTP {answer.status}: {said}")


def resolves_the_apiserver() -> None:
    """
    Ask the DNS server for the apiserver's name: it says that it is healthy before it listens.
    """
    name = b"".join(
        bytes([len(label)]) + label for label in b"kubernetes.default.svc.cluster.local".split(b".")
    )
    # One question of type A, class IN (RFC 1035, 4.1).
    query = struct.pack(">HHHHHH", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 0) + name + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect((NODE_ADDRESS, 53))
            connection.send(query)
            answer = connection.recv(512)
        except OSError as error:
            raise NotYet(f"DNS: {type(error).__name__}: {error}") from error
    if answer[:2] != query[:2] or not answer.endswith(socket.inet_aton(API_SERVICE_ADDRESS)):
        raise NotYet(f"DNS: expected {API_SERVICE_ADDRESS}, got code {answer[3] & 0xF}")
