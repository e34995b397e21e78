"""
Every import of another project's module is declared: as a dependency, or in the extra of the package that needs it.
"""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfcanary.paths import ROOT

SOURCES = ROOT / "src" / "tfcanary"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The extras by the package that they are for; no other package may need one.
EXTRAS = {"export": "models", "modelserver": "server", "cluster": "cluster", "packaging": "packaging"}
DISTRIBUTIONS = importlib.metadata.packages_distributions()


def normal(name: str) -> str:
    """
    A project's name as package indexes compare it.
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(package: str) -> set[str]:
    """
    What the dependencies and the extra of a package name.
    """
    requirements = [*PROJECT["dependencies"]]
    if package in EXTRAS:
        requirements += PROJECT["optional-dependencies"][EXTRAS[package]]
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def imported(source: str) -> Iterator[str]:
    """
    The modules that a source imports, at its top or inside functions, without Python's own and ours.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        yield from (
            name for name in names if name.split(".")[0] not in {*sys.stdlib_module_names, "tfcanary"}
        )


def undeclared(package: str, source: str) -> set[str]:
    """
    The modules that a source of this package imports and no requirement brings.
    """
    names = declared(package)
    return {
        module
        for module in imported(source)
        if names.isdisjoint(map(normal, DISTRIBUTIONS.get(module.split(".")[0], ())))
        # These protos come with TensorFlow, which tensorflow-serving-api requires for their sake.
        and not re.fullmatch(r"tensorflow\.core(\.\w+)*", module)
    }


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: path.relative_to(SOURCES))
def test_every_import_is_declared(path: Path) -> None:
    package = path.relative_to(SOURCES).parts[0]

    assert set() == undeclared(package, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("package", "source", "found"),
    [
        ("check", "import pytest", {"pytest"}),
        ("check", "def f():\n    from orjson import dumps", {"orjson"}),
        ("modelserver", "def f():\n    from orjson import dumps", set()),
        ("client", "import tensorflow as tf", {"tensorflow"}),
        ("client", "from tensorflow.core.framework import types_pb2", set()),
        ("export", "import tensorflow as tf", set()),
        ("routing", "import jwt, json, tfcanary.errors", set()),
        ("kube", "import no_such_module.inner", {"no_such_module.inner"}),
    ],
)
def test_what_is_not_declared_is_found(package: str, source: str, found: set[str]) -> None:
    assert found == undeclared(package, source)
