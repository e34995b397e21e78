"""
Read the REST API's requests: JSON to tensors.

Follows tensorflow_serving/util/json_tensor.cc for the two forms of a request, for the types that each may contain, and
for what it says about those that are wrong.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from tfcanary.modelserver.jsonparse import shown
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import DT_STRING, Array, numpy_type, type_name

# The integers that JSON values are held against, by the kinds of tensors that take them: AddValueToTensor() asks IsInt()
# for the small ones, and the tensor wraps around.
_INTEGERS: dict[str, Any] = {
    **dict.fromkeys(("int8", "int16", "int32", "uint8"), np.iinfo(np.int32)),
    "int64": np.iinfo(np.int64),
    "uint32": np.iinfo(np.uint32),
    "uint64": np.iinfo(np.uint64),
}
_DECIMALS = frozenset({"float32", "float64"})
# As absl::Base64Unescape(): digits, then no padding or all of it, of either kind, with blanks anywhere.
_BASE64 = re.compile(rb"(?P<digits>[A-Za-z0-9+/]*)(?P<padding>[=.]*)")
_PADDING = {0: 0, 2: 2, 3: 1}


@dataclass(frozen=True, slots=True)
class JsonRequest:
    """
    A parsed predict request.

    Attributes:
        row: True for ``instances`` (rows), False for ``inputs`` (columns); the answer has the same form.
        values: the JSON value of ``instances`` or ``inputs``.
    """

    row: bool
    values: Any


def signature_name(document: dict[str, Any]) -> str:
    """
    Read the signature's name from a request; empty if it has none or means the default.

    Raises:
        ServingError: INVALID_ARGUMENT, because the name is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def parse_predict(document: dict[str, Any]) -> JsonRequest:
    """
    Read the body of a ``:predict`` request.

    Raises:
        ServingError: INVALID_ARGUMENT, because the body has not the keys that it needs, or other values for them.
    """
    if "instances" in document:
        if "inputs" in document:
            raise invalid(
                f"JSON Value: {shown(document)} Not formatted correctly expecting only"
                " one of 'inputs' or 'instances' keys to exist "
            )
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(f"JSON Value: {shown(document)} Excepting 'instances' to be an list/array")
        if not instances:
            raise invalid(f"JSON Value: {shown(document)} No values in 'instances' array")
        return JsonRequest(row=True, values=instances)
    if "inputs" in document:
        return JsonRequest(row=False, values=document["inputs"])
    raise invalid("Missing 'inputs' or 'instances' key")


def tensors(request: JsonRequest, dtypes: Mapping[str, int]) -> dict[str, Array]:
    """
    Make the tensors of a request.

    Args:
        request: the parsed body.
        dtypes: the dtype of each input of the signature, by alias.

    Returns:
        a tensor for each input, by alias; rows become the first dimension.

    Raises:
        ServingError: an input is missing or unknown, or a value does not fit its dtype.
    """
    return _from_rows(request.values, dtypes) if request.row else _from_columns(request.values, dtypes)


