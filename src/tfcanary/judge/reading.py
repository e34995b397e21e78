"""
Counts in words, and numbers read back from a state.
"""

import math
from typing import Any

from tfcanary.judge.counts import Counts


def of(bad: int, total: int) -> str:
    """
    A count and its rate, in words.
    """
    return f"{bad:,} of {total:,} ({100 * bad / total:.2g} %)" if total else "0 of 0"


def tracks(counts: Counts) -> str:
    """
    Both tracks' counts, in words.
    """
    return f"canary {of(counts.canary_bad, counts.canary)}, stable {of(counts.stable_bad, counts.stable)}"


def floats(given: Any, length: int) -> list[float]:
    """
    Finite numbers of a state.

    Raises:
        ValueError: if they are not so many.
    """
    values = [float(value) for value in given]
    if len(values) != length or not all(map(math.isfinite, values)):
        raise ValueError(f"expected {length} finite numbers")
    return values


def count(given: Any) -> int:
    """
    A count of a state.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"expected a whole number from 0, got {given!r}")
    return given
