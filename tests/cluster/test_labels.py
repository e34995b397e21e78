"""
Labels of versions at a real gateway: the routes say which version a label stands for, and other labels are refused.
"""

from typing import Any

import grpc
import pytest
from conftest import PLAIN, Gateway

from tfcanary.client.pictures import default_pictures
from tfcanary.client.request import PredictRequest
from tfcanary.client.rest import rest_payload
from tfcanary.client.tensors import protos
from tfcanary.contract import SERVING_PREPROCESS

LABEL = "production"
MODEL = "/v1/models/resnet"
VERSIONS = {"stable": 1, "canary": 2}


@pytest.fixture(scope="module")
def more_values() -> dict[str, Any]:
    """
    One label, on every track.
    """
    return {"model": {"labels": [LABEL]}}


def group(track: str) -> dict[str, str]:
    """
    The headers of a client whose route is the track's.
    """
    return {"user-group": track}


@pytest.mark.parametrize("track", VERSIONS)
def test_a_label_answers_from_the_track_of_the_route(stage, track):
    """
    REST by label: the metadata and a prediction come from the track that the route of the client's group names.
    """
    stage.play("canary-user-group")
    rest = stage.gateway.rest
    asked = PredictRequest.one(SERVING_PREPROCESS, "image_bytes", default_pictures()[0].content)

    metadata = rest.get(f"{MODEL}/labels/{LABEL}/metadata", headers=group(track))
    prediction = rest.post(
        f"{MODEL}/labels/{LABEL}:predict", headers=group(track), content=rest_payload(asked)
    )

    assert (200, str(VERSIONS[track])) == (metadata.status_code, metadata.json()["model_spec"]["version"])
    assert (200, [track] * 2) == (
        prediction.status_code,
        [one.headers["x-model-track"] for one in (metadata, prediction)],
    )
    assert prediction.json()["predictions"]


@pytest.mark.parametrize("track", VERSIONS)
def test_a_label_answers_over_grpc(stage, track):
    """
    The label is in the message of a gRPC call and not in its path.
    """
    stage.play("canary-user-group")

    version = by_label(stage.gateway, LABEL, track)

    assert VERSIONS[track] == version


def by_label(gateway: Gateway, label: str, track: str) -> int:
    """
    The version of the metadata of a label.
    """
    metadata = protos().get_model_metadata_pb2
    request = metadata.GetModelMetadataRequest()
    request.model_spec.name = "resnet"
    request.model_spec.version_label = label
    request.metadata_field.append("signature_def")
    call = gateway.channel.unary_unary(
        PLAIN["gRPC"],
        request_serializer=metadata.GetModelMetadataRequest.SerializeToString,
        response_deserializer=metadata.GetModelMetadataResponse.FromString,
    )
    return int(call(request, metadata=tuple(group(track).items()), timeout=30).model_spec.version.value)


def test_another_label_is_closed(stage):
    """
    A label that the values do not name is refused by the mesh over REST, and by the server over gRPC.
    """
    stage.play("canary-user-group")
    paths = [f"{MODEL}/labels/{label}/metadata" for label in ("staging", "Production", f"{LABEL}x", "")]

    seen = {path: stage.gateway.rest.get(path).status_code for path in paths}
    with pytest.raises(grpc.RpcError) as raised:
        by_label(stage.gateway, "staging", "stable")

    assert dict.fromkeys(paths, 403) == seen
    assert grpc.StatusCode.INVALID_ARGUMENT == raised.value.code()
    assert 403 == stage.gateway.rest.post(f"{MODEL}/labels/staging:predict", content=b"{}").status_code
