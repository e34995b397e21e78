"""
The task runner's environment, from whatever state it was left in.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tfcanary.paths import ROOT


@pytest.fixture(scope="module")
def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def noxfile(loaded: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setattr(loaded, "ENVIRONMENT", tmp_path / "tfcanary")
    monkeypatch.setattr(loaded, "PYTHON", tmp_path / "tfcanary/bin/python")
    return loaded


@pytest.fixture
def session() -> SimpleNamespace:
    """
    Makes of an environment what virtualenv does, and remembers which modules ran.
    """
    asked: list[str] = []

    def run(*command: str, **_: Any) -> None:
        asked.append(command[2])
        if "virtualenv" in command:
            programs = Path(command[-1]) / "bin"
            programs.mkdir(parents=True)
            (programs / "python").symlink_to(sys.executable)
            (programs / "pip").touch()

    def error(message: str) -> None:
        raise RuntimeError(message)

    return SimpleNamespace(asked=asked, run=run, log=lambda _: None, error=error)


def test_an_environment_is_made_once(noxfile: ModuleType, session: SimpleNamespace) -> None:
    noxfile.environment(session)
    noxfile.environment(session)

    assert ["virtualenv", "pip", "pip"] == session.asked


@pytest.mark.parametrize("broken", ["python", "pip"])
def test_an_environment_that_cannot_work_is_made_anew(
    noxfile: ModuleType, session: SimpleNamespace, broken: str
) -> None:
    """
    The machine's Python was replaced by a newer one, or virtualenv was interrupted before pip was there.
    """
    noxfile.environment(session)
    program = noxfile.ENVIRONMENT / "bin" / broken
    program.unlink()
    if broken == "python":
        program.symlink_to("/usr/bin/python3.0")
    else:
        (noxfile.ENVIRONMENT / "installed").unlink()
    session.asked.clear()

    noxfile.environment(session)

    assert ["virtualenv", "pip", "pip"] == session.asked


def test_a_python_that_tensorflow_is_not_published_for(
    noxfile: ModuleType, session: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noxfile, "PYTHONS", ("3.0",))

    with pytest.raises(RuntimeError, match=r"Python: expected 3\.0, got 3\.\d+; python3\.0 -m nox"):
        noxfile.environment(session)

    assert not session.asked
