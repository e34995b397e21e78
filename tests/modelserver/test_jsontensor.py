import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tfcanary.modelserver import jsonanswer, jsonparse, jsontensor
from tfcanary.modelserver.status import Code, ServingError


def written(array: Any, *, row: bool = False) -> str:
    return jsonanswer.answer({"y": array}, row=row).decode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(np.float32(0.1), "0.1", id="six-digits-are-enough"),
        pytest.param(np.float32(1 / 3), "0.333333343", id="six-digits-are-not"),
        pytest.param(np.float32(9e6), "9e+06", id="scientific"),
        pytest.param(np.float32(3), "3.0", id="whole"),
        pytest.param(np.float32(-0.0), "-0.0", id="negative-zero"),
        pytest.param(np.float32(123456789), "123456792.0", id="whole-and-long"),
        pytest.param(np.float64(1 / 3), "0.33333333333333331", id="double"),
        pytest.param(np.int8(-5), "-5", id="integer"),
        pytest.param(np.bool_(True), "true", id="boolean"),  # noqa: FBT003 - the value under test
    ],
)
def test_numbers_are_written_as_the_original_writes_them(value: Any, text: str) -> None:
    assert written(np.array(value)) == f'{{\n    "outputs": {text}\n}}'


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (np.float16, "half"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.uint16, "uint16"),
        (np.complex64, "complex64"),
    ],
)
def test_json_has_no_other_types(kind: Any, name: str) -> None:
    """AddSingleValueAndAdvance() of tensorflow_serving/util/json_tensor.cc."""
    with pytest.raises(ServingError, match=f"Failed to write JSON value for tensor type: {name}$") as caught:
        written(np.array([1], dtype=kind))

    assert Code.INVALID_ARGUMENT == caught.value.code


@pytest.mark.parametrize(
    "shape", [(), (2,), (2, 3), (2, 3, 4), (0,), (2, 0), (0, 2), (2, 0, 3), (1, 1, 1, 1)], ids=str
)
def test_shapes_are_written_as_nested_lists(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=np.int64).reshape(shape)

    assert json.loads(written(array)) == {"outputs": array.tolist()}


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (1, 0)], ids=str)
def test_rows_are_written_one_by_one(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=np.int64).reshape(shape)

    assert json.loads(written(array, row=True)) == {"predictions": array.tolist()}


def test_rows_of_several_outputs_are_objects() -> None:
    outputs = {"a": np.array([1, 2]), "b": np.array([[3], [4]])}

    text = jsonanswer.answer(outputs, row=True)

    assert json.loads(text) == {"predictions": [{"a": 1, "b": [3]}, {"a": 2, "b": [4]}]}


def test_a_long_value_is_cut_short_in_a_message() -> None:
    with pytest.raises(ServingError) as caught:
        jsonparse.parse_object(json.dumps(["x" * 10_000]).encode())

    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    "text",
    ["QQ==", "QQ", "Q Q = =", "QQ\n==", "Q Q = =\n", "QQ..", "QQ=.", pytest.param("QUE=", id="two bytes")],
)
def test_base64_may_lack_padding_and_hold_blanks_and_dots(text: str) -> None:
    """absl::Base64Unescape() of absl/strings/escaping.cc."""
    assert jsontensor.string({"b64": text}).startswith(b"A")


@pytest.mark.parametrize("text", ["QQ=", "Q", "QQ===", "Q*==", "Q=Q=", "Q_==", "=", "ü==="])
def test_base64_with_some_of_its_padding_or_other_characters_is_refused(text: str) -> None:
    with pytest.raises(ServingError, match="Unable to base64 decode"):
        jsontensor.string({"b64": text})
