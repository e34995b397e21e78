"""
Models of pictures: what is wrong with a prediction, how far two are apart, and whether APIs and tracks agree.

All of it is pure: answers in, findings out.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from tfcanary.check.finding import SHOWN_FAILURES, Finding, outcome_of
from tfcanary.check.profile import (
    AGREEMENT_TOLERANCE,
    ROUNDING,
    Answers,
    classes_alike,
    farthest,
    rest_is_grpc,
    where_of,
)
from tfcanary.client.answer import Answer
from tfcanary.client.pictures import Classified, classification, classified
from tfcanary.contract import SERVING_DEFAULT, SERVING_PREPROCESS, Api

TOP = 5
SUM_TOLERANCE = 1e-3


def agreement(
    answers: Answers, tracks: Sequence[str], *, both_apis: bool, agree: float | None = None
) -> Iterator[Finding]:
    """
    Whether the answers fit together: classes, labels, tracks and APIs.

    Args:
        answers: the first answer of each track, for each signature over each API.
        tracks: those that should have answered.
        both_apis: whether both APIs were asked.
        agree: the least part of the pictures whose first label two tracks must share; None asks for none.
    """
    yield same_classes(answers)
    yield same_labels(answers)
    for one, other in itertools.combinations(tracks, 2):
        yield tracks_agree(answers, one, other, agree)
    if both_apis:
        for track in tracks:
            yield apis_agree(answers, track)


def same_classes(answers: Answers) -> Finding:
    """
    Every answer has the same number of classes.
    """
    sizes = {
        where_of(key): found.class_probabilities.size
        for key, answer in answers.items()
        if (found := classification(answer)) is not None
    }
    return classes_alike([sizes])


def same_labels(answers: Answers) -> Finding:
    """
    A class has one label, whichever track answers: a permuted vocabulary is well-formed, and wrong.
    """
    seen: dict[int, dict[str, str]] = {}
    for key, answer in answers.items():
        for index, label in _labelled(answer):
            seen.setdefault(index, {})[where_of(key)] = label
    odd = [
        f"class {index} is " + ", ".join(f"{label!r} by {where}" for where, label in sorted(labels.items()))
        for index, labels in sorted(seen.items())
        if len(set(labels.values())) > 1
    ]
    twice = [labels for labels in seen.values() if len(labels) > 1]
    compared = sum(map(len, twice))
    named = sum(map(len, seen.values()))
    return Finding(
        "labels",
        "",
        None,
        outcome_of(odd),
        "one label for each class",
        "; ".join(odd[:SHOWN_FAILURES]) or f"one label for each of {len(twice)} classes",
        compared,
        detail="" if compared else f"none of {named} classes was named twice",
    )


def _labelled(answer: Answer) -> Iterator[tuple[int, str]]:
    """
    The classes that an answer names, each with its label; an answer with problems names none.
    """
    given = classification(answer)
    if given is None or any(prediction_problems(answer)):
        return
    every = given.class_probabilities
    order = np.argsort(every)[::-1][: len(given.labels)]
    for index, label in zip(order, given.labels, strict=False):
        # Of two classes that are equally likely, either may come first.
        if int((every == every[index]).sum()) == 1:
            yield int(index), label


def tracks_agree(answers: Answers, one: str, other: str, agree: float | None = None) -> Finding:
    """
    How far apart two tracks are on the same picture. Two versions may differ, so without a bound this is information.
    """
    same, apart = 0, []
    for (api, signature, track), answer in answers.items():
        second = answers.get((api, signature, other))
        if track != one or second is None:
            continue
        left, right = classification(answer), classification(second)
        if left is None or right is None:
            continue
        unlike = left.class_probabilities.shape != right.class_probabilities.shape
        if unlike or any(prediction_problems(answer)) or any(prediction_problems(second)):
            continue
        same += left.labels[:1] == right.labels[:1]
        apart.append(float(np.abs(left.class_probabilities - right.class_probabilities).sum()) / 2)
    return Finding(
        "agreement",
        f"{one} and {other}",
        None,
        outcome_of(agree is not None and same < agree * len(apart) - ROUNDING),
        "informational" if agree is None else f"first label the same in {100 * agree:g} %",
        f"first label the same in {same}, probabilities {max(apart):.2g} apart at most (0 to 1)"
        if apart
        else "no pair of predictions",
        2 * len(apart),
    )


def apis_agree(answers: Answers, track: str) -> Finding:
    """
    A track's answers over REST are those over gRPC.
    """
    distances = []
    for signature in (SERVING_DEFAULT, SERVING_PREPROCESS):
        rest = answers.get((Api.REST, signature, track))
        grpc = answers.get((Api.GRPC, signature, track))
        left, right = rest and classification(rest), grpc and classification(grpc)
        if left and right:
            distances.append((distance(left, right), ""))
    return rest_is_grpc(track, distances, "class probabilities")


def prediction_problems(answer: Answer) -> Iterator[str]:
    """
    What is wrong with one prediction.
    """
    if answer.prediction is None:
        yield "no prediction"
        return
    try:
        given = classified(answer.prediction)
    except ValueError as exc:
        yield str(exc)
        return
    yield from _problems(given)


def _problems(given: Classified) -> Iterator[str]:
    if len(given.labels) != TOP or not all(isinstance(label, str) and label for label in given.labels):
        yield f"labels are {given.labels!r}, expected {TOP} strings"
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
    if len(largest) != len(top) or farthest(largest, top) > AGREEMENT_TOLERANCE:
        yield "probabilities are not the largest class_probabilities"


def distance(one: Classified, other: Classified) -> float:
    """
    The largest difference of two predictions' class probabilities, as a part of the largest of them.
    """
    left, right = one.class_probabilities, other.class_probabilities
    if left.shape != right.shape:
        return math.inf
    return farthest(left, right)
