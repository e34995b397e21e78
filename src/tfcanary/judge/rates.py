"""
Two sequential tests of one event that a request has or has not: a failure, or an answer that came too late.

A gateway draws each request's track with a known probability, the *chance*. Therefore, if both tracks have the event
equally often, the track of a request that had it is the canary's with that same chance, whatever the rate is, and
however the rate moves. Both tests are likelihood ratios of the track, given the event. They hold for bursts, daily
rhythms, common outages, and for weights that change or depend on the evidence. Both need the chance to be the true one:
`tfcanary.judge.guards` tests it.

References: Lindon & Malek, Anytime-valid inference for multinomial count data (arXiv 2011.03567), section 4, for counts
given their sum. Turner, Ly & Grünwald, Generic E-variables for exact sequential k-sample tests (arXiv 2106.02693), for
the same ratio as a growth-rate optimal one. Ville, Étude critique de la notion de collectif (1939), for looking at any
time. Robbins & Siegmund, Boundary crossing probabilities (1970), for mixtures. Shin, Ramdas & Rinaldo, E-detectors
(arXiv 2203.03532), for bets that begin again.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Any, NamedTuple

from tfcanary.judge.counts import Counts
from tfcanary.judge.eprocess import log_sum
from tfcanary.judge.reading import count, floats
from tfcanary.judge.terms import Terms, Tolerance

# The rates among which the ramp's bound is sought: from 1 in 2,000 to 1, evenly in their logarithm.
_RATES = tuple(1 / 2000 ** (1 - i / 64) for i in range(64))
# By how many times a rate may be above another, for `above`.
_ABOVE = (1.1, 1.25, 1.5, 2.0, 4.0)


def share(times: float, chance: float) -> float:
    """
    The canary's share of all events, if its rate is so many times stable's.
    """
    return times * chance / (times * chance + 1 - chance)


class Bet(NamedTuple):
    """
    What one alternative adds to its logarithm for each request, in the order of `Counts`.
    """

    canary_bad: float
    canary_good: float
    stable_bad: float
    stable_good: float

    def on(self, counts: Counts) -> float:
        """
        What it adds for all of these.
        """
        # Zero times minus infinity is zero here: what did not come did not contradict.
        return sum(n * gain for n, gain in zip(counts, self, strict=True) if n)


def _by_ratio(times: float, chance: float, against: float = 1.0) -> Bet:
    """
    One rate is so many times the other, against another such ratio; of the rates themselves nothing is said.
    """
    mine, theirs = share(times, chance), share(against, chance)
    return Bet(math.log(mine / theirs), 0.0, math.log((1 - mine) / (1 - theirs)), 0.0)


def _by_rates(canary: float, stable: float, chance: float) -> Bet:
    """
    Both rates are these, against equal ones. Good answers count as well: they are rarely the canary's.
    """
    bad = share(canary / stable, chance)
    good = share((1 - canary) / (1 - stable), chance)
    return Bet(
        math.log(bad / chance),
        math.log(good / chance) if good else -math.inf,
        math.log((1 - bad) / (1 - chance)),
        math.log((1 - good) / (1 - chance)),
    )


def bets(terms: Terms, chance: float) -> list[Bet]:
    """
    The alternatives of `Worse`: first "worse by r", then "broken".
    """
    ratios = [_by_ratio(times, chance) for times in terms.worse(chance)]
    return ratios + [_by_rates(rate, terms.broken_stable, chance) for rate, _, _ in terms.broken]


class Worse:
    """
    Evidence against "the canary's rate is at most stable's".

    One part bets on each "worse by r". At r times stable's rate, an event is the canary's with probability
    `share(r, chance)`. Under the hypothesis the expected ratio of that to `chance` is 1 if the rates are equal, and less
    if the canary's is lower, since the ratio grows with the canary's share. Other parts bet on "the canary is broken": it
    has the event in every request, or in half of them, and stable rarely. Good answers count there as well. They are
    rarely the canary's, and one good answer ends the bet on "every request". Each part is a supermartingale, and a mixture
    with fixed weights is one as well. What a bet is on may change with the chance, which is known before the request.

    A share of the capital is kept back. Whenever the time of the records has moved on, a piece of it is put on "from now
    on", according to how many requests have come. What is moved depends on the past alone, and moving it changes no sum.
    The sum of old bets, new bets and what is left is therefore still a supermartingale that began at 1, and a long good
    time cannot outweigh a fault that begins today. Requests of one time may come in any order.

    Attributes:
        parts: of each bet, its capital as a logarithm.
        requests: how many were counted.
        placed: how many of them had come when the last piece was put on.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._later = [math.log(later) for _, later in terms.shares]
        self._bets: dict[float, list[Bet]] = {}
        self.parts = [math.log(terms.start * first) for first, _ in terms.shares]
        self.requests = self.placed = 0

    def add(self, chance: float, counts: Counts) -> None:
        """
        Add requests that were all drawn with one chance, in any order.
        """
        if chance not in self._bets:
            self._bets[chance] = bets(self._terms, chance)
        self.parts = [part + bet.on(counts) for part, bet in zip(self.parts, self._bets[chance], strict=True)]
        self.requests += sum(counts)

    def restart(self) -> None:
        """
        Put the next piece of what is kept back on faults that begin now.
        """
        new = self.requests - self.placed
        if not new:
            return
        # The difference of both square roots, without its cancellation after many requests.
        part = -math.expm1(math.log1p(-new / (self._terms.patience + self.requests)) / 2)
        piece = self._kept() + math.log(part)
        self.parts = [
            log_sum((part, piece + later)) for part, later in zip(self.parts, self._later, strict=True)
        ]
        self.placed = self.requests

    def evidence(self) -> float:
        """
        The evidence, as a logarithm: it ever reaches log(1/alpha) with probability at most alpha.
        """
        return log_sum((*self.parts, self._kept()))

    def as_json(self) -> dict[str, Any]:
        """
        The state, for `restore`.
        """
        parts = [None if part == -math.inf else part for part in self.parts]
        return {"parts": parts, "requests": self.requests, "placed": self.placed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state.

        Raises:
            ValueError: if it belongs to other terms.
        """
        given = state["parts"]
        # Only a bet on "broken" can be lost for good.
        lost = [i for i, part in enumerate(given) if part is None and i >= self._terms.grid]
        left = [part for i, part in enumerate(given) if i not in lost]
        others = iter(floats(left, len(self.parts) - len(lost)))
        self.parts = [-math.inf if i in lost else next(others) for i in range(len(self.parts))]
        self.requests, self.placed = count(state["requests"]), count(state["placed"])
        if self.placed > self.requests:
            raise ValueError(f"expected at most {self.requests} requests before the last piece")

    def _kept(self) -> float:
        """
        The logarithm of what is left of the share that was kept back.
        """
        patience = self._terms.patience
        return math.log1p(-self._terms.start) - math.log1p(self.placed / patience) / 2


def mixture(terms: Terms, chance: float, canary: int, stable: int) -> float:
    """
    The logarithm of the evidence for "worse" of so many events, at one chance and with no part kept back.
    """
    counts = Counts(canary_bad=canary, stable_bad=stable)
    bets = zip(terms.weights, terms.worse(chance), strict=True)
    return log_sum([math.log(weight) + _by_ratio(times, chance).on(counts) for weight, times in bets])


class NotWorse:
    """
    Evidence against "the canary is at least `times` as bad as stable, and at least `points` worse".

    The first half bets on smaller ratios, as `Worse` does on larger ones. Its expected ratio is 1 at `times` and less
    above. The second half bets on a canary's rate below `points`. It needs no events: a clean canary proves it in about
    4/points requests. A canary outside the tolerance contradicts both halves, and therefore their mean is a
    supermartingale under that hypothesis. The two need not be independent.
    """

    def __init__(self, terms: Terms, tolerance: Tolerance) -> None:
        self._terms, self._tolerance = terms, tolerance
        self.parts = [0.0] * len(terms.proof)
        self._bets: dict[float, list[Bet]] = {}

    def add(self, chance: float, counts: Counts) -> None:
        """
        Add requests that were all drawn with one chance, in any order.
        """
        if chance not in self._bets:
            against = self._tolerance.times
            self._bets[chance] = [_by_ratio(times, chance, against) for times, _ in self._terms.proof]
        self.parts = [part + bet.on(counts) for part, bet in zip(self.parts, self._bets[chance], strict=True)]

    def ratio(self) -> float:
        """
        The logarithm of the evidence against "at least `times` as bad" alone.
        """
        terms = zip(self.parts, self._terms.proof, strict=True)
        return log_sum([math.log(weight) + part for part, (_, weight) in terms])

    def budget(self, run: Counts) -> float:
        """
        The logarithm of the evidence against "at least `points` of the canary's requests", from all of its requests.
        """
        return below(self._tolerance.points, run.canary_bad, run.canary_good, self._terms)

    def evidence(self, run: Counts) -> float:
        """
        The evidence of both halves, as a logarithm: it reaches log(1/beta) with probability at most beta.
        """
        return log_sum((self.ratio(), self.budget(run))) - math.log(2)


def below(rate: float, bad: int, good: int, terms: Terms) -> float:
    """
    The logarithm of the evidence against "the event has at least this rate", from one track's own requests.

    The mixture bets on parts of the rate, and with `budget_none` of its weight on no event at all. Each ratio of
    Bernoulli likelihoods has an expectation of 1 at the rate itself, and less above. That bet alone proves the rule of
    three, at any time.
    """
    parts = [
        math.log(weight) + bad * math.log(part) + good * (math.log1p(-rate * part) - math.log1p(-rate))
        for part, weight in terms.budget
    ]
    if not bad:
        parts.append(math.log(terms.budget_none) - good * math.log1p(-rate))
    return log_sum(parts)


def above(rate: float, bad: int, good: int) -> float:
    """
    The logarithm of the evidence against "the event has at most this rate", as `below` with larger rates.
    """
    return log_sum(
        [
            bad * math.log(times)
            + good * (math.log1p(-rate * times) - math.log1p(-rate))
            - math.log(len(_ABOVE))
            for times in _ABOVE
        ]
    )


def most_excess(step: Counts, terms: Terms) -> float:
    """
    An upper bound on the canary's rate less stable's, at any time of one step.

    Both bounds, the canary's from above and stable's from below, are wrong with probability delta / 2 at most. Other
    steps are left out, since their load was another one.
    """
    proven = math.log(2 / terms.delta)
    above_all = bisect_left(
        _RATES, proven, key=lambda rate: below(rate, step.canary_bad, step.canary_good, terms)
    )
    canary = _RATES[above_all] if above_all < len(_RATES) else 1.0
    possible = [rate for rate in _RATES if rate * _ABOVE[-1] < 1]
    below_all = bisect_right(
        possible, -proven, key=lambda rate: -above(rate, step.stable_bad, step.stable_good)
    )
    return canary - (possible[below_all - 1] if below_all else 0.0)
