"""
Two sequential tests of paired requests: the same input, sent to both tracks, and the answers compared.

No user sees the canary, and what makes an input hard is the same for both. Only pairs in which the tracks differ are
evidence (McNemar). If both are right equally often, either track is the right one of such a pair with probability 1/2.

References: McNemar, Psychometrika 12 (1947). Waudby-Smith & Ramdas, Estimating means of bounded random variables by
betting (arXiv 2010.09686), for the proof that the loss of accuracy is tolerable.
"""

import math
from collections.abc import Mapping
from typing import Any

from tfcanary.judge.counts import Pairs
from tfcanary.judge.eprocess import log_sum
from tfcanary.judge.look import Look
from tfcanary.judge.rates import above, below, mixture
from tfcanary.judge.reading import count, of
from tfcanary.judge.terms import Terms

# Parts of the whole capital that bet on "the loss is tolerable", with equal weights.
_STAKES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


class _Paired:
    """
    What both tests share: the pairs so far.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.pairs = Pairs()

    def add(self, look: Look) -> None:
        """
        Add a look's pairs, at any weight: no user's request is among them.
        """
        self.pairs = self.pairs.plus(look.pairs)

    def restart(self) -> None:
        """
        A model that answers one input today answers it alike tomorrow: nothing begins late.
        """

    def begin_step(self) -> None:
        """
        The answers to pairs do not depend on the weight.
        """

    def as_json(self) -> dict[str, Any]:
        """
        The state, for `restore`.
        """
        return {"pairs": list(self.pairs)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state.
        """
        self.pairs = Pairs(*map(count, state["pairs"]))


class Disagreement(_Paired):
    """
    Evidence about the share of pairs that differ, against the tolerated share.
    """

    def worse(self) -> float:
        """
        The logarithm of the evidence against "at most the tolerated share differs".
        """
        return above(self._terms.disagreement, self.pairs.differ, self.pairs.agree)

    def not_worse(self) -> float:
        """
        The logarithm of the evidence against "at least the tolerated share differs".
        """
        return below(self._terms.disagreement, self.pairs.differ, self.pairs.agree, self._terms)

    def in_words(self) -> str:
        """
        What the evidence rests on.
        """
        return f"{of(self.pairs.differ, self.pairs.agree + self.pairs.differ)} pairs differ"

    def shown(self, sure: str, unit: str) -> str:  # noqa: ARG002 - pairs are no requests of a user
        """
        What is proven.
        """
        return f"less than {100 * self._terms.disagreement:g} % of answers differ, {sure}: {self.in_words()}"


class Accuracy(_Paired):
    """
    Evidence about which track is right where only one is.
    """

    def worse(self) -> float:
        """
        The logarithm of the evidence against "the canary is right at least as often as stable".

        Of the pairs with one right answer, the canary is wrong in half of them at most. This is the test of rates at a
        chance of 1/2.
        """
        return mixture(self._terms, 0.5, self.pairs.canary_wrong, self.pairs.stable_wrong)

    def not_worse(self) -> float:
        """
        The logarithm of the evidence against "the canary's accuracy is lower by the tolerance or more".

        A pair gives the canary 1, 0 or -1 point. A bet of a part of the capital on "more than minus the tolerance" does
        not gain on average if the mean is at most that. A mixture of such bets does not either.
        """
        loss = self._terms.accuracy
        points = {1: self.pairs.stable_wrong, 0: self.pairs.same, -1: self.pairs.canary_wrong}
        parts = []
        for stake in _STAKES:
            bet = stake / (1 - loss)
            parts.append(sum(n * math.log1p(bet * (point + loss)) for point, n in points.items()))
        return log_sum(parts) - math.log(len(parts))

    def in_words(self) -> str:
        """
        What the evidence rests on.
        """
        wrong = f"only the canary wrong {self.pairs.canary_wrong:,}, only stable wrong {self.pairs.stable_wrong:,}"
        return f"{wrong}, both alike {self.pairs.same:,}"

    def shown(self, sure: str, unit: str) -> str:  # noqa: ARG002 - pairs are no requests of a user
        """
        What is proven.
        """
        loss = f"less than {100 * self._terms.accuracy:g} points less accurate than stable"
        return f"{loss}, {sure}: {self.in_words()}"
