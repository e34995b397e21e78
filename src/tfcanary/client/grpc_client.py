"""
TensorFlow Serving's gRPC API over one channel.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import grpc
import numpy as np

from tfcanary.client.answer import (
    Answer,
    Interface,
    Prediction,
    Signature,
    Tensor,
    Value,
    cookie_pair,
    header_word,
)
from tfcanary.client.endpoint import CHANNEL_OPTIONS, DEADLINE_SECONDS, MAX_MESSAGE_BYTES, Tls, checked
from tfcanary.client.tensors import from_tensor, protos, to_tensor
from tfcanary.contract import METHODS, REVISION_HEADER, TRACK_HEADER, Api
from tfcanary.text import printable, short


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


def _grpc_prediction(response: Any) -> Prediction:
    outputs = {name: from_tensor(tensor)[0] for name, tensor in response.outputs.items()}
    return Prediction(
        labels=tuple(label.decode("utf-8") for label in outputs["labels"]),
        probabilities=outputs["probabilities"].astype(np.float64),
        class_probabilities=outputs["class_probabilities"].astype(np.float64),
    )


def _attribution(call: Any) -> tuple[str | None, str | None, str | None]:
    """
    Track, revision and cookie; an error without a body has all its headers in the trailing metadata.
    """
    found = {**dict(call.trailing_metadata() or ()), **dict(call.initial_metadata() or ())}
    track, revision = header_word(found.get(TRACK_HEADER)), header_word(found.get(REVISION_HEADER))
    return track, revision, cookie_pair(found.get("set-cookie"))
