"""
TensorFlow Serving's gRPC API over one channel.
"""

import time
from collections.abc import Mapping
from typing import Any

import grpc

from tfcanary.client.answer import (
    Answer,
    Interface,
    Prediction,
    Signature,
    Tensor,
    cookie_pair,
    header_word,
)
from tfcanary.client.base import Client, Headers
from tfcanary.client.endpoint import DEADLINE_SECONDS, MAX_MESSAGE_BYTES, Tls, open_channel
from tfcanary.client.request import PredictRequest
from tfcanary.client.tensors import protos, to_tensor, value_of
from tfcanary.contract import METHODS, REVISION_HEADER, TRACK_HEADER, Api
from tfcanary.text import printable, short


class GrpcClient(Client):
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
        metadata: Headers | None = None,
    ) -> None:
        """
        Prepare to ask `model`; nothing is connected yet.

        Args:
            address: HOST:PORT of the gateway.
            model: the name that TensorFlow Serving knows the model by.
            host: the authority to ask for, which the certificate must name; None takes it from the address.
            deadline_seconds: a request without an answer fails after this time.
            max_message_bytes: the largest message in either direction.
            tls: how the gateway's certificate is verified; None connects without TLS.
            metadata: what every call sends, before its own headers.

        Raises:
            UsageError: if the address is not HOST:PORT, or the file of authorities is not one of certificates.
        """
        self._metadata = dict(metadata or {})
        self._protos = protos()
        self._channel = open_channel(address, host=host, tls=tls, max_message_bytes=max_message_bytes)
        self._calls: dict[str, Any] = {}
        self._model = model
        self._deadline_seconds = deadline_seconds

    def raw(self, method: str, headers: Headers | None = None) -> Answer:
        """
        Call any method with an empty request; the answer has its code and no parsed message.
        """
        return self._ask(self._channel.unary_unary(method), b"", headers or {})[0]

    def close(self) -> None:
        """
        Close the channel.
        """
        self._channel.close()

    def _ask_metadata(self, headers: Headers, prefix: str, version: str | None) -> tuple[Answer, Any]:
        response = self._protos.get_model_metadata_pb2.GetModelMetadataResponse
        call = self._call(prefix + METHODS["metadata"], response)
        return self._ask(call, metadata_message(self._model, version), headers)

    def _ask_prediction(self, request: PredictRequest, headers: Headers, prefix: str) -> tuple[Answer, Any]:
        call = self._call(prefix + METHODS["predict"], self._protos.predict_pb2.PredictResponse)
        return self._ask(call, predict_message(self._model, request), headers)

    def _interface(self, body: Any) -> Interface:
        signatures = self._protos.get_model_metadata_pb2.SignatureDefMap()
        if not body.metadata["signature_def"].Unpack(signatures):
            raise ValueError("no signature_def in the metadata")
        return {
            printable(name): Signature(
                _tensors(signature.inputs), _tensors(signature.outputs), printable(signature.method_name)
            )
            for name, signature in signatures.signature_def.items()
            if not name.startswith("__")
        }

    def _prediction(self, request: PredictRequest, body: Any) -> Prediction:  # noqa: ARG002 - REST reads by it
        return Prediction({printable(name): value_of(tensor) for name, tensor in body.outputs.items()})

    def _call(self, path: str, response: Any) -> Any:
        if path not in self._calls:
            self._calls[path] = self._channel.unary_unary(
                path,
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=response.FromString,
            )
        return self._calls[path]

    def _ask(self, call: Any, request: object, headers: Headers) -> tuple[Answer, Any]:
        metadata = tuple((name.lower(), value) for name, value in (self._metadata | dict(headers)).items())
        start = time.perf_counter()
        try:
            response, done = call.with_call(request, timeout=self._deadline_seconds, metadata=metadata)
        except grpc.RpcError as exc:
            return self._failed(exc, time.perf_counter() - start), None
        track, revision, cookie = _attribution(done)
        answer = Answer(
            Api.GRPC,
            "OK",
            ok=True,
            reached=True,
            track=track,
            revision=revision,
            latency_seconds=time.perf_counter() - start,
            cookie=cookie,
            version=_version(response),
        )
        return answer, response

    def _failed(self, exc: Any, latency_seconds: float) -> Answer:
        track, revision, _ = _attribution(exc)
        named = track is not None or revision is not None
        code = exc.code()
        return Answer(
            Api.GRPC,
            code.name,
            ok=False,
            # The library gives these two codes itself when no connection is made.
            reached=named or code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED),
            track=track,
            revision=revision,
            latency_seconds=latency_seconds,
            error=short(exc.details() or ""),
        )


def metadata_message(model: str, version: str | None = None) -> Any:
    """
    A GetModelMetadataRequest for the signatures of a model; `version` is the number of one version.
    """
    request = protos().get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = int(version)
    request.metadata_field.append("signature_def")
    return request


def predict_message(model: str, request: PredictRequest) -> Any:
    """
    A PredictRequest; `model` is the name that TensorFlow Serving knows the model by.
    """
    message = protos().predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = request.signature
    for name, value in request.inputs.items():
        message.inputs[name].CopyFrom(to_tensor(value.values, value.dtype))
    return message


def _tensors(infos: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        printable(name): Tensor(
            protos().types_pb2.DataType.Name(info.dtype),
            None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in infos.items()
    }


def _version(response: Any) -> str | None:
    """
    The model version that a message names; None where it names none, as messages that are not parsed.
    """
    spec = getattr(response, "model_spec", None)
    return str(spec.version.value) if spec is not None and spec.HasField("version") else None


def _attribution(call: Any) -> tuple[str | None, str | None, str | None]:
    """
    Track, revision and cookie. An error without a body has all its headers in the trailing metadata.
    """
    found = {**dict(call.trailing_metadata() or ()), **dict(call.initial_metadata() or ())}
    track, revision = header_word(found.get(TRACK_HEADER)), header_word(found.get(REVISION_HEADER))
    return track, revision, cookie_pair(found.get("set-cookie"))
