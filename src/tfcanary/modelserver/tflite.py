"""
A TensorFlow Lite model, if the installed TensorFlow has an interpreter.
"""

import queue
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfcanary.modelserver import protos
from tfcanary.modelserver.protos import DataType
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import Array

FILE = "model.tflite"

_PREDICT = "tensorflow/serving/predict"
_DTYPES = {
    np.float32: "DT_FLOAT",
    np.float64: "DT_DOUBLE",
    np.int8: "DT_INT8",
    np.int16: "DT_INT16",
    np.int32: "DT_INT32",
    np.int64: "DT_INT64",
    np.uint8: "DT_UINT8",
    np.bool_: "DT_BOOL",
    np.complex64: "DT_COMPLEX64",
    np.bytes_: "DT_STRING",
}

Details = Mapping[str, Mapping[str, Any]]


class TfLite:
    """
    A pool of interpreters of one model; each runs one request at a time.

    Attributes:
        signatures: the model's signatures as SignatureDefs, by name.

    Raises:
        ServingError: there is no interpreter, or the file is no model for it.
    """

    def __init__(self, path: Path, interpreters: int) -> None:
        self._free: queue.SimpleQueue[dict[str, Callable[..., Any]]] = queue.SimpleQueue()
        self.signatures: dict[str, Any] = {}
        # Requests name a signature by the tensors of its outputs.
        self._names: dict[frozenset[str], str] = {}
        content = path.read_bytes()
        for _ in range(interpreters):
            made = _interpreter(content, path)
            signatures = _signatures(made)
            self._free.put({name: run for name, (_, _, run) in signatures.items()})
        for name, (inputs, outputs, _) in signatures.items():
            definition = protos.SignatureDef(method_name=_PREDICT)
            for tensors, details in ((definition.inputs, inputs), (definition.outputs, outputs)):
                for alias, detail in details.items():
                    _describe(tensors[alias], detail)
            self.signatures[name] = definition
            self._names[frozenset(info.name for info in definition.outputs.values())] = name

    def run(
        self,
        fetches: Mapping[str, str],
        feeds: Mapping[str, Array],
        timeout_seconds: float | None,
    ) -> dict[str, Array]:
        """
        Run the signature that has these outputs, see `tfcanary.modelserver.servable.Model`.

        The timeout covers the wait for a free interpreter. A run cannot be stopped once it has begun.
        """
        name = self._names[frozenset(fetches.values())]
        inputs = {alias: (info, feeds[info.name]) for alias, info in self.signatures[name].inputs.items()}
        for alias, (info, array) in inputs.items():
            _check_shape(alias, [dim.size for dim in info.tensor_shape.dim], array)
        try:
            runners = self._free.get(timeout=timeout_seconds)
        except queue.Empty:
            raise ServingError(
                Code.DEADLINE_EXCEEDED, "the deadline passed before an interpreter was free"
            ) from None
        try:
            results = runners[name](**{alias: array for alias, (_, array) in inputs.items()})
            return {alias: np.array(results[alias]) for alias in fetches}
        except (RuntimeError, ValueError) as error:
            raise ServingError(Code.INTERNAL, f"Failed to run interpreter. {error}") from error
        finally:
            self._free.put(runners)

    def close(self) -> None:
        """
        Drop the interpreters.
        """
        self._free = queue.SimpleQueue()


def _interpreter(content: bytes, path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # The interpreter warns that it will move to another package.
            warnings.simplefilter("ignore")
            made = protos.lite_interpreter()(model_content=content, num_threads=1)
            made.allocate_tensors()
    except ImportError as error:
        raise ServingError(
            Code.UNIMPLEMENTED, f"{path}: this TensorFlow has no interpreter: {error}"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise invalid(f"{path}: Cannot build Interpreter from buffer. {error}") from error
    return made


def _signatures(interpreter: Any) -> dict[str, tuple[Details, Details, Callable[..., Any]]]:
    """
    List the model's signatures. A model without signatures gets a default one that names inputs and outputs by tensor.
    """
    keys = list(interpreter.get_signature_list())
    if keys:
        runners = {key: interpreter.get_signature_runner(key) for key in keys}
        return {
            key: (runner.get_input_details(), runner.get_output_details(), runner)
            for key, runner in runners.items()
        }
    inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
    outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}

    def run(**arrays: Array) -> dict[str, Array]:
        for alias, array in arrays.items():
            interpreter.resize_tensor_input(inputs[alias]["index"], array.shape)
        interpreter.allocate_tensors()
        for alias, array in arrays.items():
            interpreter.set_tensor(inputs[alias]["index"], array)
        interpreter.invoke()
        return {alias: interpreter.get_tensor(detail["index"]) for alias, detail in outputs.items()}

    return {"serving_default": (inputs, outputs, run)}


def _describe(info: Any, detail: Mapping[str, Any]) -> None:
    info.name = detail["name"]
    try:
        info.dtype = DataType.Value(_DTYPES[detail["dtype"]])
    except KeyError:
        raise ServingError(Code.INTERNAL, f"Unknown TfLite type: {detail['dtype']}") from None
    info.tensor_shape.SetInParent()
    for size in detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]:
        info.tensor_shape.dim.add(size=int(size))


def _check_shape(alias: str, wanted: list[int], array: Array) -> None:
    if len(wanted) != array.ndim or any(
        size not in (-1, got) for size, got in zip(wanted, array.shape, strict=True)
    ):
        raise invalid(
            f"Cannot feed value of shape {array.shape} for {alias}, which has shape {tuple(wanted)}"
        )
