import json
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from tfcanary.modelserver import examples, protos
from tfcanary.modelserver.status import ServingError

SERVICE = "/tensorflow.serving.PredictionService/"


def source(*values: float, context: float | None = None) -> Any:
    """
    Make an Input of examples with one feature each, and perhaps a shared context.
    """
    result = protos.Input()
    target = result.example_list if context is None else result.example_list_with_context
    for value in values:
        target.examples.add().features.feature["x"].float_list.value.append(value)
    if context is not None:
        target.context.features.feature["offset"].float_list.value.append(context)
    return result


def spec(signature: str, name: str = "mixed") -> Any:
    return protos.ModelSpec(name=name, signature_name=signature)


def rest(server: Any, method: str, **body: Any) -> httpx.Response:
    answer: httpx.Response = server.rest.post(f"/v1/models/mixed:{method}", json=body)
    return answer


def test_classify_gives_labels_and_scores(server: Any) -> None:
    request = protos.ClassificationRequest(model_spec=spec("classify"), input=source(1.5, -2))

    answer = server.call(SERVICE + "Classify", request, protos.ClassificationResponse)

    rows = [[(c.label, c.score) for c in row.classes] for row in answer.result.classifications]
    assert rows == [[("up", 1.5), ("down", -1.5)], [("up", -2.0), ("down", 2.0)]]
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("mixed", 7)


def test_regress_gives_a_number_for_each_example(server: Any) -> None:
    request = protos.RegressionRequest(model_spec=spec("regress"), input=source(1.5, -2, context=10))

    answer = server.call(SERVICE + "Regress", request, protos.RegressionResponse)

    assert [entry.value for entry in answer.result.regressions] == [23.0, 16.0]


def test_a_context_counts_for_each_example(server: Any) -> None:
    request = protos.RegressionRequest(model_spec=spec("regress"), input=source(*[1.0] * 200, context=10))
    padding = request.input.example_list_with_context.context.features.feature["padding"]
    padding.bytes_list.value.append(b"x" * 2**13)

    with pytest.raises(grpc.RpcError) as caught:
        server.call(SERVICE + "Regress", request, protos.RegressionResponse)

    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def multi(*tasks: tuple[str, str]) -> Any:
    request = protos.MultiInferenceRequest(input=source(1.0))
    for signature, method in tasks:
        request.tasks.add(model_spec=spec(signature), method_name=method)
    return request


def test_multi_inference_answers_every_task(server: Any) -> None:
    request = multi(("classify", examples.CLASSIFY), ("regress", examples.REGRESS))

    answer = server.call(SERVICE + "MultiInference", request, protos.MultiInferenceResponse)

    first, second = answer.results
    assert first.classification_result.classifications[0].classes[0].label == "up"
    assert second.regression_result.regressions[0].value == 2.0
    assert (first.model_spec.signature_name, first.model_spec.version.value) == ("classify", 7)


