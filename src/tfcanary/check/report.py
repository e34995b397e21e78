"""
All findings of one run.
"""

from dataclasses import dataclass

from tfcanary.check.finding import Finding
from tfcanary.check.subject import Options
from tfcanary.errors import NoEvidenceError, UnreachableError
from tfcanary.judge.verdict import Outcome
from tfcanary.routing.route import Route
from tfcanary.traffic.records import Records


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
        hosts: the gateway's hosts; any other name of theirs was not asked for.
        release: the Helm release; empty where only files were given.
        revision: the route revision that answers must carry; None if no answer named one.
        lost: what could not be checked, in words.
        seconds: how long the run took.
        records: every request, in the order in which they were sent.
        interrupted: why the run ended early, if it did.
        profile: what the model was looked at for; empty if its interface is not known.
        source: where the inputs of predictions are from, in words.
    """

    model: str
    gateway: str
    host: str | None
    hosts: tuple[str, ...]
    release: str
    routes: tuple[Route, ...]
    revision: str | None
    options: Options
    findings: tuple[Finding, ...]
    lost: tuple[str, ...]
    seconds: float
    records: Records
    interrupted: str = ""
    profile: str = ""
    source: str = ""

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
