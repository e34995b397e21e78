"""
Times of the week in which no weight grows.
"""

import datetime as dt
import functools
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from tfcanary.errors import UsageError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# A Monday, 0:00 UTC. A week from there in quarters of an hour shows whether any time is left.
_MONDAY, _QUARTERS = 1_767_571_200, 7 * 24 * 4


@dataclass(frozen=True, slots=True)
class Window:
    """
    One window, each week.

    Attributes:
        days: those on which it begins; 0 is Monday.
        begins, ends: minutes of the day, on the clocks of the zone. A window that does not end later in the day than it
            begins ends on the next.
        zone: an IANA time zone.
    """

    days: frozenset[int]
    begins: int
    ends: int
    zone: str

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """
        A window of a plan, whose types the schema has checked.

        Raises:
            UsageError: if there is no such time zone.
        """
        zone = str(given["zone"])
        try:
            _zone(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise UsageError(f"zone: expected an IANA time zone such as Europe/Berlin, got {zone!r}") from exc
        begins, ends = (int(given[name][:2]) * 60 + int(given[name][3:]) for name in ("from", "to"))
        return cls(frozenset(DAYS.index(day) for day in given["days"]), begins, ends, zone)

    def holds(self, at: float) -> bool:
        """
        Whether a time, in seconds since 1970, is within the window.
        """
        local = dt.datetime.fromtimestamp(at, _zone(self.zone))
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if self.begins < self.ends:
            return today in self.days and self.begins <= minute < self.ends
        yesterday = (today - 1) % 7
        return (today in self.days and minute >= self.begins) or (
            yesterday in self.days and minute < self.ends
        )

    def __str__(self) -> str:
        days = ", ".join(DAYS[day] for day in sorted(self.days))
        begins, ends = (f"{one // 60:02}:{one % 60:02}" for one in (self.begins, self.ends))
        return f"{days} {begins}-{ends} {self.zone}"


@functools.cache
def _zone(name: str) -> zoneinfo.ZoneInfo:
    return zoneinfo.ZoneInfo(name)


def closed(windows: Iterable[Window], at: float) -> Window | None:
    """
    The window that a time is in.
    """
    return next((window for window in windows if window.holds(at)), None)


def always_closed(windows: Iterable[Window]) -> bool:
    """
    Whether no time of the week is left.
    """
    given = tuple(windows)
    return all(closed(given, _MONDAY + 900 * quarter) for quarter in range(_QUARTERS))
