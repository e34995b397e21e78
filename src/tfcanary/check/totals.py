"""
Over all requests of one API: none failed, and all answers carry one revision.
"""

from tfcanary.check.context import Context
from tfcanary.check.finding import OFF, SHOWN_FAILURES, Finding, outcome_of
from tfcanary.check.ledger import Ledger
from tfcanary.judge.verdict import Outcome


def no_failures(context: Context, ledger: Ledger) -> Finding:
    """
    No request failed.
    """
    records = ledger.records()
    failed, n = int(records.failed.sum()), len(records)
    observed = f"{failed} failed"
    if not failed and n:
        bound = 1 - (1 - context.options.power) ** (1 / n)
        observed += f", which means a failure rate below {100 * bound:.2g} %"
    first = (records.names[number] for number in records.error[records.failed][:SHOWN_FAILURES])
    return Finding(
        "failed requests",
        "",
        ledger.api,
        outcome_of(failed),
        "0 failed",
        observed,
        n,
        detail="; ".join(dict.fromkeys(first)),
    )


def one_revision(context: Context, ledger: Ledger, revision: str | None) -> Finding:
    """
    Every answer carries the revision that arrived.
    """
    seen = ledger.records().answered().counts("revision")
    odd = [name for name in seen if name != revision]
    attribution = context.routing.attribution
    return Finding(
        "revision",
        "",
        ledger.api,
        outcome_of(odd) if attribution else Outcome.NOT_ENOUGH,
        f"{revision or 'a revision'} on every answer",
        ", ".join(f"{name} {n}" for name, n in seen.items()) or "no answer",
        seen.total(),
        detail="" if attribution else OFF,
    )
