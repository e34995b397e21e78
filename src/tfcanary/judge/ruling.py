"""
What the judge says: promote, roll back, wait, or that it cannot be said, with a sentence and the numbers behind it.
"""

import enum
from dataclasses import dataclass
from typing import Any


class Action(enum.Enum):
    """
    What to do with a canary. Too little evidence is none of the first two.
    """

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    WAIT = "wait"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Signal:
    """
    One signal's evidence.

    Attributes:
        share: its part of the evidence for a rollback.
        worse: the logarithm of the evidence for "worse".
        not_worse: that for "not worse"; None if it cannot be proven.
        required: whether it has to be proven before a promotion.
        proven: whether it is.
        counts: what it rests on, for a reader.
        shown: what is proven, for a reader; empty if nothing is.
    """

    name: str
    share: float
    worse: float
    not_worse: float | None
    required: bool
    proven: bool
    counts: str
    shown: str

    def as_json(self) -> dict[str, Any]:
        """
        The signal as JSON values; the logarithms are rounded, and replay to the same bytes.
        """
        return {
            "worse": rounded(self.worse),
            "notWorse": None if self.not_worse is None else rounded(self.not_worse),
            "share": rounded(self.share),
            "required": self.required,
            "proven": self.proven,
            "counts": self.counts,
            "shown": self.shown,
        }


@dataclass(frozen=True, slots=True)
class Ruling:
    """
    What to do now, and why.

    Attributes:
        sentence: the reason, for a person.
        at: the time of the last look that was used; None before the first.
        weight: the canary's weight in per cent.
        evidence: the logarithm of the evidence for "worse" of all signals together.
        p_value: the least probability with which a canary that is no worse ever shows so much evidence.
        cohorts: the cohorts in which the canary is worse.
    """

    action: Action
    sentence: str
    at: float | None
    weight: float
    evidence: float
    p_value: float
    signals: tuple[Signal, ...]
    cohorts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """
        The ruling as JSON values.
        """
        return {
            "action": self.action.value,
            "sentence": self.sentence,
            "at": self.at,
            "weight": self.weight,
            "evidence": rounded(self.evidence),
            "pValue": float(f"{self.p_value:.4g}"),
            "signals": {signal.name: signal.as_json() for signal in self.signals},
            "cohorts": list(self.cohorts),
        }


def rounded(value: float) -> float:
    """
    A logarithm as it is logged: to six digits, which every machine computes alike.
    """
    # Adding 0 makes -0.0 the 0.0 that it is.
    return round(value, 6) + 0.0
