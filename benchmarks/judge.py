"""
How the judge performs: exact figures, simulated rollouts, and two peers' published rules on the same requests.

    python benchmarks/judge.py exact            # seconds: requests until a verdict, by dynamic programming
    python benchmarks/judge.py weights          # 10 minutes: the same for every size of a fault at 200 weights
    python benchmarks/judge.py nulls            # about 40 minutes: 25 x 10,000 canaries that are no worse
    python benchmarks/judge.py ramp edge        # about an hour: 5,000 whole rollouts of each kind
    python benchmarks/judge.py harm             # minutes: what a dead canary costs
    python benchmarks/judge.py peers            # about an hour: beside Flagger and Argo Rollouts
    python benchmarks/judge.py late cost        # a minute: late faults, and what a look costs

Everything is seeded. No network, no cluster.
"""

import argparse
import functools
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import nulls
import numpy as np
import rollouts
from scipy.special import betaincinv

from tfcanary.judge.counts import Counts
from tfcanary.judge.judge import Judge
from tfcanary.judge.look import Look
from tfcanary.judge.passage import (
    Passage,
    information,
    proof,
    proof_information,
    rollback,
    rollback_broken,
    worse_evidence,
)
from tfcanary.judge.plan import Plan
from tfcanary.judge.ruling import Action
from tfcanary.judge.terms import Terms

TERMS = Terms()
ALPHA = math.log(1 / TERMS.alpha)


def main() -> None:
    """
    Measure, and print.
    """
    parts = {
        "exact": exact,
        "weights": weights,
        "nulls": simulated_nulls,
        "ramp": ramp,
        "edge": edge,
        "harm": harm,
        "peers": peers,
        "late": late,
        "cost": cost,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="+", choices=parts)
    parser.add_argument("--runs", type=int, help="simulated runs of each kind (default: as above)")
    parser.add_argument(
        "--every", type=int, default=5, help="seconds between looks, of ramp and edge (default: %(default)d)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)d)")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="processes for weights, ramp, edge, harm and peers (default: %(default)d)",
    )
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="of nulls, ramp, edge and peers, rows with these words"
    )
    options = parser.parse_args()
    for part in options.part:
        print(f"\n{part}, seed {options.seed}", flush=True)
        parts[part](options)


def exact(_options: argparse.Namespace) -> None:
    """
    Requests until a verdict: medians, 95th percentiles, and the mean beside what no valid test can beat.
    """
    for base, canary in (
        (0.001, 0.005),
        (0.001, 0.009),
        (0.001, 0.02),
        (0.001, 0.05),
        (0.01, 0.02),
        (0.01, 0.05),
        (0.01, 0.1),
    ):
        for chance in (0.05, 0.1, 0.25, 0.5):
            found = rollback(TERMS, canary=canary, stable=base, chance=chance)
            print(
                _row(
                    f"{base:.1%} to {canary:.1%} at {chance:.0%}",
                    found.quantile(0.5),
                    found.quantile(0.95),
                    _ratio(found, canary, base, chance),
                )
            )
    for base, canary in ((0.01, 0.5), (0.001, 1), (0.01, 1)):
        for chance in (0.05, 0.1, 0.25, 0.5):
            found = rollback_broken(TERMS, canary=canary, stable=base, chance=chance)
            print(
                _row(
                    f"{base:.1%} to {canary:.1%} at {chance:.0%}",
                    found.quantile(0.5),
                    found.quantile(0.95),
                    _ratio(found, canary, base, chance),
                )
            )
    for chance in (0.05, 0.1, 0.25, 0.5):
        found = proof(TERMS, TERMS.errors, canary=0.01, stable=0.01, chance=chance)
        least = math.log(1 / TERMS.beta) / proof_information(rate=0.01, times=2, chance=chance)
        print(
            _row(
                f"equal at 1 %, proven, at {chance:.0%}",
                found.quantile(0.5),
                found.quantile(0.95),
                found.mean / least,
            )
        )


# Faults of each size; good answers count as well where a canary fails 30 % of its requests or more.
_FAILURES = [(0.001, times) for times in (2, 3, 5, 10, 20, 30, 50)] + [
    (0.01, times) for times in (2, 3, 5, 10, 20)
]
_BROKEN = [(0.01, 30), (0.01, 50)]


def weights(options: argparse.Namespace) -> None:
    """
    The slowest of all faults at each weight from 5 to 50 %, beside what no valid test can beat.
    """
    fine = [*range(500, 1010, 5), *range(1010, 1510, 50), *range(1510, 1640, 5)]
    chances = [n / 10_000 for n in (*fine, *range(1650, 2500, 50), *range(2500, 5001, 250))]
    with ProcessPoolExecutor(options.jobs) as pool:
        for row in pool.map(_slowest, chances):
            print(row, flush=True)


