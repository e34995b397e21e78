"""
`nox -s package`: the same release wherever it is made, what is in it, and what is refused before anything is made.
"""

import json
import os
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from releasing import VERSION, Checkout, Keyrings, Said

from tfcanary.cluster import binaries

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def keyring(keyrings: Callable[[], Keyrings]) -> Keyrings:
    return keyrings()


@pytest.fixture(scope="module")
def released(checkout: Callable[[str], Checkout], keyring: Keyrings) -> Path:
    """
    A release with provenance, made of a commit.
    """
    source = checkout("here")
    source.release()
    said = source.run("package", *keyring.options)
    assert 0 == said.code, said.error
    return source.root / "dist"


def test_a_release_has_all_its_parts_and_a_checksum_of_each(released: Path) -> None:
    names = {path.name for path in released.iterdir()}

    assert {
        "SHA256SUMS",
        f"tfserving-canary-{VERSION}.cdx.json",
        f"tfserving-canary-{VERSION}.tgz",
        f"tfserving-canary-{VERSION}.tgz.prov",
        f"tfserving-canary-{VERSION}.values.json",
        f"tfserving-gateway-{VERSION}.cdx.json",
        f"tfserving-gateway-{VERSION}.tgz",
        f"tfserving-gateway-{VERSION}.tgz.prov",
        f"tfserving_canary-{VERSION}-py3-none-any.cdx.json",
        f"tfserving_canary-{VERSION}-py3-none-any.whl",
        f"tfserving_canary-{VERSION}.tar.gz",
    } == names
    done = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=released, check=True, capture_output=True
    )
    assert len(names) - 1 == done.stdout.count(b": OK\n")


def test_two_builds_on_two_paths_are_the_same(released: Path, checkout: Callable[[str], Checkout]) -> None:
    """
    Another folder, other times, another mask of rights and no key: every file but the provenance has the same sha256.
    """
    source = checkout("some/where/else")
    source.release()
    for path in source.root.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    before = os.umask(0o077)
    try:
        said = source.run("package", TZ="Asia/Tokyo", LC_ALL="C")
    finally:
        os.umask(before)

    assert 0 == said.code, said.error
    wanted = [
        line for line in (released / "SHA256SUMS").read_text().splitlines() if not line.endswith(".prov")
    ]
    assert wanted == said.out.splitlines()


@pytest.mark.parametrize("chart", ["tfserving-canary", "tfserving-gateway"])
def test_helm_verifies_the_provenance(released: Path, keyring: Keyrings, chart: str) -> None:
    packed = released / f"{chart}-{VERSION}.tgz"
    done = subprocess.run(
        ["helm", "verify", packed, f"--keyring={keyring.public}"], check=False, capture_output=True, text=True
    )

    assert 0 == done.returncode, done.stderr
    assert "Release Test" in done.stdout


def test_the_bill_of_a_chart_names_its_files_and_images(released: Path) -> None:
    bill = json.loads((released / f"tfserving-canary-{VERSION}.cdx.json").read_text())
    with tarfile.open(released / f"tfserving-canary-{VERSION}.tgz") as archive:
        names = archive.getnames()

    files = [part["name"] for part in bill["components"] if part["type"] == "file"]
    images = {part["purl"] for part in bill["components"] if part["type"] == "container"}
    assert sorted(names) == sorted(files)
    assert {
        "pkg:oci/serving?repository_url=docker.io/tensorflow/serving&tag=2.20.0",
        "pkg:oci/tensorflow?repository_url=docker.io/tensorflow/tensorflow&tag=2.20.0",
    } == images


def test_the_bill_of_the_wheel_names_every_locked_package(released: Path) -> None:
    bill = json.loads((released / f"tfserving_canary-{VERSION}-py3-none-any.cdx.json").read_text())
    lock = (released.parent / "requirements.lock").read_text()

    pinned = [line.split(" ")[0] for line in lock.splitlines() if line[:1].isalnum()]
    assert sorted(pinned) == sorted(f"{part['name']}=={part['version']}" for part in bill["components"])
    required = {part["name"] for part in bill["components"] if part["scope"] == "required"}
    assert {"kubernetes", "pyhelm3", "grpcio"} <= required
    assert not required & {"pytest", "ruff", "keras"}


