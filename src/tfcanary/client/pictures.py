"""
The pictures that predictions are asked for.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfcanary import samples
from tfcanary.client.answer import Answer, Prediction, Signature
from tfcanary.client.tensors import STRING
from tfcanary.contract import SERVING_DEFAULT
from tfcanary.errors import UsageError


def picture_tensor(picture: bytes, height: int, width: int) -> npt.NDArray[np.float32]:
    """
    Decode a JPEG and resize it: float32 of shape (height, width, 3), RGB from 0 to 255.

    Raises:
        OSError: if it cannot be decoded.
        UsageError: if pillow is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - needed for this signature only
    except ImportError as exc:
        raise UsageError(
            f"signature {SERVING_DEFAULT}: expected pillow to decode pictures, got none: pip install pillow"
        ) from exc
    try:
        with Image.open(io.BytesIO(picture)) as image:
            resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except Image.DecompressionBombError as exc:
        raise OSError(str(exc)) from exc
    return np.asarray(resized, dtype=np.float32)


# The size in pixels where a signature leaves it open, and the largest one that a picture is resized to.
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
    The two JPEG photographs that scikit-learn ships.

    Raises:
        UsageError: if scikit-learn is not installed.
    """
    files = samples.photographs()
    if not files:
        raise UsageError(
            "pictures: expected those that scikit-learn ships, got none; "
            f"name others by --picture FILE, give requests of your own (--requests FILE; the chart's rollout.requests), "
            f"or {samples.INSTALL}"
        )
    return read_pictures(files)


def read_pictures(files: Sequence[Path]) -> list[Picture]:
    """
    Read picture files, without decoding them.

    Raises:
        UsageError: if one cannot be read.
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
    The picture as float32 of shape (height, width, 3), RGB from 0 to 255.

    Raises:
        UsageError: if it is not a JPEG file.
    """
    try:
        return picture_tensor(picture.content, height, width)
    except OSError as exc:
        raise UsageError(f"picture {picture.name!r}: expected a JPEG file: {exc}") from exc


def picture_size(signature: Signature) -> tuple[int, int] | None:
    """
    Height and width of the one picture that a signature takes; None if it takes anything else.
    """
    if len(signature.inputs) != 1:
        return None
    (tensor,) = signature.inputs.values()
    if tensor.shape is None or len(tensor.shape) != 4 or max(tensor.shape) > MOST_SIZE:
        return None
    height, width = (size if size > 0 else OPEN_SIZE for size in tensor.shape[1:3])
    return height, width


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """
    What the model says of the first picture of a request.

    Attributes:
        labels: the names of the most probable classes, most probable first.
        probabilities: of those classes, in the same order.
        class_probabilities: of all classes, in the order of the model.
    """

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    class_probabilities: npt.NDArray[np.float64]


LABELS, PROBABILITIES, CLASS_PROBABILITIES = "labels", "probabilities", "class_probabilities"


def classified(prediction: Prediction) -> Classified:
    """
    Read the outputs of a model of pictures.

    Raises:
        ValueError: with the name of the first output that is missing, or is not one row of strings or numbers each.
    """
    rows = {}
    for name in (LABELS, PROBABILITIES, CLASS_PROBABILITIES):
        value = prediction.outputs.get(name)
        if value is None:
            raise ValueError(f"no output {name}")
        if not value.values.ndim or not len(value.values):
            raise ValueError(f"output {name} has no row")
        if (value.dtype == STRING) != (name == LABELS):
            raise ValueError(f"output {name} is {value.dtype}")
        rows[name] = value.values[0]
    return Classified(
        tuple(label.decode("utf-8", "replace") for label in np.ravel(rows[LABELS])),
        rows[PROBABILITIES].astype(np.float64),
        rows[CLASS_PROBABILITIES].astype(np.float64),
    )


def classification(answer: Answer) -> Classified | None:
    """
    What an answer says of its picture; None if it says nothing, or not in this form.
    """
    try:
        return None if answer.prediction is None else classified(answer.prediction)
    except ValueError:
        return None
