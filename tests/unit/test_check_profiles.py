"""
The check of any model: what its answers must be, and what the report says about both.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from anymodel import CLASSES, HALF, SCALAR, TWO, AnyModel, classes, signature, two
from checking import QUICK, kinds, row, row_of, titles, with_agree

from tfcanary.check.run import check_gateway
from tfcanary.check.subject import Subject
from tfcanary.contract import SERVING_DEFAULT, Api
from tfcanary.judge.verdict import Outcome
from tfcanary.report.as_json import as_json
from tfcanary.report.html import html
from tfcanary.report.table import findings_table


def spoil(track, **outputs):
    """
    A fault of one track: other outputs, each made of all outputs.
    """

    def change(_api, its, given):
        return {**given, **{name: make(given) for name, make in outputs.items()}} if its == track else given

    return change


@pytest.mark.parametrize(
    ("model", "signatures", "profile"),
    [
        pytest.param(None, HALF, "plain", id="half-plus-two"),
        pytest.param(two, TWO, "plain", id="named-outputs"),
        pytest.param(classes, CLASSES, "classes with probabilities", id="classes"),
        pytest.param(lambda *given: {"y": given[2]["x"] * 2}, SCALAR, "plain", id="scalar"),
    ],
)
def test_a_model_of_any_signature_holds(checked, model, signatures, profile):
    report = checked(model, signatures)

    assert report.held, str(findings_table(report))
    assert (profile, "inputs made from the signature") == (report.profile, report.source)
    assert 0 == sum(finding.n == 0 for finding in report.findings)


def test_the_reports_say_what_was_asked(checked):
    report = checked()

    line = "profile plain; inputs made from the signature"
    assert f"predictions: {line}" in str(findings_table(report)).splitlines()
    assert line in html(report)
    made = as_json(report)
    assert ("plain", "inputs made from the signature") == (made["profile"], made["requestsFrom"])


@pytest.mark.parametrize(
    ("model", "signatures", "fault", "found"),
    [
        pytest.param(
            None,
            HALF,
            {"y": lambda given: given["y"] * np.nan},
            {"answers", "REST = gRPC", "same answer twice"},
            id="nan",
        ),
        pytest.param(
            None,
            HALF,
            {"y": lambda given: given["y"].astype(np.float64)},
            {"answers", "REST = gRPC"},
            id="dtype-over-grpc",
        ),
        pytest.param(None, HALF, {"y": lambda given: given["y"][:, np.newaxis]}, {"answers"}, id="rank"),
        pytest.param(two, TWO, {"more": lambda given: given["word"]}, {"answers"}, id="another-output"),
        pytest.param(
            classes,
            CLASSES,
            {"probabilities": lambda given: given["probabilities"] * 4},
            {"answers", "sums"},
            id="above-1",
        ),
        pytest.param(
            classes,
            CLASSES,
            {"probabilities": lambda given: given["probabilities"] / 2},
            {"sums"},
            id="half-a-sum",
        ),
        pytest.param(
            classes,
            CLASSES,
            {"labels": lambda given: given["labels"][:, ::-1]},
            {"labels"},
            id="labels-turned",
        ),
        pytest.param(
            classes,
            CLASSES,
            {"probabilities": lambda _: np.full((1, 4), 0.25, np.float32)},
            {"answers", "classes"},
            id="a-class-more",
        ),
    ],
)
def test_a_fault_of_the_canary_is_found(checked, model, signatures, fault, found):
    report = checked(model, signatures, spoilt=spoil("canary", **fault))

    assert found == {name for name, _ in kinds(report)}
    assert 1 == report.exit_code


def test_an_output_that_is_missing_is_named(checked):
    def without(_api, track, given):
        return {name: value for name, value in given.items() if track == "stable" or name != "most"}

    report = checked(two, TWO, spoilt=without)

    assert {("answers", "REST"), ("answers", "gRPC")} == kinds(report)
    assert (
        "canary: outputs mean, word, expected mean, most, word"
        in row_of(report, "answers", Api.GRPC).observed
    )


def test_apis_that_answer_differently_are_found_by_the_output(checked):
    def other(api, track, given):
        return {**given, "most": given["most"] * 2} if (api, track) == (Api.GRPC, "canary") else given

    report = checked(two, TWO, spoilt=other)

    assert {"REST = gRPC canary"} == titles(report)
    assert "output most" == next(one.detail for one in report.findings if one.title == "REST = gRPC canary")


def test_a_model_that_answers_at_random_is_found(checked):
    turn = itertools.count()

    def drifting(_api, track, given):
        return {"y": given["y"] + next(turn)} if track == "canary" else given

    report = checked(spoilt=drifting)

    assert {"same answer twice serving_default (REST)", "same answer twice serving_default (gRPC)"} < titles(
        report
    )


def test_tracks_may_differ_and_a_bound_makes_it_a_fault(checked):
    fault = spoil("canary", mean=lambda given: given["mean"] * 1.25)

    report = checked(two, TWO, spoilt=fault)
    bound = {agree: checked(two, TWO, spoilt=fault, options=with_agree(agree)) for agree in (0.75, 0.85)}

    assert report.held, str(findings_table(report))
    assert (
        "mean: at most 20 % apart; most: at most 0 % apart; word: first label the same in 2 of 2"
        == row(report, "agreement").observed
    )
    assert bound[0.75].held
    assert {("agreement", None)} == kinds(bound[0.85])
    assert "less than that: mean" == row(bound[0.85], "agreement").detail


def test_outputs_under_each_others_names_are_seen(checked):
    fault = spoil("canary", mean=lambda given: given["most"], most=lambda given: given["mean"])

    report = checked(two, TWO, spoilt=fault, options=with_agree(0.9))

    assert {("agreement", None)} == kinds(report)
    assert "mean and most look swapped" in row(report, "agreement").observed


def test_independent_probabilities_need_no_sum_of_one(checked):
    def several(_track, _signature, inputs):
        return {**classes(_track, _signature, inputs), "probabilities": 1 / (1 + np.exp(-inputs["x"]))}

    report = checked(several, CLASSES)

    assert report.held, str(findings_table(report))
    assert "probabilities taken for independent of each other" in row(report, "sums").observed


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        pytest.param({"x": ("DOUBLE", (-1,))}, "x: DT_FLOAT[-1] and DT_DOUBLE[-1]", id="dtype"),
        pytest.param({"x": ("FLOAT", (-1, 1))}, "x: DT_FLOAT[-1] and DT_FLOAT[-1, 1]", id="shape"),
        pytest.param({"x": ("FLOAT", None)}, "x: DT_FLOAT[-1] and DT_FLOAT of any shape", id="rank"),
        pytest.param({"z": ("FLOAT", (-1,))}, "x: DT_FLOAT[-1] and none", id="name"),
    ],
)
def test_tracks_of_different_signatures_are_found(checked, change, seen):
    other = {SERVING_DEFAULT: signature(change, {"y": ("FLOAT", (-1,))})}

    report = checked(
        lambda *_: {"y": np.zeros(1, np.float32)},
        lambda track: other if track == "canary" else HALF,
    )

    assert ("interface", None) in kinds(report)
    assert seen in row(report, "interface").observed


def test_without_attribution_no_track_is_compared(gateway, user_group):
    unnamed = dataclasses.replace(user_group, attribution=False)
    double = gateway(user_group, kind=AnyModel, attribute=lambda *_: {})

    report = check_gateway(Subject(routing=unnamed, gateway=double.address), QUICK)

    assert set() == titles(report)
    assert 4 == report.exit_code
    assert {"same answer twice", "REST = gRPC"} < {name for name, _ in kinds(report, Outcome.NOT_ENOUGH)}
    assert ("answers", "REST") in kinds(report, Outcome.HELD)
