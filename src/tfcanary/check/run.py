"""
Prove at the gateway what the routes do, over REST and over gRPC apart.

What should happen comes from the values (files, or the live release); what does happen is read from answers. The
order is: both APIs show the route's revision, each route's split, each header rule both ways, predictions of real
pictures; and over all of it no failed request and one revision. A check without answers says so, and the run then ends
with exit code 4.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence

from tfcanary.check import agreement, answers, propagation, refusals, splits, totals
from tfcanary.check.context import Context
from tfcanary.check.finding import Finding
from tfcanary.check.ledger import Ledger
from tfcanary.check.mirrors import mirrors
from tfcanary.check.report import Report
from tfcanary.check.sticky import sticky
from tfcanary.check.subject import Options, Subject
from tfcanary.client.pictures import Picture, default_pictures
from tfcanary.errors import UnreachableError
from tfcanary.traffic.records import joined

_log = logging.getLogger(__name__)


def check_gateway(
    subject: Subject, options: Options | None = None, pictures: Sequence[Picture] | None = None
) -> Report:
    """
    Check everything about `subject` at its gateway.

    Args:
        subject: what should happen, and where.
        options: error rates and times.
        pictures: what predictions are asked for; None takes the two photographs that scikit-learn ships.

    Raises:
        UnreachableError: if nothing answers at the gateway at all. If it goes away in the middle, the report so far is
            returned, interrupted.
        UsageError: if there is nothing to check with.
    """
    options = options or Options()
    context = Context.of(subject, options, default_pictures() if pictures is None else pictures)
    findings = list(subject.findings)
    interrupted = ""
    with context.clients(subject.gateway) as (rest, grpc):
        ledgers = [
            Ledger(client, concurrency=options.concurrency, start=context.start) for client in (rest, grpc)
        ]
        arrival = propagation.arrival(context, ledgers)
        findings += _logged(arrival.findings)
        findings += _logged(propagation.gateway_pods(context, arrival.revision))
        try:
            # One by one: an interruption keeps those that came before it.
            for finding in _logged(_findings(context, arrival.ledgers)):
                findings.append(finding)
            if options.security:
                findings += _logged(refusals.closed(context.routing.model, rest, grpc))
        except UnreachableError as exc:
            interrupted = str(exc)
        for ledger in arrival.ledgers:
            findings += _logged(
                [totals.no_failures(context, ledger), totals.one_revision(context, ledger, arrival.revision)]
            )
    return Report(
        model=subject.routing.model,
        gateway=subject.gateway,
        host=subject.host,
        release=subject.release,
        routes=subject.routing.routes,
        revision=arrival.revision,
        options=options,
        findings=tuple(findings),
        lost=subject.lost,
        seconds=time.monotonic() - context.start,
        records=joined([ledger.records() for ledger in ledgers]),
        interrupted=interrupted,
    )


def _findings(context: Context, ledgers: Sequence[Ledger]) -> Iterator[Finding]:
    """
    The findings that rest on requests, over the APIs that show the routes.
    """
    for ledger in ledgers:
        yield from splits.splits(context, ledger)
        yield from splits.header_rules(context, ledger)
        yield from sticky(context, ledger)
        yield from refusals.unrouted_paths(context, ledger)
        yield from splits.unprobed_routes(context, ledger)
    described: agreement.Interfaces = {}
    for ledger in ledgers:
        described = {**described, **answers.interfaces(context, ledger)}
    yield answers.same_interface(context, described)
    given: agreement.Answers = {}
    for ledger in ledgers:
        for signature, name, values in answers.inputs_of(context, described):
            finding, firsts = answers.predictions(context, ledger, signature, name, values)
            given = {**given, **firsts}
            yield finding
    yield from agreement.agreement(given, context.expected_tracks(), both_apis=len(ledgers) > 1)
    for ledger in ledgers:
        yield from mirrors(context, ledger, described)
        yield from refusals.forged_tokens(context, ledger)


def _logged(findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        _log.info("%s: %s, seen %s in %d", finding.title, finding.outcome.value, finding.observed, finding.n)
        yield finding
