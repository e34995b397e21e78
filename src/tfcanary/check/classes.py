"""
The profile of classifiers: an output holds a probability for each class.

Which output that is, its name says. Probabilities that are independent of each other (several classes may be true) do
not sum to 1 in any answer. They must do so in every answer where they do in one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tfcanary.check.finding import SHOWN_FAILURES, Finding, outcome_of
from tfcanary.check.plain import Plain
from tfcanary.check.profile import Answers, Compared, Requests, classes_alike, where_of
from tfcanary.client.answer import Answer, Interface, Prediction, Signature, TensorValue
from tfcanary.client.request import PredictRequest
from tfcanary.client.tensors import STRING

SUM_TOLERANCE = 1e-3
# bfloat16 has 8 bits: a thousand classes round to a sum that is as much off.
_COARSE_SUM_TOLERANCE = 0.05
_PROBABILITIES = re.compile(r"prob(s|abilit(y|ies))?(?![a-z])|softmax")
_LABELS = re.compile(r"label|class|categor|name")
_FLOATS = ("DT_FLOAT", "DT_DOUBLE", "DT_HALF", "DT_BFLOAT16")


def distributions(signature: Signature) -> list[str]:
    """
    The outputs that hold a probability for each class in their last dimension, by their names and shapes.
    """
    return [
        name
        for name, tensor in sorted(signature.outputs.items())
        if tensor.dtype in _FLOATS
        and tensor.shape
        and tensor.shape[-1] != 1
        # Of numbers in one open dimension, that is the batch.
        and tensor.shape != (-1,)
        and _PROBABILITIES.search(name.lower())
        and "log" not in name.lower()
    ]


class Classes(Plain):
    """
    A model with probabilities of classes.
    """

    name = "classes with probabilities"
    answers = "outputs as declared, finite numbers, probabilities between 0 and 1"

    @staticmethod
    def fits(interface: Interface) -> bool:
        """
        Whether a signature has probabilities.
        """
        return any(distributions(signature) for signature in interface.values())

    def problems(self, answer: Answer, request: PredictRequest) -> Iterator[str]:
        """
        What is wrong with any output, and probabilities that are none.
        """
        yield from super().problems(answer, request)
        for name, value in _found(answer, request).items():
            if ((value.values < 0) | (value.values > 1)).any():
                yield f"output {name} is not between 0 and 1"

    def agreement(self, seen: Compared) -> Iterator[Finding]:
        """
        Whether sums, numbers of classes and labels are the same everywhere; and what holds for any model.
        """
        yield _sums(seen.answers, seen.requests)
        yield classes_alike(_sizes(seen.answers, seen.requests))
        labels = _same_labels(seen.answers, seen.requests)
        if labels.n:
            yield labels
        yield from super().agreement(seen)

    def label(self, given: Prediction, request: PredictRequest) -> str | None:
        """
        The label of the most probable class, or its number where classes have no labels.
        """
        every = next(iter(_probabilities(given, request).values()), None)
        best = int(np.argmax(_first_row(every))) if every is not None and every.values.size else None
        for name, value in sorted(given.outputs.items()):
            if value.dtype == STRING and value.values.size and _LABELS.search(name.lower()):
                row = _first_row(value)
                vocabulary = every is not None and value.values.shape == every.values.shape
                return bytes(row[best if vocabulary and best is not None else 0]).decode("utf-8", "replace")
        return None if best is None else str(best)


def _probabilities(given: Prediction, request: PredictRequest) -> dict[str, TensorValue]:
    names = distributions(request.declared) if request.declared else []
    return {name: given.outputs[name] for name in names if name in given.outputs}


def _found(answer: Answer, request: PredictRequest) -> Mapping[str, TensorValue]:
    return _probabilities(answer.prediction, request) if answer.prediction else {}


def _first_row(value: TensorValue) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """
    The values of the first entry along all dimensions but the last.
    """
    return value.values.reshape(-1, value.values.shape[-1])[0] if value.values.ndim else value.values.ravel()


def _sums(answers: Answers, requests: Requests) -> Finding:
    """
    The probabilities of an answer sum to 1, wherever those of any answer do.
    """
    good: set[tuple[str, str]] = set()
    off: dict[tuple[str, str], list[str]] = {}
    n = 0
    for key, answer in answers.items():
        signature = requests[key[1]].signature
        for name, value in _found(answer, requests[key[1]]).items():
            n += 1
            sums = value.values.astype(np.float64).sum(axis=-1)
            coarse = value.dtype in ("DT_HALF", "DT_BFLOAT16")
            worst = sums.ravel()[int(np.argmax(np.abs(sums - 1)))] if sums.size else 1.0
            if abs(worst - 1) <= (_COARSE_SUM_TOLERANCE if coarse else SUM_TOLERANCE):
                good.add((signature, name))
            else:
                off.setdefault((signature, name), []).append(f"{where_of(key)}: {name} sums to {worst:.4g}")
    odd = [words for output, found in off.items() if output in good for words in found]
    independent = sorted(name for _, name in off.keys() - good)
    return Finding(
        "sums",
        "",
        None,
        outcome_of(odd),
        "1, if they are 1 in any answer",
        "; ".join(odd[:SHOWN_FAILURES])
        or (
            f"none is 1: {', '.join(independent)} taken for independent of each other" if independent else "1"
        ),
        n,
    )


def _sizes(answers: Answers, requests: Requests) -> Iterable[Mapping[str, int]]:
    """
    For each output with probabilities, the number of classes by who answered.
    """
    sizes: dict[tuple[str, str], dict[str, int]] = {}
    for key, answer in answers.items():
        for name, value in _found(answer, requests[key[1]]).items():
            if value.values.ndim:
                output = (requests[key[1]].signature, name)
                sizes.setdefault(output, {})[where_of(key)] = value.values.shape[-1]
    return sizes.values()


def _same_labels(answers: Answers, requests: Requests) -> Finding:
    """
    A class has one label, whichever track answers, where an output has a label for each class.
    """
    seen: dict[tuple[str, str, int], dict[bytes, str]] = {}
    n = 0
    for key, answer in answers.items():
        request = requests[key[1]]
        shapes = {value.values.shape for value in _found(answer, request).values()}
        for name, value in answer.prediction.outputs.items() if answer.prediction else ():
            if value.dtype != STRING or not _LABELS.search(name.lower()) or value.values.shape not in shapes:
                continue
            n += 1
            for number, label in enumerate(_first_row(value) if value.values.size else ()):
                seen.setdefault((request.signature, name, number), {}).setdefault(bytes(label), where_of(key))
    odd = [
        f"class {number} is "
        + ", ".join(f"{label.decode('utf-8', 'replace')!r} by {where}" for label, where in labels.items())
        for (_, _, number), labels in sorted(seen.items())
        if len(labels) > 1
    ]
    return Finding(
        "labels",
        "",
        None,
        outcome_of(odd),
        "one label for each class",
        "; ".join(odd[:SHOWN_FAILURES]) or f"one label for each of {len(seen)} classes",
        n,
    )
