"""
A gateway with a model behind it, on one port for REST and gRPC, that can be told what to do wrong.
"""

import asyncio
import base64
import contextlib
import functools
import json
import re
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import grpc
import numpy as np

from tfcanary.client.tensors import from_tensor, protos, to_tensor
from tfcanary.contract import REVISION_HEADER, TRACK_HEADER, Api
from tfcanary.routing.route import Mirror, Request, Routing
from tfcanary.routing.tokens import Token

# What the mesh lets in, as the chart's AuthorizationPolicy does.
_ALLOWED = re.compile(
    r"(/\w+)?(/v1/models/resnet(/versions/\d+)?(/metadata|:predict)"
    r"|/tensorflow\.serving\.PredictionService/(GetModelMetadata|Predict))"
)


# The outputs of each signature, with their types and shapes.
OUTPUTS = (
    ("labels", "DT_STRING", (-1, 5)),
    ("probabilities", "DT_FLOAT", (-1, 5)),
    ("class_probabilities", "DT_FLOAT", (-1, -1)),
)


@dataclass
class Double:
    """
    A gateway with a model behind it, on one port for REST and gRPC, that can be told what to do wrong.

    It proves no route: it is here so that each fault is shown to be found. Every fault is a function that is
    given the API and what the answer would be, and returns what it is instead.

    Attributes:
        actual: the routes that it follows, whatever the values say.
        revision: what it answers as `x-route-revision`.
        sure: how far its class probabilities are from all being the same; 1 is far.
        tokens: those that it takes for genuine; a request with any other is refused.
        version: what the track's answers say of their own version; None says nothing.
        ran: how many predictions each track has run, the mirrored ones too.
        mirrored: whether a prediction that would be mirrored is, by its size in bytes.
    """

    actual: Routing
    revision: str = "rev-2"
    classes: int = 10
    sure: float = 1.0
    see_headers: Callable[[Api, dict[str, str]], dict[str, str]] = lambda _api, headers: headers
    choose: Callable[[Api, str], str] = lambda _api, track: track
    status: Callable[[Api, int, str, str], int] = lambda _api, _count, _call, _track: 200
    attribute: Callable[[Api, int, dict[str, str]], dict[str, str]] = lambda _api, _count, headers: headers
    interface: Callable[[Api, str, dict[str, Any]], dict[str, Any]] = lambda _api, _track, found: found
    outputs: Callable[[Api, str, dict[str, Any]], dict[str, Any]] = lambda _api, _track, found: found
    body: Callable[[bytes], bytes] = lambda body: body
    version: Callable[[Api, str], str | None] = lambda _api, track: {"stable": "1", "canary": "2"}.get(track)
    open_paths: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()
    ran: Counter[str] = field(default_factory=Counter)
    mirrored: Callable[[Api, int], bool] = lambda _api, _size: True
    address: str = ""
    front: "OnePort | None" = None
    random: Random = field(default_factory=lambda: Random(7))  # noqa: S311 - a simulation
    counts: Counter[Api] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(
        self, api: Api, call: str, headers: dict[str, str], path: str, size: int = 0
    ) -> tuple[int, str, dict[str, str]]:
        """
        Decide on one request: status, track, and the headers of the answer.
        """
        given = next((text for name, text in headers.items() if name.lower() == "authorization"), None)
        token = next((one for one in self.tokens if one.header["authorization"] == given), None)
        if given is not None and token is None:
            return 401, "", {}
        if not (_ALLOWED.fullmatch(path) or path.startswith(self.open_paths)):
            return 403, "", {}
        with self.lock:
            seen = Request(path, self.see_headers(api, headers), token.claims if token else {})
            decision = self.actual.decision(seen)
            if decision is None and not path.startswith(self.open_paths):
                return 404, "", {}
            self.counts[api] += 1
            count = self.counts[api]
            weights = decision.weights if decision else self.actual.routes[-1].weights
            track = self.choose(api, self.random.choices(list(weights), list(weights.values()))[0])
            if call == "predict":
                self.run(api, track, decision.route.mirror if decision else None, size)
        attribution = {TRACK_HEADER: track, REVISION_HEADER: self.revision}
        return self.status(api, count, call, track), track, self.attribute(api, count, attribution)

    def run(self, api: Api, track: str, mirror: Mirror | None, size: int) -> None:
        """
        Count one prediction, and its copy.
        """
        self.ran[track] += 1
        if mirror and self.random.random() * 100 < mirror.percent and self.mirrored(api, size):
            self.ran[mirror.track] += 1

    def named_version(self, track: str, path: str) -> str | None:
        """
        The version that an answer over REST names: the one that the path asks for, as a server does that has several.
        """
        asked = re.search(r"/versions/([0-9]+)", path)
        return asked[1] if asked else self.version(Api.REST, track)

    def signatures(self, api: Api, track: str) -> dict[str, Any]:
        """
        The model's interface: signature → (input, its type and shape).
        """
        return self.interface(
            api,
            track,
            {
                "serving_default": ("images", "DT_FLOAT", (-1, 8, 8, 3)),
                "serving_preprocess": ("image_bytes", "DT_STRING", (-1,)),
            },
        )

    def predict(self, api: Api, track: str, value: object) -> dict[str, Any]:
        """
        Outputs that depend on the track and the picture, and on nothing else.
        """
        seed = zlib.crc32(np.asarray(value, np.float32).tobytes() if not isinstance(value, bytes) else value)
        draws = (
            np.random.default_rng([seed, zlib.crc32(track.encode())]).random(self.classes) * self.sure
            + 1
            - self.sure
        )
        every = (draws / draws.sum()).astype(np.float32)
        best = np.argsort(every)[::-1][:5]
        return self.outputs(
            api,
            track,
            {
                "labels": [f"class {index}" for index in best],
                "probabilities": every[best].tolist(),
                "class_probabilities": every.tolist(),
            },
        )

    def rest_metadata(self, track: str) -> dict[str, Any]:
        """
        The JSON of the model's metadata.
        """

        def info(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
            dim = [{"size": str(size), "name": ""} for size in shape]
            return {name: {"dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}}}

        described = {
            signature: {
                "inputs": info(*takes),
                "outputs": {key: value for output in OUTPUTS for key, value in info(*output).items()},
            }
            for signature, takes in self.signatures(Api.REST, track).items()
        }
        return {"metadata": {"signature_def": {"signature_def": described}}}

    def rest_prediction(self, track: str, body: bytes) -> object:
        """
        The JSON of a prediction, for the JSON of a request.
        """
        (value,) = json.loads(body)["instances"][0].values()
        if isinstance(value, dict):
            value = base64.b64decode(value["b64"])
        return {"predictions": [self.predict(Api.REST, track, value)]}

    def grpc_metadata(self, track: str) -> Any:
        """
        The SignatureDefMap of the model.
        """
        found = protos()
        signatures = found.get_model_metadata_pb2.SignatureDefMap()
        for signature, takes in self.signatures(Api.GRPC, track).items():
            described = signatures.signature_def[signature]
            for tensors, outputs in ((described.inputs, [takes]), (described.outputs, OUTPUTS)):
                for tensor, kind, sizes in outputs:
                    tensors[tensor].dtype = found.types_pb2.DataType.Value(kind)
                    for size in sizes:
                        tensors[tensor].tensor_shape.dim.add(size=size)
        return signatures

    def grpc_prediction(self, track: str, request: Any) -> Any:
        """
        The PredictResponse for a request.
        """
        value = from_tensor(next(iter(request.inputs.values())))[0]
        given = self.predict(Api.GRPC, track, value)
        response = protos().predict_pb2.PredictResponse()
        labels = [[label.encode() if isinstance(label, str) else label for label in given["labels"]]]
        strings = all(isinstance(label, bytes) for label in labels[0])
        response.outputs["labels"].CopyFrom(
            to_tensor(labels[0] if strings else np.array(labels[0], np.float32))
        )
        del response.outputs["labels"].tensor_shape.dim[:]
        for size in (1, len(labels[0])):
            response.outputs["labels"].tensor_shape.dim.add(size=size)
        for name in ("probabilities", "class_probabilities"):
            response.outputs[name].CopyFrom(to_tensor(np.array([given[name]], np.float32)))
        return response


class RefusedError(Exception):
    """
    The model does not take an input; its message is the server's.
    """


def rest_handler(double: Double) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            def described(track: str) -> object:
                spec = {"name": "resnet", "version": double.named_version(track, self.path)}
                return {"model_spec": spec, **double.rest_metadata(track)}

            self.respond("metadata", described)

        def do_POST(self) -> None:
            self.size = int(self.headers["content-length"])
            body = self.rfile.read(self.size)
            self.respond("predict", lambda track: double.rest_prediction(track, body))

        def respond(self, call: str, make: Callable[[str], object]) -> None:
            status, track, headers = double.take(
                Api.REST, call, dict(self.headers.items()), self.path, getattr(self, "size", 0)
            )
            try:
                made = make(track) if status == 200 else {"error": "no healthy upstream"}
            except RefusedError as exc:
                status, made = 400, {"error": str(exc)}
            body = double.body(made if isinstance(made, bytes) else json.dumps(made).encode())
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if self.path.startswith("/monitoring/"):
                self.send_header("content-type", "text/plain")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    return Handler


_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    503: grpc.StatusCode.UNAVAILABLE,
}


class _AnyPath(grpc.GenericRpcHandler):
    """
    Answers the model's two calls below any prefix.
    """

    def __init__(self, double: Double) -> None:
        self.double = double
        self.protos = protos()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        path = str(details.method)
        found = self.protos
        calls = {
            "GetModelMetadata": (
                "metadata",
                self.metadata,
                found.get_model_metadata_pb2.GetModelMetadataRequest,
            ),
            "Predict": ("predict", self.prediction, found.predict_pb2.PredictRequest),
        }
        name = path.rpartition("/")[2]
        if name not in calls:
            return None
        call, make, request = calls[name]
        return grpc.unary_unary_rpc_method_handler(
            functools.partial(self.answer, call, path, make),
            request_deserializer=request.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )

    def answer(
        self,
        call: str,
        path: str,
        make: Callable[[Any, str], Any],
        request: Any,
        context: grpc.ServicerContext,
    ) -> Any:
        sent = dict(context.invocation_metadata())
        status, track, headers = self.double.take(Api.GRPC, call, sent, path, request.ByteSize())
        context.send_initial_metadata(tuple(headers.items()))
        if status != 200:
            context.abort(_CODES[status], "no healthy upstream")
        try:
            return make(request, track)
        except RefusedError as exc:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))

    def name_version(self, response: Any, track: str) -> None:
        version = self.double.version(Api.GRPC, track)
        if version is not None:
            response.model_spec.version.value = int(version)

    def metadata(self, _: Any, track: str) -> Any:
        response = self.protos.get_model_metadata_pb2.GetModelMetadataResponse()
        self.name_version(response, track)
        response.metadata["signature_def"].Pack(self.double.grpc_metadata(track))
        return response

    def prediction(self, request: Any, track: str) -> Any:
        response = self.double.grpc_prediction(track, request)
        self.name_version(response, track)
        return response


