"""
Times for a reader: in UTC, so that two readers in two places read the same.
"""

import datetime as dt

_MINUTE, _HOUR = 60, 3600


def utc(at: float) -> str:
    """
    Seconds since 1970 as a date and a time.
    """
    return f"{_moment(at):%Y-%m-%d %H:%M:%S} UTC"


def stamp(at: float) -> str:
    """
    Seconds since 1970 as programs write them, for a line of a log.
    """
    return f"{_moment(at):%Y-%m-%dT%H:%M:%SZ}"


def clock(at: float) -> str:
    """
    Seconds since 1970 as a time of the day, without its date.
    """
    return f"{_moment(at):%H:%M:%S}"


def lasting(seconds: float) -> str:
    """
    A duration in its two largest units; one that is below 0, of two clocks that differ, as 0.
    """
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return _two(whole // _MINUTE, "min", whole % _MINUTE, "s")
    return _two(whole // _HOUR, "h", whole % _HOUR // _MINUTE, "min")


def _two(many: int, unit: str, few: int, smaller: str) -> str:
    return f"{many} {unit} {few} {smaller}" if few else f"{many} {unit}"


def _moment(at: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(at, dt.UTC)
