from typing import Any

import grpc
import numpy as np
import pytest

from tfcanary.modelserver import protos
from tfcanary.modelserver.tensors import to_proto
from tfcanary.modelserver.unpublished import HealthCheckRequest, HealthCheckResponse

METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


def request(name: str, signature: str = "", version: int | None = None, **inputs: Any) -> Any:
    """
    Make a PredictRequest of numpy arrays.
    """
    result = protos.PredictRequest()
    result.model_spec.name = name
    result.model_spec.signature_name = signature
    if version is not None:
        result.model_spec.version.value = version
    for alias, array in inputs.items():
        to_proto(array, dtype_of(array), result.inputs[alias])
    return result


def dtype_of(array: Any) -> int:
    names = {"object": "DT_STRING", "float32": "DT_FLOAT", "float64": "DT_DOUBLE", "int64": "DT_INT64"}
    number: int = protos.DataType.Value(names[array.dtype.name])
    return number


def floats(*values: float) -> Any:
    return np.array(values, dtype=np.float32)


def failure(server: Any, message: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        server.predict(message)
    return caught.value.code(), caught.value.details()


def test_predict_answers_in_the_typed_field_and_names_who_answered(server: Any) -> None:
    answer = server.predict(request("half", x=floats(1, 2)))

    assert list(answer.outputs["y"].float_val) == [3.5, 4.0]
    assert answer.outputs["y"].dtype == protos.DataType.Value("DT_FLOAT")
    assert [dim.size for dim in answer.outputs["y"].tensor_shape.dim] == [2]
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half", 2, "serving_default")


def test_predict_takes_the_version_that_is_asked_for(server: Any) -> None:
    answer = server.predict(request("half", version=1, x=floats(0)))

    assert (list(answer.outputs["y"].float_val), answer.model_spec.version.value) == ([2.0], 1)


def test_a_tensor_may_come_as_content(server: Any) -> None:
    message = request("half")
    tensor = message.inputs["x"]
    tensor.dtype = protos.DataType.Value("DT_FLOAT")
    tensor.tensor_shape.dim.add(size=2)
    tensor.tensor_content = floats(1, 2).tobytes()

    assert list(server.predict(message).outputs["y"].float_val) == [3.5, 4.0]


def test_missing_values_repeat_the_last_one(server: Any) -> None:
    message = request("half", x=floats(1, 2))
    message.inputs["x"].tensor_shape.dim[0].size = 4

    assert list(server.predict(message).outputs["y"].float_val) == [3.5, 4.0, 4.0, 4.0]


def test_no_value_at_all_is_zero(server: Any) -> None:
    message = request("half", x=floats())
    message.inputs["x"].tensor_shape.dim[0].size = 2

    assert list(server.predict(message).outputs["y"].float_val) == [3.0, 3.0]


def test_values_that_the_shape_has_no_place_for_are_left_out(server: Any) -> None:
    """FromProtoField() of tensorflow/core/framework/tensor.cc."""
    assert list(server.predict(with_shape(1)).outputs["y"].float_val) == [3.5]


def test_strings_are_bytes(server: Any) -> None:
    message = request("mixed", "strings", text_bytes=np.array([b"ab", b"\xff\x00"], dtype=object))

    answer = server.predict(message)

    assert list(answer.outputs["same_bytes"].string_val) == [b"ab", b"\xff\x00"]


def texts_as_content(content: bytes) -> Any:
    message = protos.PredictRequest(model_spec={"name": "mixed", "signature_name": "strings"})
    tensor = message.inputs["text_bytes"]
    tensor.dtype = protos.DataType.Value("DT_STRING")
    tensor.tensor_shape.dim.add(size=3)
    tensor.tensor_content = content
    return message


def test_texts_may_come_as_content(server: Any) -> None:
    """As TensorFlow encodes them: all lengths, then all strings."""
    message = texts_as_content(b"\x02\x00\x81\x01" + b"ab" + b"c" * 129)

    assert list(server.predict(message).outputs["same_bytes"].string_val) == [b"ab", b"", b"c" * 129]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x01\x01", id="lengths that are missing"),
        pytest.param(b"\x01\x01\x02abc", id="a text that is cut"),
        pytest.param(b"\x01\x01\x00abc", id="more than the strings"),
        pytest.param(b"\x80" * 20, id="a length that does not end"),
    ],
)
def test_content_that_is_no_texts_is_invalid(server: Any, content: bytes) -> None:
    assert failure(server, texts_as_content(content)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "tensor parsing error: text_bytes",
    )


