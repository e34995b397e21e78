"""
Ask a model through the gateway, over REST and over gRPC, with one kind of answer.

Neither client tries anything twice: a retry would hide the failure that is looked for. Proxies named in the
environment are left aside, because the address that is asked is the one that is checked. Who answered, and under
which routes, is read from the headers that the route sets (gRPC: initial metadata, or trailing where an error
left no other).
"""

import base64
import contextlib
import enum
import functools
import io
import json
import logging
import math
import re
import ssl
import time
import types
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Protocol, Self

import grpc
import httpx
import numpy as np
import numpy.typing as npt

from tfcanary.errors import UsageError
from tfcanary.protos import bare_tensorflow

TRACK_HEADER = "x-model-track"
REVISION_HEADER = "x-route-revision"
DEADLINE_SECONDS = 30.0
CONNECT_SECONDS = 5.0
CONCURRENCY = 8

# A batch of a few 224 by 224 float images, and gRPC's own default of 4 MiB is less than that.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    # One connection of its own: all that this client sends goes down one channel.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", round(CONNECT_SECONDS * 1000)),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

SERVING_DEFAULT = "serving_default"
SERVING_PREPROCESS = "serving_preprocess"
# By what is asked, the path of the gRPC method.
METHODS = {
    "metadata": "/tensorflow.serving.PredictionService/GetModelMetadata",
    "predict": "/tensorflow.serving.PredictionService/Predict",
}


@dataclass(frozen=True, slots=True)
class Tls:
    """
    How the gateway's certificate is verified; it always is.

    Attributes:
        ca: a PEM file with the authorities to trust; None takes the system's.
    """

    ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """
        For REST.

        Raises:
            UsageError: if the file is not one of certificates.
        """
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as exc:
            raise UsageError(f"--ca {str(self.ca)!r}: expected a PEM file of certificates: {exc}") from exc

    def credentials(self) -> grpc.ChannelCredentials:
        """
        For gRPC.
        """
        self.context()
        return grpc.ssl_channel_credentials(self.ca.read_bytes() if self.ca else None)


class Api(enum.Enum):
    """
    The two ways in.
    """

    REST = "REST"
    GRPC = "gRPC"


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """
    What the model says of one picture.
    """

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    class_probabilities: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tensor:
    """
    An input or output of a signature, as the metadata describes it; -1 is a size left open.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """
    What a signature takes and gives, by name.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


Interface = Mapping[str, Signature]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """
    How one request ended.

    Attributes:
        status: the HTTP status, the name of the gRPC code, or what came instead of an answer.
        reached: whether something answered at all.
        track: who answered, if the answer says so.
        revision: under which routes, if the answer says so.
        error: the start of what a failed request was told.
        cookie: what the answer asks the client to keep, as NAME=VALUE.
    """

    api: Api
    status: str
    ok: bool
    reached: bool
    track: str | None
    revision: str | None
    latency_seconds: float
    error: str = ""
    prediction: Prediction | None = None
    interface: Interface | None = None
    cookie: str | None = None

    def __str__(self) -> str:
        """
        The answer in a few words.
        """
        if self.ok:
            return f"{self.status} from {self.track or 'an unnamed track'}, revision {self.revision or 'unnamed'}"
        return f"{self.status} {self.error}".strip()


class Client(Protocol):
    """
    One way in to one model.
    """

    api: Api

    def metadata(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        parse: bool = False,
        prefix: str = "",
        version: str | None = None,
    ) -> Answer:
        """
        Ask for the model's metadata: cheap, and taking the same route as a prediction.

        Args:
            headers: the client's own.
            parse: whether the interface is read from it.
            prefix: what stands before the path of the API.
            version: a version of the model, by its number.
        """

    def predict(
        self,
        signature: str,
        name: str,
        value: "Value",
        headers: Mapping[str, str] | None = None,
        *,
        prefix: str = "",
    ) -> Answer:
        """
        Ask for one prediction.
        """

    def close(self) -> None:
        """
        Close the connections.
        """


Value = npt.NDArray[np.float32] | bytes


