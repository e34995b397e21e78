"""
The profile of any model: outputs as they are declared, finite numbers, and answers that repeat themselves.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tfcanary.check.finding import OFF, SHOWN_FAILURES, UNNAMED, Finding, outcome_of
from tfcanary.check.profile import (
    AGREEMENT_TOLERANCE,
    ROUNDING,
    Answers,
    Compared,
    Profile,
    Requests,
    farthest,
    rest_is_grpc,
)
from tfcanary.check.signatures import tensor_in_words
from tfcanary.client.answer import Answer, Interface, Prediction, Tensor, TensorValue
from tfcanary.client.request import PredictRequest
from tfcanary.client.tensors import STRING
from tfcanary.contract import Api
from tfcanary.judge.verdict import Outcome


class Plain(Profile):
    """
    Any model with a signature that can be asked.
    """

    name = "plain"
    signatures = "the same signatures everywhere"
    answers = "outputs as declared, finite numbers"
    # The second answer of a track must be its first.
    times = 2
    compares_all = True

    def interface_problems(self, interface: Interface) -> Iterator[str]:  # noqa: ARG002 - any will do
        """
        None: which signatures a model has is its own affair.
        """
        return iter(())

    def problems(self, answer: Answer, request: PredictRequest) -> Iterator[str]:
        """
        The outputs that are not as the signature declares them, and numbers that are not finite.
        """
        given = answer.prediction
        if given is None:
            yield "no prediction"
            return
        declared = request.declared.outputs if request.declared else {}
        if set(given.outputs) != set(declared):
            yield f"outputs {_names(given.outputs)}, expected {_names(declared)}"
        for name, value in given.outputs.items():
            seen = Tensor(value.dtype, value.values.shape)
            if name in declared and not (
                seen.dtype == declared[name].dtype and declared[name].takes(seen.shape or ())
            ):
                yield f"output {name} is {tensor_in_words(seen)}, expected {tensor_in_words(declared[name])}"
            if not finite(value):
                odd = int((~np.isfinite(value.values)).sum())
                yield f"output {name} has {odd} of {value.values.size} numbers that are not finite"

    def agreement(self, seen: Compared) -> Iterator[Finding]:
        """
        Whether tracks agree output by output, whether the APIs do, and which known answers were given.
        """
        for one, other in itertools.combinations(seen.tracks, 2):
            yield self._tracks_agree(seen.answers, seen.requests, (one, other), seen.agree)
        if seen.both_apis:
            for track in seen.tracks:
                yield rest_is_grpc(track, list(_api_distances(seen.answers, track)), "outputs")
        yield from known_answers(seen, self.label)

    def label(self, given: Prediction, request: PredictRequest) -> str | None:  # noqa: ARG002
        """
        The first label that an answer names; None if it has none.
        """
        for _, value in sorted(given.outputs.items()):
            if value.dtype == STRING and value.values.size:
                return bytes(value.values.ravel()[0]).decode("utf-8", "replace")
        return None

    def _tracks_agree(
        self, answers: Answers, requests: Requests, pair: tuple[str, str], agree: float | None
    ) -> Finding:
        """
        How far two tracks are apart. Two versions may differ, so without a bound this is information.
        """
        likeness: dict[str, list[float]] = {}
        strings: set[str] = set()
        swapped: set[str] = set()
        n = 0
        for (api, key, track), first in answers.items():
            second = answers.get((api, key, pair[1]))
            if track != pair[0] or second is None:
                continue
            if any(self.problems(first, requests[key])) or any(self.problems(second, requests[key])):
                continue
            n += 2
            left, right = _outputs(first), _outputs(second)
            for name in left.keys() & right.keys():
                likeness.setdefault(name, []).append(_likeness(left[name], right[name]))
                strings |= {name} if left[name].dtype == STRING else set()
            swapped |= set(_swapped(left, right))
        shares = {name: sum(found) / len(found) for name, found in sorted(likeness.items())}
        seen = [
            f"{name}: first label the same in {sum(likeness[name]):g} of {len(likeness[name])}"
            if name in strings
            else f"{name}: at most {100 * (1 - min(likeness[name])):.2g} % apart"
            for name in shares
        ]
        least = {name: shares[name] if name in strings else min(likeness[name]) for name in shares}
        below = [name for name, share in least.items() if agree is not None and share < agree - ROUNDING]
        return Finding(
            "agreement",
            f"{pair[0]} and {pair[1]}",
            None,
            outcome_of(below),
            "informational" if agree is None else f"each output agrees to at least {100 * agree:g} %",
            "; ".join([*seen, *sorted(swapped)]) or "no pair of predictions",
            n,
            detail=f"less than that: {', '.join(below)}" if below else "",
        )


def known_answers(
    compared: Compared, label: Callable[[Prediction, PredictRequest], str | None]
) -> Iterator[Finding]:
    """
    How many requests with a known answer each track answered rightly, as information; nothing if there are none.
    """
    requests = compared.requests
    asked: dict[str, list[bool]] = {track: [] for track in compared.tracks}
    for (_, key, track), answer in compared.answers.items():
        if requests[key].label is not None and answer.prediction is not None and track in asked:
            asked[track].append(label(answer.prediction, requests[key]) == requests[key].label)
    if any(request.label is not None for request in requests.values()):
        seen = [f"{track} {sum(found)} of {len(found)}" for track, found in asked.items() if found]
        yield Finding(
            "labels given",
            "",
            None,
            Outcome.HELD,
            "informational",
            ", ".join(seen) or "no answer",
            sum(map(len, asked.values())),
        )


def repeats(
    api: Api, signature: str, answers: Mapping[str, Sequence[Answer]], tracks: Sequence[str]
) -> Finding:
    """
    A track gives the same answer to the same request.

    Args:
        api: that of the answers.
        signature: the request's.
        answers: of each track, to one request.
        tracks: those that should have answered.
    """
    problems, missing, n = [], [], 0
    for track in tracks:
        given = [answer.prediction for answer in answers.get(track, ()) if answer.prediction is not None]
        if track == UNNAMED or len(given) < 2:
            missing.append(track)
            continue
        n += len(given)
        worst, name = max(prediction_distance(given[0], other) for other in given[1:])
        if worst > AGREEMENT_TOLERANCE:
            problems.append(f"{track}: output {name} {100 * worst:.2g} % apart")
    detail = OFF if UNNAMED in missing else f"no second answer from {', '.join(missing)}"
    return Finding(
        "same answer twice",
        signature,
        api,
        outcome_of(problems, missing),
        f"within {100 * AGREEMENT_TOLERANCE:g} % of the first",
        "; ".join(problems[:SHOWN_FAILURES]) or "as expected",
        n,
        detail=detail if missing else "",
    )


def _api_distances(answers: Answers, track: str) -> Iterator[tuple[float, str]]:
    """
    How far a track's answers over REST are from those over gRPC, request by request.
    """
    for (api, key, answered_by), rest in answers.items():
        grpc = answers.get((Api.GRPC, key, track))
        if api is Api.REST and answered_by == track and grpc and rest.prediction and grpc.prediction:
            yield prediction_distance(rest.prediction, grpc.prediction)


def prediction_distance(one: Prediction, other: Prediction) -> tuple[float, str]:
    """
    How far the output is apart that differs most, and its name; infinite where only one has it.
    """
    names = sorted({*one.outputs, *other.outputs})
    return max(
        (
            (
                distance(one.outputs[name], other.outputs[name])
                if name in one.outputs and name in other.outputs
                else math.inf,
                name,
            )
            for name in names
        ),
        default=(0.0, ""),
    )


def distance(one: TensorValue, other: TensorValue) -> float:
    """
    The largest difference as a part of the largest value; 1 for other strings, infinite for another type or shape.
    """
    if one.dtype != other.dtype or one.values.shape != other.values.shape:
        return math.inf
    if one.values.dtype.kind in "Ob":
        return float((one.values != other.values).any())
    return farthest(one.values.astype(np.float64), other.values.astype(np.float64))


def _likeness(one: TensorValue, other: TensorValue) -> float:
    """
    How far one output of two tracks agrees, from 0 to 1: by its first string, or by the largest relative difference.
    """
    if one.dtype == STRING and other.dtype == STRING:
        return float(one.values.ravel()[:1].tolist() == other.values.ravel()[:1].tolist())
    return max(0.0, 1 - distance(one, other))


def finite(value: TensorValue) -> bool:
    """
    Whether all numbers are; whole numbers, strings and booleans always are.
    """
    return value.values.dtype.kind != "f" or bool(np.isfinite(value.values).all())


def _outputs(answer: Answer) -> Mapping[str, TensorValue]:
    return answer.prediction.outputs if answer.prediction else {}


def _swapped(left: Mapping[str, TensorValue], right: Mapping[str, TensorValue]) -> Iterator[str]:
    """
    Pairs of outputs that one track gives under each other's names.
    """
    for one, other in itertools.combinations(sorted(left.keys() & right.keys()), 2):
        crossed = max(distance(left[one], right[other]), distance(left[other], right[one]))
        straight = max(distance(left[one], right[one]), distance(left[other], right[other]))
        if crossed <= AGREEMENT_TOLERANCE < straight:
            yield f"{one} and {other} look swapped"


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
