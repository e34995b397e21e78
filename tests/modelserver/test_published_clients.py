"""
The requests of the published example clients, unmodified: tensorflow_serving/example/resnet_client.py and
resnet_client_grpc.py, in their present version and in the one for a model that took JPEG.
"""

import base64
import importlib
import io
import json
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tfcanary.protos import bare_tensorflow

GREEN = 1


@pytest.fixture(scope="module")
def picture() -> bytes:
    """
    A JPEG, mostly green.
    """
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (20, 230, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def post(server: Any) -> Any:
    """
    Send a body without a content type, as requests.post() does.
    """

    def send(model: str, body: str) -> Any:
        with httpx.Client(trust_env=False) as client:
            response = client.post(
                f"http://127.0.0.1:{server.rest_port}/v1/models/{model}:predict", content=body.encode()
            )
        response.raise_for_status()
        return response.json()

    return send


@pytest.fixture
def stub(server: Any) -> Any:
    with grpc.insecure_channel(f"localhost:{server.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def make_tensor_proto(data: Any, **more: Any) -> Any:
    with bare_tensorflow():
        return importlib.import_module("tensorflow.python.framework.tensor_util").make_tensor_proto(
            data, **more
        )


def test_rest_with_a_picture_as_base64(post: Any, picture: bytes) -> None:
    jpeg_bytes = base64.b64encode(picture).decode("utf-8")
    predict_request = f'{{"instances" : [{{"b64": "{jpeg_bytes}"}}]}}'

    prediction = post("resnet_jpg", predict_request)["predictions"][0]

    assert prediction["classes"] == GREEN
    assert np.argmax(prediction["probabilities"]) == GREEN


def test_rest_with_a_picture_as_numbers(post: Any, picture: bytes) -> None:
    jpeg_rgb = Image.open(io.BytesIO(picture))
    jpeg_rgb = np.expand_dims(np.array(jpeg_rgb) / 255.0, 0).tolist()
    predict_request = json.dumps({"instances": jpeg_rgb})

    prediction = post("resnet", predict_request)["predictions"][0]

    assert np.argmax(prediction) == GREEN


def test_grpc_with_the_pictures_bytes(stub: Any, picture: bytes) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "resnet_jpg"
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(make_tensor_proto(picture, shape=[1]))

    result = stub.Predict(request, 10.0)  # 10 secs timeout

    assert list(result.outputs["classes"].int64_val) == [GREEN]


def test_grpc_with_a_float_tensor(stub: Any, picture: bytes) -> None:
    data = Image.open(io.BytesIO(picture))
    data = np.array(data) / 255.0
    data = np.expand_dims(data, 0)
    data = data.astype(np.float32)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "resnet"
    request.model_spec.signature_name = "serving_default"
    request.inputs["input_1"].CopyFrom(make_tensor_proto(data))

    result = stub.Predict(request, 10.0)  # 10 secs timeout

    assert np.argmax(result.outputs["activation_49"].float_val) == GREEN
