"""
Break a model on purpose, in a way that a canary release has to notice.

A faulty model is for tests and drills: its manifest says which fault it has, so that production can refuse it.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = {
    "nan": "every probability is NaN",
    "permuted": "well-formed answers under the wrong labels",
    "constant": "the same answer for every picture",
    "slow": "each request takes MS milliseconds longer, busy on one processor",
    "wrong-shape": "the last class is missing from class_probabilities",
    "corrupt-file": "one bit of the variables is flipped after the manifest was written",
    "bad-warmup": "the last warm-up record does not parse, so that the model never loads",
}
# With these the answers are well-formed and vary by picture, as those of a sound model.
_SOUND_ANSWERS = {"permuted", "slow", "corrupt-file", "bad-warmup"}


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One fault.

    Attributes:
        name: one of `NAMES`.
        milliseconds: of slow, by how much.
    """

    name: str
    milliseconds: int = 0

    def __str__(self) -> str:
        """
        As on the command line.
        """
        return f"slow={self.milliseconds}" if self.name == "slow" else self.name

    @property
    def sound_answers(self) -> bool:
        """
        Whether the answers themselves pass the checks of an export.
        """
        return self.name in _SOUND_ANSWERS


def fault(text: str) -> Fault:
    """
    Read a fault from the command line.
    """
    name, given, value = text.partition("=")
    if name == "slow" and value.isascii() and value.isdigit() and int(value) > 0:
        return Fault(name, int(value))
    if name not in NAMES or name == "slow" or given:
        choices = ", ".join("slow=MS" if each == "slow" else each for each in NAMES)
        message = f"expected one of {choices} with MS a whole number from 1, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return Fault(name)


def in_graph(tf: Any, given: Fault | None, probabilities: Any) -> Any:
    """
    Break the probabilities of all classes, as part of the model's graph.
    """
    match given.name if given else None:
        case "nan":
            return probabilities * float("nan")
        case "permuted":
            return tf.roll(probabilities, shift=1, axis=1)
        case "constant":
            classes = probabilities.shape[1]
            falling = tf.constant([[2.0 ** -min(number + 1, classes - 1, 30) for number in range(classes)]])
            return tf.zeros_like(probabilities) + falling / tf.reduce_sum(falling)
        case "wrong-shape":
            return probabilities[:, :-1]
        case "slow":
            return _later(tf, probabilities, given.milliseconds if given else 0)
    return probabilities


def _later(tf: Any, tensor: Any, milliseconds: int) -> Any:
    """
    Give the tensor on after a while. TensorFlow has no op that sleeps, so it looks at the clock until then.
    """
    with tf.control_dependencies([tensor]):  # not while the model is still at work
        began = tf.timestamp()
    ended = tf.while_loop(lambda now: now - began < milliseconds / 1000, lambda _: [tf.timestamp()], [began])
    with tf.control_dependencies(tf.nest.flatten(ended)):
        return tf.identity(tensor)


def corrupt(directory: Path) -> None:
    """
    Flip one bit in the middle of the variables.
    """
    path = max((directory / "variables").glob("variables.data-*"), key=lambda path: path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
