"""
Whether answers fit together is judged without a server: answers in, findings out.
"""

import dataclasses

import numpy as np
import pytest

from tfcanary.check.agreement import (
    agreement,
    apis_agree,
    prediction_problems,
    same_classes,
    same_labels,
    tracks_agree,
)
from tfcanary.check.finding import UNNAMED, Finding, listed, outcome_of
from tfcanary.client.answer import Answer, Prediction, TensorValue
from tfcanary.client.tensors import of_strings
from tfcanary.contract import SERVING_DEFAULT, SERVING_PREPROCESS, Api
from tfcanary.judge.verdict import Outcome

EVERY = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
LABELS = ("a", "b", "c", "d", "e")


def prediction(labels, top, every):
    """
    A row of each of the three outputs.
    """
    strings = of_strings([label.encode() for label in labels])[np.newaxis]
    return Prediction(
        {
            "labels": TensorValue("DT_STRING", strings),
            "probabilities": TensorValue("DT_DOUBLE", top[np.newaxis]),
            "class_probabilities": TensorValue("DT_DOUBLE", every[np.newaxis]),
        }
    )


def answer(api=Api.REST, track="stable", *, every=EVERY, labels=LABELS):
    top = np.sort(every)[::-1][:5]
    return Answer(
        api,
        "200" if api is Api.REST else "OK",
        ok=True,
        reached=True,
        track=track,
        revision="rev-1",
        latency_seconds=0.01,
        prediction=prediction(labels, top, every),
    )


def answers(**changed):
    """
    Both signatures of both tracks over both APIs; `changed` replaces answers, by track.
    """
    return {
        (api, signature, track): changed.get(track) or answer(api, track)
        for api in Api
        for signature in (SERVING_DEFAULT, SERVING_PREPROCESS)
        for track in ("stable", "canary")
    }


def test_answers_that_fit_together_hold():
    found = list(agreement(answers(), ("stable", "canary"), both_apis=True))

    assert {Outcome.HELD} == {finding.outcome for finding in found}
    assert [
        "classes",
        "labels",
        "agreement stable and canary",
        "REST = gRPC stable",
        "REST = gRPC canary",
    ] == [finding.title for finding in found]


def test_one_api_is_compared_with_none():
    names = {finding.name for finding in agreement(answers(), ("stable", "canary"), both_apis=False)}

    assert "REST = gRPC" not in names


@pytest.mark.parametrize(
    "judge",
    [
        same_classes,
        same_labels,
        lambda none: tracks_agree(none, "stable", "canary"),
        lambda none: apis_agree(none, "stable"),
    ],
)
def test_no_answers_are_not_enough_evidence(judge):
    finding = judge({})

    assert Outcome.NOT_ENOUGH is finding.outcome
    assert 0 == finding.n


def test_another_number_of_classes_is_named_by_who_has_it():
    wide = answer(track="canary", every=np.append(EVERY, 0.0))

    finding = same_classes(answers(canary=wide))

    assert Outcome.FAILED is finding.outcome
    assert "6, 7" == finding.observed
    assert "canary serving_default over REST 7" in finding.detail


def test_a_class_with_two_labels_is_named():
    other = answer(track="canary", labels=("b", "a", "c", "d", "e"))

    finding = same_labels(answers(canary=other))

    assert Outcome.FAILED is finding.outcome
    assert "class 0 is 'b' by canary serving_default over REST" in finding.observed


def test_classes_that_are_equally_likely_are_not_compared():
    """
    Of two such classes either may come first, so a label says nothing about which one it names.
    """
    even = np.array([0.25, 0.25, 0.2, 0.15, 0.1, 0.05])
    one = {(Api.REST, SERVING_DEFAULT, "stable"): answer(every=even)}
    other = {(Api.GRPC, SERVING_DEFAULT, "stable"): answer(every=even, labels=("b", "a", "c", "d", "e"))}

    assert Outcome.HELD is same_labels({**one, **other}).outcome


def test_tracks_may_differ_and_say_how_far():
    swapped = answer(
        track="canary", every=np.array([0.3, 0.4, 0.15, 0.1, 0.04, 0.01]), labels=("b", "a", "c", "d", "e")
    )

    finding = tracks_agree(answers(canary=swapped), "stable", "canary")

    assert Outcome.HELD is finding.outcome
    assert "first label the same in 0, probabilities 0.1 apart at most (0 to 1)" == finding.observed


def test_tracks_that_agree_less_than_they_must_are_found():
    """
    The same first label over one API of two.
    """
    swapped = answer(track="canary", labels=("b", "a", "c", "d", "e"))
    given = {**answers(), (Api.REST, SERVING_DEFAULT, "canary"): swapped}

    assert [Outcome.HELD, Outcome.FAILED] == [
        tracks_agree(given, "stable", "canary", agree).outcome for agree in (0.75, 0.8)
    ]


def test_apis_that_differ_are_found_with_the_distance():
    given = answers()
    key = (Api.GRPC, SERVING_DEFAULT, "stable")
    given[key] = answer(Api.GRPC, every=EVERY[::-1].copy())

    finding = apis_agree(given, "stable")

    assert Outcome.FAILED is finding.outcome
    assert "% apart" in finding.observed
    assert Outcome.HELD is apis_agree(given, "canary").outcome


def test_without_attribution_no_track_can_be_compared():
    given = {(api, SERVING_DEFAULT, UNNAMED): answer(api, None) for api in Api}

    assert Outcome.NOT_ENOUGH is apis_agree(given, UNNAMED).outcome


def test_an_answer_without_a_prediction_is_a_problem():
    assert ["no prediction"] == list(prediction_problems(dataclasses.replace(answer(), prediction=None)))


def test_a_finding_without_answers_cannot_hold():
    """
    However it is made: by its constructor, or as a copy of one that held.
    """
    held = Finding("split", "", None, Outcome.HELD, "", "", 1)

    assert Outcome.HELD is held.outcome
    assert Outcome.NOT_ENOUGH is Finding("split", "", None, Outcome.HELD, "", "", 0).outcome
    assert Outcome.NOT_ENOUGH is dataclasses.replace(held, n=0).outcome
    assert Outcome.FAILED is Finding("split", "", None, Outcome.FAILED, "", "", 0).outcome


@pytest.mark.parametrize(
    ("problems", "missing", "outcome"),
    [
        ([], [], Outcome.HELD),
        (["x"], [], Outcome.FAILED),
        ([], ["y"], Outcome.NOT_ENOUGH),
        (["x"], ["y"], Outcome.FAILED),
    ],
)
def test_a_problem_outweighs_missing_answers(problems, missing, outcome):
    assert outcome is outcome_of(problems, missing)


def test_words_are_listed_once_and_in_order():
    assert "canary, stable" == listed(["stable", "canary", "stable"], "no track")
    assert "no track" == listed([], "no track")
