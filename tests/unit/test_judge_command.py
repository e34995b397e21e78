"""
`tfcanary judge`: verdicts from files, their exit codes, and files that are refused.
"""

import json
import random
from pathlib import Path

import pytest

from tfcanary.commands.judge import main
from tfcanary.traffic.records import NO_CODE, Recorder
from tfcanary.traffic.rows import Reader, write


def rows(n, canary, *, stable=0.01, weight=50.0, seed=1):
    """
    Requests at 100 a second.
    """
    draw = random.Random(seed)  # noqa: S311 - a simulation
    for i in range(n):
        track = "canary" if draw.random() < weight / 100 else "stable"
        bad = draw.random() < (canary if track == "canary" else stable)
        yield {
            "time": i / 100,
            "track": track,
            "weight": weight,
            "status": 503 if bad else 200,
            "latency": 0.05,
        }


def csv_file(path: Path, given):
    given = list(given)
    lines = [",".join(given[0]), *(",".join(str(value) for value in row.values()) for row in given)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def jsonl_file(path: Path, given):
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("make", [csv_file, jsonl_file], ids=["csv", "jsonl"])
@pytest.mark.parametrize(
    ("traffic", "verdict"),
    [
        ((5000, 0.0, 0.0), (0, "promote: at most 0.5 points more errors than stable, 95 % sure, from ")),
        ((5000, 0.2, 0.01), (1, "roll back: errors worse than stable: canary ")),
        ((100, 0.01, 0.01), (4, "wait: ")),
        ((5000, 0.5, 0.5), (4, "inconclusive: stable fails too: ")),
    ],
    ids=["promote", "rollback", "wait", "stable fails too"],
)
def test_a_file_of_requests_gives_a_verdict(tmp_path, capsys, make, traffic, verdict):
    (n, canary, stable), (code, says) = traffic, verdict
    name = "requests.jsonl" if make is jsonl_file else "requests.csv"
    file = make(tmp_path / name, rows(n, canary, stable=stable))

    assert code == main(["records", file], prog="tfcanary judge")

    assert says in capsys.readouterr().out.splitlines()[-1]


def test_a_verdict_is_replayed_from_its_log(tmp_path, capsys):
    file, log = csv_file(tmp_path / "requests.csv", rows(3000, 0.2)), str(tmp_path / "looks.log")
    assert 1 == main(["records", file, "--log", log, "--json"], prog="tfcanary judge")
    first = json.loads(capsys.readouterr().out)

    assert 1 == main(["replay", log, "--json", "--digest", first["digest"]], prog="tfcanary judge")

    assert first == json.loads(capsys.readouterr().out)


def test_a_log_that_was_cut_is_found_by_its_digest(tmp_path, capsys):
    file, log = csv_file(tmp_path / "requests.csv", rows(3000, 0.01)), tmp_path / "looks.log"
    main(["records", file, "--log", str(log), "--json"], prog="tfcanary judge")
    digest = json.loads(capsys.readouterr().out)["digest"]
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))

    assert 2 == main(["replay", str(log), "--digest", digest], prog="tfcanary judge")

    assert f"error: log: expected {digest} as its last digest" in capsys.readouterr().err


def test_the_report_is_one_page(tmp_path):
    file, page = csv_file(tmp_path / "requests.csv", rows(3000, 0.2)), tmp_path / "reports" / "verdict.html"

    assert 1 == main(["records", file, "--report", str(page)], prog="tfcanary judge")

    text = page.read_text()
    assert "<h1>Roll the canary back</h1>" in text
    assert "errors worse than stable" in text
    assert "http" not in text.replace("http-equiv", "")


def test_what_the_traffic_driver_recorded_can_be_judged(tmp_path, capsys):
    """
    Route revisions name the weight. An answer of 200 that is not the model's is a failure.
    """
    draw, recorder = random.Random(1), Recorder()  # noqa: S311 - a simulation
    for i in range(2000):
        mine = draw.random() < 0.5
        bad = mine and draw.random() < 0.2
        recorder.add(
            due=i / 100,
            latency=0.01,
            request="predict",
            status=200 if i % 2 else 0,
            code=NO_CODE if i % 2 else 0,
            track="canary" if mine else "stable",
            revision="abc",
            error="not the model's answer" if bad else "",
        )
    file = tmp_path / "records.jsonl"
    write(recorder.records(), file)

    assert 1 == main(["records", str(file), "--weight", "abc=50"], prog="tfcanary judge")

    assert "roll back: errors worse than stable" in capsys.readouterr().out