class RestClient:
    """
    TensorFlow Serving's REST API over kept-alive HTTP/1.1 connections.
    """

    api = Api.REST

    def __init__(
        self,
        address: str,
        model: str,
        *,
        host: str | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
        connections: int = CONCURRENCY,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        tls: Tls | None = None,
    ) -> None:
        """
        Prepare to ask `model` at `address` (HOST:PORT), under the name `host`; nothing is connected yet.
        """
        # It logs a line for each request, which drowns the progress of a thousand.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.Client(
            base_url=f"{'https' if tls else 'http'}://{checked(address)}",
            headers={"host": host} if host else {},
            timeout=httpx.Timeout(deadline_seconds, connect=CONNECT_SECONDS),
            transport=httpx.HTTPTransport(
                retries=0,
                http1=True,
                http2=False,
                limits=limits,
                verify=tls.context() if tls else _trusting_nobody(),
            ),
            trust_env=False,
            follow_redirects=False,
            # Every request is a new client's: a cookie that is kept would keep it on its track.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        self._path = f"/v1/models/{model}"
        self._host = host
        self._deadline_seconds = deadline_seconds
        self._max_message_bytes = max_message_bytes

    def metadata(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        parse: bool = False,
        prefix: str = "",
        version: str | None = None,
    ) -> Answer:
        """
        GET the model's metadata.
        """
        below = f"/versions/{version}" if version else ""
        path = f"{prefix}{self._path}{below}/metadata"
        return self._ask("GET", path, headers, interface=_rest_interface if parse else None)

    def predict(
        self,
        signature: str,
        name: str,
        value: Value,
        headers: Mapping[str, str] | None = None,
        *,
        prefix: str = "",
    ) -> Answer:
        """
        POST one instance in row form.
        """
        body, path = rest_body(signature, name, value), f"{prefix}{self._path}:predict"
        return self._ask("POST", path, headers, body=body, prediction=_rest_prediction)

    def raw(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """
        Ask for any path as it is written, for what comes back.
        """
        return self._ask(method, path, headers, raw=True)

    def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None,
        *,
        body: object = None,
        prediction: Callable[[Any], Prediction] | None = None,
        interface: Callable[[Any], Interface] | None = None,
        raw: bool = False,
    ) -> Answer:
        # The name that is asked for is the one that the certificate must have.
        more: dict[str, Any] = {"sni_hostname": self._host} if self._host else {}
        if raw:
            # httpx would resolve the dots of /a/../b, and so ask for another path.
            more["target"] = path.encode()
        # The gateway compares bytes, and values files are UTF-8.
        sent = {name.encode(): value.encode() for name, value in (headers or {}).items()}
        request = self._client.build_request(method, path, headers=sent, json=body, extensions=more)
        start = time.perf_counter()
        try:
            response, content = self._received(request, start)
        except httpx.HTTPError as exc:
            status = type(exc).__name__
            took = time.perf_counter() - start
            return Answer(Api.REST, status, ok=False, reached=False, track=None, revision=None,
                          latency_seconds=took, error=short(str(exc)))  # fmt: skip
        kind, text = response.headers.get("content-type", "json"), content.decode("utf-8", "replace")
        if response.status_code == 200 and "json" not in kind and not raw:
            # A proxy's page, a login: whatever answers there, it is not the model server behind its gateway.
            took = time.perf_counter() - start
            return Answer(Api.REST, "200", ok=False, reached=False, track=None, revision=None,
                          latency_seconds=took, error=f"not the model server: {kind} {short(text, 60)}")  # fmt: skip
        answer = functools.partial(
            Answer,
            Api.REST,
            str(response.status_code),
            reached=True,
            track=_word(response.headers.get(TRACK_HEADER)),
            revision=_word(response.headers.get(REVISION_HEADER)),
            cookie=_cookie(response.headers.get("set-cookie")),
            latency_seconds=time.perf_counter() - start,
        )
        if response.status_code != 200:
            return answer(ok=False, error=short(text))
        try:
            parsed = json.loads(content) if prediction or interface else None
            return answer(
                ok=True,
                prediction=prediction(parsed) if prediction else None,
                interface=interface(parsed) if interface else None,
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
            return answer(ok=False, error=f"not an answer of the model: {exc!r}: {short(text)}")

    def _received(self, request: httpx.Request, start: float) -> tuple[httpx.Response, bytes]:
        """
        The answer and all of its body, which comes before the deadline and is no larger than gRPC's may be.

        httpx's own timeout is for each piece, so that an answer in pieces may take for ever.
        """
        content = bytearray()
        response = self._client.send(request, stream=True)
        with contextlib.closing(response):
            for piece in response.iter_bytes():
                content += piece
                if len(content) > self._max_message_bytes:
                    raise httpx.ReadError(f"an answer of more than {self._max_message_bytes} bytes")
                if time.perf_counter() - start > self._deadline_seconds:
                    raise httpx.ReadTimeout(f"no whole answer within {self._deadline_seconds:g} s")
        return response, bytes(content)

    def close(self) -> None:
        """
        Close the connections.
        """
        self._client.close()

    def __enter__(self) -> Self:
        """
        Use the client in a with block.
        """
        return self

    def __exit__(self, *_: object) -> None:
        """
        Close the connections.
        """
        self.close()


class GrpcClient:
    """
    TensorFlow Serving's gRPC API over one channel.
    """

    api = Api.GRPC

    def __init__(
        self,
        address: str,
        model: str,
        *,
        host: str | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        tls: Tls | None = None,
    ) -> None:
        """
        Prepare to ask `model` at `address` (HOST:PORT), under the name `host`; nothing is connected yet.
        """
        options: list[tuple[str, str | int]] = [
            *CHANNEL_OPTIONS,
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
        ]
        if host:
            options.append(("grpc.default_authority", host))
        self._protos = protos()
        if tls is None:
            self._channel = grpc.insecure_channel(checked(address), options=options)
        else:
            if host:
                options.append(("grpc.ssl_target_name_override", host))
            self._channel = grpc.secure_channel(checked(address), tls.credentials(), options=options)
        self._calls: dict[str, Any] = {}
        self._model = model
        self._deadline_seconds = deadline_seconds

    def metadata(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        parse: bool = False,
        prefix: str = "",
        version: str | None = None,
    ) -> Answer:
        """
        Call PredictionService/GetModelMetadata.
        """
        request = metadata_message(self._model, version)
        call = self._call(
            prefix + METHODS["metadata"],
            self._protos.get_model_metadata_pb2.GetModelMetadataResponse,
        )
        return self._ask(call, request, headers, interface=self._interface if parse else None)

    def predict(
        self,
        signature: str,
        name: str,
        value: Value,
        headers: Mapping[str, str] | None = None,
        *,
        prefix: str = "",
    ) -> Answer:
        """
        Call PredictionService/Predict with a batch of one.
        """
        request = predict_message(self._model, signature, name, value)
        call = self._call(prefix + METHODS["predict"], self._protos.predict_pb2.PredictResponse)
        return self._ask(call, request, headers, prediction=_grpc_prediction)

    def raw(self, method: str, headers: Mapping[str, str] | None = None) -> Answer:
        """
        Call any method with an empty request, for what comes back.
        """
        return self._ask(self._channel.unary_unary(method), b"", headers)

    def _call(self, path: str, response: Any) -> Any:
        if path not in self._calls:
            self._calls[path] = self._channel.unary_unary(
                path,
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=response.FromString,
            )
        return self._calls[path]

    def _ask(
        self,
        call: Any,
        request: object,
        headers: Mapping[str, str] | None,
        *,
        prediction: Callable[[Any], Prediction] | None = None,
        interface: Callable[[Any], Interface] | None = None,
    ) -> Answer:
        metadata = tuple((name.lower(), value) for name, value in (headers or {}).items())
        start = time.perf_counter()
        try:
            response, done = call.with_call(request, timeout=self._deadline_seconds, metadata=metadata)
        except grpc.RpcError as exc:
            track, revision, _ = _attribution(exc)
            named = track is not None or revision is not None
            code = exc.code()
            return Answer(
                Api.GRPC,
                code.name,
                ok=False,
                reached=named or code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED),
                track=track,
                revision=revision,
                latency_seconds=time.perf_counter() - start,
                error=short(exc.details() or ""),
            )
        track, revision, cookie = _attribution(done)
        answer = functools.partial(
            Answer,
            Api.GRPC,
            "OK",
            reached=True,
            track=track,
            revision=revision,
            cookie=cookie,
            latency_seconds=time.perf_counter() - start,
        )
        try:
            return answer(
                ok=True,
                prediction=prediction(response) if prediction else None,
                interface=interface(response) if interface else None,
            )
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            return answer(ok=False, error=f"not an answer of the model: {exc!r}")

    def _interface(self, response: Any) -> Interface:
        signatures = self._protos.get_model_metadata_pb2.SignatureDefMap()
        if not response.metadata["signature_def"].Unpack(signatures):
            raise ValueError("no signature_def in the metadata")
        types_pb2 = self._protos.types_pb2

        def tensors(infos: Mapping[str, Any]) -> dict[str, Tensor]:
            return {
                printable(name): Tensor(
                    types_pb2.DataType.Name(info.dtype), tuple(dim.size for dim in info.tensor_shape.dim)
                )
                for name, info in infos.items()
            }

        return {
            printable(name): Signature(tensors(signature.inputs), tensors(signature.outputs))
            for name, signature in signatures.signature_def.items()
            if not name.startswith("__")
        }

    def close(self) -> None:
        """
        Close the channel.
        """
        self._channel.close()

    def __enter__(self) -> Self:
        """
        Use the client in a with block.
        """
        return self

    def __exit__(self, *_: object) -> None:
        """
        Close the channel.
        """
        self.close()


