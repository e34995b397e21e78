"""
A gateway before a real model server: it adds the headers of the routes, and chooses the model by the track.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from double import Double, RefusedError

from tfcanary.client.tensors import protos
from tfcanary.contract import METHODS


@dataclass
class Upstream(Double):
    """
    A gateway before a real model server.

    Attributes:
        rest: the server's REST API.
        channel: its gRPC API.
        served: the name of each track's model on the server.
    """

    rest: httpx.Client | None = None
    channel: grpc.Channel | None = None
    served: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """
        Answers name the version that the server says.
        """
        versions = {track: self.rest_metadata(track)["model_spec"]["version"] for track in self.served}
        self.version = lambda _api, track: versions[track]

    def rest_metadata(self, track: str) -> dict[str, Any]:
        """
        What the server says, its own version with it.
        """
        found: dict[str, Any] = (
            self.rest.get(f"/v1/models/{self.served[track]}/metadata").raise_for_status().json()
        )
        return found

    def rest_prediction(self, track: str, body: bytes) -> object:
        """
        What the server answers.
        """
        answer = self.rest.post(f"/v1/models/{self.served[track]}:predict", content=body)
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise RefusedError(answer.text)
        return answer.raise_for_status().content

    def grpc_metadata(self, track: str) -> Any:
        """
        The SignatureDefMap that the server says.
        """
        found = protos().get_model_metadata_pb2
        request = found.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.served[track]
        answer = self._call("metadata", request, found.GetModelMetadataResponse)
        signatures = found.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        return signatures

    def grpc_prediction(self, track: str, request: Any) -> Any:
        """
        What the server answers.
        """
        request.model_spec.name = self.served[track]
        try:
            return self._call("predict", request, protos().predict_pb2.PredictResponse)
        except grpc.RpcError as exc:
            if exc.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            raise RefusedError(exc.details()) from exc

    def _call(self, method: str, request: Any, answer: Any) -> Any:
        return self.channel.unary_unary(
            METHODS[method],
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )(request, timeout=30)
