import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tfcanary.modelserver import protos
from tfcanary.wait import NotYet, wait_until

HERE = Path(__file__).parent
ENTRY = HERE.parents[1] / "images" / "modelserver" / "tensorflow_model_server"
START_SECONDS = 90.0
# Long enough for every run of these small models on a busy machine, and short for the test that waits for it.
REST_TIMEOUT_MS = 3000
MAX_REQUEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Running:
    """
    A server under test, and a client for each API.
    """

    process: subprocess.Popen[bytes]
    log: Path
    rest: httpx.Client
    channel: grpc.Channel
    rest_port: int
    grpc_port: int

    def call(self, method: str, request: Any, answer: Any, timeout: float = 30.0) -> Any:
        """
        Call a gRPC method by its full name.
        """
        return self.channel.unary_unary(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )(request, timeout=timeout)

    def predict(self, request: Any, timeout: float = 30.0) -> Any:
        """
        Call PredictionService.Predict.
        """
        return self.call(
            "/tensorflow.serving.PredictionService/Predict", request, protos.PredictResponse, timeout
        )


def free_ports(count: int) -> list[int]:
    """
    Find different ports without a listener.
    """
    sockets = [socket.socket() for _ in range(count)]
    try:
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]
    finally:
        for found in sockets:
            found.close()


def start(log: Path, *flags: str, **environment: str) -> subprocess.Popen[bytes]:
    """
    Start the server's program, with its output in `log`.
    """
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, str(ENTRY), *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )


def launch(log: Path, ready: str, *flags: str, **environment: str) -> Running:
    """
    Start a server on free ports, and wait until `ready`, a REST path, answers 200.
    """
    grpc_port, rest_port = free_ports(2)
    process = start(log, f"--port={grpc_port}", f"--rest_api_port={rest_port}", *flags, **environment)
    rest = httpx.Client(base_url=f"http://127.0.0.1:{rest_port}", timeout=30.0, trust_env=False)

    def probe() -> None:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{log.read_text()}")
        try:
            status = rest.get(ready).status_code
        except httpx.TransportError as error:
            raise NotYet(f"{error}; {log.read_text()[-300:]}") from None
        if status != httpx.codes.OK:
            raise NotYet(f"HTTP {status}")

    wait_until("the model server", probe, timeout_seconds=START_SECONDS)
    channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")
    return Running(process, log, rest, channel, rest_port, grpc_port)


def close_server(server: Running) -> None:
    server.rest.close()
    server.channel.close()
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Small models by name and version, see build_models.py.
    """
    directory = tmp_path_factory.mktemp("models")
    subprocess.run(
        [sys.executable, str(HERE / "build_models.py"), str(directory)], check=True, capture_output=True
    )
    return directory


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """
    One server for all tests that only send requests.
    """
    directory = tmp_path_factory.mktemp("server")
    config = directory / "models.config"
    config.write_text(
        f"""
        model_config_list: {{
          config: {{
            name: "half", base_path: "{models}/half", model_platform: "tensorflow",
            model_version_policy: {{ all: {{}} }},
            version_labels: {{ key: "old" value: 1 }}
          }},
          config: {{ name: "mixed", base_path: "{models}/mixed", model_platform: "tensorflow" }},
          config: {{ name: "old", base_path: "{models}/old", model_platform: "tensorflow" }},
          config: {{ name: "lite", base_path: "{models}/lite", model_platform: "tensorflow" }},
          config: {{ name: "resnet", base_path: "{models}/resnet", model_platform: "tensorflow" }},
          config: {{ name: "resnet_jpg", base_path: "{models}/resnet_jpg", model_platform: "tensorflow" }}
        }}
        """
    )
    monitoring = directory / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true, path: "/metrics" }')
    running = launch(
        directory / "log",
        "/v1/models/mixed/metadata",
        f"--model_config_file={config}",
        "--file_system_poll_wait_seconds=0",
        f"--rest_api_timeout_in_ms={REST_TIMEOUT_MS}",
        f"--monitoring_config_file={monitoring}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_grpc_healthcheck_service=true",
        TFCANARY_MAX_REQUEST_BYTES=str(MAX_REQUEST_BYTES),
        TFCANARY_MAX_INFLATED_BYTES=str(MAX_REQUEST_BYTES),
        TFCANARY_MAX_TENSOR_BYTES=str(1 << 20),
    )
    yield running
    close_server(running)


ORIGINALS = ("tf1/picky", "tf1/plus", "tf2/plus", "tflite/plus", "tf1/pair", "tf2/pair", "tflite/pair")
DOCUMENTED = ("half_plus_two", "half_plus_three")


def serve_originals(models: Path, directory: Path, *flags: str) -> Running:
    """
    Start a server of all models of original_models.py; tf1/plus has the name tf1_plus.
    """
    config = directory / "models.config"
    configs = "".join(
        f'config: {{ name: "{path.replace("/", "_")}", base_path: "{models}/{path}", model_platform: "tensorflow" }} '
        for path in (*ORIGINALS, *DOCUMENTED, "asks")
    )
    config.write_text(f"model_config_list: {{ {configs} }}")
    return launch(
        directory / "log",
        "/v1/models/asks/metadata",
        f"--model_config_file={config}",
        "--prefer_tflite_model",
        "--file_system_poll_wait_seconds=0",
        *flags,
    )


@pytest.fixture(scope="session")
def originals(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """
    One server on which answers are held against TensorFlow Serving's.
    """
    running = serve_originals(models, tmp_path_factory.mktemp("originals"))
    yield running
    close_server(running)


@pytest.fixture(scope="session")
def batched_originals(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """
    The same, with batching.
    """
    running = serve_originals(models, tmp_path_factory.mktemp("batched"), "--enable_batching")
    yield running
    close_server(running)


@pytest.fixture
def post(server: Running) -> Callable[..., httpx.Response]:
    """
    Send a predict request over REST: a model's path below /v1/models/ and the body's keys.
    """

    def send(model: str, **body: Any) -> httpx.Response:
        return server.rest.post(f"/v1/models/{model}:predict", json=body)

    return send


@pytest.fixture
def ended(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """
    Start a server that ends by itself, and return its exit code and its log.
    """

    def run(*flags: str) -> tuple[int, str]:
        log = tmp_path / "log"
        (port,) = free_ports(1)
        process = start(log, f"--port={port}", *flags)
        try:
            return process.wait(START_SECONDS), log.read_text()
        except subprocess.TimeoutExpired:
            pytest.fail(f"the server did not end:\n{log.read_text()}")
        finally:
            process.kill()
            process.wait()

    return run


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Callable[..., Running]]:
    """
    Start servers with their logs in `folder`, and end them with the context.
    """
    started: list[Running] = []

    def run(ready: str, *flags: str, **environment: str) -> Running:
        started.append(launch(folder / f"log{len(started)}", ready, *flags, **environment))
        return started[-1]

    try:
        yield run
    finally:
        for server in started:
            close_server(server)


@pytest.fixture
def open_server(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """
    Start servers that end with the test.
    """
    with servers(tmp_path) as run:
        yield run


@pytest.fixture(scope="module")
def share_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """
    Start servers that tests of one module share; they end with the module.
    """
    with servers(tmp_path_factory.mktemp("servers")) as run:
        yield run
