"""
Predictions are mirrored as often as the route says, at their real size.

Envoy does not mirror a request whose body exceeds its buffer, and tells no client. The mirrored track's own servers
count what arrived, and enough requests are sent to tell the share from none.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tfcanary.check.context import Context
from tfcanary.check.finding import Finding
from tfcanary.check.ledger import Ledger
from tfcanary.client.request import PredictRequest
from tfcanary.contract import Api
from tfcanary.errors import NoEvidenceError, UnreachableError
from tfcanary.judge import split
from tfcanary.judge.verdict import Outcome
from tfcanary.routing.probes import Probe
from tfcanary.routing.route import Mirror
from tfcanary.wait import NotYet, wait_until

# A prediction that was mirrored last is counted within this.
SETTLE_SECONDS = 60.0

_COPIED, _ALONE = "mirrored", "not mirrored"


@dataclass(frozen=True, slots=True)
class _Mirrored:
    """
    A route's mirror over one API, and how many predictions tell its percentage from none.
    """

    api: Api
    probe: Probe
    mirror: Mirror
    planned: split.Plan

    def finding(self, outcome: Outcome, observed: str, n: int, detail: str) -> Finding:
        return Finding(
            "mirror",
            self.probe.aimed_at.name,
            self.api,
            outcome,
            f"{self.mirror.percent} % to {self.mirror.track}",
            observed,
            n,
            detail=detail,
            needed=self.planned.n,
        )

    def uncounted(self, why: str, n: int = 0) -> Finding:
        return self.finding(Outcome.NOT_ENOUGH, "not counted", n, why)


def mirrors(context: Context, ledger: Ledger, request: PredictRequest | None, what: str) -> Iterator[Finding]:
    """
    Each route with a mirror, by as many predictions as its percentage needs.

    Args:
        context: the run.
        ledger: takes the predictions.
        request: the prediction to ask for; None if there is none.
        what: its input, in a word.
    """
    count = context.subject.predictions_run
    for probe in context.own_probes:
        mirror = probe.aimed_at.mirror
        if mirror is None or not ledger.can_send(probe):
            continue
        mirrored = _Mirrored(ledger.api, probe, mirror, _plan(context, mirror))
        if count is None:
            yield mirrored.uncounted("only the pods of a --release can be asked")
        elif request is None:
            yield mirrored.uncounted("no prediction can be asked")
        else:
            yield _counted(mirrored, ledger, functools.partial(count, mirror.track), (request, what))


def _plan(context: Context, mirror: Mirror) -> split.Plan:
    return split.plan(
        {_COPIED: mirror.percent, _ALONE: 100 - mirror.percent},
        alpha=context.options.alpha,
        power=context.options.power,
        # Where all are mirrored, chance has no part in it, and a part that is lost is found too.
        detect=context.options.detect if mirror.percent == 100 else None,
        alternatives=[{_COPIED: 0, _ALONE: 100}],
    )


def _counted(
    mirrored: _Mirrored, ledger: Ledger, count: Callable[[], int], asked: tuple[PredictRequest, str]
) -> Finding:
    """
    Send predictions, and count those that the mirrored track ran.
    """
    probe, (request, what) = mirrored.probe, asked
    sent = 0
    try:
        before = _settled(count)
        for _ in range(mirrored.planned.n):
            answer = ledger.client.predict(request, probe.headers, prefix=probe.prefix)
            sent += ledger.record(answer, "predict").ok
        came = _settled(count) - before
    except NoEvidenceError as exc:
        return mirrored.uncounted(str(exc), n=sent)
    outcome, detail = _judged(mirrored, sent, came)
    size = f"{request.nbytes} bytes" if request.nbytes < 1024 else f"{request.nbytes // 1024} KiB"
    return mirrored.finding(outcome, f"{came} of {sent} arrived, {size} of {what} each", sent, detail)


def _judged(mirrored: _Mirrored, sent: int, came: int) -> tuple[Outcome, str]:
    """
    Judge how many of the sent predictions came.
    """
    if came < 0:
        return Outcome.NOT_ENOUGH, f"a pod of {mirrored.mirror.track} went, and took its count along"
    if came > sent:
        return Outcome.NOT_ENOUGH, f"others send predictions to {mirrored.mirror.track} as well"
    verdict = split.judge(mirrored.planned, {_COPIED: came, _ALONE: sent - came})
    detail = verdict.reason
    if verdict.decision is Outcome.FAILED:
        detail += "; are bodies larger than the gateway's buffer? see Envoy's retry_or_shadow_abandoned"
    return verdict.decision, detail


def _settled(count: Callable[[], int]) -> int:
    """
    A count that two readings agree on: a mirrored prediction is counted when it has run.

    Raises:
        NoEvidenceError: if it cannot be read, or does not come to rest.
    """
    last = -1

    def rests() -> int:
        nonlocal last
        before, last = last, count()
        if last != before:
            raise NotYet(f"{last} predictions, and {before} a second before")
        return last

    try:
        return wait_until(
            "the mirrored track's predictions", rests, timeout_seconds=SETTLE_SECONDS, interval_seconds=1
        )
    except UnreachableError as exc:
        raise NoEvidenceError(str(exc)) from exc