GOOD = {"time": 1, "track": "canary", "weight": 10, "status": 200, "latency": 0.1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"lateny": 1}, "row 1: expected the columns time, track, weight"),
        ({"time": "soon"}, "row 1: time: expected a finite number, got 'soon'"),
        ({"time": None}, "row 1: time: expected a finite number"),
        ({"time": 1e999}, "row 1: time: expected a finite number"),
        ({"time": True}, "row 1: time: expected a finite number"),
        ({"latency": -1}, "row 1: latency: expected a finite number"),
        ({"latency": "NaN"}, "row 1: latency: expected a finite number"),
        ({"weight": 101}, "row 1: weight: expected a finite number"),
        ({"weight": None}, "row 1: expected a weight, or --weight for the revision '(none)'"),
        ({"weight": None, "revision": "abc"}, "row 1: expected a weight, or --weight for the revision 'abc'"),
        ({"status": 42}, "row 1: status: expected a finite number"),
        ({"status": "ok"}, "row 1: status: expected a finite number"),
        ({"code": 17}, "row 1: code: expected a finite number"),
        ({"code": "BAD"}, "row 1: code: expected a finite number"),
        ({"track": ["canary"]}, "row 1: track: expected text, got list"),
        ({"user": {"id": 1}}, "row 1: user: expected text, got dict"),
    ],
)
def test_a_row_that_is_no_request_is_refused(tmp_path, capsys, row, message):
    file = jsonl_file(tmp_path / "requests.jsonl", [{**GOOD, **row}])

    assert 2 == main(["records", file], prog="tfcanary judge")

    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: records, ")
    assert message in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "row 1: expected JSON"),
        ("a.jsonl", b"[]", "row 1: expected an object"),
        ("a.jsonl", b"[" * 60_000, "row 1: expected JSON"),
        ("a.jsonl", b" " * 70_000, "line 1: expected at most 5,000,000 rows of 65,536 characters"),
        ("a.csv", b"\xff\xfe", "expected UTF-8"),
        ("a.csv", b"time,track,weight,status,latency\n1,canary,10,200,0.1,7\n", "got '(more)'"),
        ("a.csv", b'time,track\n"1,canary\n', "expected CSV"),
        ("a.csv", b"", "no requests: expected at least one look"),
        ("a.csv", b"time,track\n", "no requests: expected at least one look"),
    ],
)
def test_a_file_that_holds_no_requests_is_refused(tmp_path, capsys, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)

    assert main(["records", str(file)], prog="tfcanary judge") in (2, 4)

    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said


def test_empty_fields_and_names_of_codes_are_read(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text(
        "time,track,weight,status,code,latency,user\n1,v2,,200,INTERNAL,0.1,ann\n2,v1,10,,,,\n3,other,10,0,-1,0.5,\n"
    )

    one, other, third = Reader(weights={}, weight=25, canary="v2", stable="v1").read(file)

    assert (25, "canary", 13, 0.1, "ann") == (one.weight, one.track, one.code, one.latency, one.user)
    assert (10, "stable", None, None, None) == (
        other.weight,
        other.track,
        other.status,
        other.code,
        other.latency,
    )
    assert ("", None, None, 0.5) == (third.track, third.status, third.code, third.latency)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["records", "missing.csv"], "records 'missing.csv': cannot be read"),
        (["replay", "missing.log"], "log 'missing.log': cannot be read"),
        (["records", "missing.csv", "--weight", "abc"], "--weight: expected a number"),
        (["records", "missing.csv", "--weight", "abc=101"], "--weight: expected a number"),
        (["records", "missing.csv", "--alpha", "2"], "alpha: expected more than 0 and less than 1, got 2"),
        (["records", "missing.csv", "--require", "accuracy"], "required: expected some of errors, slow"),
        (["records", "missing.csv", "--times", "1.2"], "errors.times: expected more than 1.5"),
        (["explain", "--per-second", "2", "--beta", "0"], "beta: expected more than 0"),
    ],
)
def test_wrong_use_is_one_line(capsys, arguments, message):
    assert 2 == main(arguments, prog="tfcanary judge")

    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert 1 == said.count("\n")


@pytest.mark.parametrize(
    "arguments", [[], ["verdict"], ["explain"], ["explain", "--per-second", "0"], ["records"]]
)
def test_what_argparse_refuses_is_one_line(capsys, arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments, prog="tfcanary judge")

    assert 2 == left.value.code
    assert 1 == capsys.readouterr().err.count("\n")


def test_sticky_files_need_users(tmp_path, capsys):
    file = csv_file(tmp_path / "requests.csv", rows(100, 0.0))

    assert 2 == main(["records", file, "--sticky"], prog="tfcanary judge")

    assert "expected a user in each of them" in capsys.readouterr().err


def test_explain_says_what_cannot_be_decided(capsys):
    """
    2 requests a second and a tolerance of 0.1 points at a base rate of 0.1 %: not within four hours, and a dead canary is.
    """
    arguments = ["explain", "--per-second", "2", "--points", "0.1", "--weight", "50"]

    assert 0 == main(arguments, prog="tfcanary judge")
    table = capsys.readouterr().out
    assert 0 == main([*arguments, "--json"], prog="tfcanary judge")
    made = json.loads(capsys.readouterr().out)

    equal, *_, dead = made["forecasts"]
    assert (False, True) == (equal["decided"], dead["decided"])
    assert 11 == dead["medianRequests"]
    assert any(line.startswith("too slow") and "equal, proven" in line for line in table.splitlines())
    assert table.endswith("5 s from a bad answer to weight 0: the ramp begins at 5 %\n")


def test_explain_says_where_no_weight_is_small_enough(capsys):
    assert 0 == main(["explain", "--per-second", "2000", "--weight", "50"], prog="tfcanary judge")

    assert "no weight of the ramp keeps a dead canary below 10 bad answers" in capsys.readouterr().out
