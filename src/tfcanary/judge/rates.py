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
time. Robbins & Siegmund, Boundary crossing probabilities (1970), for mixtures.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class _Bet:
    """
    What one alternative adds to its logarithm for each event of a track.
    """

    canary: float
    stable: float


def _bet(times: float, chance: float, against: float) -> _Bet:
    mine, theirs = share(times, chance), share(against, chance)
    return _Bet(math.log(mine / theirs), math.log((1 - mine) / (1 - theirs)))


class Worse:
    """
    Evidence against "the canary's rate is at most stable's".

    One part bets on each "worse by r". At r times stable's rate, an event is the canary's with probability
    `share(r, chance)`. Under the hypothesis the expected ratio of that to `chance` is 1 if the rates are equal, and less
    if the canary's is lower, since the ratio grows with the canary's share. Another part bets on "the canary answers
    nothing": a good answer of the canary ends it, and one of stable speaks for it. Each part is a supermartingale, and a
    mixture with fixed weights is one as well.

    A part of the capital is kept back. At the end of each epoch a piece of it is put on "worse from now on". The pieces
    are fixed beforehand and add up to less than what was kept. The sum of old bets, new bets and what is left is
    therefore still a supermartingale that began at 1, and a long good time cannot outweigh a fault that begins today.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._weights = [math.log((1 - terms.nothing) * weight) for _, weight in terms.worse]
        self._bets: dict[float, tuple[list[_Bet], _Bet, float]] = {}
        self.parts = [math.log(terms.start)] * terms.grid
        self.nothing = math.log(terms.start)
        self.epochs = 0

    def add(self, chance: float, counts: Counts) -> None:
        """
        Add requests that were all drawn with one chance, in any order.
        """
        bets, nothing, good = self._at(chance)
        bad, stable = counts.canary_bad, counts.stable_bad
        self.parts = [
            part + bad * bet.canary + stable * bet.stable for part, bet in zip(self.parts, bets, strict=True)
        ]
        if counts.canary_good:
            self.nothing = -math.inf
        else:
            self.nothing += bad * nothing.canary + stable * nothing.stable + counts.stable_good * good

    def end_epoch(self) -> None:
        """
        Put the next piece of what was kept back on "worse from now on".
        """
        piece = math.log(self._kept(self.epochs) - self._kept(self.epochs + 1))
        self.epochs += 1
        self.parts = [log_sum((part, piece)) for part in self.parts]
        self.nothing = log_sum((self.nothing, piece))

    def evidence(self) -> float:
        """
        The evidence, as a logarithm: it ever reaches log(1/alpha) with probability at most alpha.
        """
        return log_sum(
            (
                *(weight + part for weight, part in zip(self._weights, self.parts, strict=True)),
                math.log(self._terms.nothing) + self.nothing,
                math.log(self._kept(self.epochs)),
            )
        )

    def as_json(self) -> dict[str, Any]:
        """
        The state, for `restore`.
        """
        nothing = None if self.nothing == -math.inf else self.nothing
        return {"parts": self.parts, "nothing": nothing, "epochs": self.epochs}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state.
        """
        self.parts = floats(state["parts"], len(self.parts))
        self.nothing = -math.inf if state["nothing"] is None else float(state["nothing"])
        self.epochs = count(state["epochs"])

    def _kept(self, epochs: int) -> float:
        patience = self._terms.patience
        return (1 - self._terms.start) * math.sqrt(patience / (patience + epochs))

    def _at(self, chance: float) -> tuple[list[_Bet], _Bet, float]:
        found = self._bets.get(chance)
        if found is None:
            bets = [_bet(times, chance, 1) for times, _ in self._terms.worse]
            nothing = _bet(1 / self._terms.nothing_stable, chance, 1)
            # A good answer is stable's for certain under "nothing", and with probability 1 - chance otherwise.
            found = self._bets[chance] = bets, nothing, -math.log1p(-chance)
        return found


def mixture(terms: Terms, chance: float, canary: int, stable: int) -> float:
    """
    The logarithm of the evidence for "worse" of so many events, at one chance and with no part kept back.
    """
    parts = []
    for times, weight in terms.worse:
        bet = _bet(times, chance, 1)
        parts.append(math.log(weight) + canary * bet.canary + stable * bet.stable)
    return log_sum(parts)


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
        self._bets: dict[float, list[_Bet]] = {}

    def add(self, chance: float, counts: Counts) -> None:
        """
        Add requests that were all drawn with one chance, in any order.
        """
        if chance not in self._bets:
            against = self._tolerance.times
            self._bets[chance] = [_bet(times, chance, against) for times, _ in self._terms.proof]
        self.parts = [
            part + counts.canary_bad * bet.canary + counts.stable_bad * bet.stable
            for part, bet in zip(self.parts, self._bets[chance], strict=True)
        ]

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
