"""
The server's command: load the models, then open the ports, then serve until the process ends.

The process has no handler for SIGTERM, because TensorFlow Serving has none. The kernel ignores an unhandled SIGTERM
for a container's first process, which therefore goes on serving until SIGKILL: the pod's grace period is its drain time.
"""

import argparse
import asyncio
import gc
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from tfcanary import cli
from tfcanary.errors import CanaryError, UnreachableError, UsageError
from tfcanary.modelserver import flags

log = logging.getLogger(__name__)

# Longer than clients and proxies keep idle connections, which leaves closing them to the client.
KEEP_ALIVE_SECONDS = 75
# New objects between two collections of the youngest generation, many times Python's default.
YOUNG_OBJECTS = 100_000
ADDRESS = "0.0.0.0"  # noqa: S104 - serves the pod's network, as TensorFlow Serving does


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the server until the process ends.

    Args:
        argv: the command line without the program's name; the process's own if None.

    Returns:
        the exit code: 0, or that of the error in `tfcanary.errors`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return cli.run(flags.parser(), lambda arguments: command(arguments, words), words)


def command(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """
    Print the version, or load the models and serve them.

    Args:
        arguments: the parsed command line.
        words: the same command line as words, for the warnings about its form.
    """
    if arguments.version:
        print(f"TensorFlow ModelServer: tfcanary {metadata.version('tfserving-canary')}")  # noqa: T201
        print(f"TensorFlow Library: {_tensorflow_version()}")  # noqa: T201
        return 0
    _check(arguments)
    for name in flags.absent(arguments):
        log.warning("--%s: known, but not implemented by this server", name)
    for name in flags.spaced(words):
        log.warning("%s: tensorflow_model_server reads %s=VALUE only; this server reads both", name, name)
    server = Server(arguments)
    server.load()
    server.serve()
    return 0


def _tensorflow_version() -> str:
    for name in ("tensorflow", "tensorflow-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.port and not arguments.grpc_socket_path:
        raise UsageError("--port: expected a port, got 0, and no --grpc_socket_path")
    if arguments.port and arguments.port == arguments.rest_api_port:
        raise UsageError(f"--rest_api_port: expected another port than --port, got {arguments.port} for both")
    for name in ("port", "rest_api_port"):
        if not 0 <= getattr(arguments, name) <= 65535:
            raise UsageError(f"--{name}: expected a port, got {getattr(arguments, name)}")
    if not arguments.model_config_file and not arguments.model_base_path:
        raise UsageError("expected --model_base_path or --model_config_file, got neither")
    if arguments.tensorflow_session_parallelism and (
        arguments.tensorflow_intra_op_parallelism or arguments.tensorflow_inter_op_parallelism
    ):
        raise UsageError(
            "expected --tensorflow_session_parallelism or --tensorflow_{intra,inter}_op_parallelism, got both"
        )
    if arguments.batching_parameters_file and not arguments.enable_batching:
        raise UsageError("--batching_parameters_file: expected --enable_batching as well, got it without")
    if arguments.num_tflite_interpreters_per_pool < 1 or arguments.num_tflite_pools < 0:
        raise UsageError(
            "--num_tflite_interpreters_per_pool: expected 1 or more in 0 or more pools, got "
            f"{arguments.num_tflite_interpreters_per_pool} in {arguments.num_tflite_pools}"
        )


class Server:
    """
    The models and the two listeners, as the command line describes them.

    Raises:
        UsageError: a file that the command line names is missing or malformed, or a number is out of range.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        # Imported late, because the protos and numpy take a second that --help and a wrong flag need not wait for.
        from tfcanary.modelserver import config  # noqa: PLC0415
        from tfcanary.modelserver.api import Api  # noqa: PLC0415
        from tfcanary.modelserver.grpcapi import GrpcListener  # noqa: PLC0415
        from tfcanary.modelserver.limits import from_environment  # noqa: PLC0415
        from tfcanary.modelserver.manager import Manager, RetryPolicy  # noqa: PLC0415
        from tfcanary.modelserver.metrics import Metrics  # noqa: PLC0415
        from tfcanary.modelserver.rest import RestListener  # noqa: PLC0415

        self._arguments = arguments
        if arguments.model_config_file:
            self._models = config.read_models(Path(arguments.model_config_file))
        else:
            self._models = config.single_model(arguments.model_name, arguments.model_base_path)
        self._scheduler, batches = _batching(arguments)
        self._manager = Manager(
            _load_options(arguments, self._scheduler, batches),
            RetryPolicy(
                retries=arguments.max_num_load_retries,
                interval_seconds=arguments.load_retry_interval_micros / 1e6,
            ),
            allow_unavailable_labels=arguments.allow_version_labels_for_unavailable_models,
        )
        limits = from_environment()
        monitoring = arguments.monitoring_config_file
        metrics_path = config.metrics_path(Path(monitoring)) if monitoring else None
        metrics = Metrics(self._manager.is_served)
        if self._scheduler is not None:
            self._scheduler.observe = partial(metrics.queued, self._scheduler.name)
        api = Api(self._manager, metrics, limits, as_content=arguments.enable_serialization_as_tensor_content)
        self._grpc = GrpcListener(
            api,
            _threads("grpc_max_threads", arguments.grpc_max_threads, "grpc"),
            limits,
            _channel_arguments(arguments.grpc_channel_arguments),
            health=arguments.enable_grpc_healthcheck_service,
            credentials=config.credentials(Path(arguments.ssl_config_file))
            if arguments.ssl_config_file
            else None,
        )
        self._rest = RestListener(
            api,
            _threads("rest_api_num_threads", arguments.rest_api_num_threads, "rest"),
            limits,
            timeout_seconds=arguments.rest_api_timeout_in_ms / 1000
            if arguments.rest_api_timeout_in_ms > 0
            else None,
            metrics_path=metrics_path,
            cors=arguments.rest_api_enable_cors_support,
        )

    def load(self) -> None:
        """
        Load the models. No port opens until each model has a version that serves.

        Raises:
            UnreachableError: a version failed to load.
        """
        from tfcanary.modelserver.status import ServingError  # noqa: PLC0415
        from tfcanary.protos import runtime  # noqa: PLC0415

        # TensorFlow's modules are hundreds of thousands of Python objects that live as long as the process. Unless they
        # are frozen, each collection walks all of them; there is one when a version is unloaded. The lists of a large
        # JSON body would trigger 70 collections of the youngest generation.
        runtime()
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS)
        try:
            self._manager.start(self._models, poll_seconds=self._arguments.file_system_poll_wait_seconds)
        except ServingError as error:
            raise UnreachableError(
                f"Failed to start server. Error: {error.code.name}: {error.message}"
            ) from error
        if self._arguments.model_config_file and self._arguments.model_config_file_poll_wait_seconds > 0:
            threading.Thread(target=self._poll_config, name="config", daemon=True).start()

    def _poll_config(self) -> None:
        """
        Read the configuration at every interval; log one that cannot be read or served, and try it again.
        """
        from tfcanary.modelserver import config  # noqa: PLC0415

        path = Path(self._arguments.model_config_file)
        known = self._models
        while not self._manager.stopping.wait(self._arguments.model_config_file_poll_wait_seconds):
            try:
                models = config.read_models(path)
                if models != known:
                    self._manager.reload(models)
                    known = models
            except CanaryError as error:
                log.error("%s: not taken over: %s", path, error)  # noqa: TRY400 - a traceback would add nothing to the message

    def serve(self) -> None:
        """
        Open the ports and serve until the process ends.

        Each API has an event loop in a thread of its own: on a shared one, a call of gRPC, which takes several turns of
        it, waits behind all REST requests at every turn. None is the main thread, where uvicorn would handle SIGTERM.

        Raises:
            UsageError: a port or the socket cannot be opened.
        """
        # The REST port comes first: if it cannot be opened, nothing has to be closed.
        port = self._arguments.rest_api_port
        listening = _listen(port) if port else None
        ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        opened = threading.Event()
        _in_thread("grpc-loop", self._serve_grpc(opened), ended)
        if listening is not None:
            _in_thread("rest-loop", self._serve_rest(listening, opened), ended)
        error = ended.get()
        if error is not None:
            raise error

    async def _serve_grpc(self, opened: threading.Event) -> None:
        arguments = self._arguments
        addresses = [f"{ADDRESS}:{arguments.port}"] if arguments.port else []
        if arguments.grpc_socket_path:
            addresses.append(f"unix:{arguments.grpc_socket_path}")
        grpc_server = await self._grpc.open(addresses)
        log.info("Running gRPC ModelServer at %s ...", " and ".join(addresses))
        opened.set()
        await grpc_server.wait_for_termination()

    async def _serve_rest(self, listening: socket.socket, opened: threading.Event) -> None:
        import uvicorn  # noqa: PLC0415

        from tfcanary.modelserver.head import BoundedHead  # noqa: PLC0415

        # A client that reaches the REST API may expect the other one too.
        await asyncio.to_thread(opened.wait)
        log.info("Exporting HTTP/REST API at:%s:%d ...", ADDRESS, self._arguments.rest_api_port)
        await uvicorn.Server(
            uvicorn.Config(
                self._rest,
                http=BoundedHead,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        ).serve(sockets=[listening])


def _in_thread(
    name: str, serving: Coroutine[Any, Any, None], ended: "queue.SimpleQueue[BaseException | None]"
) -> None:
    """
    Run an event loop in a thread of its own, and tell how it ended.
    """

    def run() -> None:
        try:
            asyncio.run(serving)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=run, name=name, daemon=True).start()


def _threads(flag: str, count: int, name: str) -> ThreadPoolExecutor:
    if count < 0:
        raise UsageError(f"--{flag}: expected 0 or more, got {count}")
    return ThreadPoolExecutor(count or 4 * len(os.sched_getaffinity(0)), name)


def _batching(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """
    Start the threads that process batches, and read how batches are made; None for both without batching.
    """
    from tfcanary.modelserver import batching, config  # noqa: PLC0415

    if not arguments.enable_batching:
        return None, None
    file = arguments.batching_parameters_file
    given = config.batching_parameters(Path(file) if file else None)
    scheduler = batching.Scheduler(
        batching.threads(given, len(os.sched_getaffinity(0))), given.thread_pool_name.value
    )
    own = arguments.enable_per_model_batching_parameters
    return scheduler, None if own else batching.parameters(given)


def _load_options(arguments: argparse.Namespace, scheduler: Any, batches: Any) -> Any:
    from tfcanary.modelserver import config, protos  # noqa: PLC0415
    from tfcanary.modelserver.servable import LoadOptions  # noqa: PLC0415

    both = arguments.tensorflow_session_parallelism
    session = arguments.tensorflow_session_config_file
    pools = arguments.num_tflite_pools or len(os.sched_getaffinity(0))
    return LoadOptions(
        tags=tuple(arguments.saved_model_tags.split(",")),
        intra_op_threads=both or arguments.tensorflow_intra_op_parallelism,
        inter_op_threads=both or arguments.tensorflow_inter_op_parallelism,
        warmup=arguments.enable_model_warmup,
        warmup_iterations=max(1, arguments.num_request_iterations_for_warmup),
        check_method_names=arguments.enable_signature_method_name_check,
        session_config=config.read_text_proto(Path(session), protos.ConfigProto()) if session else None,
        prefer_tflite=arguments.prefer_tflite_model,
        tflite_interpreters=pools * arguments.num_tflite_interpreters_per_pool,
        scheduler=scheduler,
        batches=batches,
    )


def _listen(port: int) -> socket.socket:
    """
    Listen on a port of all addresses, IPv6 and IPv4, or of IPv4 where the machine has no IPv6.

    As EvHTTPServer::StartAcceptingRequests() in tensorflow_serving/util/net_http/server/internal/evhttp_server.cc.
    """
    try:
        return _listening(socket.AF_INET6, "::", port)
    except OSError:
        pass
    try:
        return _listening(socket.AF_INET, ADDRESS, port)
    except OSError as error:
        raise UsageError(f"--rest_api_port: cannot listen on port {port}: {error.strerror}") from error


def _listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only for sockets that name TCP; with it, an answer takes 40 ms longer.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((address, port))
        made.listen(1024)
    except OSError:
        made.close()
        raise
    return made


def _channel_arguments(text: str) -> list[tuple[str, Any]]:
    """
    Read ``key=value,key=value``. A value that looks like an integer is one, as in TensorFlow Serving.
    """
    result: list[tuple[str, Any]] = []
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--grpc_channel_arguments: expected key=value, got {item!r}")
        number = value.removeprefix("-")
        result.append((key, int(value) if number.isascii() and number.isdigit() else value))
    return result