def test_a_text_without_dimensions_keeps_its_last_zero(server: Any) -> None:
    message = request("mixed", "one_text", text=np.array(b"\xff\x00", dtype=object))

    assert list(server.predict(message).outputs["text"].string_val) == [b"\xff\x00"]


def test_output_filter_chooses_outputs(server: Any) -> None:
    message = request("mixed", a=floats(1, 2).reshape(1, 2), b=np.array([3], dtype=np.int64))
    message.output_filter.append("twice")

    assert list(server.predict(message).outputs) == ["twice"]


def test_an_unknown_model_is_not_found(server: Any) -> None:
    assert failure(server, request("nope", x=floats(1))) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(nope)",
    )


def test_an_unknown_version_is_not_found(server: Any) -> None:
    assert failure(server, request("half", version=9, x=floats(1))) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(half, 9)",
    )


def test_no_model_at_all_is_invalid(server: Any) -> None:
    assert failure(server, protos.PredictRequest())[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_signature_is_a_failed_precondition(server: Any) -> None:
    assert failure(server, request("half", "nope", x=floats(1))) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    )


def with_shape(*sizes: int) -> Any:
    message = request("half", x=floats(1, 2))
    del message.inputs["x"].tensor_shape.dim[:]
    for size in sizes:
        message.inputs["x"].tensor_shape.dim.add(size=size)
    return message


def with_filter(*names: str) -> Any:
    message = request("half", x=floats(1))
    message.output_filter.extend(names)
    return message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(request("half"), "Missing but required: {x}", id="no-input"),
        pytest.param(request("half", x=floats(1), z=floats(1)), "Sent extra: {z}", id="extra-input"),
        pytest.param(
            request("half", z=floats(1)),
            "Signature input alias: x(feed name: serving_default_x:0) not found in request",
            id="other-input",
        ),
        pytest.param(
            request("half", x=np.array([1.0])), "Expects arg[0] to be float but double is provided", id="type"
        ),
        pytest.param(with_shape(-1), "tensor parsing error: x", id="negative"),
        pytest.param(with_filter("nope"), "not found in signature: nope", id="filter"),
        pytest.param(with_filter("y", "y"), "duplicate output tensor alias: y", id="filter-twice"),
    ],
)
def test_a_wrong_request_is_invalid(server: Any, message: Any, reason: str) -> None:
    code, details = failure(server, message)

    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert reason in details


def test_a_tensor_of_any_size_is_refused_before_it_is_made(server: Any) -> None:
    code, details = failure(server, with_shape(2**40))

    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details == f"tensor of {2**42} bytes is larger than {2**20}"


def test_a_text_that_is_repeated_counts_as_often(server: Any) -> None:
    """TensorFlow copies the string for each element."""
    message = request("mixed", "strings", text_bytes=np.array([b"x" * 2**10], dtype=object))
    message.inputs["text_bytes"].tensor_shape.dim[0].size = 2**11

    assert failure(server, message) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"tensor of {2**21} bytes is larger than {2**20}",
    )


def test_tensors_that_the_signature_has_not_are_not_made(server: Any) -> None:
    """A message may have thousands of them, a few bytes each."""
    message = with_shape(2**40)
    message.inputs["z"].CopyFrom(message.inputs["x"])

    code, details = failure(server, message)

    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "Sent extra: {z}" in details


