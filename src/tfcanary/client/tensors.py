"""
TensorProto to and from arrays.
"""

import functools
import math
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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
        )
    return types.SimpleNamespace(
        get_model_metadata_pb2=get_model_metadata_pb2,
        predict_pb2=predict_pb2,
        tensor_pb2=tensor_pb2,
        types_pb2=types_pb2,
    )


# The types of the model's contract: numpy's name, TensorFlow's number, the field for values outside tensor_content.
_TYPES = {
    "float32": (1, "float_val"),
    "float64": (2, "double_val"),
    "int32": (3, "int_val"),
    "uint8": (4, "int_val"),
    "int64": (9, "int64_val"),
}
_STRING = 7


def to_tensor(values: npt.NDArray[Any] | Sequence[bytes]) -> Any:
    """
    Make a TensorProto of an array, or of a list of byte strings.

    Raises:
        UsageError: for an array of a type outside the model's contract.
    """
    tensor = protos().tensor_pb2.TensorProto()
    if not isinstance(values, np.ndarray):
        tensor.dtype = _STRING
        tensor.tensor_shape.dim.add(size=len(values))
        tensor.string_val.extend(values)
        return tensor
    if values.dtype.name not in _TYPES:
        raise UsageError(f"a tensor of {values.dtype.name}: expected one of {', '.join(_TYPES)}")
    tensor.dtype = _TYPES[values.dtype.name][0]
    for size in values.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.ascontiguousarray(values).tobytes()
    return tensor


def from_tensor(tensor: Any) -> npt.NDArray[Any]:
    """
    Make an array of a TensorProto; strings become objects of type bytes.

    Raises:
        ValueError: for a type outside the model's contract, or contents that do not fill the shape.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if size > MAX_MESSAGE_BYTES:
        # A message of a few bytes can declare any shape, because TensorProto omits repetitions of the last value.
        raise ValueError(f"a tensor of shape {list(shape)}, expected at most {MAX_MESSAGE_BYTES} elements")
    if tensor.dtype == _STRING:
        values: npt.NDArray[Any] = np.array(list(tensor.string_val), dtype=object)
    else:
        name = next((name for name, (number, _) in _TYPES.items() if number == tensor.dtype), None)
        if name is None:
            raise ValueError(f"a tensor of type {tensor.dtype}, expected one of {', '.join(_TYPES)}, string")
        dtype = np.dtype(name)
        if tensor.tensor_content:
            values = np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<")).astype(dtype)
        else:
            values = np.array(getattr(tensor, _TYPES[name][1]), dtype)
    if 0 < len(values) < size:
        # TensorProto omits repetitions of the last value.
        values = np.concatenate([values, np.repeat(values[-1:], size - len(values))])
    return values.reshape(shape)