def _slowest(chance: float) -> str:
    """
    How many failures are enough at a weight, without one of stable and with one, and what the slowest fault takes.
    """
    evidence = worse_evidence(TERMS, chance)
    enough = [next(n for n in itertools.count() if evidence(n, stable) >= ALPHA) for stable in (0, 1)]

    def ratio(find: Callable[..., Passage], canary: float, stable: float) -> float:
        found = find(TERMS, canary=canary, stable=stable, chance=chance)
        return _ratio(found, canary, stable, chance)

    ratios = {(base, times): ratio(rollback, base * times, base) for base, times in _FAILURES}
    ratios |= {(base, times): ratio(rollback_broken, base * times, base) for base, times in _BROKEN}
    base, times = max(ratios, key=lambda fault: ratios[fault])
    dead = max(ratio(rollback_broken, 1.0, base) for base in (0.001, 0.01))
    return (
        f"{chance:.2%}: {enough[0]} failures, {enough[1]} beside one of stable; slowest {times} x {base:.1%} "
        f"{ratios[base, times]:.3f}, 50 x 0.1 % {ratios[0.001, 50]:.3f}, 20 x 1 % {ratios[0.01, 20]:.3f}; dead {dead:.3f}"
    )


def _ratio(found: Passage, canary: float, stable: float, chance: float) -> float:
    """
    The mean number of requests, beside what no valid test can beat.
    """
    return found.mean / (ALPHA / information(canary=canary, stable=stable, chance=chance))


def _row(name: str, median: float, most: float, ratio: float) -> str:
    return f"{name:>36}: median {median:>9,.0f}, 95 % within {most:>9,.0f}, mean / bound {ratio:.2f}"


def upper(found: int, of: int, sure: float = 0.99) -> float:
    """
    The exact upper bound on a probability (Clopper and Pearson).
    """
    return 1.0 if found == of else float(betaincinv(found + 1, of - found, sure))


def simulated_nulls(options: argparse.Namespace) -> None:
    """
    False rollbacks, at the judge's alpha and at 5 %, over base rates and weights of every kind.
    """
    runs = options.runs or 10_000
    rates = {
        "constant 1 %": lambda: nulls.constant(0.01, runs),
        "constant 0.1 %": lambda: nulls.constant(0.001, runs),
        "diurnal 0.2-5 %": lambda: nulls.diurnal(runs),
        "outages 50 %": lambda: nulls.outages(runs),
        "storms 0.1-30 %": lambda: nulls.storms(runs),
    }
    weighted = {
        "10 %": nulls.fixed(0.1),
        "50 %": nulls.fixed(0.5),
        "1-5-25-50 %": nulls.stepped,
        "adversarial": nulls.adversarial,
        "between": nulls.between,
    }
    for i, (base, made) in enumerate(rates.items()):
        for k, (weight, policy) in enumerate(weighted.items()):
            if options.only not in f"{base}, {weight}":
                continue
            peak = nulls.most_evidence(
                options.seed + 10 * i + k, runs=runs, requests=20_000, rates=made(), weights=policy
            )
            cells = []
            for alpha in (TERMS.alpha, 0.05):
                found = int((peak >= math.log(1 / alpha)).sum())
                cells.append(f"{found / runs:.2%} at {alpha:.0%} (99 % bound {upper(found, runs):.2%})")
            print(f"{base:>16}, weight {weight:>12}: {'; '.join(cells)}", flush=True)


def _run(
    policy: str, per_second: float, rates: tuple[float, float], every: int, seed: tuple[int, ...]
) -> rollouts.Run:
    """
    One whole rollout by a policy, at these rates of the canary and of stable.
    """
    stream = rollouts.Stream(seed, per_second, *rates)
    if policy == "ours":
        return rollouts.ours(stream, per_second, every=every)
    return rollouts.POLICIES[policy](stream, per_second)


def _all_of(
    options: argparse.Namespace,
    policy: str,
    per_second: float,
    rates: tuple[float, float],
    *,
    runs: int,
    every: int = 1,
) -> list[rollouts.Run]:
    """
    So many rollouts, on all processors.
    """
    one = functools.partial(_run, policy, per_second, rates, every)
    with ProcessPoolExecutor(options.jobs) as pool:
        return list(pool.map(one, [(options.seed, i) for i in range(runs)], chunksize=10))


def ramp(options: argparse.Namespace) -> None:
    """
    Whole rollouts of equal canaries: false rollbacks.
    """
    for name, rate in (("equal at 0.1 %", 0.001), ("equal at 1 %", 0.01)):
        _whole(options, name, rate, rate, Action.ROLLBACK)


def edge(options: argparse.Namespace) -> None:
    """
    Whole rollouts exactly at the edge of the tolerance: false promotions.
    """
    for name, canary, stable in (("1 to 2 %", 0.02, 0.01), ("0.1 to 0.5 %", 0.005, 0.001)):
        _whole(options, name, canary, stable, Action.PROMOTE)


