"""
What is wrong with a prediction, and how far two are apart.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcanary.client.answer import Answer, Interface, Prediction, Signature, Tensor

TOP = 5
SUM_TOLERANCE = 1e-3
# Of the largest class probability: an unsure model's are all near 1/classes, where any fixed distance holds. float32
# has 7 digits, and two machines may differ in the fifth.
AGREEMENT_TOLERANCE = 1e-3


def inputs_in_words(signature: Signature) -> str:
    """
    What a signature takes, in words.
    """
    found = (f"{name} {tensor_in_words(tensor)}" for name, tensor in sorted(signature.inputs.items()))
    return ", ".join(found) or "nothing"


def prediction_problems(answer: Answer) -> Iterator[str]:
    """
    What is wrong with one prediction.
    """
    given = answer.prediction
    if given is None:
        yield "no prediction"
        return
    if len(given.labels) != TOP or not all(isinstance(label, str) and label for label in given.labels):
        yield f"labels are {given.labels!r}, expected {TOP} texts"
    top, every = given.probabilities, given.class_probabilities
    for name, values in (("probabilities", top), ("class_probabilities", every)):
        if not np.isfinite(values).all():
            yield f"{name} are not all finite"
            return
        if values.ndim != 1 or ((values < 0) | (values > 1)).any():
            yield f"{name} are not all between 0 and 1"
            return
    if len(top) != TOP:
        yield f"{len(top)} probabilities, expected {TOP}"
    if (np.diff(top) > 0).any():
        yield "probabilities are not in descending order"
    if abs(every.sum() - 1) > SUM_TOLERANCE:
        yield f"class_probabilities sum to {every.sum():.4g}, expected 1"
    largest = np.sort(every)[::-1][: len(top)]
    if len(largest) != len(top) or _apart(largest, top) > AGREEMENT_TOLERANCE:
        yield "probabilities are not the largest class_probabilities"


def distance(one: Prediction, other: Prediction) -> float:
    """
    The largest difference of two predictions' class probabilities, as a part of the largest of them.
    """
    left, right = one.class_probabilities, other.class_probabilities
    if left.shape != right.shape:
        return math.inf
    return _apart(left, right)


def _apart(left: Any, right: Any) -> float:
    """
    The largest difference, as a part of the largest value.
    """
    largest = float(max(np.abs(left).max(initial=0), np.abs(right).max(initial=0)))
    farthest = float(np.abs(left - right).max(initial=0))
    if not math.isfinite(farthest) or not math.isfinite(largest):
        return math.inf
    return farthest / largest if largest else 0.0


def difference(one: Interface, other: Interface) -> str:
    """
    Where two interfaces first differ, in words.
    """
    for name in sorted({*one, *other}):
        if name not in one or name not in other:
            return f"signature {name} is missing on one side"
        for side in ("inputs", "outputs"):
            left, right = getattr(one[name], side), getattr(other[name], side)
            for tensor in sorted({*left, *right}):
                if left.get(tensor) != right.get(tensor):
                    return f"{name} {side} {tensor}: {tensor_in_words(left.get(tensor))} and {tensor_in_words(right.get(tensor))}"
    return "none"


def tensor_in_words(tensor: Tensor | None) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}" if tensor else "none"