def test_one_version_answers_all_of_a_multi_inference(server: Any) -> None:
    """The version that the first task names. No answer may mix two versions."""
    request = multi(("classify", examples.CLASSIFY), ("regress", examples.REGRESS))
    request.tasks[1].model_spec.version.value = 8

    answer = server.call(SERVICE + "MultiInference", request, protos.MultiInferenceResponse)

    assert [result.model_spec.version.value for result in answer.results] == [7, 7]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        pytest.param(multi(), grpc.StatusCode.INVALID_ARGUMENT, id="no-task"),
        pytest.param(
            multi(("regress", examples.REGRESS), ("regress", examples.REGRESS)),
            grpc.StatusCode.INVALID_ARGUMENT,
            id="twice",
        ),
        pytest.param(multi(("regress", "nope")), grpc.StatusCode.UNIMPLEMENTED, id="method"),
    ],
)
def test_a_wrong_multi_inference_gets_its_code(server: Any, request_: Any, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.call(SERVICE + "MultiInference", request_, protos.MultiInferenceResponse)

    assert caught.value.code() == code


def test_classify_over_rest(server: Any) -> None:
    answer = rest(server, "classify", signature_name="classify", examples=[{"x": 1.5}, {"x": [-2.0]}])

    assert answer.json() == {"results": [[["up", 1.5], ["down", -1.5]], [["up", -2.0], ["down", 2.0]]]}


def test_regress_over_rest_with_a_context(server: Any) -> None:
    answer = rest(
        server,
        "regress",
        signature_name="regress",
        context={"offset": 10.0},
        examples=[{"x": 1.5}, {"x": -2.0}],
    )

    assert answer.json() == {"results": [23.0, 16.0]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param({"examples": [{"x": 1.0}]}, "Expected one input Tensor", id="signature-of-predict"),
        pytest.param(
            {"signature_name": "nope", "examples": [{"x": 1.0}]},
            "No signature was found with the name: nope",
            id="name",
        ),
        pytest.param({"signature_name": "regress"}, "key 'examples' is expected", id="no-examples"),
        pytest.param({"signature_name": "regress", "examples": 1}, "to be an list/array", id="no-list"),
        pytest.param({"signature_name": "regress", "examples": []}, "empty array", id="empty"),
        pytest.param({"signature_name": "regress", "examples": [1]}, "must be JSON object", id="no-object"),
        pytest.param({"signature_name": "regress", "examples": [{"x": None}]}, "JSON type: Null", id="null"),
        pytest.param(
            {"signature_name": "regress", "examples": [{"x": [1.0, "a"]}]},
            "Unexpected element type",
            id="mixed",
        ),
        pytest.param(
            {"signature_name": "regress", "examples": [{"x": 2**63}]},
            "Only int64 is supported",
            id="too-large",
        ),
        pytest.param({"signature_name": "regress", "examples": [{"y": 1.0}]}, "x", id="missing-feature"),
        pytest.param(
            {"signature_name": "strings", "examples": [{"x": 1.0}]},
            "Expected one output Tensor",
            id="outputs",
        ),
    ],
)
def test_a_wrong_request_gets_400_and_a_reason(server: Any, body: dict[str, Any], message: str) -> None:
    answer = rest(server, "regress", **body)

    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_features_take_the_kinds_that_json_has() -> None:
    body = {"examples": [{"i": [1, True], "f": 1.5, "s": ["a", {"b64": "/w=="}]}]}

    _, found = examples.parse(json.dumps(body).encode())

    feature = found.example_list.examples[0].features.feature
    assert list(feature["i"].int64_list.value) == [1, 1]
    assert list(feature["f"].float_list.value) == [1.5]
    assert list(feature["s"].bytes_list.value) == [b"a", b"\xff"]


Judge = Callable[[dict[str, Any], int], Any]


@pytest.mark.parametrize(
    ("judge", "outputs", "message"),
    [
        pytest.param(
            examples.classification, {"scores": np.zeros(2, np.float32)}, "batch_size num_classes", id="rank"
        ),
        pytest.param(examples.classification, {"scores": np.zeros((2, 3))}, "Tensor of float32", id="type"),
        pytest.param(
            examples.classification, {"scores": np.zeros((1, 3), np.float32)}, "batch size of 2", id="batch"
        ),
        pytest.param(
            examples.classification,
            {"scores": np.zeros((2, 3), np.float32), "classes": np.full((2, 2), b"", object)},
            "should match",
            id="classes",
        ),
        pytest.param(
            examples.regression, {"outputs": np.zeros((2, 2), np.float32)}, "to be either", id="values"
        ),
        pytest.param(examples.regression, {"outputs": np.zeros(3, np.float32)}, "2 vs. 3", id="value-batch"),
        pytest.param(examples.regression, {"outputs": np.zeros(2)}, "DT_FLOAT", id="value-type"),
    ],
)
def test_outputs_that_are_no_answer_are_refused(judge: Judge, outputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        judge(outputs, 2)


def test_a_signature_of_scores_alone_has_no_labels() -> None:
    result = examples.classification({"scores": np.array([[0.5, 0.25]], np.float32)}, 1)

    assert [(c.label, c.score) for c in result.classifications[0].classes] == [("", 0.5), ("", 0.25)]


@pytest.mark.parametrize("name", ["tensorflow/serving/predict", "tensorflow/serving/regress"])
def test_the_method_name_is_checked_only_if_asked(name: str) -> None:
    """TF2 exports every signature under the name of predict."""
    signature = protos.SignatureDef(method_name=name)
    signature.inputs["inputs"].dtype = protos.DataType.Value("DT_STRING")
    signature.outputs["scores"].dtype = protos.DataType.Value("DT_FLOAT")

    assert examples.tensors(signature, examples.CLASSIFY, check_method_name=False) == ("inputs", ["scores"])
    with pytest.raises(ServingError, match=f"method_name to be {examples.CLASSIFY}. Was: {name}"):
        examples.tensors(signature, examples.CLASSIFY, check_method_name=True)
