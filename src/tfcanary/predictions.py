"""
What is wrong with a prediction, how far two are apart, and the pictures that they are asked of.
"""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfcanary import predict
from tfcanary.errors import UsageError
from tfcanary.predict import Answer, Interface

TOP = 5
SUM_TOLERANCE = 1e-3
# Of the largest class probability: an unsure model's are all near 1/classes, where any fixed distance holds. float32
# has 7 digits, and two machines may differ in the fifth.
AGREEMENT_TOLERANCE = 1e-3
# What a size is taken to be where a signature leaves it open, and the largest that a picture is made for.
OPEN_SIZE, MOST_SIZE = 224, 4096


@dataclass(frozen=True, slots=True)
class Picture:
    """
    A JPEG file's name and bytes.
    """

    name: str
    content: bytes


def default_pictures() -> list[Picture]:
    """
    The two JPEG photographs that scikit-learn ships; scikit-learn itself is not imported.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UsageError("pictures: none are named, and scikit-learn's are not here; use --picture FILE")
    folder = Path(spec.origin).parent / "datasets" / "images"
    return read_pictures([folder / "china.jpg", folder / "flower.jpg"])


def read_pictures(files: Sequence[Path]) -> list[Picture]:
    """
    Read picture files.
    """
    pictures = []
    for file in files:
        try:
            pictures.append(Picture(file.name, file.read_bytes()))
        except OSError as exc:
            raise UsageError(f"picture {str(file)!r}: cannot be read: {exc.strerror}") from exc
    return pictures


def decoded(picture: Picture, height: int, width: int) -> Any:
    """
    The picture at a signature's size: float32, height by width by RGB, 0 to 255.
    """
    try:
        return predict.picture_tensor(picture.content, height, width)
    except OSError as exc:
        raise UsageError(f"picture {picture.name!r}: expected a JPEG file: {exc}") from exc


def picture_size(signature: predict.Signature) -> tuple[int, int] | None:
    """
    Height and width of the one picture that a signature takes; None if it takes anything else.
    """
    shapes = [tensor.shape for tensor in signature.inputs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or max(shapes[0]) > MOST_SIZE:
        return None
    height, width = (size if size > 0 else OPEN_SIZE for size in shapes[0][1:3])
    return height, width


def inputs(signature: predict.Signature) -> str:
    """
    What a signature takes, in words.
    """
    found = (f"{name} {_tensor(tensor)}" for name, tensor in sorted(signature.inputs.items()))
    return ", ".join(found) or "nothing"


def problems(answer: Answer) -> Iterator[str]:
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


def distance(one: predict.Prediction, other: predict.Prediction) -> float:
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
                    return f"{name} {side} {tensor}: {_tensor(left.get(tensor))} and {_tensor(right.get(tensor))}"
    return "none"


def _tensor(tensor: predict.Tensor | None) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}" if tensor else "none"
