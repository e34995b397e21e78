"""
The error test by cohort: regions, groups or classes of users, each beside stable in the same cohort.

A fault in one cohort of ten is ten times diluted in the total. The list of cohorts that are worse has a bounded false
discovery rate, whatever the dependence between them is.

Reference: Wang & Ramdas, False discovery rate control with e-values, JRSS B 84 (2022), arXiv 2009.02824.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tfcanary.judge.counts import Counts
from tfcanary.judge.look import Look
from tfcanary.judge.rates import Worse
from tfcanary.judge.reading import count
from tfcanary.judge.terms import Terms

# Cohorts that are followed; one more is a problem of the data.
MOST_COHORTS = 100
# Each cohort has few points of its own, at every weight: the state of all of them is saved.
_GRID = 6


class Cohorts:
    """
    One test for each cohort.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = replace(terms, grid=_GRID, spreads=())
        self.tests: dict[str, Worse] = {}
        self.run: dict[str, Counts] = {}

    def add(self, look: Look) -> None:
        """
        Add a look's counts by cohort.
        """
        if not 0 < look.weight < 100:
            return
        for name, counts in sorted(look.cohorts.items()):
            if name not in self.tests and len(self.tests) == MOST_COHORTS:
                continue
            self.tests.setdefault(name, Worse(self._terms)).add(look.weight / 100, counts)
            self.run[name] = self.run.get(name, Counts()).plus(counts)

    def restart(self) -> None:
        """
        Look for faults that begin now as well.
        """
        for test in self.tests.values():
            test.restart()

    def worse(self) -> list[str]:
        """
        The cohorts in which the canary is worse, of which a share of delta is expected to be wrong at most.
        """
        return discoveries(((name, test.evidence()) for name, test in self.tests.items()), self._terms.delta)

    def as_json(self) -> dict[str, Any]:
        """
        The state, for `restore`.
        """
        return {name: {**test.as_json(), "run": list(self.run[name])} for name, test in self.tests.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state.
        """
        for name, one in state.items():
            test = self.tests[name] = Worse(self._terms)
            test.restore(one)
            self.run[name] = Counts(*map(count, one["run"]))


def discoveries(evidence: Iterable[tuple[str, float]], rate: float) -> list[str]:
    """
    The e-BH procedure: the most names, k, whose evidence is K / (k rate) each, of K in all.

    Args:
        evidence: by name, the logarithm of an e-value.
        rate: the expected share of false ones among the names, at most.
    """
    falling = sorted(evidence, key=lambda one: (-one[1], one[0]))
    found = 0
    for k, (_, log) in enumerate(falling, 1):
        if log >= math.log(len(falling) / (k * rate)):
            found = k
    return [name for name, _ in falling[:found]]
