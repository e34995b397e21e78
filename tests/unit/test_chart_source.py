"""
The chart is read from a folder or from a packed chart, and nothing else is taken for it.
"""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tfcanary.chart.schema import require_types
from tfcanary.chart.source import digest, opened
from tfcanary.chart.values import chart_defaults
from tfcanary.commands import check
from tfcanary.errors import UsageError
from tfcanary.paths import CHART
from tfcanary.routing.parse import from_values

VALUES = {
    "model": {"name": "resnet"},
    "routing": {"routes": [{"name": "everyone", "weights": {"stable": 100}, "owner": "vision"}]},
}


def packed(file: Path, entries: Mapping[str, bytes]) -> Path:
    """
    An archive as `helm package` writes it.
    """
    with tarfile.open(file, "w:gz") as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file


def files(folder: Path) -> dict[str, bytes]:
    """
    A chart's files by their names in its archive.
    """
    return {
        f"tfserving-canary/{path.relative_to(folder)}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("form", ["folder", "packed"])
def test_another_version_has_its_own_schema(tmp_path: Path, later_chart: Path, form: str) -> None:
    chart = later_chart if form == "folder" else packed(tmp_path / "later.tgz", files(later_chart))
    with pytest.raises(UsageError, match="unknown key 'owner'"):
        require_types(VALUES)

    with opened(chart) as folder:
        require_types(VALUES, folder)

        assert chart_defaults(CHART) == chart_defaults(folder)


def test_a_packed_chart_leaves_nothing_behind(tmp_path: Path) -> None:
    with opened(packed(tmp_path / "chart.tgz", files(CHART))) as folder:
        assert folder.is_dir()

    assert not folder.exists()


def test_the_command_takes_the_chart_that_is_named(
    gateway, values, tmp_path: Path, later_chart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The same values are refused by the chart that comes with the command.
    """
    double = gateway(from_values(values()))
    declared = values()
    for route in declared["routing"]["routes"]:
        route["owner"] = "vision"
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(declared), encoding="utf-8")
    arguments = [
        "--gateway",
        double.address,
        "--values",
        str(file),
        "--alpha=1e-4",
        "--power=0.99",
        "--detect=40",
    ]

    assert 2 == check.main(arguments)
    assert "unknown key 'owner'" in capsys.readouterr().err
    assert 0 == check.main([*arguments, "--chart", str(packed(tmp_path / "later.tgz", files(later_chart)))])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"nginx/Chart.yaml": b"name: nginx"}, "expected the chart tfserving-canary, got .*Chart.yaml"),
        (
            {"tfserving-canary/Chart.yaml": b"name: x"},
            "expected the chart tfserving-canary, got .*values.yaml",
        ),
        (
            {**files(CHART), "tfserving-canary/Chart.yaml": b"name: other"},
            "expected the chart tfserving-canary, got 'other'",
        ),
        ({**files(CHART), "tfserving-canary/Chart.yaml": b"{"}, "Chart.yaml cannot be read"),
        (
            {**files(CHART), "tfserving-canary/values.yaml": b"#" * (4 * 2**20 + 1)},
            "values.yaml: expected a file of at most 4 MiB",
        ),
    ],
    ids=["another", "incomplete", "renamed", "malformed", "huge"],
)
def test_another_archive_is_refused(tmp_path: Path, entries: Mapping[str, bytes], message: str) -> None:
    chart = packed(tmp_path / "chart.tgz", entries)

    with pytest.raises(UsageError, match=message), opened(chart):
        pass


def test_a_digest_covers_every_file_and_its_name(tmp_path: Path) -> None:
    """
    A folder's is that of its listing by sha256sum, wherever it lies; a packed chart's is that of the file.
    """
    here, there = (Path(shutil.copytree(CHART, tmp_path / name)) for name in ("here", "there"))
    listing = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    listed = subprocess.run(["sh", "-c", listing], cwd=here, check=True, capture_output=True, text=True)
    assert f"{digest(here)}  -\n" == listed.stdout
    assert digest(here) == digest(there)

    (there / "templates" / "NOTES.txt").rename(there / "templates" / "NOTES.md")
    renamed = digest(there)
    (here / "values.yaml").write_bytes((here / "values.yaml").read_bytes() + b"#")
    assert len({digest(CHART), renamed, digest(here)}) == 3

    archive = packed(tmp_path / "chart.tgz", files(CHART))
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest(archive)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "chart.tgz"

    with pytest.raises(UsageError, match="cannot be read: No such file"), opened(file):
        pass
    file.write_text("text")
    with pytest.raises(UsageError, match=r"expected a folder or a packed chart \(.tgz\)"), opened(file):
        pass
    with pytest.raises(UsageError, match=r"got no Chart\.yaml"), opened(tmp_path):
        pass
    cut = packed(tmp_path / "cut.tgz", files(CHART))
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(UsageError, match=r"cut\.tgz"), opened(cut):
        pass