def _from_rows(instances: list[Any], dtypes: Mapping[str, int]) -> dict[str, Array]:
    if not isinstance(instances[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple "
            "input tensors required as per tensorinfo_map"
        )
    if not _is_named(instances[0]):
        for index, item in enumerate(instances):
            if _is_named(item):
                raise invalid(f"Expecting value/list but got object at item {index} of input list")
        name, dtype = next(iter(dtypes.items()))
        try:
            return {name: dense(instances, dtype)}
        except ServingError:
            raise _wrong_row([{name: item} for item in instances], dtypes, named=False) from None
    for index, item in enumerate(instances):
        if not _is_named(item):
            raise invalid(f"Expecting object but got list at item {index} of input list")
    try:
        if all(item.keys() == dtypes.keys() for item in instances):
            return {name: dense([item[name] for item in instances], dtype) for name, dtype in dtypes.items()}
    except ServingError:
        pass
    raise _wrong_row(instances, dtypes, named=True)


def _wrong_row(rows: list[dict[str, Any]], dtypes: Mapping[str, int], *, named: bool) -> ServingError:
    """
    Find the first row that is wrong, and say why: the tensors of a request are made at once, the original's row by row.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for index, row in enumerate(rows):
        for name, value in row.items():
            try:
                _check_item(name, value, dtypes, shapes)
            except ServingError as error:
                key = f" key: {name}" if named else ""
                return invalid(
                    f"Failed to process element: {index}{key} of 'instances' list. "
                    f"Error: {error.code.name}: {error.message}"
                )
        if row.keys() != dtypes.keys():
            return invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {shown(row)} "
                f"keys must be equal to: {','.join(sorted(dtypes))}"
            )
    raise AssertionError  # its caller found a wrong row


def _check_item(name: str, value: Any, dtypes: Mapping[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
    """
    Hold one input of one row against its type, and against the first row's shape.
    """
    if name not in dtypes:
        raise invalid(f"JSON object: does not have named input: {name}")
    got = dense(value, dtypes[name]).shape
    first = shapes.setdefault(name, got)
    if np.prod(first) != np.prod(got):
        raise invalid(f"Expecting tensor size: {int(np.prod(first))} but got: {int(np.prod(got))}")
    if first != got:
        raise invalid(f"Expecting shape {_shape(first)} but got: {_shape(got)}")


def _shape(sizes: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, sizes))}]"


def _from_columns(value: Any, dtypes: Mapping[str, int]) -> dict[str, Array]:
    if not _is_named(value):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple "
                "input tensors required as per tensorinfo_map"
            )
        name, dtype = next(iter(dtypes.items()))
        return {name: dense(value, dtype)}
    for name in dtypes:
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: dense(value[name], dtype) for name, dtype in dtypes.items()}


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value: Any) -> bool:
    """
    Whether a value is ``{"b64": "..."}``.
    """
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def dense(value: Any, dtype: int) -> Array:
    """
    Make one tensor of nested lists; any other value is a scalar.

    The first elements determine the shape, and all others must agree. Each level is checked as a whole, which takes
    milliseconds for a picture of 150,000 numbers.

    Raises:
        ServingError: the lists are ragged, or a value does not fit the dtype.
    """
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    leaves: list[Any] = [value]
    for level, size in enumerate(shape):
        for item in _others(leaves, list):
            raise invalid(
                f"JSON Value: {shown(item)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        for got in set(map(len, leaves)) - {size}:
            raise invalid(
                f"Encountered list at unexpected size: {got} at level: {level} expected size: {size}"
            )
        leaves = list(chain.from_iterable(leaves))
    kinds = set(map(type, leaves))
    if list in kinds:
        raise invalid(f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}")
    return _leaves(leaves, kinds, dtype).reshape(shape)


def _others(values: list[Any], kind: type) -> Iterable[Any]:
    if set(map(type, values)) <= {kind}:
        return ()
    return (value for value in values if type(value) is not kind)


def _leaves(values: list[Any], found: set[type], dtype: int) -> Array:
    if dtype == DT_STRING:
        strings = np.empty(len(values), dtype=np.object_)
        strings[:] = [string(value) for value in values]
        return strings
    kind = np.dtype(numpy_type(dtype))
    allowed: set[type] = {int}
    if kind.kind == "b":
        allowed = {bool}
    elif kind.name in _DECIMALS:
        allowed = {int, float}
    elif kind.name not in _INTEGERS and values:
        return _no_such_type(values[0], dtype)
    if not found <= allowed:
        raise _type_error(next(value for value in values if type(value) not in allowed), dtype)
    if kind.name in _INTEGERS:
        return _integers(values, kind, dtype)
    with np.errstate(over="ignore"):  # a double beyond a float's range is infinity
        return np.array(values, dtype=np.bool_ if kind.kind == "b" else np.float64).astype(kind)


def _no_such_type(value: Any, dtype: int) -> Array:
    if isinstance(value, dict):
        raise _type_error(value, dtype)
    raise ServingError(
        Code.UNIMPLEMENTED, f"Conversion of JSON Value: {shown(value)} to type: {type_name(dtype)}"
    )


def _integers(values: list[int], kind: np.dtype[Any], dtype: int) -> Array:
    limits = _INTEGERS[kind.name]
    if values and (min(values) < limits.min or max(values) > limits.max):
        raise _type_error(next(v for v in values if not limits.min <= v <= limits.max), dtype)
    return np.array(values, dtype=limits.dtype).astype(kind)


def string(value: Any) -> bytes:
    """
    Read a JSON string as the bytes that it was sent as, or a base64 object as the bytes that it encodes.

    Raises:
        ServingError: INVALID_ARGUMENT for any other value.
    """
    if type(value) is str:
        return value.encode("utf-8", "surrogateescape")
    if is_base64(value):
        return _from_base64(value["b64"])
    if isinstance(value, dict):
        raise invalid(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    raise _type_error(value, DT_STRING)


def _from_base64(text: str) -> bytes:
    data = b"".join(text.encode("utf-8", "surrogateescape").split())
    match = _BASE64.fullmatch(data)
    padding = _PADDING.get(len(match["digits"]) % 4) if match else None
    if match is None or padding is None or len(match["padding"]) not in {0, padding}:
        raise invalid("Unable to base64 decode")
    try:
        return base64.b64decode(match["digits"] + b"=" * padding, validate=True)
    except binascii.Error:
        raise invalid("Unable to base64 decode") from None


def kind_of(value: Any) -> str:
    """
    Name the kind of a JSON value as TensorFlow Serving's messages do.
    """
    kinds = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
    return str(value) if isinstance(value, bool) else kinds[type(value)]


def _type_error(value: Any, dtype: int) -> ServingError:
    return invalid(
        f"JSON Value: {shown(value)} Type: {kind_of(value)} is not of expected type: {type_name(dtype)}"
    )
