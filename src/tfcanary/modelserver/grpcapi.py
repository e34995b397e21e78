"""
The gRPC API: PredictionService, ModelService and, with a flag, Health.

The handlers take and return bytes: an answer that was serialised once can be sent again as it is.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import grpc
import grpc.aio

from tfcanary.errors import UsageError
from tfcanary.modelserver import protos
from tfcanary.modelserver.api import Api
from tfcanary.modelserver.limits import Limits
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.unpublished import HealthCheckRequest, HealthCheckResponse

log = logging.getLogger(__name__)

_CODES = {Code(number): status for status in grpc.StatusCode for number in [status.value[0]]}

Handler = Callable[[bytes, Any], Awaitable[bytes]]


class GrpcListener:
    """
    Serves the gRPC API on one event loop. Requests that run the model do so in `executor`.

    Args:
        api: answers the requests.
        executor: its threads bound how many requests run at the same time.
        limits: of messages.
        options: gRPC channel arguments, which override the server's own.
        health: whether to serve grpc.health.v1.
        credentials: for TLS; None for plain text.
    """

    def __init__(
        self,
        api: Api,
        executor: Executor,
        limits: Limits,
        options: list[tuple[str, Any]],
        *,
        health: bool,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._api = api
        self._health = health
        self._credentials = credentials
        self._limits = limits
        self._executor = executor
        self._options = options

    async def open(self, addresses: Sequence[str]) -> grpc.aio.Server:
        """
        Listen on each of these addresses, ``HOST:PORT`` or ``unix:PATH``.

        Raises:
            UsageError: an address cannot be opened.
        """
        options = {
            # By default two servers can share a port, and each gets a part of the requests.
            "grpc.so_reuseport": 0,
            "grpc.max_receive_message_length": self._limits.request_bytes,
            "grpc.max_send_message_length": 2**31 - 1,
            # A dictionary holds each key once; of two values for a key, gRPC takes the first.
            **dict(self._options),
        }
        server = grpc.aio.server(options=list(options.items()))
        server.add_generic_rpc_handlers(
            (
                _service(
                    "tensorflow.serving.PredictionService",
                    dict(
                        [
                            self._inference("Predict", protos.PredictRequest, self._api.predict),
                            self._inference("Classify", protos.ClassificationRequest, self._api.classify),
                            self._inference("Regress", protos.RegressionRequest, self._api.regress),
                            self._inference(
                                "MultiInference", protos.MultiInferenceRequest, self._api.multi_inference
                            ),
                            ("GetModelMetadata", self._metadata),
                        ]
                    ),
                ),
                _service(
                    "tensorflow.serving.ModelService",
                    {"GetModelStatus": self._status, "HandleReloadConfigRequest": self._reload},
                ),
            )
        )
        if self._health:
            server.add_generic_rpc_handlers((_health_service(),))
        for address in addresses:
            flag = "--grpc_socket_path" if address.startswith("unix:") else "--port"
            try:
                if self._credentials is None:
                    bound = server.add_insecure_port(address)
                else:
                    bound = server.add_secure_port(address, self._credentials)
            except RuntimeError as error:
                raise UsageError(f"{flag}: cannot listen on {address}: {error}") from error
            if not bound:
                raise UsageError(f"{flag}: cannot listen on {address}; gRPC logs the reason")
        await server.start()
        return server

    def _inference(
        self, name: str, kind: Any, answer: Callable[[Any, float | None], Any]
    ) -> tuple[str, Handler]:
        """
        Pair the name of a method that runs the model with its handler.
        """

        async def handle(data: bytes, context: Any) -> bytes:
            started = time.monotonic()
            remaining = context.time_remaining()
            request = _parse(kind, data)

            def count(code: Code) -> None:
                seconds = time.monotonic() - started
                self._api.metrics.request(_model_name(request), name, "GRPC", code, seconds)

            def work() -> bytes:
                code = Code.INTERNAL
                try:
                    message: bytes = answer(request, remaining).SerializeToString()
                    code = Code.OK
                except ServingError as error:
                    code = error.code
                    raise
                finally:
                    count(code)
                return message

            job = self._executor.submit(work)
            try:
                return await asyncio.wrap_future(job)
            except asyncio.CancelledError:
                # The client gave up. A run that has begun counts with its own code, as in TensorFlow Serving.
                if job.cancel():
                    count(Code.CANCELLED)
                raise

        return name, handle

    async def _metadata(self, data: bytes, _: Any) -> bytes:
        return self._api.metadata_message(_parse(protos.GetModelMetadataRequest, data))

    async def _status(self, data: bytes, _: Any) -> bytes:
        request = _parse(protos.GetModelStatusRequest, data)
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        message: bytes = self._api.status(request.model_spec).SerializeToString()
        return message

    async def _reload(self, data: bytes, _: Any) -> bytes:
        request = _parse(protos.ReloadConfigRequest, data)
        # In a thread of its own, because loading takes long and requests must not queue behind it.
        message: bytes = (await asyncio.to_thread(self._api.reload, request)).SerializeToString()
        return message


def _model_name(request: Any) -> str:
    """
    Read the model's name from a request; a MultiInferenceRequest has it in its tasks.
    """
    spec = (
        request.tasks[0].model_spec
        if "tasks" in request.DESCRIPTOR.fields_by_name and request.tasks
        else None
    )
    name: str = spec.name if spec else getattr(request, "model_spec", protos.ModelSpec()).name
    return name


_SERVING, _SERVICE_UNKNOWN = 1, 3
_HEALTHY = frozenset({"", "ModelService", "PredictionService"})


def _health_service() -> grpc.GenericRpcHandler:
    """
    Make grpc.health.v1 as TensorFlow Serving has it: SERVING for fixed names from the moment that the port opens.
    """

    async def check(data: bytes, context: Any) -> bytes:
        if _parse(HealthCheckRequest, data).service not in _HEALTHY:
            await context.abort(grpc.StatusCode.NOT_FOUND, "")
        return _health(_SERVING)

    async def watch(data: bytes, _: Any) -> AsyncIterator[bytes]:
        known = _parse(HealthCheckRequest, data).service in _HEALTHY
        yield _health(_SERVING if known else _SERVICE_UNKNOWN)
        await asyncio.Event().wait()  # the status never changes, and the client ends the call

    return grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health",
        {
            "Check": grpc.unary_unary_rpc_method_handler(_answered(check)),
            "Watch": grpc.unary_stream_rpc_method_handler(watch),
        },
    )


def _health(status: int) -> bytes:
    message: bytes = HealthCheckResponse(status=status).SerializeToString()
    return message


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except Exception as error:  # protobuf's DecodeError has moved between releases
        raise invalid(f"cannot parse the {kind.DESCRIPTOR.name}") from error


def _service(name: str, handlers: dict[str, Handler]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        name,
        {
            method: grpc.unary_unary_rpc_method_handler(_answered(handler))
            for method, handler in handlers.items()
        },
    )


def _answered(handler: Handler) -> Handler:
    """
    Turn the errors of a handler into gRPC statuses.
    """

    async def answer(data: bytes, context: Any) -> bytes:
        try:
            return await handler(data, context)
        except ServingError as error:
            await context.abort(_CODES[error.code], error.message)
        except Exception:
            log.exception("a gRPC request failed")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error; see the server's log")
        raise AssertionError  # abort() has raised

    return answer
