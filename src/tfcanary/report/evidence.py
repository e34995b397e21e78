"""
The evidence of each signal beside its bounds, on a scale of powers of ten.

Evidence of 1 says nothing either way. A signal rolls back by itself where its evidence for "worse", times its share,
reaches 1/alpha; it is proven where its evidence for "not worse" reaches 1/beta.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tfcanary.judge.ruling import Ruling
from tfcanary.judge.terms import Terms
from tfcanary.text import printable

# The scale's ends, in powers of ten, where the bounds need no more.
_LEAST, _MOST = -2, 4
# Powers of ten beyond which more is no news.
_SURE = 9
ALL = "all signals"


@dataclass(frozen=True, slots=True)
class Bar:
    """
    Evidence for one claim about the canary.

    Attributes:
        claim: "worse" or "not worse".
        evidence: the power of ten.
        bound: the power of ten at which the claim is settled.
        reached: whether it is.
    """

    claim: str
    evidence: float
    bound: float
    reached: bool

    @property
    def words(self) -> str:
        """
        The evidence and its bound as numbers.
        """
        return f"{_number(self.evidence)} of {_number(self.bound)}"

    @property
    def mark(self) -> str:
        """
        "failed" where the canary is found to be worse, "held" where it is proven not to be, empty before.
        """
        settled = "failed" if self.claim == "worse" else "held"
        return settled if self.reached else ""


@dataclass(frozen=True, slots=True)
class Shown:
    """
    One signal.

    Attributes:
        bars: for "worse", and for "not worse" if that can be proven.
        counts: what they rest on; empty for all signals together.
        promotion: "proven", "required" or "watched"; empty for all signals together.
    """

    name: str
    bars: tuple[Bar, ...]
    counts: str = ""
    promotion: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """
    From powers of ten to parts of a bar's length.
    """

    least: float
    most: float

    def part(self, power: float) -> float:
        """
        The part of the length, from 0 to 1; what is beyond an end lies at that end.
        """
        return min(1.0, max(0.0, (power - self.least) / (self.most - self.least)))


def shown(ruling: Ruling, terms: Terms) -> tuple[Shown, ...]:
    """
    Each signal of a ruling, and before them all of them together where there are several.
    """
    return shown_from(ruling.as_json(), alpha=terms.alpha, beta=terms.beta)


def shown_from(ruling: dict[str, Any], *, alpha: float, beta: float) -> tuple[Shown, ...]:
    """
    As `shown`, of a ruling as JSON values have it.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    signals = ruling["signals"]
    found = [
        Shown(
            printable(str(name)),
            tuple(_bars(one, alpha, beta)),
            printable(str(one["counts"])),
            "proven" if one["proven"] else "required" if one["required"] else "watched",
        )
        for name, one in signals.items()
    ]
    if len(found) > 1:
        found.insert(0, Shown(ALL, (_worse(float(ruling["evidence"]), alpha),)))
    return tuple(found)


def scale(signals: Iterable[Shown]) -> Scale:
    """
    One scale for all of them, on which each bound lies well inside.
    """
    bounds = [bar.bound for one in signals for bar in one.bars]
    return Scale(_LEAST, max([_MOST, *(math.ceil(bound) + 1 for bound in bounds)]))


def _bars(signal: dict[str, Any], alpha: float, beta: float) -> Iterable[Bar]:
    yield _worse(float(signal["worse"]), alpha * float(signal["share"]))
    if signal["notWorse"] is not None:
        bound = -math.log10(beta)
        yield Bar("not worse", _power(float(signal["notWorse"])), bound, bool(signal["proven"]))


def _worse(evidence: float, error: float) -> Bar:
    bound = -math.log(error)
    return Bar("worse", _power(evidence), _power(bound), evidence >= bound)


def _power(evidence: float) -> float:
    return evidence / math.log(10)


def _number(power: float) -> str:
    if power >= _SURE:
        return f">1e{_SURE}"
    found = float(f"{10**power:.3g}")
    return f"{found:,.0f}" if found >= 1000 else f"{found:g}"
