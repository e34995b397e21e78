"""
Counts from counters that only grow, as a Prometheus reads them, and what is wrong with a reading.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reading:
    """
    One scrape.

    Attributes:
        at: the time of the scrape itself, in seconds; not the time at which it was asked for.
        weight: the canary's weight in per cent, as it was in force at that time.
        totals: by name, a total since some start.
    """

    at: float
    weight: float
    totals: Mapping[str, float] = field(default_factory=dict)


def difference(before: Reading, after: Reading) -> dict[str, int] | str:
    """
    What was counted from one reading to the next, or why that is not known.

    A counter that fell was set back with its process, and what it had counted since is lost. A scrape across a change of
    the weight mixes two chances, and belongs to neither.
    """
    for reading in (before, after):
        for name, total in reading.totals.items():
            if isinstance(total, bool) or not math.isfinite(total) or total < 0:
                return f"{name}: expected a finite total, got {total}"
    if not (math.isfinite(before.at) and math.isfinite(after.at) and after.at > before.at):
        return f"stale: the reading of {after.at:g} s is not after that of {before.at:g} s"
    if before.weight != after.weight:
        return f"the weight changed from {before.weight:g} to {after.weight:g} % within the scrape"
    if before.totals.keys() != after.totals.keys():
        return f"expected the counters {', '.join(sorted(before.totals))}, got {', '.join(sorted(after.totals)) or 'none'}"
    for name, total in after.totals.items():
        if total < before.totals[name]:
            return f"{name}: reset, from {before.totals[name]:g} to {total:g}"
    return {name: round(total - before.totals[name]) for name, total in after.totals.items()}
