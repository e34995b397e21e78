"""
What a verdict on a canary promises, and how its evidence is spread. Every constant of the judge is here, by name.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from tfcanary.errors import UsageError


@dataclass(frozen=True, slots=True)
class Tolerance:
    """
    How much worse a canary may be: less than `times` stable's rate, or less than `points` more, whichever is larger.

    Attributes:
        times: two is the least factor that ordinary traffic can tell from one within the hour.
        points: a share, not per cent. 0.005 is the smallest that 2 requests a second prove within the hour.
    """

    times: float = 2.0
    points: float = 0.005


class Spread(NamedTuple):
    """
    Where the bets on "worse by r" lie at some weights.

    At these weights a large fault is found either by two failures or by three, or by three beside one of stable's or by
    four. The last bets all lie where they make the fewer enough.

    Attributes:
        above: the canary's chance, exclusive.
        up_to: the canary's chance, inclusive.
        least, most: the first bets, evenly in log r.
        last: how many bets lie on `ratio`.
        ratio: so many times as bad.
    """

    above: float
    up_to: float
    least: float
    most: float
    last: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Terms:
    """
    Error rates, tolerances, and the spread of the evidence over alternatives.

    Whatever the spread is, the error rates hold: it decides only how soon which fault is found.

    Attributes:
        alpha: probability of ever rolling back a canary that is no worse than stable, over all looks and signals.
        beta: probability of ever promoting a canary outside a tolerance.
        delta: probability that the ramp's bound on the harm is ever too low, within one step.
        errors: the tolerance for requests that fail.
        slow: the tolerance for requests slower than the limit.
        disagreement: the tolerated share of paired requests whose answers name another class.
        accuracy: the tolerated loss of accuracy on paired requests with labels, as a share.
        shift: how many times stable's share a class may have among the canary's answers.
        ceiling: above this error rate of stable nothing is promoted; the comparison would call equally broken equal.
        least, most, grid, tilt: "worse by r" for so many r, evenly in log r, with a weight of r to the power -tilt. At
            400 times a second failure at a weight of 5 % is enough.
        spreads: the chances at which they lie elsewhere, with the same weights. What a bet is on may depend on anything
            that is known before the request.
        broken: for "the canary fails this part of its requests", that part, its share of the evidence on faults that
            are there from the start, and its share of that on later ones. The rest is on "worse by r". Of late faults
            a dead canary has half: each of its answers is one more that somebody misses.
        broken_stable: stable's error rate in those alternatives.
        start: share of the evidence on faults that are there from the start. The rest is for faults that begin later.
        patience: that rest after n requests is in proportion to the square root of patience / (patience + n).
        proof: for "not worse", pairs of a rate as a multiple of stable's, and its weight. Half is on "equal".
        budget: for "fewer than `points`", pairs of a rate as a multiple of points, and its weight.
        budget_none: the weight of "no failure at all" beside those.
    """

    alpha: float = 0.01
    beta: float = 0.05
    delta: float = 0.05
    errors: Tolerance = Tolerance()
    slow: Tolerance = Tolerance()
    disagreement: float = 0.1
    accuracy: float = 0.02
    shift: float = 1.5
    ceiling: float = 0.05
    least: float = 1.5
    most: float = 400.0
    grid: int = 24
    tilt: float = 0.1
    spreads: tuple[Spread, ...] = (
        Spread(0.0515, 0.0615, 1.7, 20.0, 12, 5000.0),
        Spread(0.0615, 0.066, 1.7, 16.0, 14, 5000.0),
        Spread(0.066, 0.097, 1.7, 15.0, 14, 30.0),
        Spread(0.152, 0.162, 1.7, 15.0, 14, 30.0),
    )
    broken: tuple[tuple[float, float, float], ...] = ((1.0, 0.09, 0.5), (0.5, 0.03, 0.05))
    broken_stable: float = 0.01
    start: float = 0.9
    patience: float = 10_000.0
    proof: tuple[tuple[float, float], ...] = (
        (1.0, 1 / 2),
        *((times, 1 / 12) for times in (0.1, 0.3, 0.6, 0.8, 1.25, 1.5)),
    )
    budget: tuple[tuple[float, float], ...] = tuple(
        (part, 1 / 12) for part in (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
    )
    budget_none: float = 1 / 2

    def __post_init__(self) -> None:
        """
        Refuse terms under which an error rate would not hold.
        """
        for name in (
            *("alpha", "beta", "delta", "ceiling", "broken_stable", "start", "budget_none"),
            *("accuracy",),
        ):
            _between(name, getattr(self, name), 0, 1)
        # `above` bets on four times the tolerated rate.
        _between("disagreement", self.disagreement, 0, 0.25)
        for name in ("errors", "slow"):
            tolerance = getattr(self, name)
            _between(f"{name}.times", tolerance.times, max(times for times, _ in self.proof), 100)
            _between(f"{name}.points", tolerance.points, 0, 1)
        _between("shift", self.shift, 1, 100)
        _between("least", self.least, 1, self.most)
        _between("patience", self.patience, 0, math.inf)
        for rate, *shares in self.broken:
            # Below stable's rate a bet would gain on a canary that is better.
            _between("broken", rate, self.broken_stable, math.nextafter(1, math.inf))
            for part in shares:
                _between("broken", part, 0, 1)
        for name, total in (("start", 1), ("later", 2)):
            _between(f"broken, {name}", sum(row[total] for row in self.broken), 0, 1)
        if self.grid < 2:
            raise UsageError(f"grid: expected at least 2 points, got {self.grid}")
        for spread in self.spreads:
            _between("spreads, above", spread.above, 0, spread.up_to)
            _between("spreads, up_to", spread.up_to, 0, 1)
            _between("spreads, least", spread.least, 1, spread.most)
            _between("spreads, ratio", spread.ratio, spread.most, math.inf)
            _between("spreads, last", spread.last, 0, self.grid - 1)
        for name, weights in (
            ("proof", [weight for _, weight in self.proof]),
            ("budget and budget_none", [self.budget_none, *(weight for _, weight in self.budget)]),
        ):
            if not math.isclose(sum(weights), 1) or min(weights) < 0:
                raise UsageError(f"{name}: expected weights that sum to 1, got {sum(weights):g}")

    @property
    def shares(self) -> tuple[tuple[float, float], ...]:
        """
        The shares of each alternative: first "worse by r", then "broken". From the start, and of a later piece.
        """
        first, later = (1 - sum(row[which] for row in self.broken) for which in (1, 2))
        ratios = ((first * weight, later * weight) for weight in self.weights)
        return (*ratios, *((early, late) for _, early, late in self.broken))

    @property
    def weights(self) -> tuple[float, ...]:
        """
        The weight of each bet on "worse by r"; they sum to 1.
        """
        tilted = [r**-self.tilt for r in _evenly(self.least, self.most, self.grid)]
        total = sum(tilted)
        return tuple(one / total for one in tilted)

    def worse(self, chance: float) -> tuple[float, ...]:
        """
        What each bet on "worse by r" is on at a chance, in increasing order.
        """
        for above, up_to, least, most, last, ratio in self.spreads:
            if above < chance <= up_to:
                return (*_evenly(least, most, self.grid - last), *[ratio] * last)
        return _evenly(self.least, self.most, self.grid)


def _evenly(least: float, most: float, points: int) -> tuple[float, ...]:
    """
    So many points, evenly in their logarithm.
    """
    step = (most / least) ** (1 / (points - 1))
    return tuple(least * step**i for i in range(points))


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise UsageError(f"{name}: expected more than {low:g} and less than {high:g}, got {value:g}")
