"""
Tensors of every type that JSON can carry, as protos and as JSON.
"""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfcanary.client.answer import Tensor, TensorValue
from tfcanary.client.jsontensors import dense, inputs_of, outputs_of, to_body
from tfcanary.client.request import PredictRequest
from tfcanary.client.rest import rest_payload
from tfcanary.client.tensors import DTYPES, as_bfloat16, from_tensor, of_strings, protos, to_tensor, value_of
from tfcanary.errors import UsageError
from tfcanary.modelserver import jsonanswer, jsonparse, jsontensor
from tfcanary.modelserver import protos as server
from tfcanary.modelserver.status import ServingError
from tfcanary.modelserver.tensors import from_proto, to_proto

# TensorFlow Serving's JSON has no case for these, and the model server none either.
NOT_IN_JSON = ("DT_BFLOAT16", "DT_HALF", "DT_UINT16")
IN_JSON = sorted(DTYPES.keys() - set(NOT_IN_JSON))


@given(
    arrays.arrays(
        st.sampled_from(sorted(DTYPES.keys() - {"DT_STRING", "DT_BFLOAT16"})).map(DTYPES.__getitem__),
        arrays.array_shapes(min_dims=0, max_dims=3, max_side=4),
    )
)
def test_tensors_come_back_as_they_went(array):
    back = from_tensor(to_tensor(array))

    np.testing.assert_array_equal(array, back)
    assert array.dtype == back.dtype


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_byte_strings_come_back_as_they_went(strings):
    assert strings == list(from_tensor(to_tensor(strings)))


def test_repeated_values_may_be_left_out():
    """
    TensorProto says a constant once, whatever its shape.
    """
    tensor = protos().tensor_pb2.TensorProto(dtype=1, float_val=[0.5])
    for size in (2, 3):
        tensor.tensor_shape.dim.add(size=size)

    np.testing.assert_array_equal(np.full((2, 3), 0.5, np.float32), from_tensor(tensor))


def test_a_type_outside_the_contract_is_refused():
    tensor = protos().tensor_pb2.TensorProto(dtype=18)

    with pytest.raises(ValueError, match="a tensor of type 18"):
        from_tensor(tensor)
    with pytest.raises(UsageError, match="a tensor of complex64"):
        to_tensor(np.zeros(1, np.complex64))


def test_a_shape_that_is_larger_than_any_answer_is_refused():
    tensor = to_tensor(np.zeros(1, np.float32))
    tensor.tensor_shape.dim[0].size = 10**15

    with pytest.raises(ValueError, match="expected at most"):
        from_tensor(tensor)


def test_contents_that_do_not_fill_the_shape_are_refused():
    tensor = to_tensor(np.zeros(4, np.float32))
    tensor.tensor_shape.dim[0].size = 5

    broken = protos().tensor_pb2.TensorProto()
    broken.CopyFrom(tensor)
    broken.tensor_content = b"\x00" * 24

    with pytest.raises(ValueError, match="reshape"):
        from_tensor(broken)


NUMBERS = sorted(DTYPES.keys() - {"DT_STRING"})
LIMIT = 1 << 20


def some(dtype):
    """
    Values at the limits of a type.
    """
    if dtype == "DT_STRING":
        return of_strings(["größe".encode(), b"\x00\xff", b""])
    if dtype == "DT_BFLOAT16":
        return np.array([0.5, -2, 3e38], ml_dtypes.bfloat16).astype(np.float32)
    kind = DTYPES[dtype]
    if kind.kind == "b":
        return np.array([True, False, True])
    if kind.kind == "f":
        return np.array([0.1, -2, np.finfo(kind).max], kind)
    return np.array([0, np.iinfo(kind).min, np.iinfo(kind).max], kind)


