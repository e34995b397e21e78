"""
The check of any model: what it is asked, and what the report says where it cannot be asked.
"""

import json

import numpy as np
import pytest
from anymodel import CLASSES, HALF, AnyModel, classes, signature
from checking import QUICK, kinds, row, row_of, subject, titles, with_agree
from double import RefusedError

from tfcanary.check.run import check_gateway
from tfcanary.client.given import Given, given_by
from tfcanary.client.requestfile import RequestLine
from tfcanary.commands import check
from tfcanary.contract import SERVING_DEFAULT, Api
from tfcanary.errors import UsageError
from tfcanary.judge.verdict import Outcome
from tfcanary.modelserver.protos import DataType
from tfcanary.modelserver.tensors import numpy_type
from tfcanary.report.table import findings_table
from tfcanary.routing.parse import from_values


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


@pytest.mark.parametrize("kind", ["HALF", "BFLOAT16", "UINT16"])
@pytest.mark.parametrize("side", ["takes x", "gives y"])
def test_a_type_that_json_cannot_carry_is_asked_over_grpc_alone(checked, kind, side):
    """
    The original refuses such a prediction over REST: that is no fault of the model, and the report says so.
    """
    x, y = (kind, "FLOAT") if side == "takes x" else ("FLOAT", kind)
    declared = {SERVING_DEFAULT: signature({"x": (x, (-1,))}, {"y": (y, (-1,))})}
    given = numpy_type(DataType.Value(f"DT_{y}"))

    report = checked(lambda _track, _name, inputs: {"y": inputs["x"].astype(given)}, declared)

    assert set() == titles(report)
    assert ("answers", "gRPC") in kinds(report, Outcome.HELD)
    assert not {("answers", "REST"), ("REST = gRPC", None)} & kinds(report, Outcome.HELD)
    assert 0 == report.exit_code
    (lost,) = report.lost
    assert lost.startswith(
        f"signature serving_default over REST: it {side} as DT_{kind}, which TensorFlow Serving's REST"
    )
    assert lost.endswith("it is asked over gRPC alone")
