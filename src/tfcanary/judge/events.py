"""
One event followed through a rollout: both tests, and the counts that they rest on.
"""

import math
from collections.abc import Mapping
from typing import Any

from tfcanary.judge.counts import Counts
from tfcanary.judge.look import Look
from tfcanary.judge.rates import NotWorse, Worse, most_excess
from tfcanary.judge.reading import count, floats, tracks
from tfcanary.judge.terms import Terms, Tolerance


class Event:
    """
    The evidence about one event.

    Attributes:
        name: which counts of a look it is about, `errors` or `slow`.
        run: all requests so far.
        step: those at the present weight.
    """

    def __init__(self, name: str, terms: Terms) -> None:
        self.name = name
        self._terms = terms
        self.tolerance: Tolerance = getattr(terms, name)
        self._worse, self._not_worse = Worse(terms), NotWorse(terms, self.tolerance)
        self.run = Counts()
        self.step = Counts()

    def add(self, look: Look) -> None:
        """
        Add a look's counts. At 0 and at 100 % there is nothing to compare with.
        """
        if not 0 < look.weight < 100:
            return
        counts: Counts = getattr(look, self.name)
        for test in (self._worse, self._not_worse):
            test.add(look.weight / 100, counts)
        self.run = self.run.plus(counts)
        self.step = self.step.plus(counts)

    def restart(self) -> None:
        """
        Look for faults that begin now as well.
        """
        self._worse.restart()

    def begin_step(self) -> None:
        """
        Forget the counts of the step before.
        """
        self.step = Counts()

    def worse(self) -> float:
        """
        The logarithm of the evidence for "worse".
        """
        return self._worse.evidence()

    def not_worse(self) -> float:
        """
        The logarithm of the evidence for "not worse".
        """
        return self._not_worse.evidence(self.run)

    def most_excess(self) -> float:
        """
        An upper bound on the canary's rate less stable's in the present step.
        """
        return most_excess(self.step, self._terms)

    def in_words(self) -> str:
        """
        What the evidence rests on.
        """
        return tracks(self.run)

    def shown(self, sure: str, unit: str) -> str:
        """
        What is proven. Each half of the evidence proves more by itself, at half of the error rate.
        """
        what = {"errors": "errors", "slow": "slow answers"}[self.name]
        bound = math.log(2 / self._terms.beta)
        points = f"at most {100 * self.tolerance.points:g} points more {what} than stable"
        times = f"less than {self.tolerance.times:g} times stable's share of {what}"
        if self._not_worse.budget(self.run) >= bound:
            if not self.run.canary_bad:
                kind = "clean canary answers" if unit == "request" else "canary users without any"
                return f"{points}, {sure}, from {self.run.canary:,} {kind}"
            return f"{points}, {sure}: {self.in_words()}"
        if self._not_worse.ratio() >= bound:
            return f"{times}, {sure}: {self.in_words()}"
        return f"{times}, or {points}, {sure}: {self.in_words()}"

    def as_json(self) -> dict[str, Any]:
        """
        The state, for `restore`.
        """
        return {
            "worse": self._worse.as_json(),
            "notWorse": self._not_worse.parts,
            "run": list(self.run),
            "step": list(self.step),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state.

        Raises:
            ValueError: if it belongs to other terms.
        """
        self._worse.restore(state["worse"])
        self._not_worse.parts = floats(state["notWorse"], len(self._not_worse.parts))
        self.run, self.step = (Counts(*map(count, state[name])) for name in ("run", "step"))