def _whole(options: argparse.Namespace, name: str, canary: float, stable: float, wrong: Action) -> None:
    runs = options.runs or 5000
    if options.only not in name:
        return
    ended = _all_of(options, "ours", 20, (canary, stable), runs=runs, every=options.every)
    found = sum(run.action is wrong for run in ended)
    said = {action.value: sum(run.action is action for run in ended) for action in Action}
    seconds = statistics.median(run.seconds for run in ended)
    print(
        f"{name:>16}: false {wrong.value} {found / runs:.2%} (99 % bound {upper(found, runs):.2%}) of {runs}; {said}; "
        f"median {seconds:.0f} s",
        flush=True,
    )


def harm(options: argparse.Namespace) -> None:
    """
    Bad answers that a dead canary costs, and the base rate at which a ramp by the bound on the harm alone would stop.
    """
    runs = options.runs or 1000
    for per_second in (20, 200):
        ended = _all_of(options, "ours", per_second, (1.0, 0.001), runs=runs)
        excess = sorted(run.excess for run in ended)
        print(
            f"dead at {per_second} rps: excess bad answers mean {statistics.mean(excess):.1f}, 95 % within "
            f"{excess[int(0.95 * runs)]:.0f}, most {excess[-1]:.0f}",
            flush=True,
        )
    some = min(runs, 200)
    ended = _all_of(options, "ours", 200, (0.05, 0.05), runs=some)
    promoted = sum(run.action is Action.PROMOTE for run in ended)
    print(
        f"base 5 % at 200 rps: {promoted} of {some} promote, median {statistics.median(run.seconds for run in ended):.0f} s"
    )


def peers(options: argparse.Namespace) -> None:
    """
    Our judge, Flagger's and Argo Rollouts' published rules, on the same requests.
    """
    runs = options.runs or 200
    for per_second in (20, 2, 200):
        for stable, rates in ((0.001, (0.001, 0.005, 0.009, 0.02, 0.05, 1.0)), (0.01, (0.01,))):
            for canary in rates:
                row = f"{per_second} rps, {stable:.1%} to {canary:.1%}"
                if options.only not in row:
                    continue
                cells = []
                for name in rollouts.POLICIES:
                    ended = _all_of(options, name, per_second, (canary, stable), runs=runs)
                    promoted = sum(run.action is Action.PROMOTE for run in ended) / runs
                    seconds = statistics.mean(run.seconds for run in ended)
                    excess = statistics.mean(run.in_an_hour(per_second, canary - stable) for run in ended)
                    cells.append(f"{name} promotes {promoted:.1%}, {seconds:.0f} s, {excess:.0f} bad")
                print(f"{row}: {' | '.join(cells)}", flush=True)


def late(options: argparse.Namespace) -> None:
    """
    A canary that is healthy for so many requests at 10 % and then dies: requests from then until the rollback.
    """
    many = options.runs or 300
    # The longest take a tenth of the runs, and half of the time.
    for per_second, healthy, runs in (
        (20, 1_000, many),
        (20, 20_000, many),
        (200, 20_000, many),
        (20, 200_000, max(1, many // 10)),
    ):
        took = sorted(
            rollouts.late_death((options.seed, i), healthy=healthy, per_second=per_second)
            for i in range(runs)
        )
        print(
            f"dead after {healthy:>7,} healthy requests at {per_second} rps: mean {statistics.mean(took):.0f}, 95 % within {took[int(0.95 * runs)]}",
            flush=True,
        )


def cost(_options: argparse.Namespace) -> None:
    """
    What a look costs, with its ruling and its saved state, beside the same counts added by themselves.
    """
    judge = Judge(
        Plan(signals=("errors", "slow", "disagreement", "accuracy", "classes"), required=("errors",))
    )
    look = Look(
        at=0.0,
        weight=10.0,
        errors=Counts(1, 20, 2, 200),
        slow=Counts(1, 20, 2, 200),
        classes={"cat": (10, 100)},
    )
    for name, once in (
        ("look", lambda: judge.look(look)),
        ("ruling", judge.ruling),
        ("bound on the harm", judge.errors.most_excess),
        ("saved", judge.saved),
    ):
        took = []
        for _ in range(200):
            began = time.perf_counter()
            once()
            took.append(time.perf_counter() - began)
        print(f"{name:>20}: median {1e3 * statistics.median(took):.3f} ms")
    print(f"{'state':>20}: {len(judge.saved())} bytes; errors alone {len(_errors_alone())} bytes")


def _errors_alone() -> str:
    judge, rng = Judge(Plan()), np.random.default_rng(1)
    for second in range(3600):
        to_canary = int(rng.binomial(200, 0.1))
        judge.look(
            Look(
                at=float(second),
                weight=10.0,
                errors=Counts(
                    int(rng.binomial(to_canary, 0.02)),
                    to_canary,
                    int(rng.binomial(200 - to_canary, 0.01)),
                    200 - to_canary,
                ),
            )
        )
    return judge.saved()


if __name__ == "__main__":
    main()
