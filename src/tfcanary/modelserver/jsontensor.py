"""
Read the REST API's requests: JSON to tensors.

Follows tensorflow_serving/util/json_tensor.cc for the two forms of a request, for what each may contain, and for the
numbers that are too large for a type.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import DT_STRING, Array, numpy_type, type_name

# Messages quote the beginning of a value, because requests have megabytes.
_SHOWN_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class JsonRequest:
    """
    A parsed predict request.

    Attributes:
        signature_name: empty for the default signature.
        row: True for ``instances`` (rows), False for ``inputs`` (columns); the answer has the same form.
        values: the JSON value of ``instances`` or ``inputs``.
    """

    signature_name: str
    row: bool
    values: Any


def parse_object(body: bytes) -> dict[str, Any]:
    """
    Parse a body whose top level must be an object.

    Raises:
        ServingError: INVALID_ARGUMENT, because the body is no JSON or no object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _loads_leniently(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    return document


def _loads_leniently(body: bytes) -> Any:
    """
    Parse the API's extensions of JSON: NaN, Infinity, and integers of any length.
    """
    try:
        # Given bytes, json would also take UTF-16, in which `require_shallow` cannot count brackets.
        return json.loads(body.decode())
    except RecursionError:
        raise invalid("JSON Parse error: nested too deeply") from None
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from None


def signature_name(document: dict[str, Any]) -> str:
    """
    Read the signature's name from a request; empty if it has none.

    Raises:
        ServingError: INVALID_ARGUMENT, because the name is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return well_formed(name)


def well_formed(value: str) -> str:
    """
    Return a string unless it has half a surrogate pair, which JSON can write and no proto can hold.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from None
    return value


def parse_predict(body: bytes) -> JsonRequest:
    """
    Read the body of a ``:predict`` request.

    Raises:
        ServingError: INVALID_ARGUMENT, because the body is malformed.
    """
    document = parse_object(body)
    name = signature_name(document)
    if "instances" in document:
        if "inputs" in document:
            raise invalid(
                f"JSON Value: {_shown(document)} Not formatted correctly expecting only"
                " one of 'inputs' or 'instances' keys to exist "
            )
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(f"JSON Value: {_shown(document)} Excepting 'instances' to be an list/array")
        if not instances:
            raise invalid(f"JSON Value: {_shown(document)} No values in 'instances' array")
        return JsonRequest(name, row=True, values=instances)
    if "inputs" in document:
        return JsonRequest(name, row=False, values=document["inputs"])
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
        return {name: _of_instances(instances, dtype)}
    names = set(dtypes)
    for index, item in enumerate(instances):
        if not _is_named(item):
            raise invalid(f"Expecting object but got list at item {index} of input list")
        for key in item:
            if key not in names:
                raise invalid(
                    f"Failed to process element: {index} key: {key} of 'instances' list. "
                    f"Error: INVALID_ARGUMENT: JSON object: does not have named input: {key}"
                )
        if set(item) != names:
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_shown(item)} "
                f"keys must be equal to: {','.join(sorted(names))}"
            )
    return {
        name: _of_instances([item[name] for item in instances], dtype, name) for name, dtype in dtypes.items()
    }


def _of_instances(instances: list[Any], dtype: int, key: str | None = None) -> Array:
    try:
        return dense(instances, dtype)
    except ServingError as error:
        where = "" if key is None else f"key: {key} "
        raise ServingError(
            error.code, f"Failed to process {where}of 'instances' list. Error: {error.message}"
        ) from None


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
                f"JSON Value: {_shown(item)} found at incorrect level: {level + 1} in the JSON DOM. "
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
    allowed: set[type]
    if kind.kind == "b":
        allowed = {bool}
    elif kind.kind in "iu":
        allowed = {int}
    elif kind.kind == "c":
        raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value to type: {type_name(dtype)}")
    else:
        allowed = {int, float}
    if not found <= allowed:
        raise _type_error(next(value for value in values if type(value) not in allowed), dtype)
    if kind.kind in "iu":
        return _integers(values, kind, dtype)
    if kind.kind == "b":
        return np.array(values, dtype=np.bool_)
    return _decimals(values, kind, dtype, has_integers=int in found)


def _integers(values: list[int], kind: np.dtype[Any], dtype: int) -> Array:
    limits = np.iinfo(kind)
    if values and (min(values) < limits.min or max(values) > limits.max):
        raise _type_error(next(v for v in values if not limits.min <= v <= limits.max), dtype)
    return np.array(values, dtype=kind)


def _decimals(values: list[Any], kind: np.dtype[Any], dtype: int, *, has_integers: bool) -> Array:
    """
    Make floats. Numbers that the type cannot hold are refused, as by TensorFlow Serving's IsLosslessDecimal().
    """
    exact = 2 ** (np.finfo(kind).nmant + 1) - 1 if kind.name != "bfloat16" else 2**8 - 1
    try:
        wide = np.array(values, dtype=np.float64)
    except OverflowError:
        wide = None
    if has_integers and (wide is None or bool((np.abs(wide) > exact).any())):
        for value in values:
            if type(value) is int and not -exact <= value <= exact:
                raise _lossy(value, dtype)
    assert wide is not None  # noqa: S101 - only an integer overflows a float64, and it was refused above
    with np.errstate(over="ignore"):
        result = wide.astype(kind)
    overflowed = np.isfinite(wide) & ~np.isfinite(result)
    if overflowed.any():
        raise _lossy(values[int(np.argmax(overflowed))], dtype)
    return result


def string(value: Any) -> bytes:
    """
    Read a JSON string as UTF-8, or a base64 object as the bytes that it encodes.

    Raises:
        ServingError: INVALID_ARGUMENT for any other value.
    """
    if type(value) is str:
        return value.encode("utf-8", "surrogatepass")
    if is_base64(value):
        return _from_base64(value["b64"])
    if isinstance(value, dict):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    raise _type_error(value, DT_STRING)


def _from_base64(text: str) -> bytes:
    try:
        data = b"".join(text.encode("ascii").split())
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise invalid("Unable to base64 decode") from None


def kind_of(value: Any) -> str:
    """
    Name the kind of a JSON value as TensorFlow Serving's messages do.
    """
    kinds = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
    return str(value) if isinstance(value, bool) else kinds[type(value)]


def _type_error(value: Any, dtype: int) -> ServingError:
    return invalid(
        f"JSON Value: {_shown(value)} Type: {kind_of(value)} is not of expected type: {type_name(dtype)}"
    )


def _lossy(value: Any, dtype: int) -> ServingError:
    return invalid(
        f"Cannot convert JSON value: {_shown(value)} to {type_name(dtype)} without loss of precision."
    )


def _shown(value: Any) -> str:
    """
    Quote the beginning of a value for a message.
    """
    encoder = json.JSONEncoder(ensure_ascii=False)
    text = ""
    for piece in encoder.iterencode(value):
        text += piece
        if len(text) > _SHOWN_CHARACTERS:
            return text[:_SHOWN_CHARACTERS] + "…"
    return text
