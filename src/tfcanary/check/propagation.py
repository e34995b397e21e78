"""
The routes have arrived: at the gateway over each API, and at each gateway pod by itself.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfcanary.check.context import Context
from tfcanary.check.finding import Finding
from tfcanary.check.ledger import Client, Ledger
from tfcanary.client.answer import Answer
from tfcanary.errors import UnreachableError
from tfcanary.judge.verdict import Outcome
from tfcanary.wait import NotYet, WaitTimeoutError, wait_until

# A route counts as arrived when so many answers in a row carry its revision.
IN_A_ROW = 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    The APIs that show the routes.

    Attributes:
        revision: that of the answers, where the subject named none.
    """

    ledgers: tuple[Ledger, ...]
    revision: str | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Watched:
    """
    What one API at one address answered until it showed the revision, or until the time was up.
    """

    finding: Finding
    arrived: bool
    revision: str | None
    seen: Sequence[Answer]

    @property
    def reached(self) -> bool:
        return any(answer.reached for answer in self.seen)


def arrival(context: Context, ledgers: Sequence[Ledger]) -> Arrival:
    """
    Wait until each API shows the revision N times in a row.

    Raises:
        UnreachableError: if nothing answered over any API.
    """
    deadline = time.monotonic() + context.options.timeout_seconds
    revision = context.subject.revision
    watched = []
    for ledger in ledgers:
        watched.append(_watch(context, "", ledger.client, revision, deadline))
        revision = watched[-1].revision
    if not any(one.reached for one in watched):
        missing = list(not_up(context))
        last = " nor over ".join(f"{one.seen[-1].api.value} ({one.seen[-1]})" for one in watched)
        unreached = UnreachableError(
            f"gateway {context.subject.gateway}: no answer within {context.options.timeout_seconds:g} s, over "
            f"{last}; is it up, and is it the address of Istio's gateway? give it with --gateway HOST:PORT"
        )
        for finding in missing:
            unreached.add_note(f"{finding.about}: {finding.observed}")
        raise unreached
    arrived = tuple(ledger for ledger, one in zip(ledgers, watched, strict=True) if one.arrived)
    return Arrival(arrived, revision, tuple(one.finding for one in watched))


def not_up(context: Context) -> Iterator[Finding]:
    """
    Say of each track whose pods are not up why, as the cluster has it.
    """
    for track, reason in sorted((context.subject.not_up or dict)().items()):
        about = f"track {track}" if track else ""
        yield Finding("readiness", about, None, Outcome.FAILED, "Ready, with a sidecar", reason, 0)


def gateway_pods(context: Context, revision: str | None) -> Iterator[Finding]:
    """
    Ask every gateway pod by itself: the load balancer may never have picked the pod whose configuration is stale.
    """
    for pod in context.subject.gateway_pods:
        with pod.open() as address, context.clients(address) as clients:
            for client in clients:
                deadline = time.monotonic() + context.options.timeout_seconds
                watched = _watch(context, f"pod {pod.name}", client, revision, deadline)
                if watched.arrived or watched.reached:
                    yield watched.finding
                    continue
                # Nothing was seen of the pod, which says nothing about its routes.
                yield dataclasses.replace(
                    watched.finding,
                    outcome=Outcome.NOT_ENOUGH,
                    detail="no way to the pod; the right to create pods/portforward in its namespace "
                    "opens one, --no-gateway-pods does without",
                )


def _watch(context: Context, about: str, client: Client, revision: str | None, deadline: float) -> _Watched:
    """
    Wait until one API shows the revision N times in a row at one address.
    """
    start = time.monotonic()
    attribution = context.routing.attribution
    what = (f"revision {revision}" if revision else "one revision") if attribution else "an answer"
    expected = f"{what}, {IN_A_ROW} times in a row"
    seen: list[Answer] = []
    try:
        wait_until(
            f"routes over {client.api.value}",
            lambda: _in_a_row(client, revision, seen, attribution=attribution),
            timeout_seconds=max(0.0, deadline - start),
        )
    except WaitTimeoutError as exc:
        observed, detail = exc.observed, f"not within {context.options.timeout_seconds:g} s"
        reason = context.subject.reason(seen[-1], revision) if context.subject.reason else ""
        detail += f"; {reason}" if reason else ""
        outcome = Outcome.FAILED
    else:
        observed = f"{seen[-1].revision or 'no revision'} after {time.monotonic() - start:.1f} s"
        outcome, detail = (Outcome.HELD, "") if attribution else (Outcome.NOT_ENOUGH, context.off)
    finding = Finding("propagation", about, client.api, outcome, expected, observed, len(seen), detail=detail)
    arrived = outcome is not Outcome.FAILED
    return _Watched(finding, arrived, _wanted(revision, seen, attribution=attribution), seen)


def _in_a_row(client: Client, revision: str | None, seen: list[Answer], *, attribution: bool) -> None:
    for count in range(IN_A_ROW):
        answer = client.metadata()
        seen.append(answer)
        if not answer.ok:
            raise NotYet(str(answer))
        if not attribution:
            continue
        if answer.revision is None or answer.revision != _wanted(revision, seen, attribution=attribution):
            raise NotYet(f"{answer} after {count} in a row")


def _wanted(revision: str | None, seen: Sequence[Answer], *, attribution: bool) -> str | None:
    """
    The revision that must arrive: the declared one or, where none is declared, that of the first answer.
    """
    if revision is not None or not attribution:
        return revision
    return next((answer.revision for answer in seen if answer.ok and answer.revision is not None), None)
