"""
What a rollout of a plan would take: the same driver, judge and transitions, against a cluster that is made up.

Its canary is as good as stable. Nothing fails, and only the number of requests and of failures is drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcanary.judge.counts import Counts
from tfcanary.judge.look import Look
from tfcanary.rollout import starting
from tfcanary.rollout.cluster import (
    Counted,
    Deployed,
    Examination,
    OvertakenError,
    Probes,
    Seen,
    Stored,
    Track,
)
from tfcanary.rollout.desired import weight_of
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import Baseline, State

# Seconds of a Helm revision that changes weights, as measured on a local cluster.
REVISION_SECONDS = 3.0
SCHEMA = "tfserving-canary/rollout-explain/1"


@dataclass(frozen=True, slots=True)
class Stay:
    """
    How a weight is reached.

    Attributes:
        weight: the canary's, in per cent.
        first, median, last: seconds from the start, over the rollouts that had it.
    """

    weight: float
    first: float
    median: float
    last: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """
    What so many rollouts took.

    Attributes:
        ends: the seconds of each that was promoted.
        stays: every weight that was reached.
        back: how many were rolled back all the same.
        per_second: requests to both tracks.
        base: the share of both tracks' failures.
    """

    ends: tuple[float, ...]
    stays: tuple[Stay, ...]
    back: int
    per_second: float
    base: float

    @property
    def within(self) -> float:
        """
        The probability that another rollout ends between the first and the last of these.
        """
        return max(0.0, (len(self.ends) - 1) / (len(self.ends) + 1))

    def as_json(self) -> dict[str, Any]:
        """
        The outlook as JSON values.
        """
        ends = sorted(self.ends)
        return {
            "schema": SCHEMA,
            "perSecond": self.per_second,
            "base": self.base,
            "rollouts": len(ends) + self.back,
            "rolledBack": self.back,
            "seconds": {"least": ends[0], "median": float(np.median(ends)), "most": ends[-1]}
            if ends
            else None,
            "within": round(self.within, 3),
            "weights": [
                {"weight": one.weight, "first": one.first, "median": one.median, "last": one.last}
                for one in self.stays
            ],
        }


def simulated(
    plan: Plan, *, per_second: float, base: float, pods: float, runs: int, seed: int = 0
) -> Outlook:
    """
    Try a plan out.

    Args:
        plan: the plan.
        per_second: requests to both tracks.
        base: the share of both tracks' failures.
        pods: seconds until pods are Ready.
        runs: how many rollouts.
        seed: of what is drawn.
    """
    ends, reached, back = [], dict[float, list[float]](), 0
    for number in range(runs):
        made_up = _MadeUp(plan, per_second, base, pods, np.random.default_rng([seed, number]))
        end = starting.start(made_up, plan, "explain", by="explain").drive()
        if end.phase is not Phase.SUCCEEDED:
            back += 1
            continue
        ends.append(end.now - end.started)
        for weight, at in _reached(end).items():
            reached.setdefault(weight, []).append(at)
    stays = tuple(
        Stay(weight, min(seconds), float(np.median(seconds)), max(seconds))
        for weight, seconds in sorted(reached.items())
    )
    return Outlook(tuple(ends), stays, back, per_second, base)


def _reached(end: State) -> dict[float, float]:
    """
    When each weight above 0 was seen first, in seconds from the start.
    """
    found: dict[float, float] = {}
    for step in end.steps:
        if step.weight and step.seen is not None:
            found.setdefault(step.weight, step.seen - end.started)
    return found


class _MadeUp:
    """
    A cluster in which time passes only where somebody waits, and nothing fails but requests.
    """

    def __init__(
        self, plan: Plan, per_second: float, base: float, pods: float, draw: np.random.Generator
    ) -> None:
        self._plan, self._per_second, self._base, self._pods, self._draw = plan, per_second, base, pods, draw
        self._time, self._counted = 0.0, 0.0
        self._stored: Stored | None = None
        self._revision = 1
        self._routes = [{"name": "everyone", "weights": {plan.stable: 100}}]
        old = plan.to - 1 if plan.to > 1 else plan.to + 1
        self._tracks = {name: {"version": old, "replicas": 1} for name in (plan.stable, plan.canary)}

    def now(self) -> float:
        return self._time

    def wait(self, seconds: float) -> None:
        self._time += seconds

    def load(self) -> Stored | None:
        return self._stored

    def save(self, text: str, version: str | None) -> None:
        if version != (self._stored.version if self._stored else None):
            raise OvertakenError
        self._stored = Stored(text, str(int(version or 0) + 1))

    def hold(self, me: str) -> str:
        return me

    def free(self, me: str) -> None:
        pass

    def baseline(self) -> Baseline:
        return Baseline(
            self._revision,
            {},
            tuple(self._routes),
            {name: int(track["version"]) for name, track in self._tracks.items()},
            {name: int(track["replicas"]) for name, track in self._tracks.items()},
        )

    def apply(self, values: Mapping[str, Any], description: str) -> Deployed:  # noqa: ARG002 - there is no history
        self._time += REVISION_SECONDS
        for name, track in values.get("tracks", {}).items():
            self._tracks[name] |= {key: track[key] for key in ("version", "replicas") if key in track}
            self._time += self._pods
        self._routes = values.get("routing", {}).get("routes", self._routes)
        return self._deployed()

    def restore(self, baseline: Baseline, description: str) -> Deployed:  # noqa: ARG002 - as above
        self._time += REVISION_SECONDS
        self._routes = [dict(route) for route in baseline.routes]
        return self._deployed()

    def _deployed(self) -> Deployed:
        self._revision += 1
        return Deployed(self._revision, f"{self._revision}")

    def track(self, name: str) -> Track:
        track = self._tracks[name]
        return Track(int(track["version"]), *3 * (int(track["replicas"]),))

    def gateways(self, routes: str) -> Seen:  # noqa: ARG002 - it has them at once
        return Seen(1, 1)

    def examine(self) -> Examination:
        return Examination()

    def probe(self, count: int) -> Probes:
        return Probes(count, 0, 0, 0)

    def counts(self, since: float | None) -> Counted:  # noqa: ARG002 - it knows what it has counted
        seconds, self._counted = self._time - self._counted, self._time
        number = int(self._draw.poisson(self._per_second * seconds))
        if not number:
            return Counted((), self._per_second)
        weight = float(weight_of(self._routes, self._plan.canary))
        canary = int(self._draw.binomial(number, weight / 100))
        bad = [int(self._draw.binomial(n, self._base)) for n in (canary, number - canary)]
        counts = Counts(bad[0], canary - bad[0], bad[1], number - canary - bad[1])
        good = Counts(0, canary, 0, number - canary)
        return Counted((Look(at=self._time, weight=weight, errors=counts, slow=good),), self._per_second)

    def facts(self) -> Mapping[str, str]:
        return {}

    def announce(self, record: Mapping[str, Any]) -> None:
        pass
