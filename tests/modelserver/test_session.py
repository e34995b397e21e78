"""
What a run takes and fetches is what TensorFlow's C++ session takes and fetches, for which TensorFlow Serving leaves it.

The original: DirectSession::Run() of tensorflow/core/common_runtime/direct_session.cc compares the types of feeds, and no shapes.
SetInputAndInvokeMiniBatch() of tensorflow_serving/servables/tensorflow/tflite_session.cc resizes an interpreter's inputs.
"""

from typing import Any

import grpc
import numpy as np
import pytest

from tfcanary.modelserver import protos
from tfcanary.modelserver.tensors import to_proto

KINDS = ["tf1", "tf2", "tflite"]
FLOAT, DOUBLE = 1, 2


@pytest.fixture(params=["one by one", "batched"])
def served(request: pytest.FixtureRequest) -> Any:
    """
    A server without batching, and one with.
    """
    return request.getfixturevalue("originals" if request.param == "one by one" else "batched_originals")


def rest(server: Any, model: str, **body: Any) -> tuple[int, Any]:
    answer = server.rest.post(f"/v1/models/{model}:predict", json=body)
    return answer.status_code, answer.json()


def asked(signature: str, *wanted: str, **inputs: Any) -> Any:
    """
    Make a request to one of the signatures of `asks`, or to the model tf1_picky.
    """
    spec = {"name": "tf1_picky"} if signature == "picky" else {"name": "asks", "signature_name": signature}
    request = protos.PredictRequest(model_spec=spec)
    request.output_filter.extend(wanted)
    for alias, array in inputs.items():
        to_proto(np.asarray(array, np.float32), FLOAT, request.inputs[alias])
    return request


def answered(server: Any, request: Any) -> dict[str, list[float]]:
    outputs = server.predict(request).outputs
    return {alias: list(tensor.float_val) for alias, tensor in outputs.items()}


def refused(server: Any, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        server.predict(request)
    return caught.value.code(), caught.value.details()


def test_the_documented_call_has_another_rank_than_the_signature(served: Any) -> None:
    """half_plus_two declares [-1, 1], and its documented request has [3]."""
    assert (200, {"predictions": [2.5, 3.0, 4.5]}) == rest(served, "half_plus_two", instances=[1.0, 2.0, 5.0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param([[2.0, 4.0], [6.0, 8.0]], [[3.0, 4.0], [5.0, 6.0]], id="matrix"),
        pytest.param([[[2.0]]], [[[3.0]]], id="cube"),
        pytest.param([2.0], [3.0], id="declared"),
    ],
)
def test_any_rank_that_the_operations_take_is_answered(
    served: Any, kind: str, value: Any, expected: Any
) -> None:
    assert (200, {"outputs": expected}) == rest(served, f"{kind}_plus", inputs=value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scalar_is_answered(originals: Any, kind: str) -> None:
    """A batch needs a first dimension, in the original as here."""
    assert (200, {"outputs": 3.0}) == rest(originals, f"{kind}_plus", inputs=2.0)


def test_a_batch_of_two_is_answered_where_one_row_is_declared(served: Any) -> None:
    body = {"signature_name": "one_row", "inputs": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}

    assert (200, {"outputs": [6.0, 15.0]}) == rest(served, "asks", **body)


def test_a_shape_that_the_graph_refuses_is_refused_in_its_words(served: Any) -> None:
    status, answer = rest(served, "asks", signature_name="product", inputs=[[1.0, 2.0]])

    assert 400 == status
    assert "Matrix size-incompatible: In[0]: [1,2], In[1]: [3,1]" in answer["error"]


def test_a_shape_that_an_interpreter_refuses_is_an_internal_error(originals: Any) -> None:
    """As AllocateTensors() fails in the original. The next request finds the interpreter whole."""
    wrong, _ = rest(originals, "tflite_pair", inputs={"a": [1.0, 2.0], "b": [1]})
    right = rest(originals, "tflite_pair", inputs={"a": [[1.0, 2.0]], "b": [1]})

    assert 500 == wrong
    assert (200, {"outputs": {"sum": [3.0], "twice": [2]}}) == right


def test_a_type_that_the_graph_has_not_is_refused_in_its_words(served: Any) -> None:
    request = asked("product")
    to_proto(np.ones((1, 3)), DOUBLE, request.inputs["x"])

    assert (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Expects arg[0] to be float but double is provided",
    ) == refused(served, request)


@pytest.mark.parametrize(
    ("signature", "wanted"),
    [pytest.param("picky", "plain", id="fails"), pytest.param("ragged", "plain", id="cannot be fetched")],
)
def test_an_output_that_nobody_asked_for_is_not_run(served: Any, signature: str, wanted: str) -> None:
    """PreProcessPrediction() of tensorflow_serving/servables/tensorflow/predict_util.cc names what is fetched."""
    assert {"plain": [2.0]} == answered(served, asked(signature, wanted, x=[1]))


def test_an_output_that_fails_fails_the_request_that_asks_for_it(served: Any) -> None:
    assert {"picky": [1.0, 2.0], "plain": [2.0, 3.0]} == answered(served, asked("picky", x=[1, 2]))
    code, message = refused(served, asked("picky", "picky", x=[1]))

    assert grpc.StatusCode.INVALID_ARGUMENT == code
    assert "requested shape has 2" in message


def test_an_output_that_is_no_tensor_is_refused_in_the_sessions_words(served: Any) -> None:
    assert (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Tensor :0, specified in either feed_devices or fetch_devices was not found in the Graph",
    ) == refused(served, asked("ragged", "rows", x=[1]))


def test_a_default_of_the_signature_fills_an_input_over_grpc(originals: Any) -> None:
    """GetInputValues() of tensorflow/cc/saved_model/util.cc."""
    assert {"y": [2.0, 6.0]} == answered(originals, asked("scaled", x=[1, 3]))
    assert {"y": [10.0, 30.0]} == answered(originals, asked("scaled", x=[1, 3], scale=10))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param(
            {"scale": 1},
            "Signature input alias: x(feed name: scaled_x:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {scale}, or default input alias set: scale",
            id="one without a default is missing",
        ),
        pytest.param(
            {"x": [1], "z": 1},
            "Inputs contains invalid name. Used request inputs: x, request input: x,z",
            id="unknown",
        ),
        pytest.param({"x": [1], "y": 1, "z": 1}, "input size does not match signature: 3!=2", id="too many"),
    ],
)
def test_inputs_that_a_default_does_not_mend_are_refused(
    originals: Any, inputs: dict[str, Any], message: str
) -> None:
    code, details = refused(originals, asked("scaled", **inputs))

    assert grpc.StatusCode.INVALID_ARGUMENT == code
    assert details.startswith(message)


