"""
The console command, and the scripts where their environment is missing.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tfcanary.commands import check
from tfcanary.commands.main import COMMANDS, main
from tfcanary.paths import CHART, ROOT


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])

    said = capsys.readouterr().out
    assert 0 == left.value.code
    assert all(f"\n  {name} " in said for name in COMMANDS)
    assert "exit codes: 0 held" in said


def test_version_is_the_charts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert 0 == left.value.code
    assert f"tfserving-canary {chart['version']}\n" == capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [([], "COMMAND"), (["chek"], "invalid choice: 'chek'")])
def test_another_word_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)

    said = capsys.readouterr()
    assert 2 == left.value.code
    assert "" == said.out
    assert said.err.startswith("error: ")
    assert message in said.err
    assert 1 == said.err.count("\n")


def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    Found when the command begins its work: its help needs no extra.
    """
    monkeypatch.delitem(sys.modules, "tfcanary.export.resnet", raising=False)
    monkeypatch.setitem(sys.modules, "keras", None)

    code = main(
        ["export", "--arch=resnet20", "--weights=digits", f"--output={tmp_path / 'm'}", "--version=1"]
    )

    assert 2 == code
    assert capsys.readouterr().err == (
        "error: tfcanary export: expected the package keras, got none; pip install 'tfserving-canary[models]'\n"
    )


def test_arguments_reach_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["explain", "-f", str(ROOT / "values/canary-10.yaml"), "--api", "grpc"])

    assert 0 == code
    assert "stable 90 %, canary 10 %" in capsys.readouterr().out


def test_the_help_of_check_mentions_explain(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check.main(["--help"])
    assert "`check_gateway.py explain`" in " ".join(capsys.readouterr().out.split())

    with pytest.raises(SystemExit) as left:
        check.main(["explain", "--help"])
    assert 0 == left.value.code
    assert capsys.readouterr().out.startswith("usage: check_gateway.py explain ")


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_a_script_outside_its_environment_says_how_to_run_it(script: str) -> None:
    """
    By a Python that has neither this project nor its dependencies.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "scripts" / script)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert 3 == done.returncode
    assert "" == done.stdout
    assert done.stderr.startswith("error: Python module ")
    assert f".nox/tfcanary/bin/python scripts/{script}" in done.stderr
    assert 1 == done.stderr.count("\n")