@pytest.mark.parametrize("as_content", [False, True], ids=["values", "content"])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_tensor_of_any_type_is_read_as_the_model_server_writes_it(dtype, as_content):
    number = server.DataType.Value(dtype)
    values = some(dtype)
    theirs = values.astype(ml_dtypes.bfloat16) if dtype == "DT_BFLOAT16" else values

    back = value_of(to_proto(theirs, number, as_content=as_content))

    assert dtype == back.dtype
    assert values.tolist() == back.values.tolist()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_model_server_reads_a_tensor_of_any_type(dtype):
    tensor = to_tensor(some(dtype), dtype)

    assert some(dtype).tolist() == from_proto(tensor, "x", LIMIT).tolist()
    assert server.DataType.Value(dtype) == tensor.dtype


@given(arrays.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=True)))
def test_bfloat16_is_rounded_as_its_library_does(array):
    np.testing.assert_array_equal(array.astype(ml_dtypes.bfloat16).astype(np.float32), as_bfloat16(array))


def test_strings_in_one_piece_are_read():
    """
    The model server may write all lengths and all strings into tensor_content.
    """
    long = b"x" * 300
    tensor = protos().tensor_pb2.TensorProto(dtype=7, tensor_content=b"\x03\xac\x02\x00tea" + long)
    tensor.tensor_shape.dim.add(size=3)

    assert [b"tea", long, b""] == from_tensor(tensor).tolist()
    for content in (b"\x03", b"\x03\x01\x00tea"):
        tensor.tensor_content = content
        with pytest.raises(ValueError, match="strings in tensor_content"):
            from_tensor(tensor)


def test_zeros_may_be_left_out():
    tensor = protos().tensor_pb2.TensorProto(dtype=3)
    tensor.tensor_shape.dim.add(size=2)

    assert [0, 0] == from_tensor(tensor).tolist()


def test_a_number_beyond_its_type_is_refused():
    tensor = protos().tensor_pb2.TensorProto(dtype=6, int_val=[300])
    tensor.tensor_shape.dim.add(size=1)

    with pytest.raises(ValueError, match="DT_INT8"):
        from_tensor(tensor)


@pytest.mark.parametrize("rows", [True, False], ids=["rows", "columns"])
@pytest.mark.parametrize("dtype", IN_JSON)
def test_the_model_server_reads_the_json_of_any_type(dtype, rows):
    """
    Both APIs carry the same values: the JSON is read as the proto is.
    """
    inputs = {"x": TensorValue(dtype, some(dtype)), "y": TensorValue(dtype, some(dtype)[::-1])}
    body = rest_payload(PredictRequest("named", inputs, rows=rows))

    document = jsonparse.parse_object(body)
    parsed = jsontensor.parse_predict(document)
    number = server.DataType.Value(dtype)
    back = jsontensor.tensors(parsed, {"x": number, "y": number})

    assert ("named", rows) == (jsontensor.signature_name(document), parsed.row)
    assert {name: value.values.tolist() for name, value in inputs.items()} == {
        name: value.tolist() for name, value in back.items()
    }


@pytest.mark.parametrize("dtype", NOT_IN_JSON)
def test_the_model_server_has_no_json_of_other_types(dtype):
    values = some(dtype).astype(ml_dtypes.bfloat16) if dtype == "DT_BFLOAT16" else some(dtype)

    with pytest.raises(ServingError, match="Conversion of JSON Value"):
        jsontensor.dense([1], server.DataType.Value(dtype))
    with pytest.raises(ServingError, match="Failed to write JSON value"):
        jsonanswer.answer({"y": values}, row=True)


@pytest.mark.parametrize("row", [True, False], ids=["rows", "columns"])
@pytest.mark.parametrize("names", [["y_bytes"], ["y_bytes", "z"]], ids=["one", "two"])
@pytest.mark.parametrize("dtype", IN_JSON)
def test_the_json_of_any_answer_is_read(dtype, names, row):
    """
    An only output has no name; strings are base64 where the output's name ends in _bytes, and text elsewhere.
    """
    written = jsonanswer.answer(dict.fromkeys(names, some(dtype)), row=row)
    declared = {name: Tensor(dtype, (-1,)) for name in names}

    found = outputs_of(json.loads(written.decode("utf-8", "surrogateescape")), declared)

    assert {name: (dtype, some(dtype).tolist()) for name in names} == {
        name: (value.dtype, value.values.tolist()) for name, value in found.items()
    }