def _trusting_nobody() -> ssl.SSLContext:
    """
    For plain connections, where httpx would load the system's authorities for nothing: a tenth of a second.
    """
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def rest_body(signature: str, name: str, value: Value) -> dict[str, Any]:
    """
    One instance in row form, as REST takes it.
    """
    instance = (
        {"b64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value.tolist()
    )
    return {"signature_name": signature, "instances": [{name: instance}]}


def metadata_paths(model: str) -> Mapping[Api, str]:
    """
    By API the path that asks for the model's metadata.
    """
    return {
        Api.REST: f"/v1/models/{model}/metadata",
        Api.GRPC: METHODS["metadata"],
    }


def metadata_message(model: str, version: str | None = None) -> Any:
    """
    The request for a model's metadata, as gRPC takes it.
    """
    request = protos().get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = int(version)
    request.metadata_field.append("signature_def")
    return request


def predict_message(model: str, signature: str, name: str, value: Value) -> Any:
    """
    A batch of one, as gRPC takes it.
    """
    request = protos().predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    batch = [value] if isinstance(value, bytes) else value[np.newaxis]
    request.inputs[name].CopyFrom(to_tensor(batch))
    return request


def checked(address: str) -> str:
    """
    The address, if it is one.
    """
    found = re.fullmatch(
        r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?):([0-9]{1,5})", address
    )
    if not found or not 0 < int(found[3]) < 65536:
        raise UsageError(f"gateway: expected HOST:PORT, got {address!r}")
    return address


