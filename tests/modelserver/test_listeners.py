"""
The listeners: TLS, a UNIX socket, threads, timeouts, and how answers are written.
"""

import argparse
import asyncio
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tfcanary.errors import UsageError
from tfcanary.modelserver import command, config, protos
from tfcanary.modelserver.tensors import from_proto, to_proto

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True, slots=True)
class Parties:
    """
    The identities of a TLS connection.
    """

    authority: Any
    server: Any
    client: Any


@pytest.fixture(scope="module")
def parties(identity: Callable[..., Any]) -> Parties:
    authority = identity("authority")
    return Parties(authority, identity("model.test", authority), identity("client.test", authority))


def quoted(text: str) -> str:
    return json.dumps(text)


def ssl_config(path: Path, parties: Parties, *, verify: bool) -> Path:
    key, certificate = parties.server.pems
    path.write_text(
        f"server_key: {quoted(key)} server_cert: {quoted(certificate)} "
        f"custom_ca: {quoted(parties.authority.pems[1])} client_verify: {str(verify).lower()}"
    )
    return path


def half(models: Path) -> list[str]:
    return ["--model_name=half", f"--model_base_path={models}/half", "--file_system_poll_wait_seconds=0"]


def ask(channel: grpc.Channel) -> list[float]:
    request = protos.PredictRequest(model_spec={"name": "half"})
    to_proto(np.array([1.0], np.float32), 1, request.inputs["x"])
    call = channel.unary_unary(
        PREDICT,
        request_serializer=protos.PredictRequest.SerializeToString,
        response_deserializer=protos.PredictResponse.FromString,
    )
    values: list[float] = from_proto(call(request, timeout=20).outputs["y"], "y", 100).tolist()
    return values


def secure(server: Any, parties: Parties, client: Any = None) -> grpc.Channel:
    authority = parties.authority.pems[1].encode()
    own = (None, None) if client is None else tuple(pem.encode() for pem in client.pems)
    credentials = grpc.ssl_channel_credentials(authority, *own)
    return grpc.secure_channel(
        f"127.0.0.1:{server.grpc_port}", credentials, [("grpc.ssl_target_name_override", "model.test")]
    )


def test_grpc_speaks_tls_and_only_tls(
    open_server: Any, models: Path, parties: Parties, tmp_path: Path
) -> None:
    """REST stays plain, as in the original."""
    file = ssl_config(tmp_path / "ssl.config", parties, verify=False)
    server = open_server("/v1/models/half/metadata", *half(models), f"--ssl_config_file={file}")

    with secure(server, parties) as channel:
        assert ask(channel) == [3.5]
    with pytest.raises(grpc.RpcError) as refused:
        ask(server.channel)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_client_proves_who_it_is_if_asked_to(
    open_server: Any, models: Path, parties: Parties, identity: Callable[..., Any], tmp_path: Path
) -> None:
    file = ssl_config(tmp_path / "ssl.config", parties, verify=True)
    server = open_server("/v1/models/half/metadata", *half(models), f"--ssl_config_file={file}")

    with secure(server, parties, parties.client) as channel:
        assert ask(channel) == [3.5]
    for stranger in (None, identity("authority")):
        with secure(server, parties, stranger) as channel, pytest.raises(grpc.RpcError) as refused:
            ask(channel)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            'server_key: "/etc/key.pem"',
            "expected a key or certificate as PEM, got '/etc/key.pem'",
            id="path",
        ),
        pytest.param(
            'server_key: "-----BEGIN K" server_cert: "-----BEGIN C" client_verify: true',
            "client_verify: expected a custom_ca",
            id="no-authority",
        ),
        pytest.param("nonsense", "expected a text SSLConfig", id="no-proto"),
    ],
)
def test_a_wrong_ssl_configuration_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "ssl.config"
    file.write_text(text)

    with pytest.raises(UsageError, match=message):
        config.credentials(file)


