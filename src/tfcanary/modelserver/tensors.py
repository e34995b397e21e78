"""
Convert tensors between TensorProtos and numpy arrays.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import ml_dtypes
import numpy as np

from tfcanary.modelserver.protos import DataType, TensorProto
from tfcanary.modelserver.status import Code, ServingError, invalid

Array = np.ndarray[Any, np.dtype[Any]]

# For each dtype: the numpy type, the proto's field, and the numpy type whose bits the field holds.
_KINDS: dict[int, tuple[Any, str, Any]] = {
    DataType.Value("DT_FLOAT"): (np.float32, "float_val", np.float32),
    DataType.Value("DT_DOUBLE"): (np.float64, "double_val", np.float64),
    DataType.Value("DT_HALF"): (np.float16, "half_val", np.uint16),
    DataType.Value("DT_BFLOAT16"): (ml_dtypes.bfloat16, "half_val", np.uint16),
    DataType.Value("DT_INT8"): (np.int8, "int_val", np.int8),
    DataType.Value("DT_INT16"): (np.int16, "int_val", np.int16),
    DataType.Value("DT_INT32"): (np.int32, "int_val", np.int32),
    DataType.Value("DT_UINT8"): (np.uint8, "int_val", np.uint8),
    DataType.Value("DT_UINT16"): (np.uint16, "int_val", np.uint16),
    DataType.Value("DT_INT64"): (np.int64, "int64_val", np.int64),
    DataType.Value("DT_UINT32"): (np.uint32, "uint32_val", np.uint32),
    DataType.Value("DT_UINT64"): (np.uint64, "uint64_val", np.uint64),
    DataType.Value("DT_BOOL"): (np.bool_, "bool_val", np.bool_),
    DataType.Value("DT_COMPLEX64"): (np.complex64, "scomplex_val", np.float32),
    DataType.Value("DT_COMPLEX128"): (np.complex128, "dcomplex_val", np.float64),
    DataType.Value("DT_STRING"): (np.object_, "string_val", np.object_),
}
_DTYPES: dict[Any, int] = {np.dtype(kind): dtype for dtype, (kind, _, _) in _KINDS.items()}
DT_STRING: int = DataType.Value("DT_STRING")
_MOST_DIMENSIONS = 64  # of a numpy array
_VARINT_BITS = 28  # of a varint of 32 bits before its last byte


def type_name(dtype: int) -> str:
    """
    Name a dtype as TensorFlow's messages do: ``float``, ``string``, ``int64``.
    """
    return str(DataType.Name(dtype)).removeprefix("DT_").lower()


def numpy_type(dtype: int) -> Any:
    """
    Find the numpy type that holds values of a dtype.

    Raises:
        ServingError: UNIMPLEMENTED for a dtype that has none.
    """
    try:
        return _KINDS[dtype][0]
    except KeyError:
        raise ServingError(Code.UNIMPLEMENTED, f"tensors of type {type_name(dtype)}") from None


def check_size(shape: Sequence[int], dtype: int, limit: int) -> int:
    """
    Count the elements of a shape.

    Raises:
        ServingError: RESOURCE_EXHAUSTED for a tensor of more than `limit` bytes.
    """
    count = math.prod(shape)
    check_bytes(count * np.dtype(numpy_type(dtype)).itemsize, limit)
    return count


def check_bytes(size: int, limit: int) -> None:
    """
    Refuse a tensor of more than `limit` bytes.

    Raises:
        ServingError: RESOURCE_EXHAUSTED.
    """
    if size > limit:
        raise ServingError(Code.RESOURCE_EXHAUSTED, f"tensor of {size} bytes is larger than {limit}")


def from_proto(proto: Any, alias: str, limit: int) -> Array:
    """
    Read a tensor as Tensor::FromProto() of tensorflow/core/framework/tensor.cc does: from its content, or from its values,
    of which the last is repeated to the end, and those that the shape has no place for are left out.

    Args:
        proto: a TensorProto.
        alias: the input's name, for the error message.
        limit: bytes of the tensor, at most.

    Returns:
        an array of the proto's shape and dtype; strings are an object array of bytes.

    Raises:
        ServingError: the tensor is malformed or too large.
    """
    wrong = invalid(f"tensor parsing error: {alias}")
    if proto.dtype not in _KINDS or proto.tensor_shape.unknown_rank:
        raise wrong
    kind, field, bits = _KINDS[proto.dtype]
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if any(size < 0 for size in shape) or len(shape) > _MOST_DIMENSIONS:
        raise wrong
    count = check_size(shape, proto.dtype, limit)
    content = proto.tensor_content
    try:
        values = _of_content(content, kind, count) if content else _values(getattr(proto, field), kind, bits)
    except (IndexError, OverflowError, ValueError):
        raise wrong from None
    values = values[:count]
    if len(values) < count:
        default = b"" if proto.dtype == DT_STRING else 0
        last: Any = values[-1] if len(values) else default
        if proto.dtype == DT_STRING:
            check_bytes(count * len(last), limit)  # TensorFlow makes a copy for each element
        padded = np.full(count, last, dtype=kind)
        padded[: len(values)] = values
        values = padded
    return _shaped(values, shape, wrong)


def _shaped(values: Array, shape: list[int], wrong: ServingError) -> Array:
    try:
        return values.reshape(shape)
    except ValueError:  # it has no element, and its other dimensions are larger than an array's may be
        raise wrong from None


def _of_content(content: bytes, kind: Any, count: int) -> Array:
    if kind is np.object_:
        return _strings(content, count)
    if len(content) != count * np.dtype(kind).itemsize:
        raise ValueError
    return np.frombuffer(content, dtype=kind)


def _strings(content: bytes, count: int) -> Array:
    """
    Read strings as TensorFlow encodes them: all lengths as varints of 32 bits, then all strings.

    Raises:
        IndexError, ValueError: the content is malformed.
    """
    sizes: list[int] = []
    position = 0
    while len(sizes) < count:
        size = shift = 0
        byte = 0x80
        while byte & 0x80:
            if shift > _VARINT_BITS:
                raise ValueError
            byte = content[position]
            size |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
        sizes.append(size)
    starts = list(accumulate(sizes, initial=position))
    if starts[-1] != len(content):
        raise ValueError
    strings = np.empty(count, dtype=np.object_)
    strings[:] = [content[start:end] for start, end in pairwise(starts)]
    return strings


def _values(field: Any, kind: Any, bits: Any) -> Array:
    if bits is np.object_:
        strings = np.empty(len(field), dtype=np.object_)
        strings[:] = list(field)
        return strings
    if np.dtype(bits).kind in "iu":
        # Fields hold more bits than the small types have; TensorFlow takes the lowest ones.
        return np.array(field, dtype=np.uint64 if bits is np.uint64 else np.int64).astype(bits).view(kind)
    return np.array(field, dtype=bits).view(kind)


def dtype_of(array: Array) -> int:
    """
    Find the dtype of an array that a model made; it may not be the one that the signature declares.

    Raises:
        ServingError: UNIMPLEMENTED for a type that TensorProtos cannot hold here.
    """
    try:
        return _DTYPES[array.dtype]
    except KeyError:
        raise ServingError(Code.UNIMPLEMENTED, f"tensors of type {array.dtype}") from None


def to_proto(array: Array, dtype: int, proto: Any = None, *, as_content: bool = False) -> Any:
    """
    Write a tensor into its typed field, where clients of TensorFlow Serving look for it.

    Args:
        array: the values, of any shape.
        dtype: the dtype that the signature declares.
        proto: the TensorProto to fill; a new one if None.
        as_content: whether to write ``tensor_content`` instead; strings have the typed field only.

    Returns:
        the filled TensorProto.
    """
    proto = TensorProto() if proto is None else proto
    _, field, bits = _KINDS[dtype]
    proto.dtype = dtype
    shape = proto.tensor_shape
    shape.SetInParent()
    for size in array.shape:
        shape.dim.add(size=size)
    flat = np.ascontiguousarray(array).ravel()
    if as_content and dtype != DT_STRING:
        proto.tensor_content = flat.tobytes()
        return proto
    getattr(proto, field).extend((flat if bits is np.object_ else flat.view(bits)).tolist())
    return proto