def burst(
    ask: Callable[[Mapping[str, str]], Answer], requests: Iterable[Mapping[str, str]], concurrency: int
) -> Generator[Answer, None, None]:
    """
    Ask once for every entry of `requests`, so many at a time, and yield the answers in order.
    """
    pool = ThreadPoolExecutor(concurrency)
    try:
        yield from pool.map(ask, requests)
    finally:
        # Whoever stops listening does not want the rest to be asked.
        pool.shutdown(cancel_futures=True)


@functools.cache
def protos() -> types.SimpleNamespace:
    """
    TensorFlow Serving's published protos, imported when first needed.
    """
    with bare_tensorflow():
        from tensorflow.core.framework import tensor_pb2, types_pb2  # noqa: PLC0415
        from tensorflow_serving.apis import (  # noqa: PLC0415
            get_model_metadata_pb2,
            predict_pb2,
        )
    return types.SimpleNamespace(
        get_model_metadata_pb2=get_model_metadata_pb2,
        predict_pb2=predict_pb2,
        tensor_pb2=tensor_pb2,
        types_pb2=types_pb2,
    )


# The types of the model's contract: numpy's name, TensorFlow's number, the field for values outside tensor_content.
_TYPES = {
    "float32": (1, "float_val"),
    "float64": (2, "double_val"),
    "int32": (3, "int_val"),
    "uint8": (4, "int_val"),
    "int64": (9, "int64_val"),
}
_STRING = 7


def to_tensor(values: npt.NDArray[Any] | Sequence[bytes]) -> Any:
    """
    Make a TensorProto of an array, or of a list of byte strings.
    """
    tensor = protos().tensor_pb2.TensorProto()
    if not isinstance(values, np.ndarray):
        tensor.dtype = _STRING
        tensor.tensor_shape.dim.add(size=len(values))
        tensor.string_val.extend(values)
        return tensor
    if values.dtype.name not in _TYPES:
        raise UsageError(f"a tensor of {values.dtype.name}: expected one of {', '.join(_TYPES)}")
    tensor.dtype = _TYPES[values.dtype.name][0]
    for size in values.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.ascontiguousarray(values).tobytes()
    return tensor