@pytest.fixture(scope="module")
def flagged(share_server: Any, models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """
    A server with flags that do not affect each other, and its UNIX socket.
    """
    path = tmp_path_factory.mktemp("flagged") / "socket"
    server = share_server(
        "/v1/models/half/metadata",
        *half(models),
        f"--grpc_socket_path={path}",
        "--enable_serialization_as_tensor_content",
        "--grpc_channel_arguments=grpc.max_receive_message_length=200",
    )
    return server, path


def test_grpc_listens_on_a_unix_socket_too(flagged: tuple[Any, Path]) -> None:
    server, path = flagged

    with grpc.insecure_channel(f"unix:{path}") as channel:
        assert (ask(channel), ask(server.channel)) == ([3.5], [3.5])


def test_without_the_flag_there_is_no_health_service(flagged: tuple[Any, Path]) -> None:
    server, _ = flagged

    with pytest.raises(grpc.RpcError) as refused:
        server.channel.unary_unary("/grpc.health.v1.Health/Check")(b"")

    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_answers_are_content_if_asked_for(flagged: tuple[Any, Path]) -> None:
    server, _ = flagged
    request = protos.PredictRequest(model_spec={"name": "half"})
    to_proto(np.array([1.0, 2.0], np.float32), 1, request.inputs["x"])

    tensor = server.predict(request).outputs["y"]

    assert (list(tensor.float_val), tensor.tensor_content) == ([], np.array([3.5, 4.0], "<f4").tobytes())
    assert from_proto(tensor, "y", 100).tolist() == [3.5, 4.0]


def threads(server: Any) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))


def test_a_session_has_the_threads_that_it_is_given(open_server: Any, models: Path, tmp_path: Path) -> None:
    """By flags, by a file, or by a flag that overrides the file. They outnumber the process's other threads."""
    file = tmp_path / "session.config"
    file.write_text(
        "inter_op_parallelism_threads: 40 intra_op_parallelism_threads: 1 use_per_session_threads: true"
    )
    of_file = f"--tensorflow_session_config_file={file}"

    one, flags, config_file, above = (
        threads(open_server("/v1/models/half/metadata", *half(models), *more))
        for more in (
            ["--tensorflow_session_parallelism=1"],
            ["--tensorflow_inter_op_parallelism=40", "--tensorflow_intra_op_parallelism=1"],
            [of_file],
            [of_file, "--tensorflow_inter_op_parallelism=80"],
        )
    )

    assert [39, 39, 79] == [pytest.approx(count - one, abs=5) for count in (flags, config_file, above)]


@pytest.mark.parametrize("milliseconds", [0, -1])
def test_without_a_timeout_rest_requests_have_none(open_server: Any, models: Path, milliseconds: int) -> None:
    server = open_server(
        "/v1/models/half/metadata", *half(models), f"--rest_api_timeout_in_ms={milliseconds}"
    )

    assert server.rest.post("/v1/models/half:predict", json={"instances": [1.0]}).status_code == 200


def test_channel_arguments_reach_grpc(flagged: tuple[Any, Path]) -> None:
    """A limit of 200 bytes is lower than the server's own."""
    server, _ = flagged
    request = protos.PredictRequest(model_spec={"name": "half"})
    to_proto(np.zeros(100, np.float32), 1, request.inputs["x"])

    with pytest.raises(grpc.RpcError) as refused:
        server.predict(request)

    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ask(server.channel) == [3.5]


class Door:
    """
    A listener of either API that notes the event loop it runs on, and ends.
    """

    def __init__(self) -> None:
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.rest = threading.Event()

    async def open(self, addresses: list[str]) -> "Door":
        """
        As GrpcListener.
        """
        del addresses
        self.loops.append(asyncio.get_running_loop())
        return self

    async def wait_for_termination(self) -> None:
        """
        As a gRPC server, until REST is there too.
        """
        await asyncio.to_thread(self.rest.wait, 30)

    async def serve(self, sockets: list[socket.socket]) -> None:
        """
        As uvicorn's server.
        """
        self.loops.append(asyncio.get_running_loop())
        for each in sockets:
            each.close()
        self.rest.set()


def test_each_api_has_an_event_loop_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one, gRPC keeps a fifth of its rate beside 16 clients of REST: see benchmarks/fairness.py."""
    door = Door()
    monkeypatch.setattr("uvicorn.Server", lambda _: door)
    server = object.__new__(command.Server)
    server._arguments = argparse.Namespace(rest_api_port=free_port(), port=1, grpc_socket_path="")
    server._grpc, server._rest = door, None  # type: ignore[assignment]

    server.serve()

    assert 2 == len(set(door.loops))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
