"""
What a model's answer says: the status, who gave it, the prediction or the interface.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from tfcanary.contract import Api
from tfcanary.text import printable, short


@dataclass(frozen=True, slots=True, eq=False)
class TensorValue:
    """
    A tensor's values.

    Attributes:
        dtype: TensorFlow's name, such as DT_FLOAT.
        values: strings are objects of type bytes; DT_BFLOAT16 is float32, since numpy has no such type.
    """

    dtype: str
    values: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """
    What the model says of one request.

    Attributes:
        outputs: by name, each with the batch dimension if the model has one.
    """

    outputs: Mapping[str, TensorValue]


@dataclass(frozen=True, slots=True)
class Tensor:
    """
    An input or output of a signature, as the metadata describes it.

    Attributes:
        dtype: TensorFlow's name, such as DT_FLOAT.
        shape: with -1 for a size that is left open; None leaves the number of dimensions open too.
    """

    dtype: str
    shape: tuple[int, ...] | None

    def takes(self, shape: tuple[int, ...]) -> bool:
        """
        Whether a value of this shape has the number of dimensions and the fixed sizes.
        """
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(size in (-1, got) for size, got in zip(self.shape, shape, strict=True))
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """
    The inputs and outputs of a signature, by name.

    Attributes:
        method: the API that it was made for, such as tensorflow/serving/predict; empty if the metadata names none.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    method: str = ""


# The signatures of a model, by name.
Interface = Mapping[str, Signature]


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
        version: the model version that the answer itself names in `model_spec`, or None if it names none.
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
    version: str | None = None

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
