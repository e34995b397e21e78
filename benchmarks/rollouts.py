"""
Simulated rollouts: streams of requests, our judge with its ramp, and the published rules of two peers.

All policies see the same requests. Drawn beforehand are, for each second, how many requests come, and for each request one
number that decides its track and one that decides its outcome.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfcanary.judge.counts import Counts
from tfcanary.judge.judge import Judge
from tfcanary.judge.look import Look
from tfcanary.judge.plan import Plan
from tfcanary.judge.ramp import Ramp
from tfcanary.judge.ruling import Action

_HOUR, _CHUNK = 3600, 600


@dataclass(frozen=True, slots=True)
class Run:
    """
    How one rollout ended.

    Attributes:
        action: promote, rollback, inconclusive, or wait if none came within the time.
        seconds: until then.
        requests: to both tracks until then.
        excess: bad answers of the canary until its weight was 0 again, less those that stable would have given.
    """

    action: Action
    seconds: float
    requests: int
    excess: float

    def in_an_hour(self, per_second: float, more: float) -> float:
        """
        The excess within the first hour: a promoted canary gives all answers of the rest.
        """
        rest = max(0.0, _HOUR - self.seconds) if self.action is Action.PROMOTE else 0.0
        return self.excess + rest * per_second * more


class Stream:
    """
    The traffic of one run, whatever the weights are.
    """

    def __init__(self, seed: tuple[int, ...], per_second: float, canary: float, stable: float) -> None:
        self._seed, self._per_second, self._rates = seed, per_second, (canary, stable)
        self._second = 0
        self._chunk = -1

    def take(self, seconds: int, weight: float) -> tuple[Counts, float]:
        """
        The counts of the next seconds at a weight, and the canary's excess of bad answers among them.
        """
        counts, excess = Counts(), 0.0
        while seconds:
            chunk, start = divmod(self._second, _CHUNK)
            if chunk != self._chunk:
                self._draw(chunk)
            some = min(seconds, _CHUNK - start)
            part = slice(self._offsets[start], self._offsets[start + some])
            mine, worse, fine = self._track[part] < weight / 100, self._canary[part], self._stable[part]
            bad, all_of_it = int((mine & worse).sum()), int(mine.sum())
            others = int((~mine & fine).sum())
            counts = counts.plus(Counts(bad, all_of_it - bad, others, len(mine) - all_of_it - others))
            excess += bad - int((mine & fine).sum())
            self._second, seconds = self._second + some, seconds - some
        return counts, excess

    def _draw(self, chunk: int) -> None:
        rng = np.random.default_rng((*self._seed, chunk))
        offsets = np.concatenate([[0], np.cumsum(rng.poisson(self._per_second, _CHUNK))])
        self._track, fate = rng.random(offsets[-1]), rng.random(offsets[-1])
        self._canary, self._stable = (fate < rate for rate in self._rates)
        self._offsets, self._chunk = offsets, chunk


def ours(
    stream: Stream,
    per_second: float,
    *,
    plan: Plan | None = None,
    ramp: Ramp | None = None,
    up: int = 5,
    back: int = 4,
    every: int = 1,
    most: int = 4 * _HOUR,
) -> Run:
    """
    A rollout by the judge and its ramp: a new weight is in force after `up` seconds, and 0 after `back`.
    """
    plan, ramp = plan or Plan(), ramp or Ramp()
    judge, bound = Judge(plan), -math.log(plan.terms.alpha)
    reaction = every + back
    weight = target = ramp.first_weight(per_second, reaction) or ramp.ladder[0]
    seen, total, since, coming = Counts(), 0.0, 0, 0
    for second in range(every, most + 1, every):
        counts, excess = stream.take(every, weight)
        seen, total, since = seen.plus(counts), total + excess, since + every
        if any(counts):
            judge.look(Look(at=float(second), weight=weight, errors=counts))
        # What only time or the split decides is asked less often: the figures are the same, and the hours fewer.
        due = weight >= plan.top or second % 10 < every or judge.evidence() >= bound
        action = judge.ruling().action if due else Action.WAIT
        if action is not Action.WAIT:
            total += 0 if action is Action.PROMOTE else stream.take(back, weight)[1]
            return Run(action, second, seen.canary + seen.stable, total)
        if target > weight:
            coming -= every
            if coming <= 0:
                weight, since = target, 0
        elif since >= ramp.dwell and second % 5 < every:
            target = judge.next_weight(ramp, per_second=per_second, reaction=reaction)
            coming = up
    return Run(Action.WAIT, most, seen.canary + seen.stable, total)


def flagger(stream: Stream, _per_second: float, *, threshold: int, step: int, most: int = 2 * _HOUR) -> Run:
    """
    Flagger's rule (`pkg/controller/scheduler.go` of 1.44): each minute, roll back if so many checks have failed by now;
    otherwise a canary's success rate of the last minute below 99 %, or no data, is one more failed check, and a check that
    passes adds `step` to the weight, up to 50 %.
    """
    weight, failed, seen, total = step, 0, Counts(), 0.0
    for second in range(60, most + 1, 60):
        counts, excess = stream.take(60, weight)
        seen, total = seen.plus(counts), total + excess
        if failed >= threshold:
            return Run(Action.ROLLBACK, second, seen.canary + seen.stable, total)
        if not counts.canary or counts.canary_good / counts.canary < 0.99:
            failed += 1
        elif weight >= 50:
            return Run(Action.PROMOTE, second, seen.canary + seen.stable, total)
        else:
            weight += step
    return Run(Action.WAIT, most, seen.canary + seen.stable, total)


def argo_background(stream: Stream, _per_second: float) -> Run:
    """
    Argo Rollouts' documented background analysis (`analysis/analysis.go` of 1.9): 20, 40, 60 and 80 % for 10 minutes each.
    From 40 % on a sample each 5 minutes, over the last 5: success of 95 %. The fourth sample that fails aborts.
    """
    failed, seen, total = 0, Counts(), 0.0
    last = Counts()
    for second in range(300, 2401, 300):
        if second > 600:
            # A sample is taken at the beginning of this interval, over the one before.
            failed += not last.canary or last.canary_good / last.canary < 0.95
            if failed > 3:
                return Run(Action.ROLLBACK, second - 300, seen.canary + seen.stable, total)
        last, excess = stream.take(300, (20, 40, 60, 80)[(second - 1) // 600])
        seen, total = seen.plus(last), total + excess
    return Run(Action.PROMOTE, 2400, seen.canary + seen.stable, total)


def argo_inline(stream: Stream, _per_second: float) -> Run:
    """
    Argo Rollouts' documented inline analysis: 20 % for 5 minutes, then one sample.
    """
    counts, excess = stream.take(300, 20)
    good = counts.canary > 0 and counts.canary_good / counts.canary >= 0.95
    return Run(Action.PROMOTE if good else Action.ROLLBACK, 300, counts.canary + counts.stable, excess)


POLICIES: dict[str, Callable[[Stream, float], Run]] = {
    "ours": ours,
    "Flagger 10 x 5 %": lambda stream, per_second: flagger(stream, per_second, threshold=10, step=5),
    "Flagger tutorial": lambda stream, per_second: flagger(stream, per_second, threshold=5, step=10),
    "Argo background": argo_background,
    "Argo inline": argo_inline,
}


def late_death(
    seed: tuple[int, ...], *, healthy: int, per_second: int, base: float = 0.01, weight: float = 10.0
) -> int:
    """
    Requests from the moment in which a canary dies until it is rolled back, looked at after every request.

    It comes after so many healthy requests.
    """
    rng, judge, chance = np.random.default_rng(seed), Judge(Plan(horizon=1e9)), weight / 100
    n = 0
    while n < healthy:
        to_canary = int(rng.binomial(20, chance))
        bad, worse = int(rng.binomial(to_canary, base)), int(rng.binomial(20 - to_canary, base))
        judge.look(Look(n / per_second, weight, Counts(bad, to_canary - bad, worse, 20 - to_canary - worse)))
        n += 20
    died = n
    bound = -np.log(judge.plan.terms.alpha)
    while judge.evidence() < bound:
        mine, bad = rng.random() < chance, rng.random() < base
        judge.look(
            Look(
                n / per_second, weight, Counts(int(mine), 0, int(not mine and bad), int(not mine and not bad))
            )
        )
        n += 1
    return n - died
