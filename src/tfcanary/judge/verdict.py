"""
What a judgement came to, and the numbers that it rests on.
"""

import enum
from dataclasses import dataclass


class Outcome(enum.Enum):
    """
    What a check came to. Too little evidence is neither of the other two.
    """

    HELD = "held"
    FAILED = "failed"
    NOT_ENOUGH = "not enough evidence"


@dataclass(frozen=True, slots=True)
class Share:
    """
    One track's part of the observed answers, beside what it may be.
    """

    track: str
    weight: float
    count: int
    low: int
    high: int
    p_value: float

    @property
    def held(self) -> bool:
        """
        Whether the count is one that the weight allows.
        """
        return self.low <= self.count <= self.high


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The decision, and every number it rests on.
    """

    decision: Outcome
    reason: str
    n: int
    needed: int
    alpha: float
    shares: tuple[Share, ...]
