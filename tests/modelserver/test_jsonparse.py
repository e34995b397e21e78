"""
JSON is read as RapidJSON 1.1.0 reads it for ParseJson() of tensorflow_serving/util/json_tensor.cc.
"""

import json
import math
from typing import Any

import numpy as np
import pytest

from tfcanary.modelserver import jsonparse, jsontensor
from tfcanary.modelserver.protos import DataType
from tfcanary.modelserver.status import Code, ServingError


def values(text: bytes) -> Any:
    return jsonparse.parse_object(b'{"v": ' + text + b"}")["v"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'\xef\xbb\xbf{"v": 1}', {"v": 1}, id="byte order mark"),
        pytest.param(b'{"v": 1}\x00', {"v": 1}, id="NUL after it"),
        pytest.param(b'{"v": 1} and more {', {"v": 1}, id="anything after it"),
        pytest.param(b' \r\n\t{"v": 1}x', {"v": 1}, id="blanks before it"),
        pytest.param(b'{"v": 1, "v": 2}', {"v": 1}, id="a name twice"),
        pytest.param(b'{"v": {"a": ":", "a": 2}}', {"v": {"a": ":"}}, id="a name twice inside"),
        pytest.param(
            b'{"v": [[1, {"a:": 1, "a:": 2}]]}', {"v": [[1, {"a:": 1}]]}, id="a name twice in lists"
        ),
        pytest.param(b'{"v": ":", "w": "\\":"}', {"v": ":", "w": '":'}, id="colons in strings"),
    ],
)
def test_what_rapidjson_takes_is_taken(body: bytes, expected: Any) -> None:
    assert expected == jsonparse.parse_object(body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Inf", math.inf),
        (b"-Inf", -math.inf),
        (b"Infinity", math.inf),
        (b"-Infinity", -math.inf),
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", 1.8446744073709552e19),
        (b"-9223372036854775809", -9.223372036854775808e18),
        (b"1" * 40, 1.1111111111111112e39),
    ],
)
def test_numbers_have_rapidjsons_value(text: bytes, expected: float) -> None:
    got = values(text)

    assert (type(expected), expected) == (type(got), got)
    # NaN is there to have the other parser read it.
    assert values(b"[NaN, " + text + b"]")[1] == expected


@pytest.mark.parametrize("text", [b"NaN", b"-NaN"])
def test_nan_is_read(text: bytes) -> None:
    assert math.isnan(values(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b'"\xff\xfea"', b"\xff\xfea", id="no UTF-8"),
        pytest.param(b'"Inf NaN -Inf"', b"Inf NaN -Inf", id="words in a string"),
        pytest.param(rb'"\ud83d\ude00"', "😀".encode(), id="pair"),
        pytest.param(rb'["\ud83d\ude00", NaN]', "😀".encode(), id="pair beside NaN"),
        pytest.param(rb'"\udc80"', b"\xed\xb2\x80", id="second half alone"),
        pytest.param(rb'"\\ud800"', rb"\ud800", id="an escaped backslash"),
        pytest.param(b'"\xc3\xbc"', "ü".encode(), id="UTF-8"),
    ],
)
def test_strings_keep_their_bytes(text: bytes, expected: bytes) -> None:
    got = values(text)

    assert expected == jsontensor.string(got[0] if isinstance(got, list) else got)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"", "The document is empty", id="empty"),
        pytest.param(b" \n", "The document is empty. at offset: 2", id="blank"),
        pytest.param(b"{", "Missing a name for object member. at offset: 1", id="open"),
        pytest.param(b'{"v": 1,}', "Missing a name for object member. at offset: 8", id="comma"),
        pytest.param(b'{"v" 1}', "Missing a colon after a name of object member. at offset: 5", id="colon"),
        pytest.param(b'{"v": x}', "Invalid value. at offset: 6", id="word"),
        pytest.param(b'{"v": trUe}', "Invalid value. at offset: 8", id="word that begins as another"),
        pytest.param(b'{"v": 1 2}', "Missing a comma or } after an object member. at offset: 8", id="member"),
        pytest.param(
            b'{"v": [1, "]", 1 2]}',
            "Missing a comma or ] after an array element. at offset: 17",
            id="element",
        ),
        pytest.param(b'{"v": "x', "Missing a closing quotation mark in string. at offset: 6", id="string"),
        pytest.param(rb'{"v": "\x"}', "Invalid escape character in string. at offset: 7", id="escape"),
        pytest.param(rb'{"v": "\ud800"}', "The surrogate pair in string is invalid. at offset: ", id="half"),
        pytest.param(b'{"v": 1e400}', "Number too big to be stored in double. at offset: ", id="too big"),
        pytest.param(
            b'{"v": ' + b"9" * 5000 + b"}", "Number too big to be stored in double. at offset: ", id="long"
        ),
    ],
)
def test_what_rapidjson_refuses_is_refused_in_its_words(body: bytes, message: str) -> None:
    with pytest.raises(ServingError) as caught:
        jsonparse.parse_object(body)

    assert Code.INVALID_ARGUMENT == caught.value.code
    assert caught.value.message.startswith(f"JSON Parse error: {message}")


