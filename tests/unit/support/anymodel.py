"""
A gateway with any model behind it: signatures and a function of your own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from double import Double, RefusedError

from tfcanary.client.answer import Interface, Signature, Tensor
from tfcanary.contract import SERVING_DEFAULT, Api
from tfcanary.modelserver import jsonanswer, jsonparse, jsontensor, protos
from tfcanary.modelserver.status import ServingError
from tfcanary.modelserver.tensors import from_proto, numpy_type, to_proto

LIMIT = 1 << 20
PREDICT = "tensorflow/serving/predict"
Arrays = Mapping[str, np.ndarray[Any, Any]]


def signature(inputs: dict[str, Any], outputs: dict[str, Any], method: str = PREDICT) -> Signature:
    """
    A signature of tensors that are written as (type without DT_, shape).
    """

    def tensors(given: dict[str, Any]) -> dict[str, Tensor]:
        return {name: Tensor(f"DT_{dtype}", shape) for name, (dtype, shape) in given.items()}

    return Signature(tensors(inputs), tensors(outputs), method)


HALF = {SERVING_DEFAULT: signature({"x": ("FLOAT", (-1,))}, {"y": ("FLOAT", (-1,))})}


TWO = {
    SERVING_DEFAULT: signature(
        {"x": ("FLOAT", (-1, 3))},
        {"mean": ("FLOAT", (-1,)), "most": ("FLOAT", (-1,)), "word": ("STRING", (-1,))},
    )
}
CLASSES = {
    SERVING_DEFAULT: signature(
        {"x": ("FLOAT", (-1, 3))}, {"probabilities": ("FLOAT", (-1, 3)), "labels": ("STRING", (-1, 3))}
    )
}
SCALAR = {SERVING_DEFAULT: signature({"x": ("FLOAT", ())}, {"y": ("FLOAT", ())})}
LABELS = np.array([[b"ant", b"bee", b"cat"]], object)


def two(_track, _signature, inputs):
    x = inputs["x"]
    words = np.array([b"high" if row.sum() > 1 else b"low" for row in x], object)
    return {"mean": x.mean(axis=1), "most": x.max(axis=1) + 1, "word": words}


def classes(_track, _signature, inputs):
    every = np.exp(inputs["x"])
    return {
        "probabilities": every / every.sum(axis=1, keepdims=True),
        "labels": LABELS.repeat(len(every), axis=0),
    }


def half_plus_two(_track: str, _signature: str, inputs: Arrays) -> Arrays:
    """
    The model that TensorFlow Serving ships.
    """
    return {"y": inputs["x"] / 2 + 2}


@dataclass
class AnyModel(Double):
    """
    A gateway with any model behind it, which reads and writes as the model server does.

    Attributes:
        signatures_of: the interface of each track's model.
        run: the model: its outputs by track, signature and inputs.
        spoilt: what is done to the outputs, by API and track.
    """

    signatures_of: Callable[[str], Interface] = lambda _track: HALF
    run_model: Callable[[str, str, Arrays], Arrays] = half_plus_two
    spoilt: Callable[[Api, str, Arrays], Arrays] = lambda _api, _track, outputs: outputs
    asked: list[tuple[Api, str, str]] = field(default_factory=list)

    def rest_metadata(self, track: str) -> dict[str, Any]:
        """
        As TensorFlow Serving writes it.
        """

        def tensors(found: Mapping[str, Tensor]) -> dict[str, Any]:
            return {
                name: {
                    "dtype": tensor.dtype,
                    "tensor_shape": {
                        "dim": [{"size": str(size), "name": ""} for size in tensor.shape or ()],
                        "unknown_rank": tensor.shape is None,
                    },
                    "name": f"{name}:0",
                }
                for name, tensor in found.items()
            }

        described = {
            name: {
                "inputs": tensors(one.inputs),
                "outputs": tensors(one.outputs),
                "method_name": one.method,
            }
            for name, one in self.signatures_of(track).items()
        }
        return {"metadata": {"signature_def": {"signature_def": described}}}

    def rest_prediction(self, track: str, body: bytes) -> object:
        """
        The outputs in the form of the request.
        """
        try:
            document = jsonparse.parse_object(body)
            name = jsontensor.signature_name(document)
            parsed = jsontensor.parse_predict(document)
            declared = self.signatures_of(track)[name]
            dtypes = {alias: protos.DataType.Value(one.dtype) for alias, one in declared.inputs.items()}
            inputs = jsontensor.tensors(parsed, dtypes)
            outputs = self._outputs(Api.REST, track, name, inputs)
            return jsonanswer.answer(outputs, row=parsed.row)
        except ServingError as exc:
            raise RefusedError(exc.message) from exc

    def grpc_metadata(self, track: str) -> Any:
        """
        The SignatureDefMap of the model.
        """
        made = super().grpc_metadata(track)
        made.signature_def.clear()
        for name, one in self.signatures_of(track).items():
            described = made.signature_def[name]
            described.method_name = one.method
            for tensors, found in ((described.inputs, one.inputs), (described.outputs, one.outputs)):
                for key, tensor in found.items():
                    tensors[key].dtype = protos.DataType.Value(tensor.dtype)
                    tensors[key].tensor_shape.unknown_rank = tensor.shape is None
                    for size in tensor.shape or ():
                        tensors[key].tensor_shape.dim.add(size=size)
        return made

    def grpc_prediction(self, track: str, request: Any) -> Any:
        """
        The outputs as TensorProtos.
        """
        inputs = {name: from_proto(tensor, name, LIMIT) for name, tensor in request.inputs.items()}
        name = request.model_spec.signature_name
        outputs = self._outputs(Api.GRPC, track, name, inputs)
        response = protos.PredictResponse()
        names = {
            np.dtype(numpy_type(number)): number
            for number in protos.DataType.values()[1:23]
            if number in _KNOWN
        }
        for key, value in outputs.items():
            to_proto(value, names[value.dtype], response.outputs[key])
        return response

    def _outputs(self, api: Api, track: str, signature: str, inputs: Arrays) -> Arrays:
        self.asked.append((api, track, signature))
        return self.spoilt(api, track, self.run_model(track, signature, inputs))


_KNOWN = {
    protos.DataType.Value(f"DT_{name}")
    for name in ("FLOAT", "DOUBLE", "INT32", "INT64", "STRING", "BOOL", "HALF", "BFLOAT16", "UINT16")
}
