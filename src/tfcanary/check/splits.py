"""
Who answers: each route's split, and each header rule both ways (matches and near misses).
"""

import logging
from collections import Counter
from collections.abc import Iterator

from tfcanary.check.context import Context
from tfcanary.check.finding import Finding
from tfcanary.check.ledger import Ledger
from tfcanary.check.report import split_request
from tfcanary.contract import TRACK_HEADER
from tfcanary.judge import split
from tfcanary.judge.verdict import Outcome, Share, Verdict
from tfcanary.routing.probes import Aim, Probe, unprobed

_log = logging.getLogger(__name__)


def splits(context: Context, ledger: Ledger) -> Iterator[Finding]:
    """
    Each route's split, by the route's own request.
    """
    for probe in context.own_probes:
        if ledger.can_send(probe):
            yield _split(context, ledger, "split", probe.aimed_at.name, probe)


def header_rules(context: Context, ledger: Ledger) -> Iterator[Finding]:
    """
    Each rule, by the other requests that match it and by those that just miss it.
    """
    for probe in context.probes:
        if probe.aim is not Aim.OWN and ledger.can_send(probe):
            yield _split(context, ledger, "header rule", probe.name, probe)


def unprobed_routes(context: Context, ledger: Ledger) -> Iterator[Finding]:
    """
    The routes that no request from here reaches; they lack evidence.
    """
    for route in unprobed(context.routing, context.subject.tokens):
        need = (
            "callers inside the mesh have it"
            if route.labels
            else "--token FILE asks with a token that fits it"
        )
        yield Finding(
            "split",
            route.name,
            ledger.api,
            Outcome.NOT_ENOUGH,
            str(route),
            "no answer",
            0,
            detail=f"not asked from here: {need}",
        )


def _split(context: Context, ledger: Ledger, name: str, about: str, probe: Probe) -> Finding:
    """
    Count which tracks answer the probe's requests, and judge the counts by the route that must take them.
    """
    planned = context.plans[probe.name]
    _log.info("%s %s over %s: at most %d requests", name, about, ledger.api.value, planned.n)
    request = split_request(about) if probe.aim is Aim.OWN else name
    verdict, unnamed = _counted(ledger, probe, planned, request)
    expected = ", ".join(_in_words(share) for share in verdict.shares if share.weight)
    if probe.aim is not Aim.OWN:
        expected = f"{probe.expected.name}: {expected}"
    seen = [f"{share.track} {share.count}" for share in verdict.shares if share.count]
    seen += [f"no track {unnamed}"] if unnamed else []
    outcome, detail = verdict.decision, verdict.reason
    if not context.shows_tracks(probe):
        outcome, detail = Outcome.NOT_ENOUGH, context.off
    elif unnamed and context.routing.attribution:
        outcome, detail = Outcome.FAILED, f"{unnamed} answers have no {TRACK_HEADER}"
    elif unnamed:
        outcome, detail = Outcome.NOT_ENOUGH, f"{unnamed} answers name no version of a track; {context.off}"
    return Finding(
        name,
        about,
        ledger.api,
        outcome,
        expected,
        ", ".join(seen) or "no answer",
        verdict.n + unnamed,
        detail=detail,
        shares=verdict.shares,
        needed=verdict.needed,
    )


def _counted(ledger: Ledger, probe: Probe, planned: split.Plan, request: str) -> tuple[Verdict, int]:
    """
    Ask until the evidence decides, or the plan's number is reached; and how many answers named no track.
    """
    tracks: Counter[str] = Counter()
    unnamed = asked = 0
    verdict = split.look(planned, tracks)
    while verdict.decision is Outcome.NOT_ENOUGH and asked < planned.n:
        # A small batch asks for little beyond the decision; this one still keeps every connection busy for a while.
        batch = min(planned.n - asked, 2 * ledger.concurrency)
        asked += batch
        for answer in ledger.ask(probe, batch, request):
            if not answer.ok:
                continue
            track = ledger.track(answer, asked=probe.version)
            unnamed += track is None
            tracks.update(() if track is None else (track,))
        verdict = split.look(planned, tracks)
    return verdict, unnamed


def _in_words(share: Share) -> str:
    """
    A track's weight and, where chance has a part in it, the counts that it allows.
    """
    bounds = f" ({share.low} to {share.high})" if 0 < share.weight < 100 else ""
    return f"{share.track} {share.weight:g} %{bounds}"