def test_numbers_that_are_not_finite_are_read_and_written():
    values = TensorValue("DT_FLOAT", np.array([np.nan, np.inf, -np.inf], np.float32))

    text = rest_payload(PredictRequest("s", {"x": values}, rows=True))
    found = outputs_of(
        json.loads('{"predictions": [NaN, Infinity, -Infinity]}'), {"y": Tensor("DT_FLOAT", (-1,))}
    )

    assert [True, False, False] == np.isnan(found["y"].values).tolist()
    assert b'[{"x":NaN},{"x":Infinity},{"x":-Infinity}]' in text


def test_a_scalar_has_no_list():
    scalar = {
        "x": TensorValue("DT_FLOAT", np.array(2, np.float32)),
        "word": TensorValue("DT_STRING", np.array(b"a", object)),
    }

    body = to_body(scalar, rows=False)

    assert {"inputs": {"x": 2.0, "word": {"b64": "YQ=="}}} == body
    back = inputs_of(body, {"x": Tensor("DT_FLOAT", ()), "word": Tensor("DT_STRING", ())})
    assert (2.0, b"a") == (back["x"].values.item(), back["word"].values.item())


@pytest.mark.parametrize(
    ("answer", "declared", "error"),
    [
        ({}, {"y": "FLOAT"}, "expected 'predictions' or 'outputs', got nothing"),
        ({"predictions": []}, {"y": "FLOAT"}, "expected a list of rows"),
        ({"predictions": 3}, {"y": "FLOAT"}, "expected a list of rows"),
        (
            {"predictions": [1.0]},
            {"y": "FLOAT", "z": "FLOAT"},
            "expected y, z, got one output without a name",
        ),
        ({"outputs": [1.5]}, {"y": "INT32"}, "output y: expected DT_INT32, got 1.5"),
        ({"outputs": [True]}, {"y": "FLOAT"}, "output y: expected DT_FLOAT, got True"),
        ({"outputs": ["1"]}, {"y": "FLOAT"}, "output y: expected DT_FLOAT, got '1'"),
        ({"outputs": [1]}, {"y": "STRING"}, "output y: expected a string, got 1"),
        ({"outputs": [[1], [1, 2]]}, {"y": "FLOAT"}, "expected lists of one length at each depth"),
        ({"outputs": [[1], 2]}, {"y": "FLOAT"}, "expected lists of one length at each depth"),
        ({"outputs": [300]}, {"y": "INT8"}, "output y: expected DT_INT8"),
        ({"outputs": [1e300]}, {"y": "FLOAT"}, "a number that is too large"),
        ({"outputs": {"b64": "?"}}, {"y": "STRING"}, "expected base64"),
        ({"outputs": [1]}, {"y": "COMPLEX64"}, "DT_COMPLEX64 cannot be carried by JSON"),
        ({"outputs": [1, "a"]}, {}, "output output: expected values of one type"),
    ],
)
def test_json_that_is_no_answer_is_refused(answer, declared, error):
    tensors = {name: Tensor(f"DT_{dtype}", None) for name, dtype in declared.items()}

    with pytest.raises(ValueError, match=error):
        outputs_of(answer, tensors)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (True, "DT_BOOL"),
        ([1, 2], "DT_INT64"),
        ([1, 2.5], "DT_DOUBLE"),
        (["a"], "DT_STRING"),
        ([[], []], "DT_BOOL"),
    ],
)
def test_an_output_that_is_not_declared_has_the_type_of_its_values(value, dtype):
    assert dtype == dense(value, "", "y").dtype
