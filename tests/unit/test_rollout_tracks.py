"""
What a rollout makes of the answers of single pods: pairs for the judge, requests for any model, arrived routes.
"""

from typing import Any

import numpy as np
import pytest

from tfcanary.client.answer import Answer, Prediction, Signature, Tensor, TensorValue
from tfcanary.client.given import Given
from tfcanary.client.request import PredictRequest
from tfcanary.client.requestfile import RequestLine
from tfcanary.contract import Api
from tfcanary.errors import NoEvidenceError
from tfcanary.judge.counts import Pairs
from tfcanary.judge.feed import Feed
from tfcanary.judge.plan import Plan
from tfcanary.rollout import gateways
from tfcanary.rollout.tracks import Names, Pair, Tracks

CLASSES = Signature({"x": Tensor("DT_FLOAT", (-1, 2))}, {"probabilities": Tensor("DT_FLOAT", (-1, 2))})
NUMBERS = Signature({"x": Tensor("DT_FLOAT", (-1, 2))}, {"y": Tensor("DT_FLOAT", (-1,))})
NAMES = Names("resnet", "resnet", "stable", "canary")


def answer(name: str, *values: float, ok: bool = True) -> Answer:
    made = np.array([values] if len(values) > 1 else values, np.float32)
    prediction = Prediction({name: TensorValue("DT_FLOAT", made)}) if ok else None
    return Answer(
        Api.REST,
        "200" if ok else "503",
        ok=ok,
        reached=True,
        track=None,
        revision=None,
        latency_seconds=0.1,
        prediction=prediction,
    )


def counted(signature: Signature, *pairs: tuple[Answer, Answer], label: str | None = None) -> Any:
    """
    What the judge's feed makes of pairs of a canary's and stable's answers.
    """
    tracks = Tracks(None, NAMES)  # type: ignore[arg-type]
    tracks.profile({"serving_default": signature})
    request = PredictRequest("serving_default", {}, signature, label=label)
    records = tracks.records([Pair(request, *pair) for pair in pairs], at=5.0, weight=10.0)
    return next(Feed(Plan(signals=("errors", "disagreement")), slow=1.0).looks(records), None)


def test_pairs_agree_by_their_most_probable_class() -> None:
    """
    They are no users' requests: no error rate and no split counts them.
    """
    same = answer("probabilities", 0.9, 0.1), answer("probabilities", 0.6, 0.4)
    other = answer("probabilities", 0.1, 0.9), answer("probabilities", 0.6, 0.4)

    look = counted(CLASSES, same, other, same)

    assert Pairs(agree=2, differ=1) == look.pairs
    assert (0, 0) == look.answers
    assert {} == look.faults


def test_a_label_says_who_is_wrong() -> None:
    look = counted(CLASSES, (answer("probabilities", 0.1, 0.9), answer("probabilities", 0.6, 0.4)), label="0")

    assert Pairs(differ=1, canary_wrong=1) == look.pairs


def test_a_pair_that_one_track_did_not_answer_differs() -> None:
    look = counted(CLASSES, (answer("probabilities", ok=False), answer("probabilities", 0.6, 0.4)))

    assert Pairs(differ=1) == look.pairs
    assert {} == look.faults


def test_an_answer_that_no_input_explains_is_a_fault() -> None:
    look = counted(CLASSES, (answer("probabilities", float("nan"), 0.1), answer("probabilities", 0.6, 0.4)))

    ((name, counts),) = look.faults.items()
    assert "not finite" in name
    assert (1, 0) == counts


def test_numbers_have_no_class_to_agree_on() -> None:
    """
    Two versions of a regression differ in every answer, and are none the worse for it.
    """
    assert counted(NUMBERS, (answer("y", 3.0), answer("y", 4.0))) is not None
    assert Pairs() == counted(NUMBERS, (answer("y", 3.0), answer("y", 4.0))).pairs


def test_the_users_requests_come_first_and_made_ones_where_there_are_none() -> None:
    line = RequestLine("requests.jsonl line 1", {"instances": [[1.0, 2.0]]}, label="7")
    interface = {"serving_default": NUMBERS}

    (given,) = Tracks(None, NAMES, Given("one", (line,))).requests(interface)  # type: ignore[arg-type]
    (made,) = Tracks(None, NAMES).requests(interface)  # type: ignore[arg-type]

    assert "7" == given.label
    assert (1, 2) == made.inputs["x"].values.shape


def test_a_model_that_takes_nothing_known_asks_for_requests() -> None:
    raw = Signature({"x": Tensor("DT_VARIANT", (-1,))}, {"y": Tensor("DT_FLOAT", (-1,))})

    with pytest.raises(NoEvidenceError, match=r"takes x as DT_VARIANT.*give requests by --requests FILE"):
        Tracks(None, NAMES).requests({"serving_default": raw})  # type: ignore[arg-type]


class Answering:
    """
    A client whose answers name these routes in turn.
    """

    def __init__(self, *revisions: str | None, status: str = "200") -> None:
        self.revisions, self.status = list(revisions), status

    def metadata(self) -> Answer:
        """
        The next answer.
        """
        ok = self.status == "200"
        revision = self.revisions.pop(0) if len(self.revisions) > 1 else self.revisions[0]
        return Answer(
            Api.REST,
            self.status,
            ok=ok,
            reached=True,
            track="canary",
            revision=revision,
            latency_seconds=0.01,
        )


@pytest.mark.parametrize(
    ("client", "shows"),
    [
        pytest.param(Answering("new"), True, id="all"),
        pytest.param(Answering("new", "new", "old", "new"), False, id="one-is-old"),
        pytest.param(Answering(None), False, id="unnamed"),
        pytest.param(Answering("new", status="503"), True, id="routes-to-a-dead-track"),
    ],
)
def test_routes_have_arrived_where_every_answer_in_a_row_is_under_them(client: Any, *, shows: bool) -> None:
    """
    Whether those answers are good is the judge's affair: waiting for good ones would keep the traffic on a dead track.
    """
    assert shows == gateways._in_a_row(client, "new")
