"""
All findings of one run.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfcanary.check.finding import Finding
from tfcanary.check.subject import Options, Subject
from tfcanary.contract import Api
from tfcanary.errors import NoEvidenceError, UnreachableError
from tfcanary.judge.verdict import Outcome

SCHEMA = "tfserving-canary/check-gateway/1"


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One answer: when, after how long, and by whom.

    Attributes:
        about: the route whose split it counted for, if any.
        outcome: of a failed request, in words.
    """

    seconds: float
    about: str
    api: Api
    track: str | None
    latency: float
    ok: bool
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """
    All checks of one run.

    Attributes:
        samples: every answer, in order.
        interrupted: why the run ended early, if it did.
    """

    subject: Subject
    limits: Options
    revision: str | None
    checks: tuple[Finding, ...]
    seconds: float
    requests: int
    interrupted: str = ""
    samples: tuple[Sample, ...] = ()

    @property
    def held(self) -> bool:
        """
        Whether there are checks, and all of them held.
        """
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """
        0 held, 1 did not hold, 3 interrupted, 4 not enough evidence.
        """
        decisions = {check.decision for check in self.checks}
        if self.interrupted:
            return UnreachableError.exit_code
        if Outcome.FAILED in decisions:
            return 1
        if decisions != {Outcome.HELD}:
            return NoEvidenceError.exit_code
        return 0

    @property
    def verdict(self) -> str:
        """
        The outcome in one line.
        """
        if self.held:
            return f"all {len(self.checks)} checks held"
        parts = []
        for decision, words in ((Outcome.FAILED, "did not hold"), (Outcome.NOT_ENOUGH, "lack evidence")):
            titles = [check.title for check in self.checks if check.decision is decision]
            if titles:
                parts.append(f"{len(titles)} of {len(self.checks)} checks {words}: {', '.join(titles)}")
        if self.interrupted:
            parts.append(f"interrupted: {self.interrupted}")
        return "; ".join(parts) or "nothing was checked"

    def table(self) -> str:
        """
        All checks for a reader, the verdict last.
        """
        routes = [f"  {route.name}: {route}" for route in self.subject.routing.routes]
        head = ("result", "check", "API", "expected", "seen", "answers")
        rows = [
            (
                check.decision.value,
                f"{check.name} {check.about}".strip(),
                check.api.value if check.api else "",
                check.expected,
                check.observed,
                str(check.n),
            )
            for check in self.checks
        ]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        lines = [
            f"model {self.subject.routing.model} at {self.subject.gateway}, route {self.revision or 'unknown'}",
            *routes,
            "",
            _aligned(head, widths),
            _aligned(["-" * width for width in widths], widths),
        ]
        for check, row in zip(self.checks, rows, strict=True):
            lines.append(_aligned(row, widths))
            if check.detail and check.decision is not Outcome.HELD:
                lines.append(f"    {check.detail}")
        lines += ["", *(f"not checked: {lost}" for lost in self.subject.lost)]
        lines.append(
            f"{self.requests} requests in {self.seconds:.1f} s; for each split: false alarm at most "
            f"{self.limits.alpha:g}, a difference of {self.limits.detect:g} points found with "
            f"{self.limits.power:.4g}"
        )
        lines.append(self.verdict)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """
        The report for a machine; `schema` names this form.
        """
        return {
            "schema": SCHEMA,
            "held": self.held,
            "exitCode": self.exit_code,
            "verdict": self.verdict,
            "interrupted": self.interrupted or None,
            "release": self.subject.release or None,
            "model": self.subject.routing.model,
            "gateway": self.subject.gateway,
            "host": self.subject.host,
            "routeRevision": self.revision,
            "routes": [
                {"name": route.name, "inWords": str(route), "weights": dict(route.weights)}
                for route in self.subject.routing.routes
            ],
            "alpha": self.limits.alpha,
            "power": self.limits.power,
            "detectPoints": self.limits.detect,
            "seconds": round(self.seconds, 3),
            "requests": self.requests,
            "notChecked": list(self.subject.lost),
            "checks": [
                {
                    "name": check.name,
                    "about": check.about,
                    "api": check.api.value if check.api else None,
                    "decision": check.decision.name.lower(),
                    "expected": check.expected,
                    "observed": check.observed,
                    "answers": check.n,
                    "needed": check.needed,
                    "detail": check.detail or None,
                    "shares": [dataclasses.asdict(share) for share in check.shares],
                }
                for check in self.checks
            ],
        }


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    *texts, number = cells
    left = [cell.ljust(width) for cell, width in zip(texts, widths, strict=False)]
    return "  ".join([*left, number.rjust(widths[-1])]).rstrip()
