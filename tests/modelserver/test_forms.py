"""
Every form of a predict request over REST, with the original's status and body, for a model of each kind.

The answers follow from FillPredictRequestFromJson() and MakeJsonFromTensors() of tensorflow_serving/util/json_tensor.cc and
from the models: plus is x / 2 + 2 for a float x of shape [-1]; pair sums the last dimension of a float a of shape [-1, 2],
and doubles an int64 b of shape [-1].
"""

import json
import math
from typing import Any

import numpy as np
import pytest

KINDS = ["tf1", "tf2", "tflite"]


def plus(number: float) -> float:
    """
    What the model makes of a number: a float32, written with the nine digits that it needs at most.
    """
    return float(f"{np.float32(number) / np.float32(2) + np.float32(2):.9g}")


# What is sent, and the answer: 200's body, or the error that 400 or another status has. Before ~ an error quotes the request.
PLUS: dict[str, tuple[bytes, Any]] = {
    "rows": (b'{"instances": [1.0, 2.0, 5.0]}', {"predictions": [2.5, 3.0, 4.5]}),
    "rows, whole numbers": (b'{"instances": [1, 2, 5]}', {"predictions": [2.5, 3.0, 4.5]}),
    "rows, named": (b'{"instances": [{"x": 1.0}, {"x": 2.0}]}', {"predictions": [2.5, 3.0]}),
    "rows, lists": (b'{"instances": [[1.0], [2.0]]}', {"predictions": [[2.5], [3.0]]}),
    "rows, lists of lists": (b'{"instances": [[[1.0, 2.0]]]}', {"predictions": [[[2.5, 3.0]]]}),
    "rows, named lists": (b'{"instances": [{"x": [1.0, 2.0]}]}', {"predictions": [[2.5, 3.0]]}),
    "column": (b'{"inputs": [2.0]}', {"outputs": [3.0]}),
    "column, scalar": (b'{"inputs": 2.0}', {"outputs": 3.0}),
    "column, named": (b'{"inputs": {"x": [2.0]}}', {"outputs": [3.0]}),
    "column, named scalar": (b'{"inputs": {"x": 2.0}}', {"outputs": 3.0}),
    "column, others ignored": (b'{"inputs": {"x": [2.0], "z": ["a"]}}', {"outputs": [3.0]}),
    "column, matrix": (b'{"inputs": [[2.0, 4.0]]}', {"outputs": [[3.0, 4.0]]}),
    "signature": (b'{"signature_name": "serving_default", "instances": [1]}', {"predictions": [2.5]}),
    "signature, empty": (b'{"signature_name": "", "instances": [1]}', {"predictions": [2.5]}),
    "other keys ignored": (b'{"user": {"id": [1]}, "instances": [1]}', {"predictions": [2.5]}),
    "a Unix time": (b'{"instances": [1700000000]}', {"predictions": [plus(1700000000)]}),
    "above 2^24": (b'{"instances": [16777217]}', {"predictions": [plus(16777217)]}),
    "above 2^64": (b'{"instances": [18446744073709551616]}', {"predictions": [plus(2.0**64)]}),
    "exponent": (b'{"instances": [1E+2, 1e-2]}', {"predictions": [52.0, 2.005]}),
    "minus zero": (b'{"instances": [-0.0, -0]}', {"predictions": [2.0, 2.0]}),
    "too small": (b'{"instances": [1e-60]}', {"predictions": [2.0]}),
    "beyond a float": (b'{"instances": [1e39, -1e39]}', {"predictions": [math.inf, -math.inf]}),
    "NaN": (b'{"instances": [NaN]}', {"predictions": [math.nan]}),
    "Infinity": (b'{"instances": [Infinity, -Infinity]}', {"predictions": [math.inf, -math.inf]}),
    "Inf": (b'{"instances": [Inf, -Inf]}', {"predictions": [math.inf, -math.inf]}),
    "byte order mark": (b'\xef\xbb\xbf{"instances": [1]}', {"predictions": [2.5]}),
    "blanks around": (b' \r\n\t{ "instances" : [ 1 ] } \n', {"predictions": [2.5]}),
    "NUL behind": (b'{"instances": [1]}\x00', {"predictions": [2.5]}),
    "text behind": (b'{"instances": [1]} and more', {"predictions": [2.5]}),
    "a key twice": (b'{"instances": [1], "instances": [2]}', {"predictions": [2.5]}),
    "an escaped key": (rb'{"\u0069nstances": [1]}', {"predictions": [2.5]}),
    "bytes in an ignored text": (b'{"user": "\xff", "instances": [1]}', {"predictions": [2.5]}),
    "beyond a double": (
        b'{"instances": [1e400]}',
        "JSON Parse error: Number too big to be stored in double. at offset: ~",
    ),
    "half a surrogate pair": (
        rb'{"user": "\ud800", "instances": [1]}',
        "JSON Parse error: The surrogate pair in string is invalid. at offset: ~",
    ),
    "nothing": (b"", "JSON Parse error: The document is empty"),
    "a list": (b"[1]", "JSON Value: [1] Is not object"),
    "a number": (b"1", "JSON Value: 1 Is not object"),
    "cut": (
        b'{"instances": [1',
        "JSON Parse error: Missing a comma or ] after an array element. at offset: 16",
    ),
    "no JSON": (b"x=1", "JSON Parse error: Invalid value. at offset: 0"),
    "no keys": (b"{}", "Missing 'inputs' or 'instances' key"),
    "both keys": (
        b'{"instances": [1], "inputs": [1]}',
        "~ Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
    ),
    "rows, no list": (b'{"instances": 1}', "~ Excepting 'instances' to be an list/array"),
    "rows, an object": (b'{"instances": {"x": 1}}', "~ Excepting 'instances' to be an list/array"),
    "rows, none": (b'{"instances": []}', "~ No values in 'instances' array"),
    "signature, no text": (
        b'{"signature_name": 1, "instances": [1]}',
        "~ not formatted correctly. 'signature_name' key must be a string value.",
    ),
    "signature, unknown": (
        b'{"signature_name": "nope", "instances": [1]}',
        'Serving signature name: "nope" not found in signature def',
    ),
    "signature, unknown, before the keys": (
        b'{"signature_name": "nope"}',
        'Serving signature name: "nope" not found in signature def',
    ),
    "column, text": (b'{"inputs": ["a"]}', 'JSON Value: "a" Type: String is not of expected type: float'),
    "column, true": (b'{"inputs": [true]}', "JSON Value: true Type: True is not of expected type: float"),
    "column, null": (b'{"inputs": null}', "JSON Value: null Type: Null is not of expected type: float"),
    "column, base64": (
        b'{"inputs": {"b64": "AA=="}}',
        'JSON Value: {"b64": "AA=="} Type: Object is not of expected type: float',
    ),
    "column, other name": (b'{"inputs": {"z": [1]}}', "Missing named input: x in 'inputs' object."),
    "column, deeper": (b'{"inputs": [1, [2]]}', "Encountered list at unexpected level: 1 expected < 1"),
    "column, shallower": (
        b'{"inputs": [[1], 2]}',
        "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    "column, ragged": (
        b'{"inputs": [[1, 2], [3]]}',
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    "rows, text": (
        b'{"instances": [1, "a"]}',
        (
            "Failed to process element: 1 of 'instances' list. "
            'Error: INVALID_ARGUMENT: JSON Value: "a" Type: String is not of expected type: float'
        ),
    ),
    "rows, other name": (
        b'{"instances": [{"z": 1}]}',
        (
            "Failed to process element: 0 key: z of 'instances' list. "
            "Error: INVALID_ARGUMENT: JSON object: does not have named input: z"
        ),
    ),
    "rows, other size": (
        b'{"instances": [[1, 2], [3]]}',
        (
            "Failed to process element: 1 of 'instances' list. "
            "Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1"
        ),
    ),
    "rows, other shape": (
        b'{"instances": [1, [2]]}',
        (
            "Failed to process element: 1 of 'instances' list. "
            "Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]"
        ),
    ),
    "rows, named, then not": (
        b'{"instances": [{"x": 1}, 2]}',
        "Expecting object but got list at item 1 of input list",
    ),
    "rows, not named, then so": (
        b'{"instances": [1, {"x": 2}]}',
        "Expecting value/list but got object at item 1 of input list",
    ),
}
PAIR: dict[str, tuple[bytes, Any]] = {
    "rows": (
        b'{"instances": [{"a": [1, 2], "b": 3}, {"b": 6, "a": [4, 5]}]}',
        {"predictions": [{"sum": 3.0, "twice": 6}, {"sum": 9.0, "twice": 12}]},
    ),
    "columns": (
        b'{"inputs": {"a": [[1, 2], [4, 5]], "b": [3, 6]}}',
        {"outputs": {"sum": [3.0, 9.0], "twice": [6, 12]}},
    ),
    "columns of different lengths": (
        b'{"inputs": {"a": [[1, 2]], "b": [3, 4, 5]}}',
        {"outputs": {"sum": [3.0], "twice": [6, 8, 10]}},
    ),
    "three where two are declared": (
        b'{"inputs": {"a": [[1, 2, 3]], "b": [[3]]}}',
        {"outputs": {"sum": [6.0], "twice": [[6]]}},
    ),
    "the largest integers": (
        b'{"inputs": {"a": [[0, 0]], "b": [4611686018427387903, -4611686018427387904]}}',
        {"outputs": {"sum": [0.0], "twice": [2**63 - 2, -(2**63)]}},
    ),
    "integers that wrap around": (
        b'{"inputs": {"a": [[0, 0]], "b": [9223372036854775807]}}',
        {"outputs": {"sum": [0.0], "twice": [-2]}},
    ),
    "a number with a point for an integer": (
        b'{"inputs": {"a": [[1, 2]], "b": [3.0]}}',
        "JSON Value: 3.0 Type: Number is not of expected type: int64",
    ),
    "an integer beyond 64 bits": (
        b'{"inputs": {"a": [[1, 2]], "b": [9223372036854775808]}}',
        "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64",
    ),
    "false for an integer": (
        b'{"inputs": {"a": [[1, 2]], "b": [false]}}',
        "JSON Value: false Type: False is not of expected type: int64",
    ),
    "rows, one missing": (
        b'{"instances": [{"a": [1, 2]}]}',
        "Failed to process element: 0 of 'instances' list. JSON object: ~ keys must be equal to: a,b",
    ),
    "rows, one too many": (
        b'{"instances": [{"a": [1, 2], "b": 1, "c": 1}]}',
        (
            "Failed to process element: 0 key: c of 'instances' list. "
            "Error: INVALID_ARGUMENT: JSON object: does not have named input: c"
        ),
    ),
    "rows, not named": (
        b'{"instances": [1]}',
        (
            "instances is a plain list, but expecting list of objects as multiple "
            "input tensors required as per tensorinfo_map"
        ),
    ),
    "columns, one missing": (b'{"inputs": {"a": [[1, 2]]}}', "Missing named input: b in 'inputs' object."),
    "columns, not named": (
        b'{"inputs": [1]}',
        (
            "inputs is a plain value/list, but expecting an object as multiple "
            "input tensors required as per tensorinfo_map"
        ),
    ),
}
FORMS = [
    pytest.param(model, body, answer, id=f"{model}: {name}")
    for model, forms in (("plus", PLUS), ("pair", PAIR))
    for name, (body, answer) in forms.items()
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("model", "body", "answer"), FORMS)
def test_every_form_has_the_originals_answer(
    originals: Any, kind: str, model: str, body: bytes, answer: Any
) -> None:
    got = originals.rest.post(f"/v1/models/{kind}_{model}:predict", content=body)

    assert (400 if isinstance(answer, str) else 200, "application/json") == (
        got.status_code,
        got.headers["content-type"],
    )
    # As text: NaN is no NaN's equal, and 1 is 1.0's.
    assert written(answer) == written(fitted(got.json(), answer))


def written(answer: Any) -> str:
    return json.dumps({"error": answer} if isinstance(answer, str) else answer, sort_keys=True)


def fitted(got: Any, answer: Any) -> Any:
    """
    Cut what an error quotes, where the table has ~.
    """
    if not isinstance(answer, str) or "~" not in answer:
        return got
    before, _, after = answer.partition("~")
    said = got["error"]
    return {"error": f"{said[: len(before)]}~{said[len(said) - len(after) :] if after else ''}"}


def test_the_table_has_sixty_forms() -> None:
    assert len(FORMS) >= 60