def grpc_server(double: Double) -> tuple[grpc.Server, int]:
    """
    Start the double's gRPC API; the server, and its port.
    """
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((_AnyPath(double),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


class OnePort:
    """
    Passes connections on by their first bytes: HTTP/2's preface to gRPC, all else to REST.
    """

    def __init__(self, rest: int, grpc_port: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.ports = (rest, grpc_port)
        ready: Future[int] = Future()
        self.thread = threading.Thread(target=self._run, args=(ready,))
        self.thread.start()
        self.port = ready.result()

    def _run(self, ready: Future[int]) -> None:
        async def serve() -> None:
            self.done = asyncio.Event()
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
            ready.set_result(server.sockets[0].getsockname()[1])
            await self.done.wait()
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.loop.run_until_complete(serve())
        self.loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(3)
        port = self.ports[first == b"PRI"]
        to, back = await asyncio.open_connection("127.0.0.1", port)
        back.write(first)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(pump(reader, back), pump(to, writer))
        for open_writer in (writer, back):
            open_writer.close()

    def close(self) -> None:
        """
        Close every connection, and stop.
        """
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.done.set)
            self.thread.join()


def start(stack: contextlib.ExitStack, double: Double) -> Double:
    """
    Start a double on a port of its own, until the stack is left.
    """
    rest = serve(stack, rest_handler(double))
    server, port = grpc_server(double)
    stack.callback(lambda: server.stop(None).wait())
    double.front = OnePort(rest, port)
    stack.callback(double.front.close)
    double.address = f"127.0.0.1:{double.front.port}"
    return double


def serve(stack: contextlib.ExitStack, handler: type[BaseHTTPRequestHandler]) -> int:
    """
    Serve on a free port until the stack is left.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return int(server.server_address[1])
