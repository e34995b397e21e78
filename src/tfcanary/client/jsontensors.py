"""
The REST API's JSON to and from tensors.

A body has rows ("instances"), each with a value for every input, or columns ("inputs"), each a whole tensor. The answer
has the same form: "predictions" or "outputs". An only output has no name in it, and the bytes of a string are
{"b64": …}.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from tfcanary.client.answer import Tensor, TensorValue
from tfcanary.client.tensors import BFLOAT16, DTYPES, STRING, as_bfloat16, of_strings
from tfcanary.text import printable, short

ROWS, COLUMNS = "instances", "inputs"


def to_body(inputs: Mapping[str, TensorValue], *, rows: bool) -> dict[str, Any]:
    """
    The inputs as the body of a prediction, without its signature's name.

    Args:
        inputs: by name; for rows each has the same first dimension.
        rows: whether to write rows instead of columns.
    """
    written = {name: _written(value.values) for name, value in inputs.items()}
    if not rows:
        return {COLUMNS: written}
    return {ROWS: [dict(zip(written, row, strict=True)) for row in zip(*written.values(), strict=True)]}


def inputs_of(body: Mapping[str, Any], declared: Mapping[str, Tensor]) -> dict[str, TensorValue]:
    """
    The inputs of a body, as the signature declares them.

    Raises:
        ValueError: with the key, if the body has neither rows nor columns, or a value does not fit.
    """
    keys = [key for key in (ROWS, COLUMNS) if key in body]
    if len(keys) != 1:
        raise ValueError(f"expected one of {ROWS!r} and {COLUMNS!r}, got {' and '.join(keys) or 'neither'}")
    (key,) = keys
    found = _columns_of(body[key], key, declared)
    if set(found) != set(declared):
        raise ValueError(f"{key}: expected {_names(declared)}, got {_names(found)}")
    return {name: _checked(found[name], declared[name], f"{key}: {name}") for name in declared}


def outputs_of(answer: Mapping[str, Any], declared: Mapping[str, Tensor]) -> dict[str, TensorValue]:
    """
    The outputs of an answer.

    Args:
        answer: the JSON object.
        declared: the outputs by name; the type of any other is taken from its values.

    Raises:
        ValueError: if the answer has neither rows nor columns, or a value is not of the declared type.
    """
    key = next((key for key in ("predictions", "outputs") if key in answer), None)
    if key is None:
        raise ValueError(f"expected 'predictions' or 'outputs', got {_names(answer)}")
    found = answer[key]
    if key == "predictions":
        if not isinstance(found, list) or not found:
            raise ValueError("predictions: expected a list of rows")
        first = found[0]
        named = _is_named(first)
        if named:
            found = {name: [row[name] for row in found] for name in first}
    else:
        # Of several outputs each has a name, and so has an only one whose name is given all the same.
        named = _is_named(found) and (len(declared) != 1 or set(found) == set(declared))
    if not named:
        if len(declared) > 1:
            raise ValueError(f"{key}: expected {_names(declared)}, got one output without a name")
        found = {next(iter(declared), "output"): found}
    return {
        printable(name): dense(value, declared[name].dtype if name in declared else "", f"output {name}")
        for name, value in found.items()
    }


def dense(value: Any, dtype: str, what: str) -> TensorValue:
    """
    Make one tensor of nested lists; any other value is a scalar.

    Args:
        value: of JSON.
        dtype: TensorFlow's name of the type; empty takes it from the values.
        what: the name of the value, for the error.

    Raises:
        ValueError: if the lists are ragged, or a value does not fit the type.
    """
    shape: list[int] = []
    leaves = [value]
    while any(type(leaf) is list for leaf in leaves):
        sizes = {len(leaf) if type(leaf) is list else -1 for leaf in leaves}
        if len(sizes) > 1:
            raise ValueError(f"{what}: expected lists of one length at each depth")
        shape += sizes
        leaves = list(chain.from_iterable(leaves))
    kinds = set(map(type, leaves))
    dtype = dtype or _guessed(kinds, what)
    if dtype not in DTYPES:
        raise ValueError(f"{what}: {dtype} cannot be carried by JSON")
    return TensorValue(dtype, _leaves(leaves, kinds, dtype, what).reshape(shape))


def _columns_of(given: Any, key: str, declared: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """
    A value for each input, whichever form they are given in.
    """
    if key == COLUMNS:
        named, first = _is_named(given), given
    else:
        if not isinstance(given, list) or not given:
            raise ValueError(f"{key}: expected a list of rows, got {short(repr(given), 60)}")
        named, first = _is_named(given[0]), given[0]
    if not named:
        if len(declared) != 1:
            raise ValueError(f"{key}: expected {_names(declared)}, got {short(repr(first), 60)}")
        return {next(iter(declared)): given}
    if key == COLUMNS:
        return dict(given)
    for number, row in enumerate(given, 1):
        if not _is_named(row) or set(row) != set(first):
            raise ValueError(f"{key}: row {number}: expected {_names(first)}, got {short(repr(row), 60)}")
    return {name: [row[name] for row in given] for name in first}


def _checked(value: Any, declared: Tensor, what: str) -> TensorValue:
    made = dense(value, declared.dtype, what)
    if not declared.takes(made.values.shape):
        raise ValueError(
            f"{what}: expected shape {list(declared.shape or ())}, got {list(made.values.shape)}"
        )
    return made


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(printable(str(name)) for name in sorted(names)) or "nothing"


def _guessed(kinds: set[type], what: str) -> str:
    if kinds <= {bool}:
        return "DT_BOOL"
    if kinds <= {int}:
        return "DT_INT64"
    if kinds <= {int, float}:
        return "DT_DOUBLE"
    if kinds <= {str, dict}:
        return STRING
    raise ValueError(f"{what}: expected values of one type")


def _leaves(values: Sequence[Any], kinds: set[type], dtype: str, what: str) -> npt.NDArray[Any]:
    if dtype == STRING:
        return of_strings([_bytes(value, what) for value in values])
    kind = DTYPES[dtype]
    allowed: set[type] = {int, float} if kind.kind == "f" else {bool} if kind.kind == "b" else {int}
    if not kinds <= allowed:
        odd = next(value for value in values if type(value) not in allowed)
        raise ValueError(f"{what}: expected {dtype}, got {short(repr(odd), 60)}")
    try:
        if kind.kind != "f":
            return np.array(values, kind)
        wide = np.array(values, np.float64)
    except OverflowError as exc:
        raise ValueError(f"{what}: expected {dtype}: {exc}") from exc
    with np.errstate(over="ignore"):
        made = as_bfloat16(wide) if dtype == BFLOAT16 else wide.astype(kind)
    if (np.isfinite(wide) & ~np.isfinite(made)).any():
        raise ValueError(f"{what}: expected {dtype}, got a number that is too large for it")
    return made


def _bytes(value: Any, what: str) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if not _is_base64(value):
        raise ValueError(f"{what}: expected a string, got {short(repr(value), 60)}")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as exc:
        raise ValueError(f"{what}: expected base64: {exc}") from exc


def _written(values: npt.NDArray[Any]) -> Any:
    """
    An array as nested lists of JSON, strings as base64.
    """
    if values.dtype != object:
        return values.tolist()
    if values.ndim:
        return [
            _written(values[number : number + 1].reshape(values.shape[1:])) for number in range(len(values))
        ]
    return {"b64": base64.b64encode(values.item()).decode("ascii")}
