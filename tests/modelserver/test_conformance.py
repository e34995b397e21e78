"""
The documentation's tables of what is the same as in TensorFlow Serving are complete, and tests hold them.
"""

import ast
import re
from pathlib import Path

import pytest

from tfcanary.modelserver import flags
from tfcanary.modelserver.status import HTTP_STATUS, Code
from tfcanary.paths import ROOT

HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "reference" / "model-server.md"
SAME, DIFFERENT, ABSENT = "same", "different", "absent"

# ToHTTPStatusCode() of the original, tensorflow_serving/model_servers/http_server.cc.
ORIGINAL = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


def rows(title: str | None = None) -> list[tuple[str, str, str, str]]:
    """
    The rows of one table, or of all: what, verdict, how or by which tests, and the original's files.
    """
    text = PAGE.read_text(encoding="utf-8").partition("## Conformance")[2]
    found = []
    for section in text.split("\n### ")[1:]:
        name, _, body = section.partition("\n")
        if title in {None, name}:
            for line in body.splitlines():
                cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
                if len(cells) == 4 and not line.startswith(("| what", "|---")):
                    what, verdict, how, original = (cell.strip() for cell in cells)
                    found.append((what, verdict, how, original))
    return found


def named(how: str) -> list[str]:
    return re.findall(r"`(test_\w+\.py::test_\w+)`", how)


def existing() -> set[str]:
    return {
        f"{path.name}::{node.name}"
        for path in HERE.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_row_has_a_verdict() -> None:
    assert len(rows()) > 140
    assert {verdict for _, verdict, _, _ in rows()} == {SAME, DIFFERENT, ABSENT}


def test_what_is_the_same_has_a_test_that_exists() -> None:
    untested = [what for what, verdict, how, _ in rows() if verdict == SAME and not named(how)]
    gone = {test for _, _, how, _ in rows() for test in named(how)} - existing()

    assert (untested, gone) == ([], set())


def test_what_is_the_same_names_what_it_was_held_against() -> None:
    """A file of TensorFlow Serving or TensorFlow, or a page."""
    files = re.compile(r"`[\w/]+\.(cc|h|md|py)`")

    assert [] == [
        what for what, verdict, _, original in rows() if verdict == SAME and not files.search(original)
    ]


def test_what_is_different_says_how() -> None:
    assert [what for what, verdict, how, _ in rows() if verdict == DIFFERENT and not how] == []


def test_every_flag_has_a_row_that_agrees_with_what_the_server_does() -> None:
    table = {what.strip("`").removeprefix("--"): verdict for what, verdict, _, _ in rows("Flags")}
    verdicts = {
        flags.Use.SERVED: {SAME, DIFFERENT},
        flags.Use.IGNORED: {DIFFERENT},
        flags.Use.ABSENT: {ABSENT},
    }

    assert [flag.name for flag in flags.FLAGS if table.get(flag.name) not in verdicts[flag.use]] == []
    assert set(table) - {flag.name for flag in flags.FLAGS} == {"an unknown flag", "flag value"}


def test_every_status_code_has_a_row() -> None:
    written = {what for what, _, _, _ in rows("Status codes")}

    assert {f"`{name}`: {status}" for name, status in ORIGINAL.items()} | {"413"} == written


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_code_has_the_originals_http_status(name: str) -> None:
    assert HTTP_STATUS[Code[name]] == ORIGINAL[name]


def test_there_is_no_other_code() -> None:
    assert {code.name for code in Code} == set(ORIGINAL)
