"""
All findings of one run.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfcanary.check.finding import Finding
from tfcanary.check.subject import Options
from tfcanary.errors import NoEvidenceError, UnreachableError
from tfcanary.judge.verdict import Outcome
from tfcanary.routing.route import Route
from tfcanary.traffic.records import Records

SCHEMA = "tfserving-canary/check-gateway/1"


def split_request(route: str) -> str:
    """
    What the records call the requests that count for a route's split.
    """
    return f"split {route}"


@dataclass(frozen=True, slots=True)
class Report:
    """
    All findings of one run, as plain facts.

    Attributes:
        host: the host name that requests asked for; None is the gateway's address.
        release: the Helm release; empty where only files were given.
        revision: the route revision that answers must carry; None if no answer named one.
        lost: what could not be checked, in words.
        seconds: how long the run took.
        records: every request, in the order in which they were sent.
        interrupted: why the run ended early, if it did.
    """

    model: str
    gateway: str
    host: str | None
    release: str
    routes: tuple[Route, ...]
    revision: str | None
    options: Options
    findings: tuple[Finding, ...]
    lost: tuple[str, ...]
    seconds: float
    records: Records
    interrupted: str = ""

    @property
    def held(self) -> bool:
        """
        Whether there are findings, and all of them held.
        """
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """
        0 held, 1 did not hold, 3 interrupted, 4 not enough evidence.
        """
        outcomes = {check.outcome for check in self.findings}
        if self.interrupted:
            return UnreachableError.exit_code
        if Outcome.FAILED in outcomes:
            return 1
        if outcomes != {Outcome.HELD}:
            return NoEvidenceError.exit_code
        return 0

    @property
    def verdict(self) -> str:
        """
        The outcome in one line.
        """
        if self.held:
            return f"all {len(self.findings)} checks held"
        parts = []
        for outcome, words in ((Outcome.FAILED, "did not hold"), (Outcome.NOT_ENOUGH, "lack evidence")):
            titles = [check.title for check in self.findings if check.outcome is outcome]
            if titles:
                parts.append(f"{len(titles)} of {len(self.findings)} checks {words}: {', '.join(titles)}")
        if self.interrupted:
            parts.append(f"interrupted: {self.interrupted}")
        return "; ".join(parts) or "nothing was checked"

    def table(self) -> str:
        """
        All checks for a reader, the verdict last.
        """
        routes = [f"  {route.name}: {route}" for route in self.routes]
        head = ("result", "check", "API", "expected", "seen", "answers")
        rows = [
            (
                check.outcome.value,
                f"{check.name} {check.about}".strip(),
                check.api.value if check.api else "",
                check.expected,
                check.observed,
                str(check.n),
            )
            for check in self.findings
        ]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        lines = [
            f"model {self.model} at {self.gateway}, route {self.revision or 'unknown'}",
            *routes,
            "",
            _aligned(head, widths),
            _aligned(["-" * width for width in widths], widths),
        ]
        for check, row in zip(self.findings, rows, strict=True):
            lines.append(_aligned(row, widths))
            if check.detail and check.outcome is not Outcome.HELD:
                lines.append(f"    {check.detail}")
        lines += ["", *(f"not checked: {lost}" for lost in self.lost)]
        lines.append(
            f"{len(self.records)} requests in {self.seconds:.1f} s; for each split: false alarm at most "
            f"{self.options.alpha:g}, a difference of {self.options.detect:g} points found with "
            f"{self.options.power:.4g}"
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
            "release": self.release or None,
            "model": self.model,
            "gateway": self.gateway,
            "host": self.host,
            "routeRevision": self.revision,
            "routes": [
                {"name": route.name, "inWords": str(route), "weights": dict(route.weights)}
                for route in self.routes
            ],
            "alpha": self.options.alpha,
            "power": self.options.power,
            "detectPoints": self.options.detect,
            "seconds": round(self.seconds, 3),
            "requests": len(self.records),
            "notChecked": list(self.lost),
            "checks": [
                {
                    "name": check.name,
                    "about": check.about,
                    "api": check.api.value if check.api else None,
                    "decision": check.outcome.name.lower(),
                    "expected": check.expected,
                    "observed": check.observed,
                    "answers": check.n,
                    "needed": check.needed,
                    "detail": check.detail or None,
                    "shares": [dataclasses.asdict(share) for share in check.shares],
                }
                for check in self.findings
            ],
        }


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    *texts, number = cells
    left = [cell.ljust(width) for cell, width in zip(texts, widths, strict=False)]
    return "  ".join([*left, number.rjust(widths[-1])]).rstrip()