def dense(value: Any, dtype: str) -> Any:
    return jsontensor.dense(value, DataType.Value(dtype))


@pytest.mark.parametrize("number", [1700000000, 16777217, 2**53 + 1, -(2**63), 2**64 - 1, 1.5, 10.0**30])
@pytest.mark.parametrize(("dtype", "kind"), [("DT_FLOAT", np.float32), ("DT_DOUBLE", np.float64)])
def test_a_number_becomes_the_nearest_of_its_type(number: float, dtype: str, kind: Any) -> None:
    """AddValueToTensor() has no IsLosslessDecimal() since 2.5.0 (57dac6c)."""
    assert kind(float(number)) == dense([number, 1.5], dtype)[0]


@pytest.mark.parametrize(("number", "expected"), [(1e39, math.inf), (-1e39, -math.inf)])
def test_a_number_beyond_a_floats_range_is_infinity(number: float, expected: float) -> None:
    assert [expected] == dense([number], "DT_FLOAT").tolist()
    assert [number] == dense([number], "DT_DOUBLE").tolist()


@pytest.mark.parametrize(
    ("dtype", "number", "expected"),
    [
        ("DT_INT8", 300, 44),
        ("DT_UINT8", -1, 255),
        ("DT_INT16", 2**31 - 1, -1),
        ("DT_INT32", -(2**31), -(2**31)),
        ("DT_UINT32", 2**32 - 1, 2**32 - 1),
        ("DT_INT64", -(2**63), -(2**63)),
        ("DT_UINT64", 2**64 - 1, 2**64 - 1),
    ],
)
def test_an_integer_wraps_around_in_a_smaller_type(dtype: str, number: int, expected: int) -> None:
    """IsInt() is asked for all types of at most 32 bits, and Tensor::FromProto() takes the lowest bits."""
    assert [expected] == dense([number], dtype).tolist()


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("DT_INT8", 2**31), ("DT_UINT8", 1.0), ("DT_UINT32", -1), ("DT_INT64", 2**63), ("DT_UINT64", -1)],
)
def test_a_number_that_is_not_of_the_type_is_refused(dtype: str, number: float) -> None:
    with pytest.raises(ServingError, match="Type: Number is not of expected type: "):
        dense([number], dtype)


@pytest.mark.parametrize("dtype", ["DT_HALF", "DT_BFLOAT16", "DT_UINT16", "DT_COMPLEX64"])
def test_json_has_no_other_types(dtype: str) -> None:
    """The default of AddValueToTensor()."""
    name = dtype.removeprefix("DT_").lower()

    with pytest.raises(ServingError, match=f"Conversion of JSON Value: 1 to type: {name}$") as caught:
        dense([1], dtype)

    assert Code.UNIMPLEMENTED == caught.value.code


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(
            [1.5, "a"],
            "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"a\" Type: String"
            " is not of expected type: float",
            id="type",
        ),
        pytest.param(
            [[1.0, 2.0], [1.0]],
            "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1",
            id="size",
        ),
        pytest.param(
            [[[1.0, 2.0]], [[1.0], [2.0]]],
            "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [1,2] but got: [2,1]",
            id="shape",
        ),
        pytest.param(
            [{"x": 1.0}, {"x": [2.0]}],
            "element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]",
            id="named",
        ),
        pytest.param(
            [{"x": 1.0}, {"z": 2.0}],
            "element: 1 key: z of 'instances' list. "
            "Error: INVALID_ARGUMENT: JSON object: does not have named input: z",
            id="name",
        ),
    ],
)
def test_a_wrong_row_is_named(rows: Any, message: str) -> None:
    """FillTensorMapFromInstancesList() and AddInstanceItem()."""
    request = jsontensor.parse_predict(json.loads(json.dumps({"instances": rows})))

    with pytest.raises(ServingError) as caught:
        jsontensor.tensors(request, {"x": DataType.Value("DT_FLOAT")})

    assert (Code.INVALID_ARGUMENT, f"Failed to process {message}") == (
        caught.value.code,
        caught.value.message,
    )
