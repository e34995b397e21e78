"""
Small models of the kinds that people serve, each also with one fault of each kind.

    MODELS["string"]           what the model is
    build(folder)              folder/string/1 and folder/string-next/2, which are the same, and folder/string-nan/2 and
                               so on, as TensorFlow saves them

TensorFlow builds them in a process of its own: it takes seconds to import, and warns meanwhile.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAULTS = ("nan", "dtype", "shape", "swapped")
# The same model once more, as the next version.
NEXT = "next"


@dataclass(frozen=True)
class Kind:
    """
    One kind of model.

    Attributes:
        about: what is special about it.
        faults: those that it is also built with.
        requests: bodies of REST predictions that it answers, as lines of a file of requests.
        profile: that of the check.
        takes_made: whether it answers inputs that are made from its signature alone.
    """

    about: str
    requests: Sequence[dict[str, Any]]
    faults: Sequence[str] = FAULTS
    profile: str = "plain"
    takes_made: bool = True


MODELS = {
    "ragged": Kind(
        "rows of any length, padded with 0",
        [
            {"instances": [[3, 1, 2], [4, 0, 0]]},
            {"inputs": {"tokens": [[5]]}},
        ],
    ),
    "ragged-parts": Kind(
        "a ragged tensor as TensorFlow exports it: its values, and where each row begins and ends",
        [{"inputs": {"rows": [1.5, 2, 3, 4], "rows_1": [0, 1, 4]}}],
        takes_made=False,
    ),
    "string": Kind(
        "strings in and out",
        [
            {"instances": ["green tea", "größe"]},
            {"inputs": {"text": [{"b64": "/w=="}]}},
        ],
    ),
    "dictionary": Kind(
        "several outputs by name, of several ranks",
        [{"instances": [[1, 2, 3, 4.5]], "label": "up"}, {"instances": [[9, 2, 3, 4]], "label": "down"}],
    ),
    "scalar": Kind("one number in, two out, without a batch", [{"inputs": {"x": 3}}, {"inputs": 0.5}]),
    "multi-input": Kind(
        "inputs of three types",
        [{"instances": [{"age": [30], "price": [9.5], "city": ["Oslo"]}]}],
    ),
    "batch-free": Kind("a fixed shape without a batch", [{"inputs": [[1, 2, 3], [4, 5, 6], [7, 8, 10]]}]),
    "tflite": Kind("a TensorFlow Lite model beside the graph", [{"instances": [[1, 2], [3, 5]]}]),
    "recurrent": Kind("an LSTM over sequences of any length", [{"instances": [[[0.1, 0.2], [0.3, 0.4]]]}]),
    "half-plus-two": Kind(
        "TensorFlow Serving's own example, with signatures for classify and regress",
        # The string is a serialised tf.Example whose feature x is 1.0.
        [
            {"instances": [1.0, 2.0, 5.0]},
            {"signature_name": "regress_x_to_y", "inputs": [{"b64": "Cg8KDQoBeBIIEgYKBAAAgD8="}]},
        ],
        # Its only output has nothing to be swapped with.
        faults=("nan", "dtype", "shape"),
    ),
    "tabular": Kind(
        "columns of a table in, probabilities of labelled classes out",
        [
            {"instances": [{"age": 30, "income": 1000.0, "married": True}], "label": "yes"},
            {"instances": [{"age": 3, "income": 0.0, "married": False}], "label": "no"},
        ],
        profile="classes with probabilities",
    ),
}


def names() -> list[str]:
    """
    Every model that `build` makes: a kind, its next version, and that with a fault.
    """
    return [
        name
        for kind, one in MODELS.items()
        for name in (kind, *(f"{kind}-{which}" for which in (NEXT, *one.faults)))
    ]


def build(folder: Path, *wanted: str) -> None:
    """
    Build models as folder/NAME/1, and next versions as folder/NAME/2.

    Args:
        folder: where they are put.
        wanted: their names; none builds all.
    """
    script = Path(__file__).with_name("zoo_models.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *(wanted or names())],
        check=False,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stderr
