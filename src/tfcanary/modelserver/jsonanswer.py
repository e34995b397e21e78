"""
Write the REST API's answers: tensors to JSON.

Follows tensorflow_serving/util/json_tensor.cc for the two forms of an answer, and for how numbers are written.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from tfcanary.modelserver.protos import DataType
from tfcanary.modelserver.status import invalid
from tfcanary.modelserver.tensors import Array, dtype_of, type_name

# What AddSingleValueAndAdvance() writes.
_WRITTEN = frozenset(
    DataType.Value(f"DT_{name}")
    for name in [
        "FLOAT",
        "DOUBLE",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT32",
        "UINT64",
        "BOOL",
        "STRING",
    ]
)
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def answer(outputs: Mapping[str, Array], *, row: bool) -> bytes:
    """
    Write the answer to a predict request.

    Args:
        outputs: the signature's outputs, by alias.
        row: whether to write ``predictions``, an entry for each row, instead of ``outputs``.

    Raises:
        ServingError: there is no output, an output cannot be written as JSON, or the outputs differ in their number of rows.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    text = _rows(outputs) if row else _columns(outputs)
    return text.encode("utf-8", "surrogateescape")


def _rows(outputs: Mapping[str, Array]) -> str:
    batch: int | None = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch is not None and batch != len(array):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)
    written = {name: _items(array, name) for name, array in outputs.items()}
    if len(written) == 1:
        items = ", ".join(next(iter(written.values())))
        return f'{{\n    "predictions": [{items}\n    ]\n}}'
    objects = [
        ",\n".join(f"            {json.dumps(name)}: {text}" for name, text in zip(written, row, strict=True))
        for row in zip(*written.values(), strict=True)
    ]
    body = ",\n".join(f"        {{\n{fields}\n        }}" for fields in objects)
    return f'{{\n    "predictions": [\n{body}\n    ]\n}}'


def _columns(outputs: Mapping[str, Array]) -> str:
    written = {name: _items(array[np.newaxis], name)[0] for name, array in outputs.items()}
    if len(written) == 1:
        return f'{{\n    "outputs": {next(iter(written.values()))}\n}}'
    body = ",\n".join(f"        {json.dumps(name)}: {text}" for name, text in written.items())
    return f'{{\n    "outputs": {{\n{body}\n    }}\n}}'


def _items(array: Array, name: str) -> list[str]:
    """
    Write each element along the first dimension as JSON.
    """
    literals = iter(_literals(array.ravel(), as_bytes=name.endswith("_bytes")))
    return [_nested(literals, array.shape[1:]) for _ in range(array.shape[0])]


def _nested(literals: Iterator[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return next(literals)
    if len(shape) == 1:
        return f"[{', '.join(islice(literals, shape[0]))}]"
    return f"[{', '.join(_nested(literals, shape[1:]) for _ in range(shape[0]))}]"


def _literals(flat: Array, *, as_bytes: bool) -> list[str]:
    """
    Write each value of a flat array as JSON.
    """
    kind = flat.dtype.kind
    if flat.size and dtype_of(flat) not in _WRITTEN:
        raise invalid(f"Failed to write JSON value for tensor type: {type_name(dtype_of(flat))}")
    if kind == "O":
        if as_bytes:
            return [f'{{"b64": "{base64.b64encode(value).decode()}"}}' for value in flat]
        return [json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False) for value in flat]
    if kind == "b":
        return ["true" if value else "false" for value in flat.tolist()]
    if kind in "iu":
        return [str(value) for value in flat.tolist()]
    if flat.dtype == np.float64:
        return _decimals(flat.tolist(), "%.17g", float)
    return _decimals(flat.tolist(), "%.9g", np.float32)


def decimal(value: float) -> str:
    """
    Write one float32 as JSON.
    """
    return _decimals([value], "%.9g", np.float32)[0]


def _decimals(values: list[float], full: str, rounded: Callable[[str], Any]) -> list[str]:
    """
    Write six digits if they read back as the same number, and all digits otherwise.
    """
    literals = []
    for value in values:
        text = "%g" % value  # noqa: UP031 - six digits, as in TensorFlow Serving
        if text in _NOT_FINITE:
            literals.append(_NOT_FINITE[text])
            continue
        if rounded(text) != value:
            text = full % value
        literals.append(text if "." in text or "e" in text else text + ".0")
    return literals
