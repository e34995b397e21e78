"""
What is judged, and when a verdict may be given: declared before the first look, and never changed.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfcanary.errors import UsageError
from tfcanary.judge.terms import Spread, Terms, Tolerance

# By signal, its part of the evidence for a rollback, before the parts of the signals in use are scaled to 1.
SHARES = {"errors": 0.5, "slow": 0.2, "disagreement": 0.1, "accuracy": 0.1, "classes": 0.1}
# Signals that can be proven to be "not worse". A shift of the classes can only be found.
PROVABLE = ("errors", "slow", "disagreement", "accuracy")


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Signals, error rates and limits.

    Attributes:
        terms: error rates and tolerances.
        signals: what can roll back; they share alpha.
        required: what must be proven before a promotion, each at beta.
        top: the canary's weight, in per cent, from which on it may be promoted.
        horizon: seconds after which a verdict that has not been reached is `inconclusive`.
        least_seconds: how long the present step lasts at least before a promotion.
        least_requests: how many requests of the present step the canary answers at least before a promotion.
        stale: seconds after which the last look is too old to promote on.
        missing: the share of looks without data, and of answers without a track, above which nothing is promoted in
            this step.
        unit: what is counted: requests, or users where a route sends a user always to the same track.
    """

    terms: Terms = field(default_factory=Terms)
    signals: tuple[str, ...] = ("errors",)
    required: tuple[str, ...] = ("errors",)
    top: float = 50.0
    horizon: float = 4 * 3600.0
    least_seconds: float = 10.0
    least_requests: int = 100
    stale: float = 60.0
    missing: float = 0.05
    unit: str = "request"

    def __post_init__(self) -> None:
        """
        Refuse a plan that could not be judged.
        """
        for name in ("signals", "required"):
            value = getattr(self, name)
            allowed = SHARES if name == "signals" else [one for one in PROVABLE if one in self.signals]
            if not value or len(set(value)) != len(value) or not set(value) <= set(allowed):
                raise UsageError(
                    f"{name}: expected some of {', '.join(allowed)}, each once, got {', '.join(value) or 'none'}"
                )
        if not 0 <= self.top < 100:
            raise UsageError(f"top: expected per cent from 0 and less than 100, got {self.top:g}")
        for name in ("horizon", "stale"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name}: expected seconds above 0, got {getattr(self, name):g}")
        if not 0 <= self.least_seconds < self.horizon:
            raise UsageError(
                f"least_seconds: expected seconds from 0, less than the horizon, got {self.least_seconds:g}"
            )
        if self.least_requests < 0:
            raise UsageError(f"least_requests: expected a number from 0, got {self.least_requests}")
        if not 0 <= self.missing < 1:
            raise UsageError(f"missing: expected a share from 0 and less than 1, got {self.missing:g}")
        if self.unit not in ("request", "user"):
            raise UsageError(f"unit: expected request or user, got {self.unit!r}")

    @property
    def shares(self) -> dict[str, float]:
        """
        By signal in use, its part of the evidence; they sum to 1.
        """
        total = sum(SHARES[name] for name in self.signals)
        return {name: SHARES[name] / total for name in self.signals}

    @property
    def digest(self) -> str:
        """
        The SHA-256 of the plan: evidence gathered under another plan does not count.
        """
        return hashlib.sha256(compact(self.as_json()).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """
        The plan as JSON values.
        """
        made: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return made

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Plan":
        """
        The plan that `as_json` wrote.

        Raises:
            UsageError: if it is none.
        """
        try:
            terms = dict(given["terms"])
            for name in ("errors", "slow"):
                terms[name] = Tolerance(**terms[name])
            for name in ("proof", "budget", "broken"):
                terms[name] = tuple(tuple(map(float, row)) for row in terms[name])
            terms["spreads"] = tuple(Spread(*row) for row in terms["spreads"])
            rest = {name: value for name, value in given.items() if name != "terms"}
            rest |= {name: tuple(rest[name]) for name in ("signals", "required")}
            return cls(terms=Terms(**terms), **rest)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise UsageError(f"plan: expected what a judge wrote, got {type(exc).__name__}: {exc}") from exc


def compact(value: object) -> str:
    """
    JSON in one form only, for digests and logs.

    Raises:
        ValueError: for a number that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
