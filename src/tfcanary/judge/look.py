"""
What was counted since the last look, and why it may not be used.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tfcanary.errors import UsageError
from tfcanary.judge.counts import Counts, Pairs


@dataclass(frozen=True, slots=True)
class Look:
    """
    Counts of requests that were due since the last look, all drawn with one weight.

    Attributes:
        at: when the last of them was due, in seconds of the records' own time.
        weight: the canary's weight in per cent, read from the answers' route revision.
        errors: requests that failed by the model's fault.
        slow: requests slower than the limit, or unfinished after it.
        pairs: answers of both tracks to the same input.
        classes: by class, how many answers of the canary and of stable have it.
        faults: by kind, how many answers of the canary and of stable are wrong whatever the input is.
        cohorts: by region, group or class of users, what `errors` counts.
        routed: answers of the canary and of stable, of every kind; by default those of `errors`.
        unnamed: answers that name no track.
        problem: why the data is incomplete; it is then no evidence.
    """

    at: float
    weight: float
    errors: Counts = field(default_factory=Counts)
    slow: Counts = field(default_factory=Counts)
    pairs: Pairs = field(default_factory=Pairs)
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    faults: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    cohorts: Mapping[str, Counts] = field(default_factory=dict)
    routed: tuple[int, int] | None = None
    unnamed: int = 0
    problem: str = ""

    @property
    def answers(self) -> tuple[int, int]:
        """
        Answers of the canary and of stable.
        """
        return self.routed if self.routed is not None else (self.errors.canary, self.errors.stable)

    def unusable(self, after: float | None) -> str:
        """
        Why this look is no evidence, given the time of the one before; empty if it is.
        """
        if self.problem:
            return self.problem
        if not math.isfinite(self.at):
            return f"expected a time, got {self.at}"
        if after is not None and self.at < after:
            return f"stale: {self.at:g} s is before the last look, at {after:g} s"
        if not 0 <= self.weight <= 100:
            return f"expected a weight from 0 to 100 %, got {self.weight}"
        return self._wrong_counts()

    def _wrong_counts(self) -> str:
        for name, counts in self._counts():
            for count in counts:
                if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                    return f"{name}: expected whole numbers from 0, got {count}"
        return "" if any(any(counts) for _, counts in self._counts()) else "nothing was counted"

    def _counts(self) -> "list[tuple[str, tuple[int, ...]]]":
        return [
            ("errors", self.errors),
            ("slow", self.slow),
            ("pairs", self.pairs),
            ("routed", self.routed or ()),
            ("unnamed", (self.unnamed,)),
            *((f"class {name}", counts) for name, counts in self.classes.items()),
            *((f"fault {name}", counts) for name, counts in self.faults.items()),
            *((f"cohort {name}", counts) for name, counts in self.cohorts.items()),
        ]

    def as_json(self) -> dict[str, Any]:
        """
        The look as JSON values, without what is empty; a number that JSON does not have is null.
        """
        made: dict[str, Any] = {"at": _number(self.at), "weight": _number(self.weight)}
        for name in ("errors", "slow", "pairs"):
            if any(getattr(self, name)):
                made[name] = [_number(count) for count in getattr(self, name)]
        for name in ("classes", "faults", "cohorts"):
            if getattr(self, name):
                made[name] = {
                    key: [_number(n) for n in counts] for key, counts in getattr(self, name).items()
                }
        if self.routed is not None:
            made["routed"] = [_number(count) for count in self.routed]
        if self.unnamed:
            made["unnamed"] = _number(self.unnamed)
        if self.problem:
            made["problem"] = self.problem
        return made

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """
        The look that `as_json` wrote.

        Raises:
            UsageError: if it is none.
        """
        try:
            return cls(
                at=_read(given["at"]),
                weight=_read(given["weight"]),
                errors=Counts(*map(_read, given.get("errors", ()))),
                slow=Counts(*map(_read, given.get("slow", ()))),
                pairs=Pairs(*map(_read, given.get("pairs", ()))),
                classes={name: _two(counts) for name, counts in given.get("classes", {}).items()},
                faults={name: _two(counts) for name, counts in given.get("faults", {}).items()},
                cohorts={
                    name: Counts(*map(_read, counts)) for name, counts in given.get("cohorts", {}).items()
                },
                routed=_two(given["routed"]) if "routed" in given else None,
                unnamed=_read(given.get("unnamed", 0)),
                problem=str(given.get("problem", "")),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise UsageError(f"look: expected what a judge wrote, got {type(exc).__name__}: {exc}") from exc


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read(value: Any) -> Any:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, got {value!r}")
    return value


def _two(counts: Any) -> tuple[int, int]:
    canary, stable = map(_read, counts)
    return canary, stable
