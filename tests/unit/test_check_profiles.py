"""
The check of any model: what it is asked, what its answers must be, and what the report says about both.
"""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from anymodel import HALF, AnyModel, signature
from checking import QUICK, kinds, subject, titles
from double import RefusedError

from tfcanary.check.run import check_gateway
from tfcanary.check.subject import Options, Subject
from tfcanary.client.given import Given, given_by
from tfcanary.client.requestfile import RequestLine
from tfcanary.commands import check
from tfcanary.contract import SERVING_DEFAULT, Api
from tfcanary.errors import UsageError
from tfcanary.judge.verdict import Outcome
from tfcanary.report.as_json import as_json
from tfcanary.report.html import html
from tfcanary.report.table import findings_table
from tfcanary.routing.parse import from_values

TWO = {
    SERVING_DEFAULT: signature(
        {"x": ("FLOAT", (-1, 3))},
        {"mean": ("FLOAT", (-1,)), "most": ("FLOAT", (-1,)), "word": ("STRING", (-1,))},
    )
}
CLASSES = {
    SERVING_DEFAULT: signature(
        {"x": ("FLOAT", (-1, 3))}, {"probabilities": ("FLOAT", (-1, 3)), "labels": ("STRING", (-1, 3))}
    )
}
SCALAR = {SERVING_DEFAULT: signature({"x": ("FLOAT", ())}, {"y": ("FLOAT", ())})}
LABELS = np.array([[b"ant", b"bee", b"cat"]], object)


def two(_track, _signature, inputs):
    x = inputs["x"]
    words = np.array([b"high" if row.sum() > 1 else b"low" for row in x], object)
    return {"mean": x.mean(axis=1), "most": x.max(axis=1) + 1, "word": words}


def classes(_track, _signature, inputs):
    every = np.exp(inputs["x"])
    return {
        "probabilities": every / every.sum(axis=1, keepdims=True),
        "labels": LABELS.repeat(len(every), axis=0),
    }


@pytest.fixture
def checked(gateway, user_group):
    """
    Check a model whose canary answers the users of a group.
    """

    def check(model=None, signatures=HALF, *, options=QUICK, given=None, **faults):
        signatures_of = signatures if callable(signatures) else lambda _track: signatures
        models = {"run_model": model} if model else {}
        double = gateway(user_group, kind=AnyModel, signatures_of=signatures_of, **models, **faults)
        found = check_gateway(subject(double, user_group), options, given=given)
        found_by.append(double)
        return found

    found_by = check.doubles = []
    return check


def spoil(track, **outputs):
    """
    A fault of one track: other outputs, each made of all outputs.
    """

    def change(_api, its, given):
        return {**given, **{name: make(given) for name, make in outputs.items()}} if its == track else given

    return change


def row(report, name):
    """
    The one finding of this kind.
    """
    (found,) = (finding for finding in report.findings if finding.name == name)
    return found


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


def row_of(report, name, api):
    (found,) = (one for one in report.findings if (one.name, one.api) == (name, api))
    return found


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


def with_agree(agree):
    return Options(QUICK.alpha, QUICK.power, QUICK.detect, QUICK.timeout_seconds, agree=agree)


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


def test_a_model_that_cannot_be_asked_lacks_evidence(checked):
    """
    A classify signature alone: the report says so, and what to do.
    """
    method = "tensorflow/serving/classify"
    only = {"classify": signature({"inputs": ("STRING", (-1,))}, {"scores": ("FLOAT", (-1, 2))}, method)}

    report = checked(None, only)

    assert set() == titles(report)
    assert 4 == report.exit_code
    assert "takes serialised tf.Examples; give requests by --requests FILE" in row(report, "interface").detail
    assert any("signature classify" in lost for lost in report.lost)


def test_a_model_without_any_signature_lacks_evidence(checked):
    report = checked(None, {})

    assert set() == titles(report)
    assert "no signature; give requests by --requests FILE" in row(report, "interface").detail


def refusing(_track, _signature, inputs):
    if inputs["x"][0] < 1:
        raise RefusedError("x must be at least 1")
    return {"y": inputs["x"]}


def test_a_model_that_refuses_made_inputs_lacks_evidence(checked):
    """
    No request fails for it: the input was ours, and not the model's.
    """
    report = checked(refusing)

    assert set() == titles(report)
    assert ("answers", "REST") in kinds(report, Outcome.NOT_ENOUGH)
    assert "x must be at least 1" in row_of(report, "answers", Api.REST).observed
    assert "--requests FILE" in row_of(report, "answers", Api.GRPC).detail
    assert ("failed requests", "REST") in kinds(report, Outcome.HELD)


def test_a_canary_alone_that_refuses_made_inputs_fails(checked):
    def canary_refuses(track, name, inputs):
        return refusing(track, name, inputs) if track == "canary" else {"y": inputs["x"]}

    assert {("failed requests", "REST"), ("failed requests", "gRPC")} == kinds(checked(canary_refuses))


def lines(*given):
    return Given(
        "requests of a.jsonl", tuple(RequestLine(f"line {n}", **one) for n, one in enumerate(given, 1))
    )


