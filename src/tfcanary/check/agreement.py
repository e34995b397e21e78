"""
What is wrong with a prediction, how far two are apart, and whether APIs and tracks agree.

All of it is pure: answers in, findings out.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfcanary.check.finding import OFF, SHOWN_FAILURES, UNNAMED, Finding, outcome_of
from tfcanary.client.answer import Answer, Interface, Prediction, Signature, Tensor
from tfcanary.contract import SERVING_DEFAULT, SERVING_PREPROCESS, Api
from tfcanary.judge.verdict import Outcome

# By API, signature and track: its first answer.
Answers = Mapping[tuple[Api, str, str], Answer]
# By API and track.
Interfaces = Mapping[tuple[Api, str], Interface]

TOP = 5
SUM_TOLERANCE = 1e-3
# Of the largest class probability: an unsure model's are all near 1/classes, where any fixed distance holds. float32
# has 7 digits, and two machines may differ in the fifth.
AGREEMENT_TOLERANCE = 1e-3


def agreement(answers: Answers, tracks: Sequence[str], *, both_apis: bool) -> Iterator[Finding]:
    """
    Whether the answers fit together: classes, labels, tracks and APIs.

    Args:
        answers: the first answer of each track, for each signature over each API.
        tracks: those that should have answered.
        both_apis: whether both APIs were asked.
    """
    yield same_classes(answers)
    yield same_labels(answers)
    for one, other in itertools.combinations(tracks, 2):
        yield tracks_agree(answers, one, other)
    if both_apis:
        for track in tracks:
            yield apis_agree(answers, track)


def same_classes(answers: Answers) -> Finding:
    """
    Every answer has the same number of classes.
    """
    classes = {
        _where(key): answer.prediction.class_probabilities.size
        for key, answer in answers.items()
        if answer.prediction is not None
    }
    counts = sorted(set(classes.values()))
    odd = len(counts) > 1
    return Finding(
        "classes",
        "",
        None,
        outcome_of(odd),
        "same number of classes everywhere",
        ", ".join(map(str, counts)) or "no prediction",
        len(classes),
        detail="; ".join(f"{where} {n}" for where, n in classes.items()) if odd else "",
    )


def same_labels(answers: Answers) -> Finding:
    """
    A class has one label, whichever track answers: a permuted vocabulary is well-formed, and wrong.
    """
    seen: dict[int, dict[str, str]] = {}
    for key, answer in answers.items():
        for index, label in _labelled(answer):
            seen.setdefault(index, {})[_where(key)] = label
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
    given = answer.prediction
    if given is None or any(prediction_problems(answer)):
        return
    every = given.class_probabilities
    order = np.argsort(every)[::-1][: len(given.labels)]
    for index, label in zip(order, given.labels, strict=False):
        # Of two classes that are equally likely, either may come first.
        if int((every == every[index]).sum()) == 1:
            yield int(index), label


def tracks_agree(answers: Answers, one: str, other: str) -> Finding:
    """
    How far apart two tracks are on the same picture. Two versions may differ, so this is information.
    """
    same, apart = 0, []
    for (api, signature, track), answer in answers.items():
        second = answers.get((api, signature, other))
        if track != one or second is None or not answer.prediction or not second.prediction:
            continue
        left, right = answer.prediction, second.prediction
        unlike = left.class_probabilities.shape != right.class_probabilities.shape
        if unlike or any(prediction_problems(answer)) or any(prediction_problems(second)):
            continue
        same += left.labels[:1] == right.labels[:1]
        apart.append(float(np.abs(left.class_probabilities - right.class_probabilities).sum()) / 2)
    return Finding(
        "agreement",
        f"{one} and {other}",
        None,
        Outcome.HELD,
        "informational",
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
        if rest and grpc and rest.prediction and grpc.prediction:
            distances.append(distance(rest.prediction, grpc.prediction))
    worst = max(distances, default=math.nan)
    unnamed = track == UNNAMED
    apart = bool(distances) and not worst <= AGREEMENT_TOLERANCE
    return Finding(
        "REST = gRPC",
        "" if unnamed else track,
        None,
        Outcome.NOT_ENOUGH if unnamed else outcome_of(apart, missing=not distances),
        f"class probabilities within {100 * AGREEMENT_TOLERANCE:g} %",
        f"at most {100 * worst:.2g} % apart" if distances else "no pair of predictions",
        2 * len(distances),
        detail=OFF if unnamed else "",
    )


def _where(key: tuple[Api, str, str]) -> str:
    api, signature, track = key
    return f"{track} {signature} over {api.value}"


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
    """
    The type and shape of an input or output.
    """
    return f"{tensor.dtype}{list(tensor.shape)}" if tensor else "none"
