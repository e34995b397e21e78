"""
The code stays small enough to read: functions, classes and modules have a most number of lines.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfcanary.paths import ROOT

MODULE, CLASS, FUNCTION = 450, 250, 60
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("src", "tests", "benchmarks", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)


def too_long(source: str) -> Iterator[str]:
    lines = source.count("\n")
    if lines > MODULE:
        yield f"module: {lines} lines, expected at most {MODULE}"
    for node in ast.walk(ast.parse(source)):
        most = {ast.ClassDef: CLASS, ast.FunctionDef: FUNCTION, ast.AsyncFunctionDef: FUNCTION}.get(
            type(node)
        )
        if most is None:
            continue
        length = node.end_lineno - node.lineno + 1
        if length > most:
            yield f"{node.name}: {length} lines, expected at most {most}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_is_too_long(path: Path) -> None:
    assert [] == list(too_long((ROOT / path).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1\n" * (MODULE + 1), "module: 451 lines"),
        ("class C:\n" + "    x = 1\n" * CLASS, "C: 251 lines"),
        ("def f():\n" + "    x = 1\n" * FUNCTION, "f: 61 lines"),
        ("async def f():\n" + "    x = 1\n" * FUNCTION, "f: 61 lines"),
    ],
)
def test_what_is_too_long_is_named(source: str, found: str) -> None:
    assert [found] == [line.partition(",")[0] for line in too_long(source)]
