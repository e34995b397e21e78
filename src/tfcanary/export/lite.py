"""
Read TensorFlow Lite models without running them: their signatures and their ops.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcanary.errors import UsageError
from tfcanary.export import ops
from tfcanary.protos import bare_tensorflow

FILE = "model.tflite"
# TensorFlow's own ops in a TensorFlow Lite model, which run with the rights of the server as in a SavedModel.
_FLEX = "Flex"


@dataclass(frozen=True, slots=True)
class Lite:
    """
    What a TensorFlow Lite model is.

    Attributes:
        signatures: as `savedmodel.interface` describes them.
        ops: TensorFlow Lite's by the names of its schema, TensorFlow's as `FlexName`.
        refused: a line for each op that may not be served.
    """

    signatures: dict[str, Any]
    ops: list[str]
    refused: list[str]


def read(path: Path) -> Lite:
    """
    Parse a TensorFlow Lite model.

    Raises:
        UsageError: the file is not one.
    """
    with bare_tensorflow():
        from tensorflow.lite.python import schema_py_generated as schema  # noqa: PLC0415 - seconds
    try:
        content = path.read_bytes()
        if not schema.Model.ModelBufferHasIdentifier(content, 0):
            raise UsageError(f"{path}: expected a TensorFlow Lite model, got another file")
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        builtin = _names(schema.BuiltinOperator)
        used = sorted({_op(code, builtin) for code in model.operatorCodes or ()})
        signatures = dict(_signatures(model, _names(schema.TensorType)))
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise UsageError(f"{path}: expected a TensorFlow Lite model, got {error!r}") from error
    return Lite(signatures, used, list(_refused(used, set(builtin.values()))))


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _op(code: Any, builtin: dict[int, str]) -> str:
    # The older field holds the numbers up to 127, the newer one those above.
    name = builtin[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return code.customCode.decode() if name == "CUSTOM" else name


def _refused(used: list[str], builtin: set[str]) -> Iterator[str]:
    """
    TensorFlow Lite's own ops compute in memory alone; each of TensorFlow's must be on the list; others are unknown.
    """
    for op in used:
        if op not in builtin and op.removeprefix(_FLEX) not in ops.ALLOWED:
            yield f"{op} is not on the list of allowed ops"


def _signatures(model: Any, types: dict[int, str]) -> Iterator[tuple[str, Any]]:
    """
    Each signature with its tensors; a model without one is served by the names of its tensors.
    """
    if not model.signatureDefs:
        graph = model.subgraphs[0]
        sides = {
            side: {
                graph.tensors[index].name.decode(): _tensor(graph.tensors[index], types) for index in indices
            }
            for side, indices in (("inputs", graph.inputs), ("outputs", graph.outputs))
        }
        yield "serving_default", sides
        return
    for signature in model.signatureDefs:
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        yield (
            signature.signatureKey.decode(),
            {
                side: {
                    entry.name.decode(): _tensor(tensors[entry.tensorIndex], types)
                    for entry in sorted(entries or (), key=lambda entry: entry.name)
                }
                for side, entries in (("inputs", signature.inputs), ("outputs", signature.outputs))
            },
        )


# TensorFlow Lite's names of types where TensorFlow has another.
_DTYPES = {"FLOAT32": "FLOAT", "FLOAT64": "DOUBLE", "FLOAT16": "HALF"}


def _tensor(tensor: Any, types: dict[int, str]) -> dict[str, Any]:
    name = types[tensor.type]
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    return {
        "dtype": f"DT_{_DTYPES.get(name, name)}",
        "shape": [int(size) for size in (shape if shape is not None else ())],
    }
