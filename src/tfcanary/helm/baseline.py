"""
Where a rollout began, and how to return to it.

Each step of a rollout is a Helm revision whose description names the baseline.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcanary.helm.releases import Releases, Revision
from tfcanary.paths import CHART

_BASELINE = re.compile(r"\[baseline (\d+)\]")
# Helm's own description of a rollback, by hand or after a failed upgrade.
_ROLLBACK = re.compile(r"Rollback to (\d+)")


@dataclass(frozen=True, slots=True)
class Baseline:
    """
    The revision that a rollout began with.

    Attributes:
        values: what the user gave up to then, without the chart's defaults.
    """

    name: str
    revision: int
    values: Mapping[str, Any]

    def described(self, description: str = "Upgrade complete") -> str:
        """
        The description of a step of this rollout.
        """
        return f"{description} [baseline {self.revision}]"


def baseline(releases: Releases, name: str) -> Baseline:
    """
    The baseline of the release's rollout, or its current revision if it is in no rollout.
    """
    current = releases.current(name)
    recorded = _BASELINE.search(_step(releases, current).description)
    number = int(recorded[1]) if recorded else current.number
    return Baseline(name, number, releases.values(name, number, defaults=False))


def restore(releases: Releases, to: Baseline, *, chart: Path | str = CHART) -> Revision:
    """
    Go back to a baseline, however many revisions ago it was.
    """
    if to.revision in {one.number for one in releases.history(to.name)}:
        return releases.rollback(to.name, to.revision)
    return releases.apply(
        to.name, chart=chart, values=to.values, reuse_values=False, description="Back to the baseline"
    )


def _step(releases: Releases, revision: Revision) -> Revision:
    """
    The revision whose values this one has. After a rollback that is the earlier revision.
    """
    if not _ROLLBACK.fullmatch(revision.description):
        return revision
    kept = {one.number: one for one in releases.history(revision.name)}
    while back := _ROLLBACK.fullmatch(revision.description):
        number = int(back[1])
        if number >= revision.number or number not in kept:
            break
        revision = kept[number]
    return revision