def from_tensor(tensor: Any) -> npt.NDArray[Any]:
    """
    Make an array of a TensorProto; strings become objects of type bytes.

    Raises:
        ValueError: for a type outside the model's contract, or contents that do not fill the shape.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if size > MAX_MESSAGE_BYTES:
        # A few bytes may declare any shape, for repetitions of the last value are left out.
        raise ValueError(f"a tensor of shape {list(shape)}, expected at most {MAX_MESSAGE_BYTES} elements")
    if tensor.dtype == _STRING:
        values: npt.NDArray[Any] = np.array(list(tensor.string_val), dtype=object)
    else:
        name = next((name for name, (number, _) in _TYPES.items() if number == tensor.dtype), None)
        if name is None:
            raise ValueError(f"a tensor of type {tensor.dtype}, expected one of {', '.join(_TYPES)}, string")
        dtype = np.dtype(name)
        if tensor.tensor_content:
            values = np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<")).astype(dtype)
        else:
            values = np.array(getattr(tensor, _TYPES[name][1]), dtype)
    if 0 < len(values) < size:
        # TensorProto leaves out repetitions of the last value.
        values = np.concatenate([values, np.repeat(values[-1:], size - len(values))])
    return values.reshape(shape)


def picture_tensor(picture: bytes, height: int, width: int) -> npt.NDArray[np.float32]:
    """
    Decode a JPEG and bring it to a signature's size: float32, height by width by RGB, 0 to 255.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - needed for this signature only
    except ImportError as exc:
        raise UsageError(
            f"signature {SERVING_DEFAULT}: pictures are decoded by pillow: pip install pillow"
        ) from exc
    try:
        with Image.open(io.BytesIO(picture)) as image:
            resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except Image.DecompressionBombError as exc:
        raise OSError(str(exc)) from exc
    return np.asarray(resized, dtype=np.float32)


def _rest_prediction(body: Any) -> Prediction:
    row = body["predictions"][0]
    return Prediction(
        labels=tuple(row["labels"]),
        probabilities=np.array(row["probabilities"], dtype=np.float64),
        class_probabilities=np.array(row["class_probabilities"], dtype=np.float64),
    )


def _grpc_prediction(response: Any) -> Prediction:
    outputs = {name: from_tensor(tensor)[0] for name, tensor in response.outputs.items()}
    return Prediction(
        labels=tuple(label.decode("utf-8") for label in outputs["labels"]),
        probabilities=outputs["probabilities"].astype(np.float64),
        class_probabilities=outputs["class_probabilities"].astype(np.float64),
    )


def _rest_interface(body: Any) -> Interface:
    def tensors(infos: Mapping[str, Any]) -> dict[str, Tensor]:
        return {
            printable(name): Tensor(
                printable(info["dtype"]),
                tuple(int(dim["size"]) for dim in info["tensor_shape"].get("dim", [])),
            )
            for name, info in infos.items()
        }

    signatures = body["metadata"]["signature_def"]["signature_def"]
    return {
        printable(name): Signature(tensors(signature["inputs"]), tensors(signature["outputs"]))
        for name, signature in signatures.items()
        if not name.startswith("__")
    }


def _cookie(header: str | None) -> str | None:
    """
    Name and value, without what the client is told about them.
    """
    return header.partition(";")[0].strip() if header else None


def _attribution(call: Any) -> tuple[str | None, str | None, str | None]:
    """
    Track, revision and cookie; an error without a body has all its headers in the trailing metadata.
    """
    found = {**dict(call.trailing_metadata() or ()), **dict(call.initial_metadata() or ())}
    track, revision = _word(found.get(TRACK_HEADER)), _word(found.get(REVISION_HEADER))
    return track, revision, _cookie(found.get("set-cookie"))


def _word(header: str | None) -> str | None:
    return None if header is None else printable(header)


def printable(text: str) -> str:
    """
    The text without what a terminal obeys (escape sequences, line breaks), or no file can hold (half a surrogate).
    """
    return "".join(character if character.isprintable() else "�" for character in text)


def short(text: str, most: int = 200) -> str:
    """
    The text on one line, printable, and not longer than that.
    """
    text = printable(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 1] + "…"
