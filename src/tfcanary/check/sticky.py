"""
A client of a sticky route keeps its track.
"""

import functools
import math
from collections.abc import Iterator

from tfcanary.check.context import Context
from tfcanary.check.finding import SHOWN_FAILURES, Finding, outcome_of
from tfcanary.check.ledger import Ledger
from tfcanary.judge.verdict import Outcome
from tfcanary.routing.probes import Probe
from tfcanary.routing.route import Request, Route, Routing, Sticky

# Of each client; how many clients are asked follows from the power.
REQUESTS = 3
_NAME = "sticky"


def sticky(context: Context, ledger: Ledger) -> Iterator[Finding]:
    """
    Each sticky route that leaves something to chance: no client changes its track, and a user's is that of the hash.

    There are enough clients to find, with the power asked for, tracks that are drawn for each request.
    """
    for probe in context.own_probes:
        route = probe.aimed_at
        if route.sticky is None or not context.shows_tracks(probe) or not ledger.can_send(probe):
            continue
        if any(weight == 100 for weight in route.weights.values()):
            continue  # every client has the same track anyway
        if route.sticky is Sticky.USER and context.routing.user_header in context.routing.verified:
            yield Finding(
                _NAME,
                route.name,
                ledger.api,
                Outcome.NOT_ENOUGH,
                "users keep their track",
                "no answer",
                0,
                detail="the gateway takes users from tokens: each needs one of its own",
            )
            continue
        yield _kept(context, ledger, probe)


def _kept(context: Context, ledger: Ledger, probe: Probe) -> Finding:
    needed, clients = _sizes(probe.aimed_at, context.options.power)
    problems: list[str] = []
    n = 0
    for number in range(clients):
        answers, found = _client_stays(context.routing, ledger, probe, number)
        n += answers
        problems += found
    return Finding(
        _NAME,
        probe.aimed_at.name,
        ledger.api,
        outcome_of(problems),
        f"{clients} clients keep their track for {REQUESTS} requests",
        "; ".join(problems[:SHOWN_FAILURES]) or "as expected",
        n,
        needed=needed,
    )


def _sizes(route: Route, power: float) -> tuple[int, int]:
    """
    How many answers are needed, and of how many clients.
    """
    same = sum((weight / 100) ** 2 for weight in route.weights.values())
    needed = math.ceil(math.log(1 - power) / math.log(same))
    clients = math.ceil(needed / REQUESTS)
    if route.sticky is Sticky.COOKIE:
        # Each track's cookie has to be seen.
        least = min(weight for weight in route.weights.values() if weight) / 100
        clients = max(clients, math.ceil(math.log(1 - power) / math.log1p(-least)))
    return needed, clients


def _client_stays(routing: Routing, ledger: Ledger, probe: Probe, number: int) -> tuple[int, list[str]]:
    """
    Ask as one client: how many answers there were, and where it did not stay.
    """
    ask = functools.partial(ledger.client.metadata, prefix=probe.prefix, version=probe.version)
    headers = dict(probe.headers)
    if probe.aimed_at.sticky is Sticky.USER:
        headers, wanted = _user(routing, probe, number)
    else:
        first = ledger.record(ask(headers), _NAME, asked=probe.version)
        if not first.ok:
            return 0, []
        if first.cookie is None:
            return 1, [f"client {number}: the first answer sets no cookie"]
        headers["cookie"] = "; ".join(filter(None, [headers.get("cookie"), first.cookie]))
        wanted = ledger.track(first)
    answers = [ledger.record(ask(headers), _NAME, asked=probe.version) for _ in range(REQUESTS)]
    good = [ledger.track(answer) for answer in answers if answer.ok]
    odd = [track for track in good if track != wanted]
    return len(good), [f"client {number}: {odd[0]} instead of {wanted}"] if odd else []


def _user(routing: Routing, probe: Probe, number: int) -> tuple[dict[str, str], str | None]:
    """
    The headers of a user whom the route takes, another for each number where it may be, and the user's track.
    """
    name = routing.user_header or "user-id"
    others = {header: value for header, value in probe.headers.items() if header.lower() != name.lower()}
    own = next((value for header, value in probe.headers.items() if header not in others), "")
    for user in (f"check-{number}", f"{own}-{number}", own):
        headers = {**others, name: user}
        decision = routing.decision(Request(probe.path(routing.model), headers, probe.claims))
        if decision is not None and decision.route is probe.aimed_at:
            break
    share = decision.weights if decision is not None else {}
    return headers, max(share, key=lambda track: share[track], default=None)
