"""
A prediction that is asked for, in the form of both APIs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tfcanary.client.answer import Signature, TensorValue
from tfcanary.client.jsontensors import to_body
from tfcanary.client.tensors import NOT_IN_JSON, of_strings
from tfcanary.contract import SERVING_DEFAULT, Api


@dataclass(frozen=True, slots=True, eq=False)
class PredictRequest:
    """
    The inputs of one prediction.

    Attributes:
        signature: its name.
        inputs: by name, each as the model takes it, with the batch dimension if it has one.
        declared: the signature, by which answers over REST are read; None takes types from the values.
        rows: whether REST is asked in rows, which every output must then have as its first dimension.
        body: what REST is asked instead of the inputs, without the signature's name.
        headers: that the request needs.
        label: the right answer, if it is known.
    """

    signature: str
    inputs: Mapping[str, TensorValue]
    declared: Signature | None = None
    rows: bool = False
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None

    @classmethod
    def one(
        cls,
        signature: str,
        name: str,
        value: npt.NDArray[np.float32] | bytes,
        declared: Signature | None = None,
    ) -> Self:
        """
        A batch of one for a signature with one input: float32 numbers without the batch dimension, or a string.
        """
        if isinstance(value, bytes):
            given = TensorValue("DT_STRING", of_strings([value]))
        else:
            given = TensorValue("DT_FLOAT", value[np.newaxis])
        return cls(signature, {name: given}, declared, rows=True)

    def rest_body(self) -> dict[str, Any]:
        """
        The JSON body.
        """
        body = to_body(self.inputs, rows=self.rows) if self.body is None else self.body
        return {"signature_name": self.signature or SERVING_DEFAULT, **body}

    @property
    def not_over_rest(self) -> str:
        """
        Why the REST API cannot carry this prediction; empty if it can.
        """
        for name, value in self.inputs.items():
            if value.dtype in NOT_IN_JSON:
                return f"takes {name} as {value.dtype}, which TensorFlow Serving's REST API does not carry"
        for name, tensor in self.declared.outputs.items() if self.declared else ():
            if tensor.dtype in NOT_IN_JSON:
                return f"gives {name} as {tensor.dtype}, which TensorFlow Serving's REST API does not carry"
        return ""

    @property
    def apis(self) -> tuple[Api, ...]:
        """
        The APIs that can carry this prediction.
        """
        return (Api.GRPC,) if self.not_over_rest else tuple(Api)

    @property
    def nbytes(self) -> int:
        """
        The size of all inputs; of strings, that of their bytes.
        """
        return sum(
            sum(map(len, value.values.ravel())) if value.values.dtype == object else value.values.nbytes
            for value in self.inputs.values()
        )
