"""
What a model's answer says: the status, who gave it, the prediction or the interface.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tfcanary.contract import Api
from tfcanary.text import printable


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """
    What the model says of one picture.
    """

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    class_probabilities: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tensor:
    """
    An input or output of a signature, as the metadata describes it; -1 is a size left open.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """
    What a signature takes and gives, by name.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


Interface = Mapping[str, Signature]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """
    How one request ended.

    Attributes:
        status: the HTTP status, the name of the gRPC code, or what came instead of an answer.
        reached: whether something answered at all.
        track: who answered, if the answer says so.
        revision: under which routes, if the answer says so.
        error: the start of what a failed request was told.
        cookie: what the answer asks the client to keep, as NAME=VALUE.
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
        The answer in a few words.
        """
        if self.ok:
            return f"{self.status} from {self.track or 'an unnamed track'}, revision {self.revision or 'unnamed'}"
        return f"{self.status} {self.error}".strip()


class Client(Protocol):
    """
    One way in to one model.
    """

    api: Api

    def metadata(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        parse: bool = False,
        prefix: str = "",
        version: str | None = None,
    ) -> Answer:
        """
        Ask for the model's metadata: cheap, and taking the same route as a prediction.

        Args:
            headers: the client's own.
            parse: whether the interface is read from it.
            prefix: what stands before the path of the API.
            version: a version of the model, by its number.
        """

    def predict(
        self,
        signature: str,
        name: str,
        value: "Value",
        headers: Mapping[str, str] | None = None,
        *,
        prefix: str = "",
    ) -> Answer:
        """
        Ask for one prediction.
        """

    def close(self) -> None:
        """
        Close the connections.
        """


Value = npt.NDArray[np.float32] | bytes


def cookie_pair(header: str | None) -> str | None:
    """
    Name and value, without what the client is told about them.
    """
    return header.partition(";")[0].strip() if header else None


def header_word(header: str | None) -> str | None:
    return None if header is None else printable(header)
