"""
A TensorFlow Lite model, if the installed TensorFlow has an interpreter.
"""

import queue
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcanary.modelserver import protos
from tfcanary.modelserver.protos import DataType
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import Array, numpy_type, type_name

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

    def run(
        self, fetches: Sequence[str], feeds: Mapping[str, Array], timeout_seconds: float | None
    ) -> dict[str, Array]:
        """
        Run the signature that has these tensors, see `tfcanary.modelserver.servable.Model`.

        Inputs of another shape than the last request's are resized. The timeout covers the wait for a free
        interpreter. A run cannot be stopped once it has begun.
        """
        name, signature = self._signature(fetches, feeds)
        inputs = {alias: feeds[info.name] for alias, info in signature.inputs.items()}
        for alias, array in inputs.items():
            _check_type(alias, signature.inputs[alias].dtype, array)
        try:
            runners = self._free.get(timeout=timeout_seconds)
        except queue.Empty:
            raise ServingError(
                Code.DEADLINE_EXCEEDED, "the deadline passed before an interpreter was free"
            ) from None
        try:
            results = runners[name](**inputs)
            return {
                info.name: np.array(results[alias])
                for alias, info in signature.outputs.items()
                if info.name in fetches
            }
        except (RuntimeError, ValueError) as error:
            raise ServingError(Code.INTERNAL, f"Failed to invoke TfLite interpreter. {error}") from error
        finally:
            self._free.put(runners)

    def _signature(self, fetches: Sequence[str], feeds: Mapping[str, Array]) -> tuple[str, Any]:
        """
        Find a signature by the tensors of a request: all of its inputs, and some of its outputs.
        """
        for name, signature in self.signatures.items():
            inputs, outputs = (
                {info.name for info in side.values()} for side in (signature.inputs, signature.outputs)
            )
            if inputs == set(feeds) and outputs >= set(fetches):
                return name, signature
        raise invalid(f"Missing input TFLite tensor: no signature has the inputs {sorted(feeds)}")

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


def _check_type(alias: str, expected: int, array: Array) -> None:
    # TensorFlow Serving copies the bytes of any type into the input's memory.
    if array.dtype != numpy_type(expected):
        raise invalid(f"Expects {alias} to be {type_name(expected)} but {array.dtype} is provided")
