"""
What a model's answer says: the status, who gave it, the prediction or the interface.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tfcanary.contract import Api
from tfcanary.text import printable, short


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """
    What the model says of one picture.

    Attributes:
        labels: the names of the most probable classes, most probable first.
        probabilities: of those classes, in the same order.
        class_probabilities: of all classes, in the order of the model.
    """

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    class_probabilities: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tensor:
    """
    An input or output of a signature, as the metadata describes it.

    Attributes:
        dtype: TensorFlow's name, such as DT_FLOAT.
        shape: with -1 for a size that is left open.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """
    The inputs and outputs of a signature, by name.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


# The signatures of a model, by name.
Interface = Mapping[str, Signature]
# An input without its batch dimension: an array, or the bytes of a file.
Value = npt.NDArray[np.float32] | bytes


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """
    How one request ended.

    Attributes:
        status: the HTTP status, the name of the gRPC code, or the exception that came instead of an answer.
        ok: whether this is the model's answer.
        reached: whether the gateway or something behind it answered at all.
        track: the track that answered, or None if the answer names none.
        revision: the revision of the routes, or None if the answer names none.
        latency_seconds: from the request to the last byte of the answer.
        error: the start of the error's text; empty if `ok`.
        prediction: of `predict`.
        interface: of `metadata`, if it was to be parsed.
        cookie: the cookie that the answer sets, as NAME=VALUE.
    """

    api: Api
    status: str
    ok: bool
    reached: bool
    track: str | None
    revision: str | None
    latency_seconds: float
    error: str = ""
    prediction: Prediction | None = None
    interface: Interface | None = None
    cookie: str | None = None

    def __str__(self) -> str:
        """
        The answer in one line.
        """
        if self.ok:
            return f"{self.status} from {self.track or 'an unnamed track'}, revision {self.revision or 'unnamed'}"
        return f"{self.status} {self.error}".strip()


def not_the_model_server(status: int, content_type: str | None, body: bytes) -> str:
    """
    The error of a REST response that claims success and is not JSON: a proxy's page, or a login.

    Empty if the response may be the model server's. One without a content type is read as JSON.
    """
    if status != 200 or content_type is None or "json" in content_type:
        return ""
    return (
        f"not the model server: {printable(content_type)} {short(body[:300].decode('utf-8', 'replace'), 60)}"
    )


def cookie_pair(header: str | None) -> str | None:
    """
    NAME=VALUE of a Set-Cookie header, without the attributes.
    """
    return header.partition(";")[0].strip() if header else None


def header_word(header: str | None) -> str | None:
    """
    The value of a header, safe to print; None if the answer lacks it.
    """
    return None if header is None else printable(header)
