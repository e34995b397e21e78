"""
What is counted: requests by track and outcome, and pairs of answers.
"""

from typing import NamedTuple


class Counts(NamedTuple):
    """
    Requests of each track with the event ("bad") and without it ("good").
    """

    canary_bad: int = 0
    canary_good: int = 0
    stable_bad: int = 0
    stable_good: int = 0

    @property
    def canary(self) -> int:
        """
        All requests of the canary.
        """
        return self.canary_bad + self.canary_good

    @property
    def stable(self) -> int:
        """
        All requests of stable.
        """
        return self.stable_bad + self.stable_good

    def plus(self, other: "Counts") -> "Counts":
        """
        Both together.
        """
        return Counts(*(one + more for one, more in zip(self, other, strict=True)))


class Pairs(NamedTuple):
    """
    Pairs of answers to one input.

    The first two count every pair, by whether the most likely class is the same. The other three count the pairs whose
    input has a label.
    """

    agree: int = 0
    differ: int = 0
    canary_wrong: int = 0
    stable_wrong: int = 0
    same: int = 0

    def plus(self, other: "Pairs") -> "Pairs":
        """
        Both together.
        """
        return Pairs(*(one + more for one, more in zip(self, other, strict=True)))
