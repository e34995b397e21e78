"""
Reports as JSON, for programs.
"""

import dataclasses
from typing import Any

from tfcanary.check.finding import Finding
from tfcanary.check.report import Report

SCHEMA = "tfserving-canary/check-gateway/1"


def as_json(report: Report) -> dict[str, Any]:
    """
    The report as JSON values; `schema` names this form.
    """
    return {
        "schema": SCHEMA,
        "held": report.held,
        "exitCode": report.exit_code,
        "verdict": report.verdict,
        "interrupted": report.interrupted or None,
        "release": report.release or None,
        "model": report.model,
        "gateway": report.gateway,
        "host": report.host,
        "hosts": list(report.hosts),
        "routeRevision": report.revision,
        "profile": report.profile or None,
        "requestsFrom": report.source or None,
        "routes": [
            {"name": route.name, "inWords": str(route), "weights": dict(route.weights)}
            for route in report.routes
        ],
        "alpha": report.options.alpha,
        "power": report.options.power,
        "detectPoints": report.options.detect,
        "seconds": round(report.seconds, 3),
        "requests": len(report.records),
        "notChecked": list(report.lost),
        "checks": [_finding(finding) for finding in report.findings],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "about": finding.about,
        "api": finding.api.value if finding.api else None,
        "decision": finding.outcome.name.lower(),
        "expected": finding.expected,
        "observed": finding.observed,
        "answers": finding.n,
        "needed": finding.needed,
        "detail": finding.detail or None,
        "shares": [dataclasses.asdict(share) for share in finding.shares],
    }
