"""
Models of TensorFlow 1, models of TensorFlow Lite, and tensors of every type.
"""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tfcanary.modelserver import protos, tflite
from tfcanary.modelserver.status import Code, ServingError
from tfcanary.modelserver.tensors import from_proto, to_proto

LIMIT = 1 << 20


def number(name: str) -> int:
    value: int = protos.DataType.Value(name)
    return value


TYPES = {
    "float16": (np.array([0.5, -2], np.float16), "DT_HALF"),
    "float32": (np.array([0.1, np.inf], np.float32), "DT_FLOAT"),
    "float64": (np.array([0.1, -np.inf], np.float64), "DT_DOUBLE"),
    "bfloat16": (np.array([0.5, 3], ml_dtypes.bfloat16), "DT_BFLOAT16"),
    "int8": (np.array([-128, 127], np.int8), "DT_INT8"),
    "int16": (np.array([-(2**15), 2**15 - 1], np.int16), "DT_INT16"),
    "int32": (np.array([-(2**31), 2**31 - 1], np.int32), "DT_INT32"),
    "int64": (np.array([-(2**63), 2**63 - 1], np.int64), "DT_INT64"),
    "uint8": (np.array([0, 255], np.uint8), "DT_UINT8"),
    "uint16": (np.array([0, 2**16 - 1], np.uint16), "DT_UINT16"),
    "uint32": (np.array([0, 2**32 - 1], np.uint32), "DT_UINT32"),
    "uint64": (np.array([0, 2**64 - 1], np.uint64), "DT_UINT64"),
    "bool": (np.array([True, False]), "DT_BOOL"),
}
COMPLEX = {
    "c64": (np.array([1 + 2j, -0.5j], np.complex64), "DT_COMPLEX64"),
    "c128": (np.array([1 + 2j, -0.1j], np.complex128), "DT_COMPLEX128"),
}


def request(signature: str, tensors: dict[str, tuple[Any, str]], *, as_content: bool) -> Any:
    result = protos.PredictRequest(model_spec={"name": "mixed", "signature_name": signature})
    for name, (array, dtype) in tensors.items():
        to_proto(array, number(dtype), result.inputs[name], as_content=as_content)
    return result


@pytest.mark.parametrize("as_content", [False, True], ids=["values", "content"])
@pytest.mark.parametrize(("signature", "tensors"), [("kinds", TYPES), ("complexes", COMPLEX)])
def test_every_type_goes_in_and_out_over_grpc(
    server: Any, signature: str, tensors: dict[str, tuple[Any, str]], *, as_content: bool
) -> None:
    answer = server.predict(request(signature, tensors, as_content=as_content))

    got = {name: from_proto(tensor, name, LIMIT).tolist() for name, tensor in answer.outputs.items()}
    assert {f"{name}_out": array.tolist() for name, (array, _) in tensors.items()} == got
    assert {name: tensor.dtype for name, tensor in answer.outputs.items()} == {
        f"{name}_out": number(dtype) for name, (_, dtype) in tensors.items()
    }


def test_a_model_of_tensorflow_1_has_its_variable_and_its_table(server: Any) -> None:
    """An op that runs at load time fills the table from an asset."""
    answer = server.rest.post("/v1/models/old:predict", json={"instances": ["dog", "cow", "cat"]})

    assert answer.json() == {"predictions": [10, -10, 0]}


def test_without_the_flag_the_graph_is_loaded_and_not_the_lite_model(server: Any) -> None:
    assert server.rest.post("/v1/models/lite:predict", json={"instances": [1.0]}).json() == {
        "predictions": [2.5]
    }


def test_a_lite_model_answers_over_both_apis(open_server: Any, models: Path) -> None:
    server = open_server(
        "/v1/models/lite/metadata",
        "--model_name=lite",
        f"--model_base_path={models}/lite",
        "--prefer_tflite_model",
        "--num_tflite_pools=2",
    )
    message = protos.PredictRequest(model_spec={"name": "lite"})
    to_proto(np.array([1.0, 2.0, 3.0], np.float32), 1, message.inputs["x"])

    # Requests of different sizes follow each other.
    assert server.rest.post("/v1/models/lite:predict", json={"instances": [1.0]}).json() == {
        "predictions": [5.5]
    }
    assert list(server.predict(message).outputs["y"].float_val) == [5.5, 6.0, 6.5]
    definition = server.rest.get("/v1/models/lite/metadata").json()["metadata"]["signature_def"][
        "signature_def"
    ]
    assert [dim["size"] for dim in definition["serving_default"]["inputs"]["x"]["tensor_shape"]["dim"]] == [
        "-1"
    ]


@pytest.fixture(scope="module")
def preferring(share_server: Any, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """
    A server that prefers TensorFlow Lite and makes batches, of a model that has both kinds and one that has not.
    """
    config = tmp_path_factory.mktemp("preferring") / "models.config"
    config.write_text(
        f"""
        model_config_list: {{
          config: {{ name: "lite", base_path: "{models}/lite", model_platform: "tensorflow" }},
          config: {{ name: "half", base_path: "{models}/half", model_platform: "tensorflow" }}
        }}
        """
    )
    flags = [f"--model_config_file={config}", "--prefer_tflite_model", "--enable_batching"]
    return share_server("/v1/models/half/metadata", *flags)


@pytest.mark.parametrize(
    ("model", "expected"),
    [pytest.param("lite", [5.5, 6.0], id="lite"), pytest.param("half", [3.5, 4.0], id="graph")],
)
def test_a_lite_model_is_preferred_where_there_is_one_and_makes_batches(
    preferring: Any, model: str, expected: list[float]
) -> None:
    answer = preferring.rest.post(f"/v1/models/{model}:predict", json={"instances": [1.0, 2.0]})

    assert answer.json() == {"predictions": expected}


def test_a_broken_lite_model_is_invalid(tmp_path: Path) -> None:
    file = tmp_path / tflite.FILE
    file.write_bytes(b"\x00" * 64)

    with pytest.raises(ServingError, match="Cannot build Interpreter from buffer") as refused:
        tflite.TfLite(file, 1)

    assert refused.value.code == Code.INVALID_ARGUMENT
