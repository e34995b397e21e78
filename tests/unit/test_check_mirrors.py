"""
Mirrored predictions are counted where they arrive.
"""

import functools
import itertools

import pytest
from anymodel import AnyModel
from checking import QUICK, kinds, subject, titles
from double import RefusedError
from faults import BOTH

from tfcanary.check import mirrors
from tfcanary.check.run import check_gateway
from tfcanary.contract import Api
from tfcanary.errors import UnreachableError
from tfcanary.judge.verdict import Outcome
from tfcanary.report.table import findings_table
from tfcanary.routing.parse import from_values

REST, GRPC = "/v1/models/", "/tensorflow.serving."


def mirroring(values, percent=50):
    mirror = {"track": "canary", "percent": percent}
    return from_values(values({"name": "everyone", "mirror": mirror, "weights": {"stable": 100}}))


def every_other():
    turn = itertools.count()
    return lambda *_: next(turn) % 2


def growing():
    """
    Others' predictions: a thousand between two counts, and none while it is looked at twice.
    """
    seen = itertools.count()
    return lambda _: 1000 * (next(seen) // 2)


def restarting():
    """
    A pod that restarts between two counts.
    """
    seen = itertools.count()
    return lambda _: 1000 // (1 + next(seen) // 2)


def counting(double):
    return lambda track: double.ran[track]


@pytest.fixture
def at_once(monkeypatch):
    """
    The double counts a copy before it answers.
    """
    monkeypatch.setattr(mirrors, "wait_until", functools.partial(_without_pause, mirrors.wait_until))


def _without_pause(wait, *arguments, **options):
    return wait(*arguments, **{**options, "interval_seconds": 0})


@pytest.mark.parametrize("percent", [50, 100])
@pytest.mark.usefixtures("at_once")
def test_a_mirror_is_counted_where_it_arrives(gateway, values, pictures, percent):
    expected = mirroring(values, percent)
    double = gateway(expected)

    report = check_gateway(subject(double, expected, predictions_run=counting(double)), QUICK, pictures)

    assert report.held, str(findings_table(report))
    rows = [row for row in report.findings if row.name == "mirror"]
    assert [Api.REST, Api.GRPC] == [row.api for row in rows]
    assert all(row.n == row.needed > 3 for row in rows)


@pytest.mark.parametrize(
    ("faults", "found"),
    [
        pytest.param({"mirrored": lambda *_: False}, BOTH, id="mirror-off"),
        pytest.param({"mirrored": lambda api, _: api is Api.REST}, {"gRPC"}, id="mirror-off-over-grpc"),
        pytest.param({"mirrored": lambda _, size: size < 1000}, {"REST"}, id="mirror-abandoned-by-size"),
        pytest.param(
            {"percent": 100, "mirrored": every_other()},
            BOTH,
            id="mirror-of-all-loses-half",
        ),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_a_mirror_that_loses_copies_is_found(gateway, values, pictures, faults, found):
    expected = mirroring(values, faults.get("percent", 50))
    double = gateway(expected, mirrored=faults["mirrored"])

    report = check_gateway(subject(double, expected, predictions_run=counting(double)), QUICK, pictures)

    assert {("mirror", api) for api in found} == kinds(report)


def unreadable(_track):
    raise UnreachableError("pod a: its metrics cannot be read")


@pytest.mark.parametrize(
    ("count", "detail"),
    [
        pytest.param(None, "only the pods of a --release can be asked", id="no-cluster"),
        pytest.param(unreadable, "its metrics cannot be read", id="no-right"),
        pytest.param(growing(), "send predictions to canary", id="others"),
        pytest.param(restarting(), "a pod of canary went", id="restarted"),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_a_mirror_that_cannot_be_counted_is_not_enough_evidence(gateway, values, pictures, count, detail):
    expected = mirroring(values)

    report = check_gateway(subject(gateway(expected), expected, predictions_run=count), QUICK, pictures)

    assert set() == titles(report)
    assert {("mirror", "REST"), ("mirror", "gRPC")} == kinds(report, Outcome.NOT_ENOUGH)
    assert all(detail in row.detail for row in report.findings if row.name == "mirror")
    assert 4 == report.exit_code


@pytest.mark.usefixtures("at_once")
def test_any_input_is_mirrored(gateway, values):
    """
    A model that takes one number is counted as one that takes pictures.
    """
    expected = mirroring(values, 100)
    double = gateway(expected, kind=AnyModel)

    report = check_gateway(subject(double, expected, predictions_run=counting(double)), QUICK)

    assert report.held, str(findings_table(report))
    rows = [row for row in report.findings if row.name == "mirror"]
    assert all(row.observed.endswith("arrived, 4 bytes of input each") for row in rows)


def refusing(*_):
    raise RefusedError("not this input")


@pytest.mark.parametrize(
    "model",
    [
        pytest.param({"signatures_of": lambda _track: {}}, id="no-signature"),
        pytest.param({"run_model": refusing}, id="refuses-made-inputs"),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_a_mirror_of_a_model_that_cannot_be_asked_is_not_enough_evidence(gateway, values, model):
    expected = mirroring(values)
    double = gateway(expected, kind=AnyModel, **model)

    report = check_gateway(subject(double, expected, predictions_run=counting(double)), QUICK)

    assert ["no prediction can be asked"] * 2 == [
        row.detail for row in report.findings if row.name == "mirror"
    ]
