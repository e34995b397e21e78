"""
What a model is looked at for, beyond its routes: a profile asks more of the models that it fits.
"""

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tfcanary.check.finding import Finding
from tfcanary.client.answer import Answer, Interface
from tfcanary.client.request import PredictRequest
from tfcanary.contract import Api

# By API, request and track: its first answer. The first request of a signature has the signature's name.
Answers = Mapping[tuple[Api, str, str], Answer]
# By API and track.
Interfaces = Mapping[tuple[Api, str], Interface]
Requests = Mapping[str, PredictRequest]

# Of the largest value: an unsure model's probabilities are all near 1/classes, where any fixed distance holds. float32
# has 7 digits, and two machines may differ in the fifth.
AGREEMENT_TOLERANCE = 1e-3
# Shares of counts are compared with bounds that decimals only approximate.
ROUNDING = 1e-9


class Profile(abc.ABC):
    """
    One kind of model, and what its answers must be.

    Attributes:
        name: as reports name it.
        signatures: what the interface must have.
        answers: what each answer must be.
        times: how often each track is asked the first request of a signature, at least.
        compares_all: whether answers to later requests are compared too, where they are not the user's.
    """

    name: ClassVar[str]
    signatures: ClassVar[str]
    answers: ClassVar[str]
    times: ClassVar[int]
    compares_all: ClassVar[bool]

    @abc.abstractmethod
    def interface_problems(self, interface: Interface) -> Iterator[str]:
        """
        Why a model with this interface does not fit the profile.
        """

    @abc.abstractmethod
    def problems(self, answer: Answer, request: PredictRequest) -> Iterator[str]:
        """
        What is wrong with one answer.
        """

    @abc.abstractmethod
    def agreement(
        self,
        answers: Answers,
        requests: Requests,
        tracks: Sequence[str],
        *,
        both_apis: bool,
        agree: float | None,
    ) -> Iterator[Finding]:
        """
        Whether the answers fit together.

        Args:
            answers: the first answer of each track to each request over each API.
            requests: by the names that `answers` has.
            tracks: those that should have answered.
            both_apis: whether both APIs were asked.
            agree: how far two tracks must agree, from 0 to 1; None only says how far they do.
        """


def farthest(left: Any, right: Any) -> float:
    """
    The largest difference of two arrays of numbers, as a part of the largest value.
    """
    largest = float(max(np.abs(left).max(initial=0), np.abs(right).max(initial=0)))
    with np.errstate(invalid="ignore"):  # infinite less infinite
        difference = float(np.abs(left - right).max(initial=0))
    if not math.isfinite(difference) or not math.isfinite(largest):
        return math.inf
    return difference / largest if largest else 0.0


def where_of(key: tuple[Api, str, str]) -> str:
    """
    Who answered what, in words.
    """
    api, request, track = key
    return f"{track} {request} over {api.value}"
