"""
Change every number and every sign of the judge once, and see whether a test fails.

    python benchmarks/mutants.py [MODULE ...]

A number becomes a larger one, + becomes - and the other way round, a minus before a value goes away, and < becomes >. Each
change is tried in a process of its own, with the tests that are about its module first. What no test notices is printed,
unless `EQUIVALENT` says why nothing can notice it. The exit code is 1 if a change survives, or if an entry there is stale.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
JUDGE = ROOT / "src" / "tfcanary" / "judge"
TESTS = ROOT / "tests" / "unit"
# Modules of their own tests, which are older: the exact split test and its outcomes.
OTHERS = {"__init__", "split", "verdict"}
# Of the processor for the tests of one file, since a busy machine must not count as a test that fails. The longest take 10.
SECONDS = 50
# pytest's exit codes from here on say nothing of the tests.
_INTERNAL_ERROR = 3
# The judge's tests need no fixtures of others, and no plugins, which take longer to load than the tests take.
OPTIONS = ("-x", "-q", "--noconftest", "-p", "no:cacheprovider", "-o", "filterwarnings=ignore")
# By module, the tests that notice most changes soonest; the rest of the judge's tests come after them.
FIRST = {
    "answers": ["feed"],
    "classes": ["signals"],
    "cohorts": ["signals"],
    "counters": ["inputs"],
    "counts": ["rulings"],
    "eprocess": ["eprocess"],
    "events": ["rulings", "state"],
    "feed": ["feed"],
    "guards": ["signals"],
    "judge": ["rulings", "state"],
    "log": ["log"],
    "look": ["rulings", "state"],
    "outlook": ["outlook"],
    "pairs": ["signals"],
    "passage": ["passage"],
    "plan": ["inputs", "rulings", "state"],
    "ramp": ["ramp"],
    "rates": ["log", "rates", "ramp"],
    "reading": ["rulings", "state"],
    "reasons": ["rulings", "feed"],
    "ruling": ["rulings"],
    "statuses": ["feed"],
    "terms": ["rates", "signals", "rulings"],
}
# The quickest first: a change that survives takes all of them.
ALL = (
    *("eprocess", "inputs", "log", "rulings", "ramp", "feed", "rates", "signals", "state"),
    *("command", "outlook", "passage"),
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """
    One change of a module.

    Attributes:
        module: its name.
        line: the text of the line, without what it is indented by.
        column: where in that text the changed expression begins.
        change: what it is.
    """

    module: str
    line: str
    column: int
    change: str

    def __str__(self) -> str:
        """
        The change as an entry of `EQUIVALENT`.
        """
        return f"({self.module!r}, {self.line!r}, {self.column}, {self.change!r})"


# Changes that no test can notice, since no result differs, each with the reason.
EQUIVALENT = {
    Mutant("passage", "_LOST = 1e9", 8, "1000000000.0 to 1250000000.001"): (
        "Any loss that is larger than all that 3,000 requests can gain ends a bet."
    ),
    Mutant("passage", "most = 1", 7, "1 to 2"): (
        "From wherever the search for the quantile begins, it ends at the least number of requests."
    ),
    Mutant("passage", "most *= 2", 8, "2 to 3"): (
        "However fast the search for the quantile widens, it ends at the least number of requests."
    ),
}
_REVERSED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
}


def mutants(module: str, source: str) -> Iterator[tuple[int, Mutant, ast.Module]]:
    """
    Every change of a source: the number of its line, what it is, and the changed tree.
    """
    tree, lines = ast.parse(source), source.splitlines()
    for index, node in enumerate(ast.walk(tree)):
        for name, change in changes(node):
            changed = copy.deepcopy(tree)
            change(list(ast.walk(changed))[index])
            line = lines[node.lineno - 1]
            column = node.col_offset - (len(line) - len(line.lstrip()))
            mutant = Mutant(module, line.strip(), column, name)
            yield node.lineno, mutant, ast.fix_missing_locations(changed)


def changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """
    The changes of one node.
    """
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        larger = node.value + 1 if isinstance(node.value, int) else node.value * 1.25 + 0.001
        yield f"{node.value} to {larger}", lambda it: setattr(it, "value", larger)
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, (ast.Add, ast.Sub)):
        other = ast.Sub if isinstance(node.op, ast.Add) else ast.Add
        yield f"{type(node.op).__name__} to {other.__name__}", lambda it: setattr(it, "op", other())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "minus away", lambda it: setattr(it, "op", ast.UAdd())
    if isinstance(node, ast.Compare):
        # Of a < b < c, each sign by itself.
        for place, sign in enumerate(node.ops):
            if type(sign) in _REVERSED:
                yield from _reversed(place, type(sign))


def _reversed(place: int, sign: type[ast.cmpop]) -> Iterator[tuple[str, Callable[[Any], None]]]:
    other = _REVERSED[sign]
    name = f"{sign.__name__} to {other.__name__}" + (f", the sign {place + 1}" if place else "")
    yield name, lambda it: it.ops.__setitem__(place, other())


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """
    Imports modules of the judge from these trees.
    """

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self._trees = {f"tfcanary.judge.{module}": tree for module, tree in trees.items()}

    def find_spec(
        self, name: str, _path: object, _target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """
        These modules, and no other.
        """
        return importlib.machinery.ModuleSpec(name, self) if name in self._trees else None

    def exec_module(self, module: ModuleType) -> None:
        """
        Run the tree.
        """
        code = compile(self._trees[module.__name__], module.__name__, "exec")
        exec(code, module.__dict__)  # noqa: S102 - our own source, changed


def noticed(trees: Mapping[str, ast.Module], tests: Sequence[str]) -> bool:
    """
    Whether a test fails with these trees, in a child of this process.
    """
    child = os.fork()
    if child == 0:
        code = _INTERNAL_ERROR
        try:
            sys.meta_path.insert(0, Changed(trees))
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                code = _first_failure(tests)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) >= _INTERNAL_ERROR:
        raise SystemExit(
            f"{', '.join(trees)}: expected tests that hold or fail, got pytest's code {os.WEXITSTATUS(status)}"
        )
    # A change that cannot be imported, or never ends, is noticed as well.
    return status != 0


def _first_failure(tests: Sequence[str]) -> int:
    """
    The exit code of the first file of tests that does not hold. One by one, since to import all takes longer than most run.
    """
    import hypothesis  # noqa: PLC0415 - loaded before the fork
    import pytest  # noqa: PLC0415

    # The same examples each time. One that fails is not made smaller: that it fails is enough.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("once", phases=phases, database=None, derandomize=True)
    hypothesis.settings.load_profile("once")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in tests:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        code = int(pytest.main([*OPTIONS, str(TESTS / f"test_judge_{name}.py")]))
        if code:
            return code
    return 0


def read(module: str) -> str:
    """
    The source of a module.
    """
    return (JUDGE / f"{module}.py").read_text(encoding="utf-8")


def tried(module: str) -> Iterator[tuple[int, Mutant, bool]]:
    """
    Try each change of a module: the number of its line, the change, and whether it survives.
    """
    first = FIRST[module]
    tests = [*first, *(name for name in ALL if name not in first)]
    for number, mutant, tree in mutants(module, read(module)):
        yield number, mutant, not noticed({module: tree}, tests)


def report(modules: Sequence[str]) -> int:
    """
    Try all changes of these modules, and print each that is not as `EQUIVALENT` says. How many there are of those.
    """
    began, changes, wrong = time.perf_counter(), 0, 0
    without_line = {mutant for mutant in EQUIVALENT if mutant.module in modules}
    for module in modules:
        for number, mutant, survives in tried(module):
            changes += 1
            without_line.discard(mutant)
            if survives != (mutant in EQUIVALENT):
                wrong += 1
                found = "survives" if survives else "is in EQUIVALENT, and a test notices it"
                print(f"{module}.py:{number}: {found}: {mutant}", flush=True)
        took = time.perf_counter() - began
        print(f"{module}: {changes} changes so far, {wrong} not as expected, {took:.0f} s", flush=True)
    for mutant in without_line:
        print(f"{mutant.module}.py: is in EQUIVALENT, and no line has it: {mutant}")
    return wrong + len(without_line)


def main() -> int:
    """
    Try, and print what no test noticed.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = sorted(path.stem for path in JUDGE.glob("*.py") if path.stem not in OTHERS)
    parser.add_argument("module", nargs="*", help=f"(default: all of {', '.join(known)})")
    modules = parser.parse_args().module or known
    import hypothesis.strategies  # noqa: F401, PLC0415 - what takes long to load is loaded once
    import numpy as np  # noqa: F401, PLC0415
    import pytest  # noqa: F401, PLC0415
    import scipy.optimize  # noqa: PLC0415
    import scipy.stats  # noqa: F401, PLC0415

    if noticed({module: ast.parse(read(module)) for module in known}, ALL):
        raise SystemExit("expected the judge's tests to hold without a change, got a failure")
    return int(bool(report(modules)))


if __name__ == "__main__":
    sys.exit(main())
