"""
What CI runs: valid by the published schemas, and the sessions that a person runs.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tfcanary.paths import ROOT

SESSION = re.compile(r"python3?\)?\"? -m nox -s (\w+)")
FILES = {
    ".github/workflows/checks.yaml": "github-workflows",
    ".github/workflows/release.yaml": "github-workflows",
    ".gitlab-ci.yml": "gitlab-ci",
}


def checked(path: Path, schema: str) -> int:
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, f"--builtin-schema=vendor.{schema}", path]
    return subprocess.run(command, check=False, capture_output=True).returncode


@pytest.mark.parametrize(("name", "schema"), FILES.items())
def test_it_is_valid_by_its_published_schema(name: str, schema: str) -> None:
    assert 0 == checked(ROOT / name, schema)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        (".github/workflows/release.yaml", "runs-on: ubuntu-24.04", "runs_on: ubuntu-24.04"),
        (".gitlab-ci.yml", "stage: release", "stages: release"),
    ],
)
def test_a_misspelt_key_is_found(tmp_path: Path, name: str, right: str, wrong: str) -> None:
    text = (ROOT / name).read_text()
    assert right in text
    (tmp_path / "ci.yaml").write_text(text.replace(right, wrong))

    assert 0 != checked(tmp_path / "ci.yaml", FILES[name])


def test_every_file_is_checked() -> None:
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / ".github/workflows").iterdir()}

    assert FILES.keys() == there | {".gitlab-ci.yml"}


def test_both_run_the_same_sessions() -> None:
    """
    Those that CONTRIBUTING.md and the release process page tell a person to run.
    """
    github = [SESSION.findall((ROOT / name).read_text()) for name in FILES if name.startswith(".github")]
    gitlab = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    jobs = [SESSION.findall("\n".join(gitlab[name]["script"])) for name in ("checks", "release")]

    assert [["tests"], ["package", "publish", "verify", "kit"]] == github == jobs
