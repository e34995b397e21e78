"""
Does a count of answers by track fit the declared weights? Exact, and pure.

Each request is an independent draw of its track. The count of one track is therefore binomial. The acceptance region
of a track comes from the exact tails of that distribution (no normal approximation, no "± points"), at a false
alarm rate that is shared among the tracks (Bonferroni). Two tracks need no share each: their counts add up to n, and
either both leave their regions or neither does.

How many requests are needed follows from the power against a split that must not be mistaken for the declared
one: the weights before the change, or any split that differs by a stated number of percentage points.

`look` judges at any number of answers, as often as one likes, and stops as soon as the evidence decides. A split
fails once a mixture of likelihood ratios, of the alternatives and of all other splits against the declared one,
reaches 1/alpha (`tfcanary.judge.eprocess`). Under the declared split that ever happens with probability alpha at
most. A split holds once it is 1/miss times as likely as each alternative. Under that alternative this ever happens
with probability miss at most. What neither decides is judged by the exact regions at the planned number. Each of the
two stages gets half of the error rates.

References: Clopper & Pearson, Biometrika 26 (1934), for the exact region, inverted at a fixed p. Wald, Ann. Math.
Statist. 16 (1945), and Ville, Étude critique de la notion de collectif (1939), for looking at any time.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from scipy.special import bdtr, bdtrc

from tfcanary.errors import UsageError
from tfcanary.judge.eprocess import log_mixture, log_ratio
from tfcanary.judge.verdict import Outcome, Share, Verdict

ALPHA = 1e-6
POWER = 0.999
DETECT = 10.0
MOST_REQUESTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Region:
    """
    The counts of one track that n requests may give when its weight is what it should be.
    """

    track: str
    weight: float
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Plan:
    """
    How many requests to send, and which counts they may give.

    Attributes:
        alternatives: the splits that this many requests distinguish from the declared one.
        miss: the probability with which an alternative may pass for the declared one before n requests.
        power: the least probability, over the alternatives, of finding the difference.
    """

    weights: Mapping[str, float]
    n: int
    alpha: float
    power: float
    alternatives: tuple[Mapping[str, float], ...]
    regions: tuple[Region, ...]
    miss: float


def regions(weights: Mapping[str, float], n: int, alpha: float) -> tuple[Region, ...]:
    """
    The acceptance region of each track for n requests, with false alarm rate `alpha` over all tracks.

    A weight of 0 or 100 leaves nothing to chance: one contrary answer is outside.
    """
    tail = alpha / (2 * _tests(weights))
    return tuple(_region(track, weight, n, tail) for track, weight in weights.items())


def detects(weights: Mapping[str, float], truth: Mapping[str, float], n: int, alpha: float) -> float:
    """
    The probability that n requests split by `truth` fall outside the regions of `weights`.

    It is the probability for the one track that shows the difference best: exact for two tracks, a lower bound for more.
    """
    found = 0.0
    for region in regions(weights, n, alpha):
        p = truth.get(region.track, 0) / 100
        below = _at_most(region.low - 1, n, p)
        above = _more_than(region.high, n, p)
        found = max(found, below + above)
    for track, weight in truth.items():
        if track not in weights:
            found = max(found, 1 - (1 - weight / 100) ** n)
    return min(found, 1.0)


def plan(
    weights: Mapping[str, float],
    *,
    alpha: float = ALPHA,
    power: float = POWER,
    detect: float | None = DETECT,
    alternatives: Iterable[Mapping[str, float]] = (),
) -> Plan:
    """
    Compute the number of requests that `judge` needs to distinguish `weights` from what must not pass for it.

    Args:
        weights: percentages by track; they sum to 100.
        alpha: probability of a false alarm, over all tracks.
        power: probability of finding each alternative.
        detect: a difference of this many percentage points in any track is an alternative; where a weight is
            smaller than that, so is 0 ("the change was not applied"), and a quarter of it unless it is very small.
        alternatives: splits known to be possible, such as the weights before the change; those equal to
            `weights` are left out, because no number of requests distinguishes them.

    Raises:
        UsageError: if there is no alternative, or an alternative takes more than MOST_REQUESTS requests.
    """
    _check_rates(alpha, power)
    if detect is not None and not 0 < detect <= 100:
        raise UsageError(f"detect: expected percentage points between 0 and 100, got {detect:g}")
    against = [dict(other) for other in alternatives if _differs(other, weights)]
    if detect is not None:
        against += _shifted(weights, detect)
    if not against:
        raise UsageError(
            f"a split of {dict(weights)!r}: nothing to distinguish it from; give detect or alternatives"
        )

    def enough(n: int) -> bool:
        return all(detects(weights, other, n, alpha) >= power for other in against)

    most = 1
    while not enough(most):
        most *= 2
        if most > MOST_REQUESTS:
            raise UsageError(
                f"a split of {dict(weights)!r}: more than {MOST_REQUESTS} requests are needed to distinguish it at "
                f"alpha={alpha:g}, power={power:g}; ask for less power or a larger difference"
            )
    n = _least(most // 2 + 1, most, enough)
    return Plan(
        weights=dict(weights),
        n=n,
        alpha=alpha,
        power=min(detects(weights, other, n, alpha) for other in against),
        alternatives=tuple(against),
        regions=regions(weights, n, alpha),
        miss=1 - power,
    )


def sequential(
    weights: Mapping[str, float],
    *,
    alpha: float = ALPHA,
    power: float = POWER,
    detect: float | None = DETECT,
    alternatives: Iterable[Mapping[str, float]] = (),
) -> Plan:
    """
    Compute the number of requests after which `look` decides at the latest.

    Half of the error rates is spent on looking early and half on the judgement at the end. Therefore it plans more
    requests than `plan` does, and usually needs fewer.

    Args:
        weights: percentages by track; they sum to 100.
        alpha: probability of a false alarm, over all tracks and all looks.
        power: probability of finding each alternative.
        detect: as for `plan`.
        alternatives: as for `plan`.

    Raises:
        UsageError: as `plan` does.
    """
    _check_rates(alpha, power)
    return plan(weights, alpha=alpha / 2, power=1 - (1 - power) / 2, detect=detect, alternatives=alternatives)


def look(planned: Plan, counts: Mapping[str, int]) -> Verdict:
    """
    Judge the answers counted so far, at any time and as often as one likes.

    The verdict is final unless it says that the evidence is not enough.

    Args:
        planned: what `sequential` returned.
        counts: answers by track of the first requests, in request order. In completion order a faster track would be
            over-represented.
    """
    verdict = judge(planned, counts)
    if verdict.n >= planned.n:
        return verdict
    evidence = log_mixture(planned.alternatives, planned.weights, counts)
    if evidence >= -math.log(planned.alpha):
        reason = (
            f"after {verdict.n} answers another split is {math.exp(min(evidence, 700)):.3g} times as likely: "
            + ", ".join(f"{share.track} answered {share.count}" for share in verdict.shares)
        )
        return replace(verdict, decision=Outcome.FAILED, reason=reason)
    if verdict.decision is Outcome.FAILED:
        # The regions hold for one look at the planned number, and not for many looks.
        verdict = replace(verdict, decision=Outcome.NOT_ENOUGH)
    elif all(
        log_ratio(other, planned.weights, counts) <= math.log(planned.miss) for other in planned.alternatives
    ):
        reason = f"decided after {verdict.n} of at most {planned.n} answers"
        return replace(verdict, decision=Outcome.HELD, reason=reason, needed=verdict.n)
    return verdict


def _check_rates(alpha: float, power: float) -> None:
    if not 0 < alpha < 1 or not 0 < power < 1:
        raise UsageError(f"alpha and power lie between 0 and 1, got alpha={alpha:g}, power={power:g}")


def judge(planned: Plan, counts: Mapping[str, int]) -> Verdict:
    """
    Judge the answers to all planned requests, once.

    The regions are those for the number of answers counted. Fewer answers than planned cannot hold, but they can fail. A
    track without weight must not answer.

    Args:
        planned: what `plan` returned.
        counts: answers by track.
    """
    n = sum(counts.values())
    weights = {**planned.weights, **{track: 0.0 for track in counts if track not in planned.weights}}
    tail = planned.alpha / (2 * _tests(planned.weights))
    shares = []
    for track, weight in weights.items():
        region = _region(track, weight, n, tail)
        count = counts.get(track, 0)
        shares.append(Share(track, weight, count, region.low, region.high, _p_value(count, n, weight / 100)))
    outside = [share for share in shares if not share.held]
    if outside:
        decision = Outcome.FAILED
        reason = "; ".join(
            f"{share.track} answered {share.count} of {n}, expected {share.low} to {share.high}"
            for share in outside
        )
    elif n < planned.n:
        decision = Outcome.NOT_ENOUGH
        reason = f"{n} of the {planned.n} answers needed"
    else:
        decision = Outcome.HELD
        reason = f"every track within its bounds of {n} answers"
    return Verdict(decision, reason, n, planned.n, planned.alpha, tuple(shares))


def _tests(weights: Mapping[str, float]) -> int:
    """
    The number of separate tests: one for each track whose answers are left to chance, and one for two such tracks.
    """
    by_chance = sum(0 < weight < 100 for weight in weights.values())
    return by_chance if by_chance > 2 else 1


def _at_most(k: int, n: int, p: float) -> float:
    """
    P(X <= k), exact.
    """
    return 0.0 if k < 0 else 1.0 if k >= n else float(bdtr(k, n, p))


def _more_than(k: int, n: int, p: float) -> float:
    """
    P(X > k), exact. It is not computed as 1 - P(X <= k), which would lose small tails.
    """
    return 1.0 if k < 0 else 0.0 if k >= n else float(bdtrc(k, n, p))


def _region(track: str, weight: float, n: int, tail: float) -> Region:
    """
    The smallest and the largest count whose own tail is more likely than `tail`.
    """
    p = weight / 100
    low = _least(0, n, lambda k: _at_most(k, n, p) > tail)
    high = _least(0, n, lambda k: _more_than(k, n, p) <= tail)
    return Region(track, weight, low, high)


def _p_value(count: int, n: int, p: float) -> float:
    """
    Twice the smaller exact tail.
    """
    return min(1.0, 2 * min(_at_most(count, n, p), _more_than(count - 1, n, p)))


def _differs(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return any(one.get(track, 0) != other.get(track, 0) for track in {*one, *other})


def _shifted(weights: Mapping[str, float], points: float) -> list[dict[str, float]]:
    """
    Every split in which one track has `points` more or less, within 0 and 100.
    """
    shifted = []
    for track, weight in weights.items():
        others = {max(0.0, weight - points), min(100.0, weight + points)} - {weight}
        if points / 2 <= weight <= points:
            # The first few answers already distinguish it from 0 %. A quarter of it costs little more.
            others.add(weight / 4)
        for other in others:
            rest = 100 - weight
            scale = (100 - other) / rest if rest else 0.0
            split = {name: float(share) * scale for name, share in weights.items()}
            split[track] = other
            if not rest:
                # No other track has a weight to scale: another answer is from outside the tracks.
                split["(any other)"] = 100 - other
            shifted.append(split)
    return shifted


def _least(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """
    The least number that is enough, by bisection.

    For a tail this is exact. For a sample size a slightly smaller number may do: the power of a discrete test is a sawtooth.
    """
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high
