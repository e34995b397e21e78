import json
from typing import Any

import numpy as np
import pytest

from tfcanary.modelserver import jsonanswer, jsontensor


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
        pytest.param(np.float16(0.1), "0.0999755859", id="half"),
        pytest.param(np.int8(-5), "-5", id="integer"),
        pytest.param(np.bool_(True), "true", id="boolean"),  # noqa: FBT003 - the value under test
    ],
)
def test_numbers_are_written_as_the_original_writes_them(value: Any, text: str) -> None:
    assert written(np.array(value)) == f'{{\n    "outputs": {text}\n}}'


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
    with pytest.raises(jsontensor.ServingError) as caught:
        jsontensor.parse_predict(json.dumps(["x" * 10_000]).encode())

    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("text", ["QQ==", "QQ", "Q Q = =", "QQ\n==", "Q Q = =\n"])
def test_base64_may_lack_padding_and_hold_blanks(text: str) -> None:
    request = jsontensor.parse_predict(json.dumps({"instances": [{"b64": text}]}).encode())

    tensors = jsontensor.tensors(request, {"x": jsontensor.DT_STRING})

    assert tensors["x"].tolist() == [b"A"]
