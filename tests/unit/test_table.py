"""
Tables for a terminal and for everything else.
"""

import io
import re

import pytest
from rich.cells import cell_len

from tfcanary.report.table import Row, Table, write

LONG = "a-word-that-fits-no-terminal" * 10
HEAD = ("result", "seen", "answers")


class Terminal(io.StringIO):
    """
    Says that it is a terminal.
    """

    def isatty(self):
        """
        Say so.
        """
        return True


@pytest.fixture
def made():
    rows = (
        Row(("held", "stable 100", "100"), "held"),
        Row(("failed", LONG, "7"), "failed", "ask \x1b[2Jagain"),
    )
    return Table(
        HEAD,
        rows,
        above=("a model", ""),
        below=("", "1 of 2"),
        mark="failed",
        numbers=frozenset({"answers"}),
        explained="seen",
    )


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """
    A terminal of 60 columns with colours, outside any CI.
    """
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "60"}.items():
        monkeypatch.setenv(name, value)


def written(table, stream):
    write(table, stream)
    return stream.getvalue()


def test_plain_text_keeps_every_row_on_one_line(made):
    """
    Two blanks between columns, a detail below its row, numbers to the right, nothing at the ends of lines.
    """
    width = len(LONG)

    assert str(made).split("\n") == [
        "a model",
        "",
        f"result  {'seen'.ljust(width)}  answers",
        f"------  {'-' * width}  -------",
        f"held    {'stable 100'.ljust(width)}      100",
        f"failed  {LONG}        7",
        "    ask �[2Jagain",
        "",
        "1 of 2",
    ]


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_what_is_no_terminal_gets_plain_text(made, monkeypatch, name):
    """
    Also where a CI asks all programs for colours.
    """
    plain = str(made)
    monkeypatch.setenv(name, "1")

    assert plain == str(made)
    assert f"{plain}\n" == written(made, io.StringIO())


def test_a_ci_with_a_terminal_gets_plain_text(made, monkeypatch):
    monkeypatch.setenv("CI", "true")

    assert f"{made}\n" == written(made, Terminal())


def test_a_terminal_gets_colours(made):
    seen = written(made, Terminal())

    assert "\x1b[32mheld" in seen
    assert "\x1b[31mfailed" in seen
    assert "\x1b[1;31m1 of 2" in seen
    assert "\x1b[2J" not in seen


def test_a_terminal_without_colours_gets_a_table_that_fits(made, monkeypatch):
    """
    Long cells are folded, none is cut.
    """
    monkeypatch.setenv("NO_COLOR", "1")

    seen = written(made, Terminal())

    assert "\x1b[3" not in seen
    lines = re.sub(r"\x1b\[\d*m", "", seen).splitlines()
    assert 60 >= max(cell_len(line) for line in lines)
    folded = "".join(
        line[len("failed  ") :].split(" ")[0] for line in lines[5:] if "that" in line or "-" in line
    )
    assert LONG in folded
    assert "again" in seen


def test_what_looks_like_markup_is_shown():
    assert "[red]x[/red] :smile:" in str(Table(("seen",), (Row(("[red]x[/red] :smile:",)),)))