def test_the_scripts_work_from_the_source_distribution(released: Path, tmp_path: Path) -> None:
    """
    Unpacked and installed into an empty environment; the locked dependencies come from this one.
    """
    with tarfile.open(released / f"tfserving_canary-{VERSION}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / f"tfserving_canary-{VERSION}"
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    packages = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    variables = {**os.environ, "PYTHONPATH": packages}
    subprocess.run(
        [
            *PIP,
            f"--python={python}",
            "install",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            str(source),
        ],
        check=True,
        env=variables,
    )

    done = subprocess.run(
        [
            python,
            "scripts/check_gateway.py",
            "explain",
            "-f",
            "values/composed.yaml",
            "--header",
            "user-group=canary",
        ],
        cwd=source,
        env=variables,
        check=False,
        capture_output=True,
        text=True,
    )

    assert 0 == done.returncode, done.stderr
    assert "takes it: canary 100 %" in done.stdout


def _other_version(source: Checkout) -> None:
    source.edit("charts/tfserving-gateway/Chart.yaml", f"version: {VERSION}\n", "version: 98.0.0\n")


def _other_image(source: Checkout) -> None:
    source.edit("charts/tfserving-canary/Chart.yaml", 'appVersion: "2.20.0"', 'appVersion: "2.19.1"')


def _stale_document(source: Checkout) -> None:
    source.edit("charts/tfserving-gateway/README.md", "# tfserving-gateway", "# tfserving gateway")


def _unsound_chart(source: Checkout) -> None:
    source.edit(
        "charts/tfserving-gateway/templates/envoyfilter.yaml",
        "kind: EnvoyFilter",
        "kind: {{ .Values.none.inner }}",
    )


def _added_package(source: Checkout) -> None:
    with (source.root / "requirements.lock").open("a") as lock:
        lock.write("left-pad==1.0.0\n")


REFUSED = {
    "version": (
        _other_version,
        f"version: charts/tfserving-gateway/Chart.yaml: expected {VERSION} as in pyproject.toml, got 98.0.0",
    ),
    "appVersion": (
        _other_image,
        "appVersion: charts/tfserving-canary: expected image.tag 2.19.1 as in Chart.yaml, got 2.20.0",
    ),
    "documents": (
        _stale_document,
        "documents: charts/tfserving-gateway/README.md: expected what helm-docs makes",
    ),
    "lint": (_unsound_chart, "helm lint tfserving-gateway: expected a sound chart, got"),
    "lock": (
        _added_package,
        "requirements.lock: expected a version and hashes of every package, got left-pad without",
    ),
}


@pytest.fixture(scope="module")
def planted(checkout: Callable[[str], Checkout]) -> Iterator[Callable[[str], Said]]:
    """
    Package a checkout in which one thing is wrong, and undo that.
    """
    source = checkout("planted")
    source.release()

    def run(name: str) -> Said:
        REFUSED[name][0](source)
        source.git("commit", "--all", "--quiet", "--message=Planted")
        try:
            return source.run("package")
        finally:
            source.git("reset", "--hard", "--quiet", "HEAD~")

    yield run
    assert not (source.root / "dist").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_what_disagrees_is_refused_by_name(planted: Callable[[str], Said], name: str) -> None:
    said = planted(name)

    assert 1 == said.code, said.out
    assert f"error: {REFUSED[name][1]}" in said.error


def test_helm_3_is_refused(checkout: Callable[[str], Checkout]) -> None:
    """
    It puts the present time into a packed chart.
    """
    source = checkout("helm-3")
    source.release()
    helm_3 = binaries.ensure("tools")

    said = source.run("package", PATH=f"{helm_3}:{os.environ['PATH']}")

    assert 1 == said.code, said.out
    assert (
        "error: chart tfserving-canary: expected every file with the release's time 1769817600, got "
        in said.error
    )


def test_a_release_is_made_of_what_is_committed(checkout: Callable[[str], Checkout]) -> None:
    source = checkout("changed")
    source.release()
    source.edit("values/stable.yaml", "stable: 100", "stable: 99")

    said = source.run("package")

    assert 1 == said.code, said.out
    assert (
        "error: commit: expected every file of the release to be committed, got changes in values/stable.yaml"
        in said.error
    )


def test_changes_without_a_version_are_only_rehearsed(checkout: Callable[[str], Checkout]) -> None:
    """
    The changelog of this checkout itself, whichever state it is in: a version that it lacks is refused.
    """
    source = checkout("unreleased")
    source.edit("pyproject.toml", f'\nversion = "{VERSION}"\n', '\nversion = "99.0.0"\n')

    said = source.run("package")

    assert 1 == said.code
    assert "  changelog: CHANGELOG.md: expected [99.0.0] as the newest version" in said.error


def test_a_folder_of_other_files_is_not_replaced(checkout: Callable[[str], Checkout], tmp_path: Path) -> None:
    source = checkout("over")
    source.release()
    (tmp_path / "thesis.txt").write_text("years of work")

    said = source.run("package", f"--output={tmp_path}")

    assert 2 == said.code
    assert (
        f"error: {tmp_path}: expected a release or an empty folder, got a folder of other files" in said.error
    )
    assert ["thesis.txt"] == [path.name for path in tmp_path.iterdir()]
