"""
TensorProto to and from arrays.
"""

import functools
import math
import types
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tfcanary.client.answer import TensorValue
from tfcanary.client.endpoint import MAX_MESSAGE_BYTES
from tfcanary.errors import UsageError
from tfcanary.protos import bare_tensorflow


@functools.cache
def protos() -> types.SimpleNamespace:
    """
    TensorFlow Serving's published protos, imported when first needed.
    """
    with bare_tensorflow():
        from tensorflow.core.framework import tensor_pb2, types_pb2  # noqa: PLC0415
        from tensorflow_serving.apis import (  # noqa: PLC0415
            get_model_metadata_pb2,
            predict_pb2,
            prediction_log_pb2,
        )
    return types.SimpleNamespace(
        get_model_metadata_pb2=get_model_metadata_pb2,
        predict_pb2=predict_pb2,
        prediction_log_pb2=prediction_log_pb2,
        tensor_pb2=tensor_pb2,
        types_pb2=types_pb2,
    )


STRING, BFLOAT16 = "DT_STRING", "DT_BFLOAT16"
# By TensorFlow's name: numpy's, and the field for values outside tensor_content.
_KINDS = {
    "DT_FLOAT": ("float32", "float_val"),
    "DT_DOUBLE": ("float64", "double_val"),
    "DT_HALF": ("float16", "half_val"),
    BFLOAT16: ("float32", "half_val"),
    "DT_INT8": ("int8", "int_val"),
    "DT_INT16": ("int16", "int_val"),
    "DT_INT32": ("int32", "int_val"),
    "DT_INT64": ("int64", "int64_val"),
    "DT_UINT8": ("uint8", "int_val"),
    "DT_UINT16": ("uint16", "int_val"),
    "DT_UINT32": ("uint32", "uint32_val"),
    "DT_UINT64": ("uint64", "uint64_val"),
    "DT_BOOL": ("bool", "bool_val"),
    STRING: ("object", "string_val"),
}
# What TensorFlow Serving's REST API carries no values of, in either direction: json_tensor.cc, FillTensor and
# AddSingleValueAndAdvance. It answers 501 or 400, and gRPC carries them.
NOT_IN_JSON = frozenset({"DT_HALF", BFLOAT16, "DT_UINT16"})
# What numpy holds the values of each type in.
DTYPES: Mapping[str, np.dtype[Any]] = {name: np.dtype(kind) for name, (kind, _) in _KINDS.items()}
_NAMES = {kind: name for name, (kind, _) in _KINDS.items() if name != BFLOAT16}
_EXPECTED = f"expected one of {', '.join(_KINDS)}"


def to_tensor(values: npt.NDArray[Any] | Sequence[bytes], dtype: str = "") -> Any:
    """
    Make a TensorProto of an array, or of a list of byte strings.

    Args:
        values: of any shape; strings are objects of type bytes.
        dtype: TensorFlow's name of the type; empty takes the array's own.

    Raises:
        UsageError: for an array of a type that TensorFlow Serving's JSON cannot carry, such as complex numbers.
    """
    if not isinstance(values, np.ndarray):
        values = of_strings(values)
    dtype = dtype or _NAMES.get(values.dtype.name, "")
    if dtype not in _KINDS:
        raise UsageError(f"a tensor of {dtype or values.dtype.name}: {_EXPECTED}")
    tensor = protos().tensor_pb2.TensorProto(dtype=protos().types_pb2.DataType.Value(dtype))
    tensor.tensor_shape.SetInParent()
    for size in values.shape:
        tensor.tensor_shape.dim.add(size=size)
    if dtype == STRING:
        tensor.string_val.extend(values.ravel().tolist())
    elif dtype == BFLOAT16:
        tensor.tensor_content = _bfloat16_bits(values).tobytes()
    else:
        tensor.tensor_content = np.ascontiguousarray(values, DTYPES[dtype]).tobytes()
    return tensor


def from_tensor(tensor: Any) -> npt.NDArray[Any]:
    """
    Make an array of a TensorProto; strings become objects of type bytes.

    Raises:
        ValueError: for a type that `to_tensor` refuses, or contents that do not fill the shape.
    """
    return value_of(tensor).values


def value_of(tensor: Any) -> TensorValue:
    """
    The type and the values of a TensorProto.

    Raises:
        ValueError: as `from_tensor`.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if size > MAX_MESSAGE_BYTES or min(shape, default=0) < 0:
        # A message of a few bytes can declare any shape, because TensorProto omits repetitions of the last value.
        raise ValueError(f"a tensor of shape {list(shape)}, expected at most {MAX_MESSAGE_BYTES} elements")
    known = protos().types_pb2.DataType
    name = known.Name(tensor.dtype) if tensor.dtype in known.values() else ""
    if name not in _KINDS:
        raise ValueError(f"a tensor of type {tensor.dtype} {name}: {_EXPECTED}")
    if tensor.tensor_content:
        values = _of_content(tensor.tensor_content, name, size)
    else:
        values = _of_field(getattr(tensor, _KINDS[name][1]), name)
        if len(values) < size:
            # TensorProto omits repetitions of the last value, and all values if they are zero.
            last = values[-1:] if len(values) else np.array([b""] if name == STRING else [0], values.dtype)
            values = np.concatenate([values, np.repeat(last, size - len(values))])
    return TensorValue(name, values.reshape(shape))


def of_strings(strings: Sequence[bytes]) -> npt.NDArray[Any]:
    """
    An array of byte strings, which numpy's own constructor would cut at a zero byte.
    """
    values = np.empty(len(strings), dtype=object)
    values[:] = strings
    return values


def as_bfloat16(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """
    The nearest numbers that bfloat16 can hold, as float32.
    """
    return (_bfloat16_bits(values).astype(np.uint32) << 16).view(np.float32)


def _bfloat16_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """
    The upper half of each float32, rounded to the nearest, of two the even one.
    """
    single = np.ascontiguousarray(values, np.float32).reshape(np.shape(values))
    bits = single.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # To round up what is no number could make it infinite.
    return np.where(np.isnan(single), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _of_content(content: bytes, name: str, size: int) -> npt.NDArray[Any]:
    if name == STRING:
        return _strings(content, size)
    if name == BFLOAT16:
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, DTYPES[name].newbyteorder("<")).astype(DTYPES[name])


def _of_field(field: Any, name: str) -> npt.NDArray[Any]:
    if name == STRING:
        return of_strings(list(field))
    try:
        if name == BFLOAT16:
            return (np.array(field, np.uint16).astype(np.uint32) << 16).view(np.float32)
        if name == "DT_HALF":
            return np.array(field, np.uint16).view(np.float16)
        # As a list: an array of the field itself would wrap numbers around.
        return np.array(list(field), DTYPES[name])
    except OverflowError as exc:
        raise ValueError(f"a tensor of type {name}: {exc}") from exc


def _strings(content: bytes, size: int) -> npt.NDArray[Any]:
    """
    Strings as TensorFlow writes them into tensor_content: all lengths as varints, then all strings.

    Raises:
        ValueError: if the content is not so.
    """
    lengths: list[int] = []
    position = 0
    while len(lengths) < size:
        length = shift = 0
        while True:
            if position >= len(content):
                raise ValueError("strings in tensor_content, expected a length for each")
            byte, position = content[position], position + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    starts = list(accumulate(lengths, initial=position))
    if starts[-1] != len(content):
        raise ValueError(f"{len(content)} bytes of strings in tensor_content, expected {starts[-1]}")
    return of_strings([content[start:end] for start, end in pairwise(starts)])
