"""
Imports run downwards only: the contracts of pyproject.toml hold, and find what is planted.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tfcanary.paths import ROOT


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "go"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache"],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
    )


def test_the_contracts_hold(copy: Path) -> None:
    said = linted(copy)

    assert 0 == said.returncode, said.stdout
    assert "0 broken" in said.stdout


PLANTED = [
    ("routing/route.py", "import httpx", "Routing and judge are pure"),
    ("judge/split.py", "import tfcanary.client.rest", "Imports run downwards"),
    ("rollout/transition.py", "import time", "A rollout knows its cluster by a protocol only"),
    ("helm/drift.py", "import tfcanary.kube.objects", "Helm reads no live objects itself"),
    ("report/table.py", "import tfcanary.client.rest", "Reports only render"),
    (
        "modelserver/rest.py",
        "import tfcanary.routing.route",
        "The model server and the local cluster stand apart",
    ),
    ("check/run.py", "import tfcanary.commands.check", "Imports run downwards"),
    ("check/run.py", "import tfcanary.modelserver.api", "The product needs neither"),
    ("modelserver/rest.py", "import tfcanary.wait", "The model server shares only errors"),
    ("packaging/dist.py", "import tfcanary.cluster.binaries", "Packaging knows the chart"),
    ("export/cache.py", "import tfcanary.commands.export", "The export knows neither"),
]


@pytest.mark.parametrize(("module", "planted", "contract"), PLANTED)
def test_a_forbidden_import_breaks_its_contract(copy: Path, module: str, planted: str, contract: str) -> None:
    file = copy / "src" / "tfcanary" / module
    before = file.read_text(encoding="utf-8")
    file.write_text(f"{before}\n{planted}\n", encoding="utf-8")
    try:
        said = linted(copy)
    finally:
        file.write_text(before, encoding="utf-8")

    assert 0 != said.returncode
    broken = [line for line in said.stdout.splitlines() if line.endswith("BROKEN")]
    assert any(line.startswith(contract) for line in broken), said.stdout


def test_every_contract_is_broken_once() -> None:
    """
    A contract that no planted import breaks might hold nothing.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = [contract["name"] for contract in project["tool"]["importlinter"]["contracts"]]

    assert [] == [name for name in names if not any(name.startswith(start) for _, _, start in PLANTED)]
