"""
What a rollout makes of the answers of single pods: pairs for the judge, requests for any model, arrived routes.
"""

import contextlib
import dataclasses
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
from tfcanary.rollout.served import digests
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


class Pods:
    """
    A pod of each track, one that is being deleted, and one of no track; and what their verification printed.
    """

    def __init__(self, **logs: str) -> None:
        self.logs = logs

    def listed(self, _kind: str, _release: str) -> list[dict[str, Any]]:
        """
        The pods.
        """
        ran = {"name": "model-server", "image": "serving:1", "imageID": "serving@sha256:1"}
        pods = [
            {
                "metadata": {"name": name, "labels": {"track": track, "app.kubernetes.io/version": version}},
                "status": {"containerStatuses": [{"name": "istio-proxy"}, ran]},
            }
            for name, track, version in (
                ("a", "stable", "1"),
                ("b", "canary", "2"),
                ("c", "canary", "9"),
                ("d", "other", "4"),
            )
        ]
        pods[2]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return pods

    def last_line(self, pod: str, container: str, previous: bool) -> str:  # noqa: FBT001 - as the API has it
        """
        What the verification of a pod printed last.
        """
        if pod not in self.logs or container != "verify-model" or previous:
            raise LookupError(container)
        return self.logs[pod]


def test_the_digest_of_a_model_is_read_from_its_verification() -> None:
    """
    One that is served unverified, or whose log is gone, has none, and the record says so.
    """
    digest = f"sha256:{'0a' * 32}"
    pods = Pods(a=f"model /store/resnet/1: 4 files verified, {digest}", c=f"verified, {digest}")

    assert {
        "image stable": "serving:1 serving@sha256:1",
        "image canary": "serving:1 serving@sha256:1",
        "model stable": f"resnet 1 {digest}",
        "model canary": "resnet 2 without a digest: its pod says of no verification",
    } == digests(pods, NAMES)  # type: ignore[arg-type]


class Recording:
    """
    A client that writes down what it is asked.
    """

    def __init__(self, api: Api) -> None:
        self.api, self.asked = api, 0

    def metadata(self, *, parse: bool) -> Answer:
        """
        A model that takes numbers that JSON cannot carry.
        """
        assert parse
        takes = Signature({"x": Tensor("DT_BFLOAT16", (-1, 2))}, NUMBERS.outputs)
        return dataclasses.replace(answer("y", 1.0), interface={"serving_default": takes})

    def predict(self, _request: PredictRequest) -> Answer:
        """
        An answer.
        """
        self.asked += 1
        return answer("y", 1.0)


@pytest.mark.parametrize("ask", ["pairs", "examine"])
def test_what_json_cannot_carry_is_asked_over_grpc_alone(monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    clients = Recording(Api.REST), Recording(Api.GRPC)
    tracks = Tracks(Pods(), NAMES)  # type: ignore[arg-type]
    monkeypatch.setattr(Tracks, "_pods", lambda _self, track: [track])
    monkeypatch.setattr(Tracks, "_clients", lambda _self, _pod: contextlib.nullcontext(clients))
    monkeypatch.setattr(
        "tfcanary.rollout.tracks.version_states", lambda _live, _pod, _model: {"2": "AVAILABLE"}
    )

    found = tracks.pairs(5) if ask == "pairs" else tracks.examine(2)

    assert (5 if ask == "pairs" else 0) == len(found), found
    assert 0 == clients[0].asked
    assert (10 if ask == "pairs" else 1) == clients[1].asked