def test_a_message_over_the_limit_is_refused_and_the_server_lives(server: Any) -> None:
    assert failure(server, request("half", x=np.zeros(2**19, np.float32)))[0] == (
        grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    assert server.predict(request("half", x=floats(0))).model_spec.version.value == 2


def test_a_run_ends_at_the_clients_deadline(server: Any) -> None:
    """The server goes on: the next request is answered."""
    message = request("mixed", "slow", count=np.array(10**9))

    with pytest.raises(grpc.RpcError) as caught:
        server.predict(message, timeout=0.5)

    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.predict(request("half", x=floats(0))).model_spec.version.value == 2


def test_bytes_that_are_no_message_are_invalid(server: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(b"\xff\xff\xff")

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_names_version_and_signatures(server: Any) -> None:
    message = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "mixed"

    answer = server.call(METADATA, message, protos.GetModelMetadataResponse)

    assert (answer.model_spec.name, answer.model_spec.version.value) == ("mixed", 7)
    signatures = protos.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def["strings"].inputs) == {"text_bytes"}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        pytest.param(protos.GetModelMetadataRequest(), grpc.StatusCode.INVALID_ARGUMENT, id="no-spec"),
        pytest.param(
            protos.GetModelMetadataRequest(model_spec={"name": "half"}),
            grpc.StatusCode.INVALID_ARGUMENT,
            id="no-field",
        ),
        pytest.param(
            protos.GetModelMetadataRequest(model_spec={"name": "half"}, metadata_field=["nope"]),
            grpc.StatusCode.INVALID_ARGUMENT,
            id="unknown-field",
        ),
        pytest.param(
            protos.GetModelMetadataRequest(model_spec={"name": "nope"}, metadata_field=["signature_def"]),
            grpc.StatusCode.NOT_FOUND,
            id="unknown-model",
        ),
    ],
)
def test_a_wrong_metadata_request_gets_its_code(server: Any, message: Any, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.call(METADATA, message, protos.GetModelMetadataResponse)

    assert caught.value.code() == code


def test_status_tells_every_version(server: Any) -> None:
    answer = server.call(
        STATUS, protos.GetModelStatusRequest(model_spec={"name": "half"}), protos.GetModelStatusResponse
    )

    available = protos.ModelVersionStatus.State.AVAILABLE
    assert [
        (entry.version, entry.state, entry.status.error_code) for entry in answer.model_version_status
    ] == [
        (2, available, 0),
        (1, available, 0),
    ]


def test_a_label_counts_for_nothing_in_a_status(server: Any) -> None:
    """As over REST."""
    asked = protos.GetModelStatusRequest(model_spec={"name": "half", "version_label": "nope"})

    answer = server.call(STATUS, asked, protos.GetModelStatusResponse)

    assert [entry.version for entry in answer.model_version_status] == [2, 1]


def test_status_of_an_unknown_model_is_not_found(server: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.call(
            STATUS, protos.GetModelStatusRequest(model_spec={"name": "nope"}), protos.GetModelStatusResponse
        )

    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_method_that_is_not_there_is_unimplemented(server: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary("/tensorflow.serving.PredictionService/Nope")(b"")

    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def health(server: Any, service: str) -> int:
    answer = server.call(
        "/grpc.health.v1.Health/Check", HealthCheckRequest(service=service), HealthCheckResponse
    )
    status: int = answer.status
    return status


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_health_is_serving(server: Any, service: str) -> None:
    assert health(server, service) == 1


def test_health_of_an_unknown_service_is_not_found(server: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health(server, "nope")

    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("service", "status"), [pytest.param("", 1, id="known"), pytest.param("nope", 3, id="unknown")]
)
def test_health_can_be_watched(server: Any, service: str, status: int) -> None:
    watch = server.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )(HealthCheckRequest(service=service), timeout=30)

    first = next(watch).status
    watch.cancel()

    assert first == status
