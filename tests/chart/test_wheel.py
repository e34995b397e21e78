"""
The wheel, installed outside the checkout, has all that its commands need: code, chart, values and images.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tfcanary.paths import ROOT

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
WHEEL = (*PIP, "wheel", "--no-deps", "--no-build-isolation")


@dataclass(frozen=True)
class Installed:
    """
    An environment with the wheel and nothing else of ours; the locked dependencies come from PYTHONPATH.
    """

    folder: Path
    elsewhere: Path

    def run(self, *command: str, program: str = "tfcanary") -> subprocess.CompletedProcess[str]:
        """
        Run a program of the environment, away from the checkout.
        """
        environment = {
            **os.environ,
            "PYTHONPATH": sysconfig.get_path("purelib"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [str(self.folder / "bin" / program), *command],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.elsewhere,
            env=environment,
        )

    def path(self, name: str) -> Path:
        """
        A folder of `tfcanary.paths`, as the installed code sees it.
        """
        said = self.run("-c", f"from tfcanary import paths; print(paths.{name})", program="python")
        return Path(said.stdout.strip())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run((*WHEEL, f"--wheel-dir={folder}", str(ROOT)), check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    subprocess.run(
        [*PIP, f"--python={python}", "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
    )
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    return Installed(environment, elsewhere)


def test_nothing_of_the_checkout_is_used(installed: Installed) -> None:
    for name in ("ROOT", "CHART", "VALUES"):
        path = installed.path(name)

        assert path.is_relative_to(installed.folder)
        assert path.is_dir()


@pytest.mark.parametrize("name", ["charts", "values", "images"])
def test_it_carries_what_the_checkout_has(installed: Installed, name: str) -> None:
    def files(folder: Path) -> set[str]:
        return {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }

    assert files(ROOT / name) == files(installed.path("ROOT") / name)


def test_it_is_typed_and_has_the_templates_of_its_reports(installed: Installed) -> None:
    package = installed.path("ROOT").parent

    assert (package / "py.typed").is_file()
    assert list((package / "report" / "templates").glob("*.j2"))
    assert (package / "cluster" / "go" / "kubernetes" / "go.sum").is_file()


def test_the_source_distribution_makes_the_same_wheel(installed: Installed, tmp_path: Path) -> None:
    """
    It has all that the build needs, without git and the rest of the checkout.
    """
    command = (sys.executable, "-m", "hatchling", "build", "--target=sdist", f"--directory={tmp_path}")
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (source,) = tmp_path.glob("*.tar.gz")
    subprocess.run((*WHEEL, f"--wheel-dir={tmp_path}", str(source)), check=True, capture_output=True)

    def names(folder: Path) -> list[str]:
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return sorted(archive.namelist())

    assert names(installed.folder.parent) == names(tmp_path)


def test_the_images_are_built_from_what_the_wheel_carries(installed: Installed) -> None:
    """
    `tfcanary cluster up` copies the model server's sources into its image.
    """
    script = (
        "from tfcanary.cluster import images, packages\n"
        "print(packages.SOURCES / 'modelserver' / 'Containerfile')\n"
        "print(*(images.PACKAGE / name for name in images.SERVER_SOURCES), sep='\\n')"
    )
    said = installed.run("-c", script, program="python")

    paths = [Path(line) for line in said.stdout.splitlines()]
    assert len(paths) > 1, said.stderr
    assert [] == [path for path in paths if not path.exists() or not path.is_relative_to(installed.folder)]


@pytest.mark.parametrize("command", ["check", "explain", "export", "cluster", "demo"])
def test_every_command_says_how_it_is_used(installed: Installed, command: str) -> None:
    said = installed.run(command, "--help")

    assert 0 == said.returncode, said.stderr
    assert f"usage: tfcanary {command}" in said.stdout
    assert "exit codes: 0 held" in said.stdout


def test_a_request_is_explained_by_the_packaged_values(installed: Installed) -> None:
    values = installed.path("VALUES") / "composed.yaml"

    said = installed.run("explain", "-f", str(values), "--header", "user-group=canary")

    assert 0 == said.returncode, said.stderr
    assert "takes it: canary 100 %" in said.stdout


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not on PATH")
def test_the_packaged_chart_renders(installed: Installed) -> None:
    values = installed.path("VALUES")
    files = ("env/gke.yaml", "models/resnet.yaml", "canary-10.yaml")
    said = subprocess.run(
        [
            "helm",
            "template",
            "resnet",
            str(installed.path("CHART")),
            *(f"--values={values / file}" for file in files),
        ],
        check=False,
        capture_output=True,
        text=True,
    )

    assert 0 == said.returncode, said.stderr
    assert "kind: VirtualService" in said.stdout
