"""
Many canaries that are no worse, judged after every request: how often each is rolled back.

All runs move together, one request at a time, as arrays. A few of them are repeated by the judge's own test and must give
the same evidence.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tfcanary.judge.counts import Counts
from tfcanary.judge.rates import Worse
from tfcanary.judge.terms import Terms

Floats = npt.NDArray[np.float64]
# Runs that are repeated by the judge's own test.
REPEATED = 3


@dataclass(slots=True)
class Evidence:
    """
    `Worse` for many runs at once: the capital by bet and run. Each run restarts after every request.

    These are no logarithms: a restart is then a sum, and canaries that are no worse never come near an overflow.
    """

    terms: Terms
    runs: int
    parts: Floats = field(init=False)
    requests: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """
        Begin with a capital of 1 in each run.
        """
        first = [self.terms.start * early for early, _ in self.terms.shares]
        self.parts = np.tile(first, (self.runs, 1)).T.copy()

    def add(self, chance: Floats, canary: npt.NDArray[np.bool_], bad: npt.NDArray[np.bool_]) -> None:
        """
        Add one request to each run.
        """
        for w in np.unique(chance[bad]):
            (failed,) = np.nonzero(bad & (chance == w))
            for i, times in enumerate(self.terms.worse(float(w))):
                share = times * w / (times * w + 1 - w)
                self.parts[i, failed] *= np.where(canary[failed], share / w, (1 - share) / (1 - w))
        stable = self.terms.broken_stable
        for i, (rate, _, _) in enumerate(self.terms.broken, self.terms.grid):
            likely, other = np.where(bad, rate, 1 - rate), np.where(bad, stable, 1 - stable)
            self.parts[i] *= np.where(canary, likely, other) / (chance * likely + (1 - chance) * other)
        self.requests += 1

    def restart(self) -> None:
        """
        Bet on a fault that begins with the next request.
        """
        piece = self._kept(self.requests - 1) - self._kept(self.requests)
        self.parts += piece * np.array([[late] for _, late in self.terms.shares])

    def log(self) -> Floats:
        """
        The evidence of all runs, as a logarithm.
        """
        return np.asarray(np.log(self.parts.sum(axis=0) + self._kept(self.requests)))

    def _kept(self, requests: int) -> float:
        return (1 - self.terms.start) * math.sqrt(self.terms.patience / (self.terms.patience + requests))


# A base rate for each run, by the number of the request, and the weights likewise, from the evidence so far.
Rates = Callable[[int, np.random.Generator], Floats]
Weights = Callable[[int, Floats], Floats]


def constant(rate: float, runs: int) -> Rates:
    """
    Always the same.
    """
    return lambda _n, _rng: np.full(runs, rate)


def diurnal(runs: int) -> Rates:
    """
    From 0.2 to 5 % and back within 5,000 requests.
    """
    return lambda n, _rng: np.full(runs, 0.026 - 0.024 * np.cos(2 * np.pi * n / 5000))


def outages(runs: int) -> Rates:
    """
    1 %, and half of all requests for 200 of each 4,000.
    """
    return lambda n, _rng: np.full(runs, 0.5 if n % 4000 < 200 else 0.01)


def storms(runs: int) -> Rates:
    """
    0.1 % or 30 %, each run with a Markov chain of its own.
    """
    state = np.zeros(runs, dtype=bool)

    def rate(_n: int, rng: np.random.Generator) -> Floats:
        change = rng.random(runs)
        state[:] = np.where(state, change >= 1 / 100, change < 1 / 1000)
        return np.where(state, 0.3, 0.001)

    return rate


def fixed(weight: float) -> Weights:
    """
    Always the same.
    """
    return lambda _n, evidence: np.full(len(evidence), weight)


def stepped(n: int, evidence: Floats) -> Floats:
    """
    1 % for 1,000 requests, 5 % to 3,000, 25 % to 7,000, then 50 %.
    """
    return np.full(len(evidence), 0.01 if n < 1000 else 0.05 if n < 3000 else 0.25 if n < 7000 else 0.5)


def adversarial(_n: int, evidence: Floats) -> Floats:
    """
    Small weights, at which one failure is worth most, while there is much to win, and large ones to recover.
    """
    return np.where(evidence > 2, 0.02, np.where(evidence > 0, 0.1, 0.5))


def between(_n: int, evidence: Floats) -> Floats:
    """
    As `adversarial`, at weights between the ramp's, where the bets lie elsewhere.
    """
    return np.where(evidence > 2, 0.06, np.where(evidence > 0, 0.08, 0.155))


def most_evidence(seed: int, *, runs: int, requests: int, rates: Rates, weights: Weights) -> Floats:
    """
    The most evidence for "worse" that each run ever shows, looked at after every request.
    """
    rng, terms = np.random.default_rng(seed), Terms()
    state, peak, now = Evidence(terms, runs), np.zeros(runs), np.zeros(runs)
    tests = [Worse(terms) for _ in range(min(REPEATED, runs))]
    for n in range(requests):
        chance = weights(n, now)
        canary, bad = rng.random(runs) < chance, rng.random(runs) < rates(n, rng)
        state.add(chance, canary, bad)
        now = state.log()
        np.maximum(peak, now, out=peak)
        state.restart()
        for i, test in enumerate(tests):
            c, b = canary[i], bad[i]
            test.add(float(chance[i]), Counts(int(c & b), int(c & ~b), int(~c & b), int(~c & ~b)))
            test.restart()
    repeated = [test.evidence() for test in tests]
    assert np.allclose(state.log()[: len(tests)], repeated, rtol=1e-9, atol=1e-9)
    return peak
