"""
The profile of models that name what is on a picture, as `tfcanary export` writes them.
"""

from collections.abc import Iterator

from tfcanary.check.agreement import TOP, agreement, prediction_problems
from tfcanary.check.finding import Finding
from tfcanary.check.plain import known_answers
from tfcanary.check.profile import Compared, Profile
from tfcanary.check.signatures import inputs_in_words
from tfcanary.client.answer import Answer, Interface, Prediction
from tfcanary.client.pictures import (
    CLASS_PROBABILITIES,
    LABELS,
    MOST_SIZE,
    PROBABILITIES,
    classified,
    picture_size,
)
from tfcanary.client.request import PredictRequest
from tfcanary.contract import SERVING_DEFAULT, SERVING_PREPROCESS

SIGNATURES = (SERVING_DEFAULT, SERVING_PREPROCESS)


class Pictures(Profile):
    """
    Both signatures for one picture each, and the same three outputs.
    """

    name = "pictures"
    signatures = "both signatures, the same everywhere"
    answers = f"{TOP} labels, {TOP} falling probabilities, sum 1"
    times = 1
    compares_all = False

    @staticmethod
    def fits(interface: Interface) -> bool:
        """
        Whether a model means to be one of pictures: it has their outputs, and takes a picture in at least one form.
        """
        outputs = {LABELS, PROBABILITIES, CLASS_PROBABILITIES}
        default = interface.get(SERVING_DEFAULT)
        return any(outputs <= set(signature.outputs) for signature in interface.values()) and (
            SERVING_PREPROCESS in interface or (default is not None and picture_size(default) is not None)
        )

    def interface_problems(self, interface: Interface) -> Iterator[str]:
        """
        Which of the two signatures is missing, or takes anything but one picture.
        """
        for name in SIGNATURES:
            if name not in interface:
                yield f"no signature {name}, only {', '.join(sorted(interface)) or 'none'}"
        default, encoded = interface.get(SERVING_DEFAULT), interface.get(SERVING_PREPROCESS)
        if default and picture_size(default) is None:
            yield (
                f"{SERVING_DEFAULT} takes {inputs_in_words(default)}, expected one picture: batch, "
                f"height, width, channels, of at most {MOST_SIZE} each"
            )
        if encoded and len(encoded.inputs) != 1:
            yield f"{SERVING_PREPROCESS} takes {inputs_in_words(encoded)}, expected one input"

    def problems(self, answer: Answer, request: PredictRequest) -> Iterator[str]:  # noqa: ARG002 - all are alike
        """
        What is wrong with labels and probabilities.
        """
        return prediction_problems(answer)

    def agreement(self, seen: Compared) -> Iterator[Finding]:
        """
        Whether classes, labels, tracks and APIs agree.
        """
        yield from agreement(seen.answers, seen.tracks, both_apis=seen.both_apis, agree=seen.agree)
        yield from known_answers(seen, self.label)

    def label(self, given: Prediction, request: PredictRequest) -> str | None:  # noqa: ARG002 - all are alike
        """
        The label of the most probable class.
        """
        try:
            return next(iter(classified(given).labels), None)
        except ValueError:
            return None
