import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfcanary.errors import UsageError
from tfcanary.export import manifest

SOURCES = Path(manifest.__file__).parents[1]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """
    What looks like an exported model, with its manifest.
    """
    directory = tmp_path / "1"
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(bytes(range(256)))
    (directory / "variables" / "variables.data-00000-of-00001").write_bytes(b"\x00" * 4096)
    manifest.write(directory, {"arch": "resnet20"})
    return directory


def flip(model: Path) -> None:
    path = model / "variables" / "variables.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[2048] ^= 1
    path.write_bytes(content)


def link(model: Path) -> None:
    """The same bytes, today."""
    (model / "saved_model.pb").rename(model.parent / "elsewhere")
    (model / "saved_model.pb").symlink_to(model.parent / "elsewhere")


def test_a_model_as_its_manifest_says_is_verified(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Its digest is that of the sums.
    """
    digest = manifest.sha256(model / manifest.SUMS)

    assert (0, f"model {model}: 2 files verified, sha256:{digest}\n") == (
        manifest.main(["verify", str(model)]),
        capsys.readouterr().out,
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(flip, "variables/variables.data-00000-of-00001: expected sha256", id="one flipped bit"),
        pytest.param(
            lambda model: (model / "saved_model.pb").unlink(),
            "saved_model.pb: expected by manifest.json, got none",
            id="missing",
        ),
        pytest.param(
            lambda model: (model / "variables" / "more").write_text(""),
            "variables/more: expected only the files of manifest.json, got one more",
            id="extra",
        ),
        pytest.param(link, "saved_model.pb: expected a file, got a link", id="link"),
        pytest.param(
            lambda model: os.mkfifo(model / "pipe"),
            "pipe: expected only the files",
            id="extra that is no file",
        ),
        pytest.param(
            lambda model: (model / "more").symlink_to(model / "variables"),
            "more: expected only the files",
            id="extra link to a folder",
        ),
        pytest.param(
            lambda model: (model / manifest.SUMS).write_text("0" * 64 + "  saved_model.pb\n"),
            "manifest.sha256: expected the hashes of manifest.json, got others",
            id="sums of something else",
        ),
        pytest.param(
            lambda model: (
                (model / manifest.SUMS).unlink(),
                (model / manifest.SUMS).symlink_to("/etc/passwd"),
            ),
            "manifest.sha256: expected a file, got a link",
            id="sums that are a link",
        ),
    ],
)
def test_any_damage_ends_in_exit_code_1_and_one_line_that_names_the_file(
    model: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], message: str
) -> None:
    damage(model)

    code = manifest.main(["verify", str(model)])

    output = capsys.readouterr()
    assert (1, "") == (code, output.out)
    assert output.err.startswith(f"error: model {model}: {message}")
    assert 1 == output.err.count("\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"files": {}}',
        '{"files": []}',
        '{"files": {"saved_model.pb": {}}}',
        "\x00",
        "[" * 100_000,
    ],
    ids=range(8),
)
def test_a_manifest_that_lists_no_files_is_refused(model: Path, text: str) -> None:
    (model / manifest.NAME).write_text(text)

    with pytest.raises(UsageError, match=r"manifest\.json: expected"):
        list(manifest.problems(model))


def test_what_cannot_be_read_is_refused_and_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root may read everything, so permissions alone would not show it."""

    def refuse(path: Path, *_: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    scan = os.scandir
    (model / "closed").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda path: refuse(path) if "closed" in str(path) else scan(path))
        assert 2 == manifest.main(["verify", str(model)])
    assert f"error: {model}/closed: cannot read it: Permission denied" in capsys.readouterr().err

    (model / "closed").rmdir()
    monkeypatch.setattr(manifest, "sha256", refuse)
    assert 2 == manifest.main(["verify", str(model)])
    assert f"error: {model}/saved_model.pb: cannot read it: Permission denied" in capsys.readouterr().err


def test_a_model_without_a_manifest_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / manifest.NAME).unlink()

    assert 2 == manifest.main(["verify", str(model)])
    assert "manifest.json: cannot read it: No such file" in capsys.readouterr().err


def test_the_sums_are_read_by_sha256sum(model: Path) -> None:
    """
    They list each file once, the manifest among them, and a flipped bit is found.
    """
    command = ["sha256sum", "--check", "--strict", "--quiet", manifest.SUMS]

    assert ["manifest.json", "saved_model.pb", "variables/variables.data-00000-of-00001"] == [
        line.partition("  ")[2] for line in (model / manifest.SUMS).read_text().splitlines()
    ]
    assert 0 == subprocess.run(command, cwd=model, check=False).returncode
    flip(model)
    assert 1 == subprocess.run(command, cwd=model, check=False, capture_output=True).returncode


def test_the_sums_of_an_earlier_export_are_written(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A model without sums is still verified, and gets the sums that an export writes today.
    """
    expected = (model / manifest.SUMS).read_text()
    (model / manifest.SUMS).unlink()

    assert 0 == manifest.main(["verify", str(model)])
    assert 0 == manifest.main(["sums", str(model)])
    assert expected == (model / manifest.SUMS).read_text()
    digest = manifest.sha256(model / manifest.SUMS)
    assert capsys.readouterr().out.endswith(f"2 files verified, sha256:{digest}\n")


def test_no_sums_are_written_for_a_damaged_model(model: Path) -> None:
    (model / manifest.SUMS).unlink()
    flip(model)

    assert 1 == manifest.main(["sums", str(model)])
    assert not (model / manifest.SUMS).exists()


def test_wrong_sums_are_written_again(model: Path) -> None:
    expected = (model / manifest.SUMS).read_text()
    (model / manifest.SUMS).write_text("")

    assert 0 == manifest.main(["sums", str(model)])
    assert expected == (model / manifest.SUMS).read_text()


def test_it_needs_only_the_standard_library(model: Path, tmp_path: Path) -> None:
    """
    A container that is to verify a model has these files, and no packages.
    """
    package = tmp_path / "packages" / "tfcanary"
    (package / "export").mkdir(parents=True)
    for name in ("__init__.py", "cli.py", "errors.py", "export/__init__.py", "export/manifest.py"):
        shutil.copy(SOURCES / name, package / name)
    flip(model)

    done = subprocess.run(
        [sys.executable, "-S", "-m", "tfcanary.export.manifest", "verify", str(model)],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(package.parent)},
    )

    assert 1 == done.returncode, done.stderr
    assert "variables.data-00000-of-00001: expected sha256" in done.stderr
