"""
What is checked, and what became of it: the subject, the error rates, each check, the report as a table and as JSON.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from tfcanary import jwt, predict, split
from tfcanary.errors import NoEvidenceError, UnreachableError
from tfcanary.predict import Api
from tfcanary.routing import Routing
from tfcanary.split import Decision, Share

SCHEMA = "tfserving-canary/check-gateway/1"
TIMEOUT_SECONDS = 60.0
SHOWN_FAILURES = 5
OFF = "routing.attribution is off: answers name neither track nor revision"


@dataclass(frozen=True, slots=True)
class Check:
    """
    One thing that was checked: what was expected, what was seen, and in how many answers.

    Attributes:
        name: the kind of check, the same word in every report.
        about: the route, header rule or signature that it is about.
        shares: the counts and bounds of a split.
        needed: how many answers the stated error rates ask for.
    """

    name: str
    about: str
    api: Api | None
    decision: Decision
    expected: str
    observed: str
    n: int
    detail: str = ""
    shares: tuple[Share, ...] = ()
    needed: int = 0

    @property
    def title(self) -> str:
        """
        Name, subject and API in a few words.
        """
        api = f" ({self.api.value})" if self.api else ""
        return f"{self.name} {self.about}".strip() + api


@dataclass(frozen=True, slots=True)
class Door:
    """
    One gateway pod by itself.

    Attributes:
        open: makes it reachable for a while, and says where.
    """

    name: str
    open: Callable[[], AbstractContextManager[str]]


@dataclass(frozen=True, slots=True)
class Subject:
    """
    What is checked, and against what.

    Attributes:
        revision: what `x-route-revision` must be; None takes that of the first answer.
        before: the routes before the change, which the check must not mistake for the declared ones.
        findings: what was checked before any request was made.
        lost: what cannot be checked, in words.
        doors: the gateway's pods; every one of them must have the routes.
        pods: how many pods each track has; any one of them may be broken.
        predictions: says how many predictions a track's pods have run so far; None if they cannot be asked.
        tokens: clients' tokens, for routes that ask for one.
        tls: how the gateway's certificate is verified; None speaks plainly.
    """

    routing: Routing
    gateway: str
    host: str | None = None
    release: str = ""
    revision: str | None = None
    before: Routing | None = None
    findings: tuple[Check, ...] = ()
    lost: tuple[str, ...] = ()
    doors: tuple[Door, ...] = ()
    pods: Mapping[str, int] = field(default_factory=dict)
    predictions: Callable[[str], int] | None = None
    tokens: tuple[jwt.Token, ...] = ()
    tls: predict.Tls | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The error rates and times of a check.

    Attributes:
        alpha: probability that a correct split is called wrong, for each split.
        power: probability that a wrong one is found.
        detect: the smallest difference, in percentage points, that must be found.
        timeout_seconds: how long the routes may take to reach the gateway.
        security: also ask for what nobody outside may reach.
    """

    alpha: float = split.ALPHA
    power: float = split.POWER
    detect: float = split.DETECT
    timeout_seconds: float = TIMEOUT_SECONDS
    concurrency: int = predict.CONCURRENCY
    security: bool = False


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
    limits: Limits
    revision: str | None
    checks: tuple[Check, ...]
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
        if Decision.FAILED in decisions:
            return 1
        if decisions != {Decision.HELD}:
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
        for decision, words in ((Decision.FAILED, "did not hold"), (Decision.NOT_ENOUGH, "lack evidence")):
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
            if check.detail and check.decision is not Decision.HELD:
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
