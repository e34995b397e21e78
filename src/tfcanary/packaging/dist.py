"""
The folder of a release: charts, provenance, bills of materials, wheel and source distribution, and a checksum of each.
"""

import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tfcanary.chart.source import sha256
from tfcanary.errors import DoesNotHoldError, UsageError
from tfcanary.packaging import sbom
from tfcanary.packaging.charts import Signer, pack
from tfcanary.packaging.programs import run
from tfcanary.packaging.source import SERVING_CHART, Source

LOG = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
# The type of the statement that lists a release's values files.
VALUES_KIND = "urn:tfserving-canary:values:1"


def build(source: Source, target: Path, signer: Signer | None) -> list[Path]:
    """
    Make a release, whole or not at all.

    Args:
        source: what it is made of.
        target: its folder; what was in it is replaced, if it was a release.
        signer: who makes the charts' provenance; None makes none.

    Returns:
        Its files, the checksums last.
    """
    if target.exists() and any(target.iterdir()) and not (target / SUMS).is_file():
        raise UsageError(f"{target}: expected a release or an empty folder, got a folder of other files")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        draft = Path(folder) / "dist"
        draft.mkdir()
        for chart in source.charts:
            LOG.info("packing %s %s twice", chart.name, source.version)
            packed = pack(chart, source.epoch, draft, signer)
            (draft / f"{packed.stem}.cdx.json").write_text(sbom.of_chart(packed, source), encoding="utf-8")
            if chart.name == SERVING_CHART:
                (draft / f"{packed.stem}.values.json").write_text(values_list(source), encoding="utf-8")
        LOG.info("building the wheel and the source distribution")
        wheel = _distributions(source, draft)
        (draft / f"{wheel.stem}.cdx.json").write_text(sbom.of_wheel(wheel, source), encoding="utf-8")
        names = sorted(path.name for path in draft.iterdir())
        sums = "".join(f"{sha256(draft / name)}  {name}\n" for name in names)
        (draft / SUMS).write_text(sums, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    return [target / name for name in (*names, SUMS)]


def values_list(source: Source) -> str:
    """
    The hash of every values file: who verifies a chart renders these files and no others.
    """
    folder = source.root / "values"
    files = {
        path.relative_to(source.root).as_posix(): sha256(path) for path in sorted(folder.rglob("*.yaml"))
    }
    return json.dumps({"version": source.version, "files": files}, indent=2) + "\n"


def values_problems(values: Path, files: Mapping[str, str]) -> Iterator[str]:
    """
    Say how values files differ from those of a release.

    Args:
        values: their folder.
        files: the list that was released.
    """
    there = {path.relative_to(values.parent).as_posix(): path for path in values.rglob("*.yaml")}
    for name in sorted(files.keys() | there.keys()):
        if name not in there:
            yield f"{name}: expected it beside the chart's other values files, got none"
        elif name not in files:
            yield f"{name}: expected only the files that were released, got one more"
        elif (got := sha256(there[name])) != files[name]:
            yield f"{name}: expected sha256 {files[name]} as released, got {got}"


def problems(folder: Path) -> Iterator[str]:
    """
    Say how the files of a release differ from its checksums.

    Raises:
        UsageError: there is no release.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(
            f"{folder}: expected a release, got no {SUMS}; `nox -s package` makes one"
        ) from error
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {path.name for path in folder.iterdir()} - {SUMS}
    for name in sorted(listed.keys() | there):
        if name not in there:
            yield f"{name}: expected by {SUMS}, got none"
        elif name not in listed:
            yield f"{name}: expected only the files of {SUMS}, got one more"
        elif (got := sha256(folder / name)) != listed[name]:
            yield f"{name}: expected sha256 {listed[name]}, got {got}"


def require(folder: Path) -> None:
    """
    Refuse a release whose files are not those that were packaged.
    """
    found = next(problems(folder), None)
    if found:
        raise DoesNotHoldError(f"{folder}: {found}; `nox -s package` makes it again")


def _distributions(source: Source, target: Path) -> Path:
    """
    Build the wheel and the source distribution, both with the release's time in them.
    """
    run(
        [sys.executable, "-m", "hatchling", "build", f"--directory={target}"],
        wanted="hatchling: expected a wheel and a source distribution",
        folder=source.root,
        environment={"SOURCE_DATE_EPOCH": str(source.epoch)},
    )
    (wheel,) = target.glob("*.whl")
    os.utime(wheel, (source.epoch, source.epoch))
    return wheel
