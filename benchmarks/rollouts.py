"""
Simulated rollouts: streams of requests, our judge with its ramp, and the published rules of two peers.

All policies see the same requests. What is drawn for each second is how many requests come, and for each of them a number
that decides its track and one that decides its outcome.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfcanary.judge.counts import Counts
from tfcanary.judge.judge import Judge
from tfcanary.judge.look import Look
from tfcanary.judge.plan import Plan
from tfcanary.judge.ramp import Ramp
from tfcanary.judge.ruling import Action

# A rate by the second since the start.
Rate = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Run:
    """
    How one rollout ended.

    Attributes:
        action: promote, rollback, or wait if neither came within the time.
        seconds: until then.
        requests: to both tracks until then.
        excess: bad answers of the canary until its weight was 0 again, less those that stable would have given.
    """

    action: Action
    seconds: float
    requests: int
    excess: float


class Stream:
    """
    The traffic of one run, second by second, whatever the weights are.
    """

    def __init__(self, seed: int, per_second: float, canary: Rate, stable: Rate) -> None:
        self._rng = np.random.default_rng(seed)
        self._per_second = per_second
        self._rates = canary, stable
        self._second = 0

    def next(self, weight: float) -> tuple[int, Counts, float]:
        """
        The requests of one second at a weight: their number, their counts, and the canary's excess of bad answers.
        """
        rng, second = self._rng, self._second
        canary, stable = (rate(second) for rate in self._rates)
        n = int(rng.poisson(self._per_second))
        to_canary = rng.random(n) < weight / 100
        fate = rng.random(n)
        bad = np.where(to_canary, fate < canary, fate < stable)
        self._second += 1
        canary_bad, canary_all, all_bad = int((bad & to_canary).sum()), int(to_canary.sum()), int(bad.sum())
        counts = Counts(
            canary_bad, canary_all - canary_bad, all_bad - canary_bad, n - canary_all - (all_bad - canary_bad)
        )
        return n, counts, float(bad[to_canary].sum() - (fate[to_canary] < stable).sum())


def ours(
    stream: Stream,
    *,
    per_second: float,
    plan: Plan | None = None,
    ramp: Ramp | None = None,
    up: int = 5,
    back: int = 4,
    every: int = 1,
    most: int = 4 * 3600,
) -> Run:
    """
    A rollout by the judge and its ramp: a look each second, a new weight in force after `up` seconds, 0 after `back`.
    """
    judge, ramp = Judge(plan or Plan()), ramp or Ramp()
    reaction = every + back
    weight = ramp.first_weight(per_second, reaction) or ramp.ladder[0]
    target, coming, since = weight, 0, 0
    requests, excess = 0, 0.0
    seen = Counts()
    for second in range(1, most + 1):
        n, counts, more = stream.next(weight)
        requests, excess, seen, since = requests + n, excess + more, seen.plus(counts), since + 1
        if second % every:
            continue
        if any(seen):
            judge.look(Look(at=float(second), weight=weight, errors=seen))
        seen = Counts()
        action = judge.ruling().action
        if action is not Action.WAIT:
            for _ in range(back if action is not Action.PROMOTE else 0):
                excess += stream.next(weight)[2]
            return Run(action, second, requests, excess)
        if target > weight:
            coming -= every
            if coming <= 0:
                weight = target
                since = 0
        elif since >= ramp.dwell:
            target, coming = _next(judge, ramp, weight, per_second, reaction), up
    return Run(Action.WAIT, most, requests, excess)


def _next(judge: Judge, ramp: Ramp, weight: float, per_second: float, reaction: float) -> float:
    return ramp.next_weight(
        weight,
        excess=judge.errors.most_excess(),
        proven=judge.proven(),
        per_second=per_second,
        reaction=reaction,
    )
