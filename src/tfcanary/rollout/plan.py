"""
The plan of a rollout: what is declared before anything changes.

`tfcanary.rollout.planfile` reads it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfcanary.errors import UsageError
from tfcanary.judge.plan import Plan as JudgePlan
from tfcanary.judge.plan import compact
from tfcanary.judge.ramp import Ramp
from tfcanary.rollout.windows import Window

PROMOTION = "promotion"


class PlanError(UsageError):
    """
    A plan cannot be right. Its notes are the problems after the first.
    """

    def __init__(self, subject: str, found: "list[str]") -> None:
        super().__init__(f"{subject}: {found[0]}")
        self.problems = found
        for problem in found[1:]:
            self.add_note(f"{subject}: {problem}")


@dataclass(frozen=True, slots=True)
class Step:
    """
    One fixed step.

    Attributes:
        weight: the canary's, in per cent.
        routes: those of a values file; None for the baseline's with this weight.
    """

    weight: float
    routes: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """
    How long what may take, in seconds. The schema says what each is.
    """

    least: float
    most: float
    total: float
    ready: float
    propagation: float
    drain: float
    outage: float
    look: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """
    What the canary's pods can carry.

    Attributes:
        per_pod: requests a second; None for no limit.
        scale: whether a shortage asks for more pods.
        most: the most pods to ask for.
    """

    per_pod: float | None
    scale: bool
    most: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """
    Whose requests are judged.

    Attributes:
        prometheus: where the users' are counted; None for our own.
        per_second: of our own.
    """

    prometheus: str | None
    per_second: float


@dataclass(frozen=True, slots=True)
class Plan:
    """
    A rollout, as declared.

    Attributes:
        release: the Helm release.
        to: the version of the model.
        stable, canary: the names of the tracks.
        steps: fixed ones; empty for the judge's ramp.
        ramp: how the weight may grow.
        judge: what a verdict promises.
        slow: seconds after which an answer is slow.
        limits: how long what may take.
        bake: seconds of the bake.
        control: the old version's weight in it, in per cent.
        gates: beyond which weights it needs an approval.
        promotion: whether the promotion needs one.
        windows: when no weight grows.
        capacity: what the canary's pods can carry.
        probes: pairs at weight 0.
        probes_per_second: pairs beside the users' requests.
        traffic: whose requests are judged.
        webhook: the name of the environment variable with the URL to tell the end to.
        document: the plan as JSON values, with every default.
    """

    release: str
    to: int
    stable: str
    canary: str
    steps: tuple[Step, ...]
    ramp: Ramp
    judge: JudgePlan
    slow: float
    limits: Limits
    bake: float
    control: float
    gates: tuple[float, ...]
    promotion: bool
    windows: tuple[Window, ...]
    capacity: Capacity
    probes: int
    probes_per_second: float
    traffic: Traffic
    webhook: str | None
    document: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """
        The SHA-256 of the plan.
        """
        return hashlib.sha256(compact(self.document).encode()).hexdigest()

    @property
    def bake_weight(self) -> float:
        """
        The canary's weight in the bake, in per cent.
        """
        return 100 - self.control

    @property
    def top(self) -> float:
        """
        The largest weight before the bake, in per cent.
        """
        return self.judge.top
