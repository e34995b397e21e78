"""
What a judgement will take, before anything starts: requests, time and bad answers for each size of a fault.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tfcanary.judge.passage import Passage, first_passage, proof, rollback, rollback_broken
from tfcanary.judge.plan import Plan
from tfcanary.judge.rates import below
from tfcanary.judge.terms import Terms

# How many times as bad as stable, for the table.
TIMES = (2.0, 5.0, 10.0, 50.0)
# From this rate on good answers say much as well.
_BROKEN = 0.5
# A proof by clean answers that takes more of the canary's requests than this is not followed.
_MOST_CLEAN = 20_000


@dataclass(frozen=True, slots=True)
class Forecast:
    """
    One size of a fault at one weight.

    Attributes:
        canary: its failure rate.
        stable: stable's.
        weight: the canary's, in per cent.
        median: requests to both tracks after which half of all rollouts have the verdict; infinite if they never do.
        most: the same for 95 %.
        seconds: what `most` takes at the stated traffic.
        bad: the canary's failures until the verdict, less those that stable would have had, on average.
        decided: whether 95 % have the verdict within the horizon.
    """

    canary: float
    stable: float
    weight: float
    median: float
    most: float
    seconds: float
    bad: float
    decided: bool


def forecasts(plan: Plan, *, stable: float, weights: Iterable[float], per_second: float) -> list[Forecast]:
    """
    Each fault at each weight, the dead canary last, and before them the proof of an equal canary.
    """
    found = []
    for weight in weights:
        chance = weight / 100
        passages = {stable: _proven(plan.terms, stable, chance)}
        for canary in (stable * times for times in TIMES if stable * times < 1):
            find = rollback_broken if canary >= _BROKEN else rollback
            passages[canary] = find(plan.terms, canary=canary, stable=stable, chance=chance)
        passages[1.0] = rollback_broken(plan.terms, canary=1.0, stable=stable, chance=chance)
        found += [
            _forecast(plan, passage, canary=canary, stable=stable, weight=weight, per_second=per_second)
            for canary, passage in passages.items()
        ]
    return found


def proof_forecast(plan: Plan, *, stable: float, weight: float, per_second: float) -> Forecast:
    """
    The proof of an equal canary alone, which a live view can wait for: the faults take seconds to compute.
    """
    passage = _proven(plan.terms, stable, weight / 100)
    return _forecast(plan, passage, canary=stable, stable=stable, weight=weight, per_second=per_second)


def _forecast(
    plan: Plan, passage: Passage, *, canary: float, stable: float, weight: float, per_second: float
) -> Forecast:
    most = passage.quantile(0.95)
    seconds = most / per_second
    bad = passage.mean * weight / 100 * (canary - stable) if canary > stable else 0.0
    decided = seconds <= plan.horizon
    return Forecast(canary, stable, weight, passage.quantile(0.5), most, seconds, bad, decided)


def _proven(terms: Terms, rate: float, chance: float) -> Passage:
    """
    The quicker of both proofs of an equal canary, each at half of beta. Together they are never slower.
    """
    both = replace(terms, beta=terms.beta / 2)
    proofs = [proof(both, terms.errors, canary=rate, stable=rate, chance=chance)]
    if rate < terms.errors.points:
        proofs.append(_clean(both, rate, chance))
    return min(proofs, key=lambda passage: passage.quantile(0.95))


def _clean(terms: Terms, rate: float, chance: float) -> Passage:
    """
    When a canary's own answers prove its budget: here each of its requests is an event, and good ones are the evidence.
    """

    def evidence(good: int, bad: int) -> float:
        return below(terms.errors.points, bad, good, terms)

    bound = math.log(1 / terms.beta)
    # At a chance of 1/2 the share of good ones among these events is their share among the canary's answers.
    found = first_passage(evidence, bound, canary=1 - rate, stable=rate, chance=0.5, events=_MOST_CLEAN)
    return Passage(found.stops, chance)
