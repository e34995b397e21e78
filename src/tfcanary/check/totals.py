"""
Over all requests of one API: none failed, all answers carry one revision, and each track's came from its own version.
"""

from collections import Counter
from collections.abc import Iterator

from tfcanary.check.context import Context
from tfcanary.check.finding import SHOWN_FAILURES, Finding, outcome_of
from tfcanary.check.ledger import Ledger
from tfcanary.judge.verdict import Outcome


def totals(context: Context, ledger: Ledger, revision: str | None) -> Iterator[Finding]:
    """
    Everything that is said of all requests together.
    """
    yield no_failures(context, ledger)
    yield one_revision(context, ledger, revision)
    yield from versions(context, ledger)


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
        detail="" if attribution else context.off,
    )


def versions(context: Context, ledger: Ledger) -> Iterator[Finding]:
    """
    Each track's answers came from the version that the values give it, as the answers themselves say.

    The routes write the track's name into an answer: it says where a request was meant to go. Only the version, which
    the model server writes, says who answered.
    """
    routing, answered = context.routing, ledger.records().answered()
    if routing.attribution:
        for track in routing.serving():
            if track in routing.versions:
                version = routing.versions[track]
                yield _version(ledger, track, [version], answered.of(track=track).counts("version"))
    elif routing.by_version:
        yield _version(ledger, "", sorted(routing.by_version), answered.counts("version"))


def _version(ledger: Ledger, about: str, wanted: list[str], seen: Counter[str]) -> Finding:
    odd = [version for version in seen if version not in wanted]
    return Finding(
        "version",
        about,
        ledger.api,
        outcome_of(odd),
        f"{' or '.join(wanted)} on every answer",
        ", ".join(f"{version} on {n}" for version, n in sorted(seen.items()))
        or "no answer names its version",
        seen.total(),
        detail="the pods behind the route are of another version: see endpoints, pods and live objects"
        if odd
        else "",
    )
