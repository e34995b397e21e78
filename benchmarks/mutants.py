"""
Change every number and every sign of the judge once, and see whether a test fails.

    python benchmarks/mutants.py [MODULE ...]

A number becomes a larger one, + becomes - and the other way round, a minus before a value goes away, and < becomes >. Each
change is tried in a process of its own, with the tests that are about its module first. What no test notices is printed.
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
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
JUDGE = ROOT / "src" / "tfcanary" / "judge"
TESTS = ROOT / "tests" / "unit"
# Modules of their own tests, which are older: the exact split test and its outcomes.
OTHERS = {"__init__", "split", "verdict"}
# Of the processor, since a busy machine must not count as a test that fails.
SECONDS = 240
# The judge's tests need no fixtures of others, and no plugins, which take longer to load than the tests take.
OPTIONS = ("-x", "-q", "--noconftest", "-p", "no:cacheprovider", "-o", "filterwarnings=ignore")
# By module, the tests that notice most changes soonest; the rest of the judge's tests come after them.
FIRST = {
    "terms": ["rates", "signals", "rulings"],
    "rates": ["log", "rates", "ramp"],
    "eprocess": ["eprocess"],
    "cohorts": ["signals"],
    "pairs": ["signals"],
    "passage": ["passage"],
    "outlook": ["outlook"],
    "ramp": ["ramp"],
    "counters": ["inputs"],
    "feed": ["feed"],
    "answers": ["feed"],
    "statuses": ["feed"],
    "reading": ["rulings", "state"],
    "reasons": ["rulings", "feed"],
    "plan": ["inputs", "rulings", "state"],
    "look": ["rulings", "state"],
}
ALL = (
    "log",
    "rulings",
    "inputs",
    "signals",
    "feed",
    "state",
    "ramp",
    "rates",
    "passage",
    "outlook",
    "eprocess",
    "command",
)
_REVERSED = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE}


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """
    Every change of a source: its line, what it is, and the changed tree.
    """
    tree = ast.parse(source)
    for index, node in enumerate(ast.walk(tree)):
        for name, change in changes(node):
            changed = copy.deepcopy(tree)
            change(list(ast.walk(changed))[index])
            yield getattr(node, "lineno", 0), name, changed


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
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
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _REVERSED:
        other_way = _REVERSED[type(node.ops[0])]
        yield (
            f"{type(node.ops[0]).__name__} to {other_way.__name__}",
            lambda it: it.ops.__setitem__(0, other_way()),
        )


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """
    Imports one module from a changed tree.
    """

    def __init__(self, module: str, tree: ast.Module) -> None:
        self._module, self._tree = module, tree

    def find_spec(
        self, name: str, _path: object, _target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """
        The changed module, and no other.
        """
        return importlib.machinery.ModuleSpec(name, self) if name == self._module else None

    def exec_module(self, module: ModuleType) -> None:
        """
        Run the changed tree.
        """
        exec(compile(self._tree, self._module, "exec"), module.__dict__)  # noqa: S102 - our own source, changed


def noticed(module: str, tree: ast.Module, tests: Sequence[str]) -> bool:
    """
    Whether a test fails under the change, in a child of this process.
    """
    child = os.fork()
    if child == 0:
        import hypothesis  # noqa: PLC0415 - loaded before the fork
        import pytest  # noqa: PLC0415

        # A failing example is not made smaller: that it fails is enough.
        hypothesis.settings.register_profile("once", phases=[hypothesis.Phase.generate], database=None)
        hypothesis.settings.load_profile("once")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        sys.meta_path.insert(0, Changed(f"tfcanary.judge.{module}", tree))
        code = int(pytest.ExitCode.INTERNAL_ERROR)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                code = int(pytest.main([*OPTIONS, *tests]))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) > 2:
        raise SystemExit(
            f"{module}: expected tests that hold or fail, got pytest's code {os.WEXITSTATUS(status)}"
        )
    # A change that cannot be imported, or never ends, is noticed as well.
    return status != 0


def main() -> None:
    """
    Try, and print what no test noticed.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = sorted(path.stem for path in JUDGE.glob("*.py") if path.stem not in OTHERS)
    parser.add_argument("module", nargs="*", help=f"(default: all of {', '.join(known)})")
    modules = parser.parse_args().module or known
    import hypothesis  # noqa: F401, PLC0415 - what takes long to load is loaded once
    import numpy as np  # noqa: F401, PLC0415
    import pytest  # noqa: F401, PLC0415
    import scipy.special  # noqa: F401, PLC0415

    began, tried, survivors = time.perf_counter(), 0, []
    for module in modules:
        source = (JUDGE / f"{module}.py").read_text(encoding="utf-8")
        order = [*FIRST.get(module, []), *(name for name in ALL if name not in FIRST.get(module, []))]
        tests = [str(TESTS / f"test_judge_{name}.py") for name in order]
        if noticed(module, ast.parse(source), tests[:1]):
            raise SystemExit(f"{module}: expected its tests to hold without a change, got a failure")
        for line, name, tree in mutants(source):
            tried += 1
            if not noticed(module, ast.fix_missing_locations(tree), tests):
                survivors.append(f"{module}.py:{line}: {name}: {source.splitlines()[line - 1].strip()}")
                print(survivors[-1], flush=True)
        print(
            f"{module}: {tried} changes so far, {len(survivors)} survive, {time.perf_counter() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
