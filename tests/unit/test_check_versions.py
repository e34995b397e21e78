"""
Who answered, by the version that the answers themselves name.
"""

import dataclasses

import pytest
from checking import QUICK, kinds, subject, titles
from faults import BOTH

from tfcanary.check.run import check_gateway
from tfcanary.check.subject import Subject
from tfcanary.contract import Api
from tfcanary.judge.verdict import Outcome
from tfcanary.report.table import findings_table
from tfcanary.routing.parse import from_values


def rows(report, name="version"):
    return [row for row in report.findings if row.name == name]


def test_the_version_of_every_answer_is_that_of_its_track(gateway, tenth, pictures):
    report = check_gateway(subject(gateway(tenth), tenth), QUICK, pictures)

    found = [(row.about, row.api, row.expected, row.outcome) for row in rows(report)]
    assert [
        (track, api, f"{version} on every answer", Outcome.HELD)
        for api in Api
        for track, version in (("stable", "1"), ("canary", "2"))
    ] == found
    assert all(row.observed == f"{row.expected[0]} on {row.n}" for row in rows(report))


@pytest.mark.parametrize(
    ("version", "found"),
    [
        pytest.param(lambda *_: "1", {("version", api) for api in BOTH}, id="canary-is-the-old-model"),
        pytest.param(
            lambda api, track: "2" if (api, track) == (Api.REST, "canary") else "1",
            {("version", "gRPC")},
            id="over-grpc-only",
        ),
    ],
)
def test_another_version_behind_a_tracks_name_is_found(gateway, tenth, pictures, version, found):
    """
    The routes name the canary, and the pods behind them are of version 1: the answers themselves say it.
    """
    report = check_gateway(subject(gateway(tenth, version=version), tenth), QUICK, pictures)

    assert found == kinds(report), str(findings_table(report))
    assert 1 == report.exit_code
    assert {"version canary"} == {title.partition(" (")[0] for title in titles(report)}


def test_one_pod_of_another_version_among_several_is_found(gateway, tenth, pictures):
    """
    A pod of the old version got the canary's label: some answers of the canary are of version 1.
    """
    turns = {Api.REST: 0, Api.GRPC: 0}

    def version(api, track):
        turns[api] += track == "canary"
        return "1" if track == "stable" or turns[api] % 2 else "2"

    report = check_gateway(subject(gateway(tenth, version=version), tenth), QUICK, pictures)

    assert {("version", api) for api in BOTH} == kinds(report)
    assert all(
        "1 on" in row.observed and "2 on" in row.observed for row in rows(report) if row.about == "canary"
    )


def test_a_server_that_names_no_version_is_not_enough_evidence(gateway, tenth, pictures):
    """
    Some stubs leave it out; what is not seen does not hold.
    """
    report = check_gateway(subject(gateway(tenth, version=lambda *_: None), tenth), QUICK, pictures)

    assert set() == titles(report)
    assert {("version", api) for api in BOTH} == kinds(report, Outcome.NOT_ENOUGH)
    assert 4 == report.exit_code


def test_a_version_that_was_asked_for_says_nothing_of_the_track(gateway, values, pictures):
    """
    A route by the path of the canary's version leads to stable here, on purpose, and stable serves both.
    """
    routes = (
        {"name": "by-version", "match": {"path": {"version": "canary"}}, "weights": {"stable": 100}},
        {"name": "everyone", "weights": {"stable": 100}},
    )
    expected = from_values(values(*routes))

    report = check_gateway(subject(gateway(expected), expected), QUICK, pictures)

    assert report.held, str(findings_table(report))


def test_without_attribution_versions_tell_the_tracks(gateway, tenth, pictures):
    """
    Splits are judged by versions. What is still lost is the revision, and the tracks of REST predictions.
    """
    unnamed = dataclasses.replace(tenth, attribution=False)
    double = gateway(tenth, attribute=lambda *_: {})

    report = check_gateway(Subject(routing=unnamed, gateway=double.address), QUICK, pictures)

    assert set() == titles(report)
    assert {"propagation", "revision", "REST = gRPC"} == {
        name for name, _ in kinds(report, Outcome.NOT_ENOUGH)
    }
    assert [("1 or 2 on every answer", Outcome.HELD)] * 2 == [
        (row.expected, row.outcome) for row in rows(report)
    ]
    assert all("nothing tells the revision" in row.detail for row in rows(report, "propagation"))


@pytest.mark.parametrize(
    ("faults", "found"),
    [
        pytest.param({"choose": lambda *_: "stable"}, "split", id="nothing-for-the-canary"),
        pytest.param(
            {"version": lambda _api, track: "1" if track == "stable" else "3"}, "version", id="a-third"
        ),
    ],
)
def test_without_attribution_a_wrong_split_and_a_strange_version_are_found(
    gateway, tenth, pictures, faults, found
):
    unnamed = dataclasses.replace(tenth, attribution=False)
    double = gateway(tenth, attribute=lambda *_: {}, **faults)

    report = check_gateway(Subject(routing=unnamed, gateway=double.address), QUICK, pictures)

    assert {(found, api) for api in BOTH} == kinds(report)


def test_values_without_versions_say_what_is_lost(gateway, tenth, pictures):
    unknown = dataclasses.replace(tenth, versions={})

    report = check_gateway(subject(gateway(tenth), unknown), QUICK, pictures)

    assert [] == rows(report)
    assert report.held
