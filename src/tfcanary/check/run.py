"""
Prove at the gateway what the routes do, over REST and over gRPC apart.

What should happen comes from the values (files, or the live release); what does happen is read from answers. The
order is: both APIs show the route's revision, each route's split, each header rule both ways, predictions; and over all of it no failed request and one revision. A check without answers says so, and the run then ends
with exit code 4.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tfcanary.check import answers, inputs, propagation, refusals, splits, totals
from tfcanary.check.context import Context
from tfcanary.check.finding import Finding
from tfcanary.check.ledger import Ledger
from tfcanary.check.mirrors import mirrors
from tfcanary.check.pictures import Pictures
from tfcanary.check.profile import Answers, Compared, Interfaces, Profile
from tfcanary.check.report import Report
from tfcanary.check.sticky import sticky
from tfcanary.check.subject import Options, Subject
from tfcanary.client.given import Given
from tfcanary.client.pictures import Picture
from tfcanary.contract import Api
from tfcanary.errors import UnreachableError
from tfcanary.judge.verdict import Outcome
from tfcanary.traffic.records import Records, joined

_log = logging.getLogger(__name__)


@dataclass
class _Seen:
    """
    What a run has found so far.

    Attributes:
        revision: that of the routes that arrived.
        records: every request, once the last was sent.
        interrupted: why the run ended early, if it did.
        profile: None until the model's interface is known.
        asked: the predictions that the model is asked for.
        lost: what could not be looked at around the release.
    """

    findings: list[Finding]
    revision: str | None = None
    records: Records = field(default_factory=lambda: joined([]))
    interrupted: str = ""
    profile: Profile | None = None
    asked: inputs.Asked = field(default_factory=lambda: inputs.Asked(""))
    lost: tuple[str, ...] = ()

    def look_around(self, context: Context) -> None:
        """
        Look at what else shapes the traffic, whether the routes arrived or not.
        """
        if context.subject.around is not None:
            around = context.subject.around(context.options.timeout_seconds)
            self.findings += _logged(around.findings)
            self.lost = around.lost


def check_gateway(
    subject: Subject,
    options: Options | None = None,
    pictures: Sequence[Picture] | None = None,
    given: Given | None = None,
) -> Report:
    """
    Check everything about `subject` at its gateway.

    Args:
        subject: what should happen, and where.
        options: error rates and times.
        pictures: what a model of pictures is asked for; None takes the two photographs that scikit-learn ships.
        given: what the model is asked for instead.

    Raises:
        UnreachableError: if nothing answers at all; if that begins in the middle, the report so far is returned.
        UsageError: if there is nothing to check with.
    """
    options = options or Options()
    context = Context.of(subject, options, pictures, given)
    seen = _Seen(list(subject.findings))
    _look(context, seen)
    if any(finding.outcome is Outcome.FAILED for finding in seen.findings):
        seen.findings += _logged(propagation.not_up(context))
    return Report(
        model=subject.routing.model,
        gateway=subject.gateway,
        host=subject.host,
        hosts=subject.routing.hosts,
        release=subject.release,
        routes=subject.routing.routes,
        revision=seen.revision,
        options=options,
        findings=tuple(seen.findings),
        lost=(*subject.lost, *seen.lost, *seen.asked.unasked),
        seconds=time.monotonic() - context.start,
        records=seen.records,
        interrupted=seen.interrupted,
        profile=seen.profile.name if seen.profile else "",
        source=seen.asked.source,
    )


def _look(context: Context, seen: _Seen) -> None:
    """
    Ask the gateway everything. One finding after another is kept: an interruption leaves those that came before it.
    """
    options = context.options
    with context.clients(context.subject.gateway) as (rest, grpc):
        ledgers = [
            Ledger(
                client,
                concurrency=options.concurrency,
                start=context.start,
                tracks=context.tracks_by_version,
            )
            for client in (rest, grpc)
        ]
        arrival = propagation.arrival(context, ledgers)
        seen.revision = arrival.revision
        _require_fitting(context, arrival.ledgers)
        seen.findings += _logged(arrival.findings)
        seen.findings += _logged(propagation.gateway_pods(context, arrival.revision))
        seen.look_around(context)
        try:
            for finding in _logged(_findings(context, arrival.ledgers, seen)):
                seen.findings.append(finding)
            if options.security:
                seen.findings += _logged(refusals.closed(context.routing.model, rest, grpc))
        except UnreachableError as exc:
            seen.interrupted = str(exc)
        for ledger in arrival.ledgers:
            seen.findings += _logged(totals.totals(context, ledger, arrival.revision))
        seen.records = joined([ledger.records() for ledger in ledgers])


def _require_fitting(context: Context, ledgers: Sequence[Ledger]) -> None:
    """
    Hold the user's requests against the model before anything is counted.
    """
    if context.given.requests and ledgers:
        interface = ledgers[0].client.metadata(parse=True).interface
        if interface:
            context.given.require_fitting(interface)


def _findings(context: Context, ledgers: Sequence[Ledger], seen: _Seen) -> Iterator[Finding]:
    """
    The findings that rest on requests, over the APIs that show the routes.
    """
    for ledger in ledgers:
        yield from splits.splits(context, ledger)
        yield from splits.header_rules(context, ledger)
        yield from sticky(context, ledger)
        yield from refusals.unrouted_paths(context, ledger)
        yield from splits.unprobed_routes(context, ledger)
    described: Interfaces = {}
    for ledger in ledgers:
        described = {**described, **answers.interfaces(context, ledger)}
    profile = seen.profile = answers.profile_of(described)
    # One interface for both APIs, so that both are asked the same.
    asked = seen.asked = inputs.asked_with(context, profile, next(iter(described.values()), {}))
    yield answers.same_interface(context, described, profile, asked)
    given: Answers = {}
    for ledger in ledgers:
        for signature in asked.over(ledger.api):
            findings, firsts = answers.predictions(
                context, ledger, profile, asked, signature=signature, found=described
            )
            given = {**given, **firsts}
            yield from findings
    yield from profile.agreement(
        Compared(
            given,
            asked.named,
            context.expected_tracks(),
            both_apis=all(asked.over(api) for api in Api) and len(ledgers) > 1,
            agree=context.options.agree,
        )
    )
    for ledger in ledgers:
        what = "picture" if isinstance(profile, Pictures) else "input"
        yield from mirrors(context, ledger, asked.mirrored(ledger.api, {key for _, key, _ in given}), what)
        yield from refusals.forged_tokens(context, ledger)


def _logged(findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        _log.info("%s: %s, seen %s in %d", finding.title, finding.outcome.value, finding.observed, finding.n)
        yield finding