def test_rest_wants_every_input_whatever_its_default(originals: Any) -> None:
    """FillTensorMapFromInputsMap() of tensorflow_serving/util/json_tensor.cc knows no defaults."""
    assert (400, {"error": "Missing named input: scale in 'inputs' object."}) == rest(
        originals, "asks", signature_name="scaled", inputs={"x": [1.0]}
    )


@pytest.mark.parametrize("body", [{}, {"instances": [1]}, {"inputs": {}}], ids=["no keys", "rows", "columns"])
def test_rest_has_no_request_for_a_signature_without_inputs(originals: Any, body: dict[str, Any]) -> None:
    """FillPredictRequestFromJson() asks for the map of inputs before it looks for the keys; gRPC knows no such thing."""
    error = {"error": "Failed to get input map for signature: nothing"}

    assert (400, error) == rest(originals, "asks", signature_name="nothing", **body)
    assert {"y": [1.0]} == answered(originals, asked("nothing"))


def regress(server: Any, signature: str) -> tuple[int, Any]:
    body = {"signature_name": signature, "examples": [{"x": 1.0}, {"x": 2.0}]}
    answer = server.rest.post("/v1/models/half_plus_three:regress", json=body)
    return answer.status_code, answer.json()


def test_the_type_that_a_signature_declares_for_examples_does_not_count(served: Any) -> None:
    """half_plus_three declares DT_FLOAT, and PreProcessRegression() of regressor.cc reads no type."""
    assert (200, {"results": [3.5, 4.0]}) == regress(served, "tensorflow/serving/regress")


def test_an_input_that_takes_no_examples_is_refused_by_the_graph(served: Any) -> None:
    assert (400, {"error": "Expects arg[0] to be float but string is provided"}) == regress(
        served, "regress_x2_to_y3"
    )


@pytest.mark.parametrize("method", ["Regress", "Classify"])
def test_a_signature_without_the_names_is_invalid(originals: Any, method: str) -> None:
    """PreProcessRegression() and PreProcessClassification()."""
    kind = {"Regress": protos.RegressionRequest, "Classify": protos.ClassificationRequest}[method]
    request = kind(model_spec={"name": "asks", "signature_name": "product"})
    request.input.example_list.examples.add()

    with pytest.raises(grpc.RpcError) as caught:
        originals.call(f"/tensorflow.serving.PredictionService/{method}", request, protos.RegressionResponse)

    assert grpc.StatusCode.INVALID_ARGUMENT == caught.value.code()
    assert "inputs found in SignatureDef" in caught.value.details()
