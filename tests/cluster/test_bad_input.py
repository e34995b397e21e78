"""
Mistakes against a live release: each ends with one line and the documented exit code, and changes nothing.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tfcanary.helm.releases import Releases
from tfcanary.paths import ROOT

RELEASE = "resnet"
CHECK = ROOT / "scripts/check_gateway.py"

pytestmark = pytest.mark.usefixtures("installed")


@dataclass(frozen=True)
class Mistake:
    """
    What is given, how the command ends, and words that its line has to contain.
    """

    values: str
    arguments: tuple[str, ...]
    exit_code: int
    words: tuple[str, ...]


SUM = "routing: {routes: [{name: everyone, weights: {stable: 80, canary: 10}}]}"
TRACK = "routing: {routes: [{name: everyone, weights: {stable: 90, canery: 10}}]}"
KEY = "routing: {routs: []}"
MISTAKES = [
    pytest.param(Mistake(SUM, (), 2, ("everyone", "100", "90")), id="weights that sum to 90"),
    pytest.param(Mistake(TRACK, (), 2, ("canery", "canary", "stable")), id="unknown track"),
    pytest.param(Mistake(KEY, (), 2, ("routs",)), id="unknown key"),
    pytest.param(Mistake("routing: [", (), 2, ("values.yaml", "YAML")), id="not YAML"),
    pytest.param(Mistake("", ("--release", "nowhere"), 2, ("nowhere", "not found")), id="release not found"),
    pytest.param(
        Mistake("", ("--gateway", "127.0.0.1:1", "--timeout", "1"), 3, ("127.0.0.1:1",)),
        id="gateway unreachable",
    ),
    pytest.param(Mistake("", ("--context", "nowhere"), 3, ("nowhere",)), id="unknown context"),
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(
    mistake: Mistake, tmp_path: Path, releases: Releases, namespace: str, kubeconfig: Path
) -> None:
    before = releases.history(RELEASE)
    command = [
        sys.executable,
        str(CHECK),
        "--release",
        RELEASE,
        "--namespace",
        namespace,
        "--kubeconfig",
        str(kubeconfig),
    ]
    if mistake.values:
        file = tmp_path / "values.yaml"
        file.write_text(mistake.values)
        command += ["--values", str(file)]

    said = subprocess.run([*command, *mistake.arguments], capture_output=True, text=True, check=False)

    errors = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    assert mistake.exit_code == said.returncode, said.stderr
    assert 1 == len(errors), said.stderr
    assert "Traceback" not in said.stderr
    for word in mistake.words:
        assert word in errors[0]
    assert before == releases.history(RELEASE)


@pytest.mark.parametrize(
    "values", [SUM, TRACK, KEY], ids=["weights that sum to 90", "unknown track", "unknown key"]
)
def test_upgrade_is_refused(values: str, tmp_path: Path, releases: Releases) -> None:
    """
    Helm refuses what the check refuses, and the release stays as it was.
    """
    before = releases.history(RELEASE)
    file = tmp_path / "values.yaml"
    file.write_text(values)

    with pytest.raises(Exception, match="routing") as caught:
        releases.apply(RELEASE, files=[file])

    assert 2 == caught.value.exit_code
    assert before == releases.history(RELEASE)
