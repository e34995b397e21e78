"""
Inputs that are made from a signature alone: right in type and shape, and the same in every run.

They are for models of which nothing else is known. A size that is left open is 1, a whole number is 1 (an index, a
length and a divisor that nearly every model takes), and a string is a short word.
"""

import math
import zlib

import numpy as np
import numpy.typing as npt

from tfcanary.client.answer import Signature, Tensor, TensorValue
from tfcanary.client.request import PredictRequest
from tfcanary.client.tensors import BFLOAT16, DTYPES, STRING, as_bfloat16

SEED = 20
MOST_ELEMENTS = 4 * 1024 * 1024
_WORDS = (b"green", b"tea", b"river", b"seven", b"north", b"paper")
# Other bytes are pixels, or quantised numbers.
_BYTES = ("DT_INT8", "DT_UINT8")
_OTHER_METHODS = ("tensorflow/serving/classify", "tensorflow/serving/regress")


def why_not(signature: Signature) -> str:
    """
    Why no inputs can be made for a signature; empty if they can.
    """
    if signature.method in _OTHER_METHODS:
        return f"is made for {signature.method.rpartition('/')[2]}, which takes serialised tf.Examples"
    if not signature.inputs:
        return "takes no input"
    if not signature.outputs:
        return "has no output"
    for name, tensor in signature.inputs.items():
        if tensor.dtype not in DTYPES:
            return f"takes {name} as {tensor.dtype}, which JSON cannot carry"
        if math.prod(_shape(tensor)) > MOST_ELEMENTS:
            return f"takes {name} of more than {MOST_ELEMENTS} elements"
    return ""


def made(name: str, signature: Signature) -> PredictRequest:
    """
    A request for a signature that `why_not` has nothing against.
    """
    inputs = {
        key: TensorValue(tensor.dtype, _values(tensor, f"{name} {key}"))
        for key, tensor in signature.inputs.items()
    }
    return PredictRequest(name, inputs, signature)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    # Where even the number of dimensions is open, most models take a batch.
    return (1,) if tensor.shape is None else tuple(size if size >= 0 else 1 for size in tensor.shape)


def _values(tensor: Tensor, seed: str) -> npt.NDArray[np.generic]:
    draw = np.random.default_rng([SEED, zlib.crc32(seed.encode())])
    shape, kind = _shape(tensor), DTYPES[tensor.dtype]
    if tensor.dtype == STRING:
        words = np.empty(shape, dtype=object)
        words[...] = np.array(_WORDS, dtype=object)[draw.integers(len(_WORDS), size=shape)]
        return words
    if tensor.dtype in _BYTES:
        limits = np.iinfo(kind)
        return draw.integers(limits.min, limits.max, size=shape, dtype=kind.type, endpoint=True)
    if kind.kind != "f":
        return np.ones(shape, kind)
    drawn = draw.random(shape)
    return as_bfloat16(drawn) if tensor.dtype == BFLOAT16 else drawn.astype(kind)
