"""
The task runner: its environment, whatever state it was left in, and the cluster that comes up in the background.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tfcanary.paths import ROOT
from tfcanary.wait import NotYet, wait_until


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
    Makes an environment as virtualenv does, and remembers which modules ran.
    """
    asked: list[str] = []

    def run(*command: str, **_: Any) -> None:
        if command[-1] != "uv":  # it is installed only where nox has none yet
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

    assert ["virtualenv", "uv", "uv"] == session.asked


def test_another_version_is_installed(
    noxfile: ModuleType, session: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    `tfcanary --version` says what is installed.
    """
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text("0.1.0")
    monkeypatch.setattr(noxfile, "HERE", tmp_path)
    noxfile.environment(session)
    session.asked.clear()
    (tmp_path / "pyproject.toml").write_text("0.2.0")

    noxfile.environment(session)

    assert ["uv", "uv"] == session.asked


@pytest.mark.parametrize("broken", ["python", "pip"])
def test_an_environment_that_cannot_work_is_made_again(
    noxfile: ModuleType, session: SimpleNamespace, broken: str
) -> None:
    """
    The machine's Python was replaced by a newer one, or virtualenv was interrupted before it installed pip.
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

    assert ["virtualenv", "uv", "uv"] == session.asked


def test_a_python_that_tensorflow_is_not_published_for(
    noxfile: ModuleType, session: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noxfile, "PYTHONS", ("3.0",))

    with pytest.raises(RuntimeError, match=r"Python: expected 3\.0, got 3\.\d+; python3\.0 -m nox"):
        noxfile.environment(session)

    assert not session.asked


def test_the_supported_pythons_are_the_projects(loaded: ModuleType) -> None:
    assert ["3.11", "3.12", "3.13"] == loaded.PYTHONS


LOCAL_CLUSTER = """#!/bin/sh
echo "$2" >> {folder}/asked
[ "$2" = up ] || exit 0
echo "the end of the log"
if [ -e {folder}/hang ]; then touch {folder}/hanging; sleep 600 & wait; fi
[ ! -e {folder}/broken ]
"""


@pytest.fixture
def background(
    noxfile: ModuleType, session: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ModuleType:
    """
    The task runner, whose environment is there and whose Python is a script that notes what it is asked for.
    """
    noxfile.environment(session)
    noxfile.PYTHON.unlink()
    noxfile.PYTHON.write_text(LOCAL_CLUSTER.format(folder=tmp_path))
    noxfile.PYTHON.chmod(0o755)
    monkeypatch.setattr(noxfile, "UP_LOG", tmp_path / "up.log")
    monkeypatch.setattr(noxfile, "BACKGROUND", [])
    monkeypatch.setattr(noxfile.atexit, "register", lambda _: None)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return noxfile


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked").read_text().split()


def test_the_cluster_comes_up_beside_other_sessions(
    background: ModuleType, session: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The session that needs the cluster waits for it, shows what it said, and brings up no second one.
    """
    background.begin_up(session)
    background.end_up(session)
    background.abandon_up()

    assert ["up"] == asked(tmp_path)
    assert "the end of the log\n" == capsys.readouterr().out


def test_a_cluster_that_does_not_come_up_is_an_error_with_its_output(
    background: ModuleType, session: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").touch()
    background.begin_up(session)

    with pytest.raises(RuntimeError, match="cluster tests: expected it to come up, got exit code 1"):
        background.end_up(session)

    assert "the end of the log\n" == capsys.readouterr().out


def test_a_cluster_that_no_session_waited_for_is_ended_and_taken_down(
    background: ModuleType, session: SimpleNamespace, tmp_path: Path
) -> None:
    """
    A session before was interrupted: what comes up is ended with its own processes, and what it left is taken down.
    """
    (tmp_path / "hang").touch()
    background.begin_up(session)
    (process,) = background.BACKGROUND

    def hanging() -> None:
        if not (tmp_path / "hanging").exists():
            raise NotYet("starting")

    wait_until("the cluster's start", hanging, timeout_seconds=10)
    background.abandon_up()

    assert process.returncode not in {None, 0}
    assert ["up", "down"] == asked(tmp_path)
    wait_until("the end of its processes", lambda: none_left(process.pid), timeout_seconds=10)


def none_left(session: int) -> None:
    """
    Raise `NotYet` while a process of the session runs; one that ended may not have been reaped yet.
    """
    command = ["ps", "--sid", str(session), "-o", "stat="]
    states = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    if any(not state.startswith("Z") for state in states):
        raise NotYet(f"states {states}")


def test_another_cluster_is_not_brought_up(
    background: ModuleType, session: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    KUBECONFIG names one with Istio, as in CI with kind.
    """
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

    background.begin_up(session)

    assert not (tmp_path / "asked").exists()
