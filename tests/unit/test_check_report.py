"""
What a run leaves: refusals, interruptions, pictures, and the report itself.
"""

import dataclasses
import io
import json

import pytest
from checking import MIDDLE, QUICK, kinds, subject, titles
from PIL import Image

from tfcanary.check import ledger
from tfcanary.check.refusals import CLOSED_METHODS, CLOSED_PATHS
from tfcanary.check.report import Report
from tfcanary.check.run import check_gateway
from tfcanary.check.subject import Subject
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.pictures import Picture, decoded
from tfcanary.contract import Api
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.judge.verdict import Outcome
from tfcanary.report.as_json import SCHEMA, as_json
from tfcanary.report.table import findings_table
from tfcanary.traffic.records import joined

REST, GRPC = "/v1/models/", "/tensorflow.serving."


SECURITY = dataclasses.replace(QUICK, security=True)


def test_what_is_closed_is_seen_to_be_refused(gateway, tenth, pictures):
    report = check_gateway(subject(gateway(tenth), tenth), SECURITY, pictures)

    assert set() == titles(report)
    assert [len(CLOSED_PATHS), len(CLOSED_METHODS)] == [
        row.n for row in report.findings if row.name == "security"
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring/",
        "/V1/",
        "/v1//",
        "/v1/models%2F",
        "/v1/models/resnet-other",
        "/v1/models/resnet/../other",
    ],
)
def test_a_path_that_is_open_is_found_by_name(gateway, tenth, pictures, path):
    """
    Each path that the gateway lets through by mistake is named; asking for it is no failed request.
    """
    double = gateway(tenth, open_paths=(path,))

    report = check_gateway(subject(double, tenth), SECURITY, pictures)

    assert {"security closed paths (REST)"} == titles(report)
    (row,) = (row for row in report.findings if row.title == "security closed paths (REST)")
    assert path in row.observed


def test_what_nobody_answers_is_not_seen_to_be_closed(gateway, tenth, pictures, monkeypatch):
    """
    A call that runs until its deadline may have reached the model server: the other refusals say nothing of it.
    """
    refused = GrpcClient.raw

    def raw(client, method, headers=None):
        answer = refused(client, method, headers)
        late = dataclasses.replace(answer, status="DEADLINE_EXCEEDED", reached=False)
        return late if "Reload" in method else answer

    monkeypatch.setattr(GrpcClient, "raw", raw)

    report = check_gateway(subject(gateway(tenth), tenth), SECURITY, pictures)

    assert {"security closed methods (gRPC)"} == titles(report, Outcome.NOT_ENOUGH)
    (row,) = (row for row in report.findings if row.title == "security closed methods (gRPC)")
    assert "HandleReloadConfigRequest: DEADLINE_EXCEEDED" in row.detail


def test_a_gateway_that_is_not_there_cannot_be_reached(tenth, pictures):
    nowhere = Subject(routing=tenth, gateway="127.0.0.1:9", revision="rev-2")

    with pytest.raises(
        UnreachableError, match=r"gateway 127\.0\.0\.1:9: no answer within 0\.5 s.*--gateway HOST:PORT"
    ):
        check_gateway(nowhere, QUICK, pictures)


def test_a_gateway_that_goes_away_leaves_the_report_so_far(gateway, user_group, pictures, monkeypatch):
    """
    Exit code 3, and what was checked before stays in the report.
    """
    monkeypatch.setattr(ledger, "UNREACHED_IN_A_ROW", 3)
    double = gateway(user_group)

    def leave(api, count, *_):
        if (api, count) == (Api.GRPC, MIDDLE):
            double.front.close()
        return 200

    double.status = leave

    report = check_gateway(subject(double, user_group), QUICK, pictures)

    assert "nothing answered 3 gRPC requests in a row" in report.interrupted
    assert 3 == report.exit_code
    assert ("split", "REST") in kinds(report, Outcome.HELD)
    assert {("failed requests", "gRPC")} == kinds(report)


def test_a_report_of_nothing_has_not_held(tenth):
    made = Report(
        model=tenth.model,
        gateway="gateway:80",
        host=None,
        hosts=tenth.hosts,
        release="",
        routes=tenth.routes,
        revision=None,
        options=QUICK,
        findings=(),
        lost=(),
        seconds=1.0,
        records=joined([]),
    )

    assert not made.held
    assert 4 == made.exit_code
    assert "nothing was checked" == made.verdict


def test_the_json_form_has_every_number(gateway, tenth, pictures):
    report = check_gateway(subject(gateway(tenth), tenth), QUICK, pictures)

    made = json.loads(json.dumps(as_json(report), allow_nan=False))
    (split,) = (row for row in made["checks"] if row["name"] == "split" and row["api"] == "gRPC")
    assert (SCHEMA, True, 0, "rev-2") == tuple(
        made[key] for key in ("schema", "held", "exitCode", "routeRevision")
    )
    assert {"stable", "canary"} == {share["track"] for share in split["shares"]}
    assert split["needed"] <= split["answers"] == sum(share["count"] for share in split["shares"])
    assert all(share["low"] <= share["count"] <= share["high"] for share in split["shares"])


def test_a_mark_of_the_table_is_on_every_row(gateway, tenth, pictures):
    """
    A reader sees the routes, one line per check with expected and seen, and the verdict last.
    """
    report = check_gateway(subject(gateway(tenth), tenth), QUICK, pictures)

    lines = str(findings_table(report)).splitlines()
    assert "  everyone: everyone else → stable 90 %, canary 10 %" in lines
    assert len(report.findings) == sum(line.startswith("held ") for line in lines)
    assert report.verdict == lines[-1]


def test_a_picture_that_is_none_is_refused_before_any_request(gateway, tenth):
    double = gateway(tenth)

    with pytest.raises(UsageError, match=r"picture 'a\.txt': expected a JPEG file"):
        check_gateway(subject(double, tenth), QUICK, [Picture("a.txt", b"text")])

    assert 0 == double.counts.total()


def test_a_picture_that_is_too_large_to_decode_is_refused():
    """
    A few kilobytes may be a picture of 200 million pixels, which pillow does not decode.
    """
    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "PNG")

    with pytest.raises(UsageError, match=r"picture 'large': expected a JPEG file: .* exceeds limit"):
        decoded(Picture("large", file.getvalue()), 8, 8)


def test_no_picture_is_refused(tenth):
    with pytest.raises(UsageError, match="expected at least one, got none"):
        check_gateway(Subject(tenth, "127.0.0.1:9"), QUICK, [])
