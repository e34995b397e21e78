"""
What a release is made of, and whether it may be made: one version everywhere, documents that are fresh, nothing uncommitted.
"""

import datetime as dt
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tfcanary.errors import DoesNotHoldError, UsageError
from tfcanary.packaging.programs import run

CHARTS = ("tfserving-canary", "tfserving-gateway")
# The chart whose appVersion is that of its default image.
SERVING_CHART = CHARTS[0]
# What ends up in a release; a change elsewhere, in a test for example, does not change it.
PARTS = (
    "charts",
    "values",
    "images",
    "src",
    "scripts",
    "docs",
    "pyproject.toml",
    "requirements.lock",
    "CHANGELOG.md",
)
_HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\d{4}-\d\d-\d\d))?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Source:
    """
    A checkout that a release is made of.

    Attributes:
        epoch: the one time that every file of the release has, in seconds since 1970.
    """

    root: Path
    version: str
    epoch: int

    @property
    def charts(self) -> list[Path]:
        """
        The folders of the charts.
        """
        return [self.root / "charts" / name for name in CHARTS]

    @property
    def time(self) -> dt.datetime:
        """
        The release's time, in UTC.
        """
        return dt.datetime.fromtimestamp(self.epoch, dt.UTC)


def read(root: Path, *, unreleased: bool) -> Source:
    """
    Read what a release would be made of, and refuse it if anything in it disagrees.

    Args:
        root: the top of a checkout.
        unreleased: a rehearsal: the changes are still under `[Unreleased]`, and files may be uncommitted.

    Raises:
        UsageError: this is no checkout.
        DoesNotHoldError: the first problem; the others are its notes.
    """
    try:
        version = str(
            tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        )
    except OSError as error:
        raise UsageError(
            f"{root}: expected a checkout, got no pyproject.toml; a release is made where the project's sources are"
        ) from error
    found = [
        *version_problems(root, version),
        *changelog_problems(root, version, unreleased=unreleased),
        *image_problems(root),
        *document_problems(root),
        *([] if unreleased else change_problems(root)),
    ]
    if found:
        raise DoesNotHoldError.of(found)
    return Source(root, version, epoch(root, version))


def version_problems(root: Path, version: str) -> Iterator[str]:
    """
    Say which chart has another version than the Python package.
    """
    for name in CHARTS:
        got = facts(root / "charts" / name).get("version")
        if got != version:
            yield f"version: charts/{name}/Chart.yaml: expected {version} as in pyproject.toml, got {got}"


def changelog_problems(root: Path, version: str, *, unreleased: bool) -> Iterator[str]:
    """
    Say what the changelog lacks: the version's own section, as the first with a version.
    """
    headings = list(_HEADING.finditer(_changelog(root)))
    names = [heading["version"] for heading in headings]
    wanted = "Unreleased" if unreleased else version
    released = [name for name in names if unreleased or name != "Unreleased"]
    if released[:1] != [wanted]:
        got = released[0] if released else "no version"
        more = "" if unreleased else "; move what is under [Unreleased] there, or rehearse with --unreleased"
        yield f"changelog: CHANGELOG.md: expected [{wanted}] as the newest version, got {got}{more}"
        return
    heading = headings[names.index(wanted)]
    if not unreleased and heading["date"] is None:
        yield f"changelog: CHANGELOG.md: expected a date, as in `## [{version}] - 2026-01-31`, got none"


def image_problems(root: Path) -> Iterator[str]:
    """
    Say how the default image differs from what the chart says it deploys.
    """
    chart = root / "charts" / SERVING_CHART
    wanted = facts(chart).get("appVersion")
    got = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))["image"]["tag"]
    if got != wanted:
        yield f"appVersion: charts/{SERVING_CHART}: expected image.tag {wanted} as in Chart.yaml, got {got}"


def document_problems(root: Path) -> Iterator[str]:
    """
    Say which chart's README is not what helm-docs makes of its values.
    """
    for name in CHARTS:
        chart = root / "charts" / name
        made = run(
            [
                "helm-docs",
                f"--chart-search-root={chart}",
                "--sort-values-order=file",
                "--log-level=warning",
                "--dry-run",
            ],
            wanted=f"helm-docs {name}: expected a README",
        )
        if made.strip() != (chart / "README.md").read_text(encoding="utf-8").strip():
            yield (
                f"documents: charts/{name}/README.md: expected what helm-docs makes of values.yaml, got another; "
                "`nox -s chart -- --goldens` writes it"
            )


def change_problems(root: Path) -> Iterator[str]:
    """
    Say what is not committed: nobody could build the same release from the repository.
    """
    if shutil.which("git") is None or not (root / ".git").exists():
        yield f"commit: {root}: expected a git repository, got none; rehearse with --unreleased"
        return
    said = run(
        ["git", "status", "--porcelain", "--", *PARTS], wanted="git status: expected an answer", folder=root
    )
    changed = [line[3:] for line in said.splitlines()]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        yield f"commit: expected every file of the release to be committed, got changes in {changed[0]}{more}"


def facts(chart: Path) -> dict[str, Any]:
    """
    What a chart says of itself.
    """
    found: dict[str, Any] = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    return found


def _changelog(root: Path) -> str:
    return (root / "CHANGELOG.md").read_text(encoding="utf-8")


def epoch(root: Path, version: str) -> int:
    """
    SOURCE_DATE_EPOCH, or the date of the version in the changelog, or else the last commit's time.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given:
        # A zip archive has no time before 1980.
        if (
            not given.isascii()
            or not given.isdigit()
            or int(given) < dt.datetime(1980, 1, 1, tzinfo=dt.UTC).timestamp()
        ):
            raise UsageError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, from 1980 on, got {given!r}")
        return int(given)
    for heading in _HEADING.finditer(_changelog(root)):
        if heading["version"] == version and heading["date"]:
            return int(dt.datetime.fromisoformat(f"{heading['date']}T00:00:00+00:00").timestamp())
    try:
        return int(
            run(["git", "log", "-1", "--format=%ct"], wanted="git log: expected a commit", folder=root)
        )
    except DoesNotHoldError as error:
        raise UsageError(f"{root}: expected a git repository or SOURCE_DATE_EPOCH, got neither") from error
