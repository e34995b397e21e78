"""
What a model is looked at for, beyond its routes: a profile asks more of the models that it fits.
"""

import abc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tfcanary.check.finding import OFF, UNNAMED, Finding, outcome_of
from tfcanary.client.answer import Answer, Interface, Prediction
from tfcanary.client.request import PredictRequest
from tfcanary.contract import Api
from tfcanary.judge.verdict import Outcome

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


@dataclass(frozen=True, slots=True)
class Compared:
    """
    The answers that are compared with each other.

    Attributes:
        answers: the first answer of each track to each request over each API.
        requests: by the names that `answers` has.
        tracks: those that should have answered.
        both_apis: whether both APIs were asked.
        agree: how far two tracks must agree, from 0 to 1; None only says how far they do.
    """

    answers: Answers
    requests: Requests
    tracks: Sequence[str]
    both_apis: bool
    agree: float | None


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
    def agreement(self, seen: Compared) -> Iterator[Finding]:
        """
        Whether the answers fit together.
        """

    @abc.abstractmethod
    def label(self, given: Prediction, request: PredictRequest) -> str | None:
        """
        What an answer names first; None if it names nothing.
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


def classes_alike(sizes: Iterable[Mapping[str, int]]) -> Finding:
    """
    Every answer has the same number of classes.

    Args:
        sizes: for each output, the number by who answered.
    """
    found = list(sizes)
    odd = [one for one in found if len(set(one.values())) > 1]
    counts = sorted({size for one in found for size in one.values()})
    return Finding(
        "classes",
        "",
        None,
        outcome_of(odd),
        "same number of classes everywhere",
        ", ".join(map(str, counts)) or "no prediction",
        sum(map(len, found)),
        detail="; ".join(f"{where} {size}" for one in odd for where, size in one.items()),
    )


def rest_is_grpc(track: str, distances: Sequence[tuple[float, str]], what: str) -> Finding:
    """
    A track's answers over REST are those over gRPC.

    Args:
        track: the track.
        distances: of each pair of answers, and the name of the output that differs most, if it has one.
        what: is compared.
    """
    worst, name = max(distances, default=(math.nan, ""))
    unnamed = track == UNNAMED
    apart = bool(distances) and not worst <= AGREEMENT_TOLERANCE
    return Finding(
        "REST = gRPC",
        "" if unnamed else track,
        None,
        Outcome.NOT_ENOUGH if unnamed else outcome_of(apart, missing=not distances),
        f"{what} within {100 * AGREEMENT_TOLERANCE:g} %",
        f"at most {100 * worst:.2g} % apart" if distances else "no pair of predictions",
        2 * len(distances),
        detail=OFF if unnamed else f"output {name}" if apart and name else "",
    )
