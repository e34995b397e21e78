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
from tfcanary.client.answer import Signature
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
            f"name others by --picture FILE, or {samples.INSTALL}"
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
    shapes = [tensor.shape for tensor in signature.inputs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or max(shapes[0]) > MOST_SIZE:
        return None
    height, width = (size if size > 0 else OPEN_SIZE for size in shapes[0][1:3])
    return height, width