def test_requests_of_a_file_are_asked_over_both_apis(checked):
    """
    The same input over both, as rows and as columns, with the headers of its line.
    """
    given = lines(
        {"body": {"instances": [1.0, 4.0]}}, {"body": {"inputs": {"x": [8.0]}}, "headers": {"x-trace": "7"}}
    )
    seen = []

    def see(api, headers):
        seen.append((api, {name.lower(): value for name, value in headers.items()}.get("x-trace")))
        return headers

    report = checked(refusing, given=given, see_headers=see)

    assert report.held, str(findings_table(report))
    assert "requests of a.jsonl" == report.source
    assert [5, 5] == [one.n for one in report.findings if one.name == "answers"]
    assert 4 == row(report, "agreement").n
    assert {(Api.REST, "7"), (Api.GRPC, "7")} < set(seen)


def test_headers_of_a_line_do_not_change_the_route(checked):
    given = lines({"body": {"instances": [1.0]}, "headers": {"user-group": "canary"}})

    report = checked(given=given)

    assert report.held, str(findings_table(report))


def test_a_request_that_does_not_fit_is_named_before_anything_is_counted(checked):
    given = lines({"body": {"instances": [1.0]}}, {"body": {"instances": ["one"]}})

    with pytest.raises(UsageError, match=r"line 2: instances: x: expected DT_FLOAT, got 'one'"):
        checked(given=given)


def test_answers_that_are_known_are_counted(checked):
    given = lines(
        {"body": {"instances": [[0, 0, 9]]}, "label": "cat"},
        {"body": {"instances": [[9, 0, 0]]}, "label": "bee"},
    )

    report = checked(classes, CLASSES, given=given)

    assert report.held, str(findings_table(report))
    assert {"stable 2 of 4", "canary 2 of 2"} == set(row(report, "labels given").observed.split(", "))


def test_signatures_without_a_request_are_said_not_to_be_asked(checked):
    report = checked(
        lambda _track, _signature, inputs: {"y": inputs["x"]},
        {**HALF, "other": HALF[SERVING_DEFAULT]},
        given=lines({"body": {"instances": [1.0]}}),
    )

    assert report.held
    assert "signature other: no request is for it" in report.lost


def test_a_file_and_a_folder_are_read(tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_text(json.dumps({"instances": [1]}) + "\n")
    (tmp_path / "saved_model.pb").touch()

    assert "1 request of requests.jsonl" == given_by(file, None).source
    assert given_by(None, tmp_path).source.endswith("has no warm-up records of predictions")
    assert Given() == given_by(None, None)


def test_a_model_of_pictures_is_asked_with_requests_too(gateway, user_group):
    picture = {"body": {"instances": [{"image_bytes": {"b64": "YQ=="}}]}, "signature": "serving_preprocess"}
    given = lines(picture, {**picture, "label": "none"})
    double = gateway(user_group)

    report = check_gateway(subject(double, user_group), QUICK, given=given)

    assert report.held, str(findings_table(report))
    assert ("pictures", "requests of a.jsonl") == (report.profile, report.source)
    assert {"serving_preprocess"} == {one.about for one in report.findings if one.name == "answers"}
    assert ("signature serving_default: no request is for it",) == report.lost
    assert "stable 0 of 2" == row(report, "labels given").observed


def test_pictures_for_a_model_that_takes_none_are_said_to_be_left_out(gateway, user_group, pictures):
    report = check_gateway(subject(gateway(user_group, kind=AnyModel), user_group), QUICK, pictures)

    assert report.held
    assert ("the pictures that were named: the model takes none",) == report.lost


def test_a_bound_is_held_by_every_request(checked):
    """
    The tracks differ in the second request only.
    """
    given = lines({"body": {"instances": [1.0]}}, {"body": {"instances": [50.0]}})

    def later(track, _signature, inputs):
        return {
            "y": np.where(inputs["x"] > 10, 1, 2).astype(np.float32)
            if track == "canary"
            else inputs["x"] * 0 + 2
        }

    without, bound = (checked(later, given=given, options=options) for options in (QUICK, with_agree(0.9)))

    assert without.held
    assert {("agreement", None)} == kinds(bound)
    assert [6, 6] == [one.n for one in bound.findings if one.name == "answers"]


def test_the_command_reads_requests_and_names_their_source(gateway, values, tmp_path, capsys):
    expected = values(
        {
            "name": "group",
            "match": {"headers": {"user-group": {"exact": "canary"}}},
            "weights": {"canary": 100},
        },
        {"name": "everyone", "weights": {"stable": 100}},
    )
    double = gateway(from_values(expected), kind=AnyModel)
    file, requests = tmp_path / "values.yaml", tmp_path / "requests.jsonl"
    file.write_text(json.dumps(expected))
    requests.write_text('{"instances": [1.0, 2.0]}\n')
    arguments = ["--gateway", double.address, "--values", str(file), "--requests", str(requests), "--json"]

    code = check.main([*arguments, "--alpha", "1e-4", "--power", "0.99", "--detect", "40", "--agree", "1"])

    made = json.loads(capsys.readouterr().out)
    assert (0, "plain", "1 request of requests.jsonl") == (code, made["profile"], made["requestsFrom"])


def test_without_attribution_no_track_is_compared(gateway, user_group):
    unnamed = dataclasses.replace(user_group, attribution=False)
    double = gateway(user_group, kind=AnyModel, attribute=lambda *_: {})

    report = check_gateway(Subject(routing=unnamed, gateway=double.address), QUICK)

    assert set() == titles(report)
    assert 4 == report.exit_code
    assert {"same answer twice", "REST = gRPC"} < {name for name, _ in kinds(report, Outcome.NOT_ENOUGH)}
    assert ("answers", "REST") in kinds(report, Outcome.HELD)
