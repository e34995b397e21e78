"""
Where the chart's values and schema are read from: a folder, or a chart that `helm package` packed.
"""

import hashlib
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tfcanary.errors import UsageError

NAME = "tfserving-canary"
_FILES = ("Chart.yaml", "values.yaml", "values.schema.json")
# Each of these files has a few tens of kilobytes; a packed file may claim any size.
_MOST_BYTES = 4 * 2**20


@contextmanager
def opened(chart: Path) -> Iterator[Path]:
    """
    Give a folder with the chart's values and schema. That of a packed chart is temporary.

    Raises:
        UsageError: it is neither a folder nor a packed chart, lacks a file, or is another chart.
    """
    if chart.is_dir():
        _require(chart, chart)
        yield chart
        return
    with tempfile.TemporaryDirectory(prefix="tfcanary-chart-") as folder:
        _unpack(chart, Path(folder))
        _require(chart, Path(folder))
        yield Path(folder)


def version_of(chart: Path) -> tuple[str, str]:
    """
    The name and the version of a chart in a folder.

    Raises:
        UsageError: if it has none that can be read.
    """
    facts = _facts(chart, chart)
    return str(facts.get("name")), str(facts.get("version"))


def digest(chart: Path) -> str:
    """
    The SHA-256 of a chart: of the packed file, or of a folder's list of files as `sha256sum` prints it, in order of path.

    Raises:
        UsageError: if a file cannot be read.
    """
    try:
        if not chart.is_dir():
            return sha256(chart)
        files = sorted(path.relative_to(chart).as_posix() for path in chart.rglob("*") if path.is_file())
        listed = "".join(f"{sha256(chart / name)}  {name}\n" for name in files)
    except OSError as exc:
        raise UsageError(f"chart {str(chart)!r}: cannot be read: {exc.strerror or exc}") from exc
    return hashlib.sha256(listed.encode()).hexdigest()


def sha256(path: Path) -> str:
    """
    The SHA-256 of one file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(chart: Path, folder: Path) -> None:
    """
    Copy the few files that are read, by their names: no path of the archive is written to.
    """
    try:
        with tarfile.open(chart) as archive:
            for name in _FILES:
                member = archive.getmember(f"{NAME}/{name}")
                content = archive.extractfile(member)
                if content is None or member.size > _MOST_BYTES:
                    raise UsageError(f"chart {str(chart)!r}: {name}: expected a file of at most 4 MiB")
                (folder / name).write_bytes(content.read())
    except KeyError as exc:
        raise UsageError(f"chart {str(chart)!r}: expected the chart {NAME}, got {exc.args[0]}") from exc
    except OSError as exc:
        raise UsageError(f"chart {str(chart)!r}: cannot be read: {exc.strerror or exc}") from exc
    except (tarfile.TarError, EOFError, zlib.error) as exc:
        raise UsageError(f"chart {str(chart)!r}: expected a folder or a packed chart (.tgz): {exc}") from exc


def _require(chart: Path, folder: Path) -> None:
    if missing := [name for name in _FILES if not (folder / name).is_file()]:
        raise UsageError(f"chart {str(chart)!r}: expected {', '.join(_FILES)}, got no {missing[0]}")
    name = _facts(chart, folder).get("name")
    if name != NAME:
        raise UsageError(f"chart {str(chart)!r}: expected the chart {NAME}, got {name!r}")


def _facts(chart: Path, folder: Path) -> dict[str, Any]:
    try:
        facts = yaml.safe_load((folder / "Chart.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise UsageError(f"chart {str(chart)!r}: Chart.yaml cannot be read: {exc}") from exc
    return facts if isinstance(facts, dict) else {}
