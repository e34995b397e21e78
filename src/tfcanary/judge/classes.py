"""
A sequential test of which classes the canary answers, beside stable in the same traffic.

Reference: Lindon & Malek, Anytime-valid inference for multinomial count data (arXiv 2011.03567).
"""

import math
from collections.abc import Mapping
from typing import Any

from tfcanary.judge.eprocess import log_sum
from tfcanary.judge.look import Look
from tfcanary.judge.rates import share
from tfcanary.judge.reading import floats
from tfcanary.judge.terms import Terms

# Alternatives, as multiples of the tolerated shift, with equal weights.
_TIMES = (1.5, 3.0, 10.0)
# Classes that are followed; those that appear later are not.
MOST_CLASSES = 64


class ClassShift:
    """
    Evidence against "no class has more than `shift` times stable's share among the canary's answers".

    Under that hypothesis an answer of a class is the canary's with probability `share(shift, chance)` at most, whatever
    the inputs are and however they drift: inputs drift for both tracks. Each class has its own supermartingale. The k-th
    class to appear gets the part 1/(k(k+1)) of the capital, and its first answer counts. These parts, with what is left
    for classes that never appeared, add up to 1.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.parts: dict[str, list[float]] = {}

    def add(self, look: Look) -> None:
        """
        Add a look's answers by class. At 0 and at 100 % there is nothing to compare with.
        """
        if not 0 < look.weight < 100:
            return
        chance = look.weight / 100
        most = share(self._terms.shift, chance)
        for name, (canary, stable) in sorted(look.classes.items()):
            if name not in self.parts and len(self.parts) == MOST_CLASSES:
                continue
            parts = self.parts.setdefault(name, [0.0] * len(_TIMES))
            for i, times in enumerate(_TIMES):
                mine = share(self._terms.shift * times, chance)
                parts[i] += canary * math.log(mine / most) + stable * math.log((1 - mine) / (1 - most))

    def restart(self) -> None:
        """
        A model that answers one input today answers it alike tomorrow: nothing begins late.
        """

    def begin_step(self) -> None:
        """
        The classes do not depend on the weight.
        """

    def worse(self) -> float:
        """
        The evidence of all classes, as a logarithm.
        """
        terms = [-math.log(len(self.parts) + 1)]
        for k, parts in enumerate(self.parts.values(), 1):
            terms.append(log_sum(parts) - math.log(len(parts) * k * (k + 1)))
        return log_sum(terms)

    def not_worse(self) -> None:
        """
        A shift can be found. That there is none is not tested.
        """

    def in_words(self) -> str:
        """
        The class with the most evidence.
        """
        found = max(self.parts, key=lambda name: log_sum(self.parts[name]), default="none")
        return f"{len(self.parts)} classes, most evidence for {found}"

    def shown(self, sure: str, unit: str) -> str:  # noqa: ARG002 - nothing is ever proven
        """
        Nothing.
        """
        return ""

    def as_json(self) -> dict[str, Any]:
        """
        The state, for `restore`; the order of the classes belongs to it.
        """
        return {"names": list(self.parts), "parts": list(self.parts.values())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state.
        """
        parts = [floats(part, len(_TIMES)) for part in state["parts"]]
        self.parts = dict(zip(map(str, state["names"]), parts, strict=True))
