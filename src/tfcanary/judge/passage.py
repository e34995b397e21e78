"""
How many requests a verdict takes, exactly: no simulation, and no normal approximation.

At a fixed chance the evidence of ratios depends on two counts only, the canary's events and stable's. With one more event of
the canary it grows, and with one more of stable it falls. The verdict therefore falls as soon as the canary's events among n
reach a bound b(n). The number of events until then has a distribution that follows by adding up all paths (dynamic
programming). Given that number, the number of requests is negative binomial, since each request has the event with the
same probability.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc

from tfcanary.judge.counts import Counts
from tfcanary.judge.eprocess import log_sum
from tfcanary.judge.rates import NotWorse, Worse, bets, share
from tfcanary.judge.terms import Terms, Tolerance

Evidence = Callable[[int, int], float]
# Paths that are left when fewer than this part of them is.
_LEFT = 1e-9
# The logarithm of a loss that nothing makes good.
_LOST = 1e9


@dataclass(frozen=True, slots=True)
class Passage:
    """
    When the evidence reaches its bound.

    Attributes:
        stops: by the number of events, the probability that the bound is reached with the last of them.
        rate: the probability that a request has the event.
    """

    stops: npt.NDArray[np.float64]
    rate: float

    @property
    def reached(self) -> float:
        """
        The probability that the bound is reached at all, within the events that were added up.
        """
        return float(self.stops.sum())

    @property
    def mean(self) -> float:
        """
        The mean number of requests, by Wald's identity: the mean number of events, divided by their rate.
        """
        return float(self.stops @ np.arange(len(self.stops))) / self.reached / self.rate

    def quantile(self, part: float) -> float:
        """
        The number of requests after which this part of all runs has reached the bound; infinite if fewer ever do.
        """
        if self.reached < part:
            return math.inf
        events = np.flatnonzero(self.stops)
        chances = self.stops[events]

        def reached(requests: int) -> float:
            # The n-th event comes within so many requests if these have n events or more.
            return float(chances @ np.where(requests >= events, bdtrc(events - 1, requests, self.rate), 0))

        most = 1
        while reached(most) < part:
            most *= 2
        return float(bisect_left(range(most), part, key=reached))


def first_passage(
    evidence: Evidence, bound: float, *, canary: float, stable: float, chance: float, events: int = 20_000
) -> Passage:
    """
    When evidence that grows with the canary's events reaches a bound.

    Args:
        evidence: of the canary's events and stable's.
        bound: as a logarithm.
        canary: the canary's rate.
        stable: stable's rate.
        chance: the probability that a request is the canary's.
        events: how many to add up at most.
    """
    rate = chance * canary + (1 - chance) * stable
    mine = chance * canary / rate
    alive = np.ones(1)
    stops = [0.0]
    least = 0
    for n in range(1, events + 1):
        alive = np.append(alive * (1 - mine), 0.0) + np.append(0.0, alive * mine)
        while least <= n and evidence(least, n - least) < bound:
            least += 1
        stops.append(float(alive[least:].sum()))
        alive = alive[:least]
        if alive.sum() < _LEFT:
            break
    return Passage(np.array(stops), rate)


def worse_evidence(terms: Terms, chance: float) -> Evidence:
    """
    The evidence for "worse" of failures alone: the bets on "worse by r" that are there from the start.

    The judge's evidence is this and more, and never reaches its bound later.
    """
    begun = Worse(terms)

    def evidence(canary: int, stable: int) -> float:
        test = copy(begun)
        test.add(chance, Counts(canary_bad=canary, stable_bad=stable))
        return log_sum(test.parts[: terms.grid])

    return evidence


def rollback(terms: Terms, *, canary: float, stable: float, chance: float) -> Passage:
    """
    When a canary is found to be worse at the latest, by failures alone.
    """
    evidence = worse_evidence(terms, chance)
    return first_passage(evidence, math.log(1 / terms.alpha), canary=canary, stable=stable, chance=chance)


def rollback_broken(
    terms: Terms, *, canary: float, stable: float, chance: float, most: int = 3000
) -> Passage:
    """
    When a canary that fails half of its requests or more is found, by all bets that are there from the start.

    Good answers count here, and therefore every request is an event. The evidence depends on four counts, and one path is
    followed for each combination of them.

    Args:
        terms: the bets.
        canary: the canary's rate.
        stable: stable's rate.
        chance: the probability that a request is the canary's.
        most: how many requests to add up at most.
    """
    bound = math.log(1 / terms.alpha)
    begun = np.array(Worse(terms).parts)
    # What ends a bet is a large loss here, since zero times minus infinity is no number.
    gains = np.maximum(np.array(bets(terms, chance)), -_LOST).T
    odds = np.array(
        (chance * canary, chance * (1 - canary), (1 - chance) * stable, (1 - chance) * (1 - stable))
    )
    counts: npt.NDArray[np.int64] = np.zeros((1, 4), dtype=np.int64)
    alive: npt.NDArray[np.float64] = np.ones(1)
    stops = [0.0]
    for _ in range(most):
        after = np.concatenate([counts + one for one in np.eye(4, dtype=np.int64)])
        # One number names a combination: its digits are the counts.
        _, first, same = np.unique(after @ most ** np.arange(4), return_index=True, return_inverse=True)
        alive = np.bincount(same, np.outer(odds, alive).ravel()).astype(np.float64)
        keep = alive > _LEFT
        counts, alive = after[first][keep], alive[keep]
        crossed = np.logaddexp.reduce(begun + counts @ gains, axis=1) >= bound
        stops.append(float(alive[crossed].sum()))
        counts, alive = counts[~crossed], alive[~crossed]
        if not len(alive):
            break
    return Passage(np.array(stops), 1.0)


def proof(terms: Terms, tolerance: Tolerance, *, canary: float, stable: float, chance: float) -> Passage:
    """
    When a canary is proven to be less than `times` as bad as stable, by the ratio alone.

    That evidence grows with stable's events, and the tracks change their roles.
    """
    begun = NotWorse(terms, tolerance)

    def evidence(stable_bad: int, canary_bad: int) -> float:
        test = copy(begun)
        test.add(chance, Counts(canary_bad=canary_bad, stable_bad=stable_bad))
        return test.ratio()

    bound = math.log(1 / terms.beta)
    return first_passage(evidence, bound, canary=stable, stable=canary, chance=1 - chance)


def information(*, canary: float, stable: float, chance: float) -> float:
    """
    What a request says of its track, in nats, if the base rate is unknown: the mutual information of track and outcome.

    No valid test of power one needs fewer than log(1/alpha) divided by this on average (`canary` worse than stable).
    """
    both = chance * canary + (1 - chance) * stable
    return chance * divergence(canary, both) + (1 - chance) * divergence(stable, both)


def proof_information(*, rate: float, times: float, chance: float) -> float:
    """
    What a request of two equal tracks says against a ratio of `times`, in nats, by its events.
    """
    return rate * divergence(chance, share(times, chance))


def divergence(p: float, q: float) -> float:
    """
    The Kullback-Leibler divergence of two Bernoulli distributions.
    """
    return sum(a * math.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a)
