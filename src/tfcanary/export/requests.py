"""
Requests from a file: JSON lines, each a REST predict body, as the tensors that a signature declares.

They follow the REST API of TensorFlow Serving: ``instances`` has rows, ``inputs`` has columns, and ``{"b64": …}`` stands
for bytes. The keys ``label`` and ``headers``, which a check reads, are passed over.
"""

import base64
import binascii
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tfcanary.errors import DoesNotHoldError, UsageError

DEFAULT_SIGNATURE = "serving_default"
_KEYS = frozenset({"signature_name", "instances", "inputs", "label", "headers"})
STRING = "DT_STRING"
# The numpy type of each dtype that the REST API has a form for. Strings are objects.
KINDS: Mapping[str, Any] = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_HALF": np.float16,
    "DT_BFLOAT16": ml_dtypes.bfloat16,
    "DT_INT8": np.int8,
    "DT_INT16": np.int16,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_UINT16": np.uint16,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
    "DT_BOOL": np.bool_,
    STRING: np.object_,
}


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request of a file.

    Attributes:
        where: the file and the line, as the subject of a message.
        inputs: an array for each input of the signature, by name; strings are objects of type bytes.
    """

    where: str
    signature: str
    inputs: Mapping[str, Any]


def read(file: Path, interface: Mapping[str, Any]) -> list[Request]:
    """
    Read every line, and hold it against the signatures.

    Args:
        file: JSON lines; empty lines are passed over.
        interface: the model's signatures, as `savedmodel.interface` describes them.

    Raises:
        UsageError: the file cannot be read, holds no request, or a line is no predict body.
        DoesNotHoldError: a request does not fit its signature.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--requests {file}: cannot read it: {error}") from error
    found = [
        _request(f"{file}: line {number}", line, interface)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise UsageError(f"--requests {file}: expected a REST predict body on each line, got no line")
    return found


def _request(where: str, line: str, interface: Mapping[str, Any]) -> Request:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: expected JSON, got {error}") from error
    forms = [key for key in ("instances", "inputs") if isinstance(body, dict) and key in body]
    if len(forms) != 1:
        raise UsageError(f"{where}: expected an object with either instances or inputs, got {_brief(body)}")
    if unknown := sorted(body.keys() - _KEYS):
        raise UsageError(f"{where}: expected only the keys {', '.join(sorted(_KEYS))}, got {unknown[0]!r}")
    signature = body.get("signature_name", DEFAULT_SIGNATURE)
    if signature not in interface:
        raise DoesNotHoldError(
            f"{where}: expected a signature of the model ({', '.join(sorted(interface))}), got {signature!r}"
        )
    declared = interface[signature]["inputs"]
    columns = (_rows if forms == ["instances"] else _columns)(where, body[forms[0]], declared)
    inputs = {name: _array(f"{where}: input {name}", columns[name], declared[name]) for name in declared}
    return Request(where, signature, inputs)


def _rows(where: str, instances: Any, declared: Mapping[str, Any]) -> dict[str, Any]:
    """
    Put the rows together: a list of the rows' values for each input.
    """
    if not isinstance(instances, list) or not instances:
        raise UsageError(f"{where}: instances: expected a list of rows, got {_brief(instances)}")
    named = [_is_named(row) for row in instances]
    if not any(named):
        return {_only_input(where, declared): instances}
    for number, row in enumerate(instances):
        _require_inputs(f"{where}: instance {number}", row, declared)
    return {name: [row[name] for row in instances] for name in declared}


def _columns(where: str, value: Any, declared: Mapping[str, Any]) -> dict[str, Any]:
    if not _is_named(value):
        return {_only_input(where, declared): value}
    _require_inputs(where, value, declared)
    return dict(value)


def _only_input(where: str, declared: Mapping[str, Any]) -> str:
    if len(declared) != 1:
        raise DoesNotHoldError(
            f"{where}: expected an object with the inputs {', '.join(declared)}, got values without a name"
        )
    return next(iter(declared))


def _require_inputs(where: str, given: Any, declared: Mapping[str, Any]) -> None:
    names = sorted(given) if _is_named(given) else []
    if names != sorted(declared):
        raise DoesNotHoldError(
            f"{where}: expected the inputs {', '.join(sorted(declared))}, got {', '.join(names) or 'none'}"
        )


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and set(value) != {"b64"}


def _array(where: str, value: Any, declared: Mapping[str, Any]) -> Any:
    """
    Make one array of nested lists, of the dtype and the shape that the signature declares.
    """
    dtype = declared["dtype"]
    if dtype not in KINDS:
        raise DoesNotHoldError(f"{where}: expected a dtype that the REST API has a form for, got {dtype}")
    leaves = [value]
    shape = []
    while leaves and isinstance(leaves[0], list):
        sizes = {len(leaf) if isinstance(leaf, list) else -1 for leaf in leaves}
        if len(sizes) > 1:
            raise DoesNotHoldError(f"{where}: expected lists of one length at each level, got several")
        shape.append(sizes.pop())
        leaves = list(itertools.chain.from_iterable(leaves))
    expected = declared["shape"]
    if expected is not None and not _fits(shape, expected):
        raise DoesNotHoldError(f"{where}: expected shape {_shown(expected)}, got {_shown(shape)}")
    values = list(_leaves(where, leaves, dtype))
    made = np.empty(len(values), dtype=KINDS[dtype])
    made[:] = values
    return made.reshape(shape)


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (-1, got) for wanted, got in zip(expected, shape, strict=True)
    )


def _leaves(where: str, leaves: Sequence[Any], dtype: str) -> Iterator[Any]:
    kind = np.dtype(KINDS[dtype])
    for leaf in leaves:
        made = _bytes(leaf) if dtype == STRING else _number(leaf, kind)
        if made is None:
            raise DoesNotHoldError(f"{where}: expected a value of {dtype}, got {_brief(leaf)}")
        yield made


def _bytes(leaf: Any) -> bytes | None:
    if isinstance(leaf, str):
        return leaf.encode("utf-8", "surrogatepass")
    try:
        encoded = leaf["b64"].encode("ascii")
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (TypeError, KeyError, AttributeError, UnicodeEncodeError, binascii.Error):
        return None


def _number(leaf: Any, kind: np.dtype[Any]) -> Any:
    """
    A JSON value as a number of the dtype; None if it is another kind of value, or beyond the dtype's range.
    """
    if kind.kind == "b":
        return leaf if isinstance(leaf, bool) else None
    if isinstance(leaf, bool) or not isinstance(leaf, (int, float)):
        return None
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return leaf if isinstance(leaf, int) and limits.min <= leaf <= limits.max else None
    try:
        wide = float(leaf)
    except OverflowError:
        return None
    with np.errstate(over="ignore"):
        narrow = np.array(wide).astype(kind)
    return None if math.isfinite(wide) and not np.isfinite(narrow) else narrow


def _shown(shape: Sequence[int]) -> str:
    return f"[{', '.join('?' if size == -1 else str(size) for size in shape)}]"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
