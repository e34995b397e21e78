"""
Looks for a judge, drawn from stated rates with a seed.
"""

from collections.abc import Iterator

import numpy as np

from tfcanary.judge.counts import Counts
from tfcanary.judge.judge import Judge
from tfcanary.judge.look import Look


def drawn(rng: np.random.Generator, n: int, chance: float, canary: float, stable: float) -> Counts:
    """
    The counts of n requests, each of which draws its track and then whether it fails.
    """
    to_canary = int(rng.binomial(n, chance))
    bad, worse = int(rng.binomial(to_canary, canary)), int(rng.binomial(n - to_canary, stable))
    return Counts(bad, to_canary - bad, worse, n - to_canary - worse)


def looks(
    seed: int,
    *,
    per_second: float,
    weight: float,
    canary: float,
    stable: float,
    start: float = 0.0,
    every: float = 1.0,
) -> Iterator[Look]:
    """
    A look each second, without end.
    """
    rng = np.random.default_rng(seed)
    at = start
    while True:
        at += every
        n = int(rng.poisson(per_second * every))
        if n:
            yield Look(at=at, weight=weight, errors=drawn(rng, n, weight / 100, canary, stable))


def judged(judge: Judge, stream: Iterator[Look], seconds: float) -> Judge:
    """
    The judge after all looks up to a time.
    """
    for look in stream:
        if look.at > seconds:
            return judge
        judge.look(look)
    return judge
