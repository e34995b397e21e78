"""
Many canaries that are no worse, judged after every request: how often each is rolled back.

All runs move together, one request at a time, as arrays. A few of them are repeated by the judge's own test and must give
the same evidence.
"""

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
    `Worse` for many runs at once: logarithms by run, and by run and alternative.
    """

    terms: Terms
    runs: int
    parts: Floats = field(init=False)
    nothing: Floats = field(init=False)
    epochs: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """
        Begin with a capital of 1 in each run.
        """
        self.parts = np.full((self.runs, self.terms.grid), np.log(self.terms.start))
        self.nothing = np.full(self.runs, np.log(self.terms.start))
        self.epochs = np.zeros(self.runs, dtype=np.int64)

    def add(self, chance: Floats, canary: npt.NDArray[np.bool_], bad: npt.NDArray[np.bool_]) -> None:
        """
        Add one request to each run.
        """
        ratios = np.array([times for times, _ in self.terms.worse])
        (failed,) = np.nonzero(bad)
        w = chance[failed, None]
        mine = ratios * w / (ratios * w + 1 - w)
        self.parts[failed] += np.where(canary[failed, None], np.log(mine / w), np.log((1 - mine) / (1 - w)))
        nothing = chance / (chance + (1 - chance) * self.terms.nothing_stable)
        self.nothing += np.select(
            [canary & bad, canary & ~bad, ~canary & bad],
            [np.log(nothing / chance), -np.inf, np.log((1 - nothing) / (1 - chance))],
            -np.log1p(-chance),
        )

    def end_epoch(self, which: npt.NDArray[np.intp]) -> None:
        """
        End an epoch in some runs.
        """
        piece = np.log(self._kept(self.epochs[which]) - self._kept(self.epochs[which] + 1))
        self.epochs[which] += 1
        self.parts[which] = np.logaddexp(self.parts[which], piece[:, None])
        self.nothing[which] = np.logaddexp(self.nothing[which], piece)

    def log(self, which: npt.NDArray[np.intp]) -> Floats:
        """
        The evidence of some runs.
        """
        weights = np.array([weight for _, weight in self.terms.worse]) * (1 - self.terms.nothing)
        rates = np.exp(self.parts[which]) @ weights
        total = rates + self.terms.nothing * np.exp(self.nothing[which]) + self._kept(self.epochs[which])
        return np.asarray(np.log(total))

    def _kept(self, epochs: npt.NDArray[np.int64]) -> Floats:
        return np.asarray(
            (1 - self.terms.start) * np.sqrt(self.terms.patience / (self.terms.patience + epochs))
        )


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


def most_evidence(
    seed: int, *, runs: int, requests: int, rates: Rates, weights: Weights, epoch: int = 600
) -> Floats:
    """
    The most evidence for "worse" that each run ever shows, looked at after every request.
    """
    rng, terms = np.random.default_rng(seed), Terms()
    state, peak, now = Evidence(terms, runs), np.zeros(runs), np.zeros(runs)
    chance = weights(0, now)
    tests = [Worse(terms) for _ in range(min(REPEATED, runs))]
    for n in range(requests):
        wanted = weights(n, now)
        (ends,) = np.nonzero((wanted != chance) | ((n > 0) & (n % epoch == 0)))
        chance = wanted
        if len(ends):
            state.end_epoch(ends)
        canary, bad = rng.random(runs) < chance, rng.random(runs) < rates(n, rng)
        state.add(chance, canary, bad)
        (changed,) = np.nonzero(bad | (state.nothing > -np.inf))
        now[changed] = state.log(changed)
        np.maximum(peak, now, out=peak)
        for i, test in enumerate(tests):
            if i in ends:
                test.end_epoch()
            c, b = canary[i], bad[i]
            test.add(float(chance[i]), Counts(int(c & b), int(c & ~b), int(~c & b), int(~c & ~b)))
    everyone = np.arange(len(tests))
    assert np.allclose(state.log(everyone), [test.evidence() for test in tests], rtol=1e-9, atol=1e-9)
    return peak
