"""
How the check is run against the gateway double, and what it found.
"""

from typing import Any

from tfcanary.check.propagation import IN_A_ROW
from tfcanary.check.report import Report
from tfcanary.check.subject import Options, Subject
from tfcanary.judge.verdict import Outcome
from tfcanary.routing.route import Routing

# Error rates that find the planted faults with few requests.
QUICK = Options(alpha=1e-4, power=0.99, detect=40, timeout_seconds=0.5)
# The number of a request before the predictions: more than this many are made over each API before them.
MIDDLE = IN_A_ROW + 15


def subject(double: Any, expected: Routing, **more: Any) -> Subject:
    """
    A release whose gateway is the double.
    """
    return Subject(routing=expected, gateway=double.address, revision="rev-2", release="resnet", **more)


def titles(report: Report, outcome: Outcome = Outcome.FAILED) -> set[str]:
    """
    The titles of the findings with this outcome.
    """
    return {finding.title for finding in report.findings if finding.outcome is outcome}


def kinds(report: Report, outcome: Outcome = Outcome.FAILED) -> set[tuple[str, str | None]]:
    """
    The kinds of the findings with this outcome, each with its API.
    """
    return {
        (finding.name, finding.api.value if finding.api else None)
        for finding in report.findings
        if finding.outcome is outcome
    }


def row(report, name):
    """
    The one finding of this kind.
    """
    (found,) = (finding for finding in report.findings if finding.name == name)
    return found


def row_of(report, name, api):
    """
    The one finding of this kind over this API.
    """
    (found,) = (one for one in report.findings if (one.name, one.api) == (name, api))
    return found


def with_agree(agree):
    """
    The same error rates, and a bound on how far tracks may differ.
    """
    return Options(QUICK.alpha, QUICK.power, QUICK.detect, QUICK.timeout_seconds, agree=agree)
