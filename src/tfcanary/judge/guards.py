"""
What makes the evidence itself unusable: a split that is not the declared one, or a stable track that fails as well.
"""

import math
from collections.abc import Sequence
from typing import Any

from tfcanary.judge.counts import Counts
from tfcanary.judge.eprocess import log_mixture
from tfcanary.judge.rates import above
from tfcanary.judge.reading import count
from tfcanary.judge.terms import Terms

# Probability of ever calling a correct split wrong, over all steps.
SPLIT_ALPHA = 1e-6
# Other splits to be found soonest, as multiples of the declared chance.
_OTHERS = (0.5, 0.8, 0.9, 1.1, 1.2, 1.5, 2.0)


class SplitGuard:
    """
    Evidence against the declared split, from all answers that name their track, and not only from failures.

    The evidence about rates rests on the declared chance: at 12 % instead of 10 % the canary gets a fifth more of all
    failures without being worse. Each step has its own test, the k-th at SPLIT_ALPHA / (k (k + 1)). Together they are
    wrong with probability SPLIT_ALPHA at most.
    """

    def __init__(self) -> None:
        self.steps = 1
        self.canary = 0
        self.stable = 0

    def begin_step(self) -> None:
        """
        Begin with another weight.
        """
        self.steps += 1
        self.canary = self.stable = 0

    def add(self, canary: int, stable: int) -> None:
        """
        Add answers of the present step.
        """
        self.canary += canary
        self.stable += stable

    def as_json(self) -> list[int]:
        """
        The state, for `restore`.
        """
        return [self.steps, self.canary, self.stable]

    def restore(self, state: Sequence[Any]) -> None:
        """
        Go on from a state.
        """
        self.steps, self.canary, self.stable = map(count, state)

    def refuted(self, weight: float) -> bool:
        """
        Whether these answers cannot come from this weight, in per cent. At 0 and at 100 one contrary answer is enough.
        """
        declared = {"canary": weight, "stable": 100 - weight}
        others = [
            {"canary": weight * part, "stable": 100 - weight * part}
            for part in _OTHERS
            if weight * part < 100
        ]
        counts = {"canary": self.canary, "stable": self.stable}
        alpha = SPLIT_ALPHA / (self.steps * (self.steps + 1))
        return log_mixture(others, declared, counts) >= -math.log(alpha)


def stable_fails(run: Counts, terms: Terms) -> bool:
    """
    Whether stable's own error rate is proven to be above the ceiling.

    Equal tracks may both be broken: "not worse" would then promote a canary that nobody can use.
    """
    return above(terms.ceiling, run.stable_bad, run.stable_good) >= -math.log(terms.alpha)
