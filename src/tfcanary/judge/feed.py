"""
From requests to looks.

Requests count in the order in which they were due. In the order of their answers a quick track would come first. A request
without an answer after the limit is a slow one already, and a canary that hangs is seen before any deadline.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tfcanary.errors import UsageError
from tfcanary.judge.counts import Counts, Pairs
from tfcanary.judge.look import Look
from tfcanary.judge.plan import Plan
from tfcanary.judge.statuses import Blame, blame

CANARY, STABLE = "canary", "stable"


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request and how it ended.

    Attributes:
        at: when it was due, in seconds.
        weight: the canary's weight in per cent, by the route revision that the answer names.
        track: the track that the answer names; empty if it names none.
        status: the HTTP status; None if there was no answer.
        code: the gRPC status code; None for REST.
        latency: seconds from `at` to the end of the answer; None if it has not ended.
        user: who sent it.
        cohort: the region, group or class of users.
        answer: the most likely class.
        fault: what is wrong with the answer whatever the input is, as `tfcanary.judge.answers` names it.
        pair: the input, where it was sent to both tracks. Such a request is no user's, and its track was not drawn.
        label: the right class of the input.
    """

    at: float
    weight: float
    track: str
    status: int | None = None
    code: int | None = None
    latency: float | None = None
    user: str = ""
    cohort: str = ""
    answer: str = ""
    fault: str = ""
    pair: str = ""
    label: str = ""


class Feed:
    """
    Makes looks of requests, and remembers the users that were counted.

    With users as the unit, a user's first request counts, and a user's first failure, each once in the whole rollout. On a
    sticky route all requests of a user go to one track: more of them are no more evidence.
    """

    def __init__(self, plan: Plan, *, slow: float, sticky: bool = False, every: float = 1.0) -> None:
        """
        Refuse what would count one user many times.

        Args:
            plan: what is judged.
            slow: the limit in seconds above which an answer is slow.
            sticky: whether a route sends a user always to the same track.
            every: seconds of requests in one look.
        """
        if sticky and plan.unit != "user":
            raise UsageError(
                "sticky routes: expected the unit user, got request; one failing user would count as many failures"
            )
        if not 0 < slow < math.inf or not 0 < every < math.inf:
            raise UsageError(f"slow and every: expected seconds above 0, got {slow:g} and {every:g}")
        self._plan, self._slow, self._every = plan, slow, every
        self._seen: set[str] = set()
        self._failed: set[str] = set()
        self._late: set[str] = set()
        self._halves: dict[str, Request] = {}

    def looks(self, requests: Iterable[Request]) -> Iterator[Look]:
        """
        Looks of these requests, each of one weight and `every` seconds at most.

        While a new weight spreads, answers of both weights come side by side. Of one interval each weight has one look.
        """
        due = sorted(requests, key=lambda request: request.at)
        for _, some in itertools.groupby(due, key=lambda request: math.floor(request.at / self._every)):
            by_weight: dict[float, list[Request]] = {}
            for request in some:
                by_weight.setdefault(request.weight, []).append(request)
            end = max(given[-1].at for given in by_weight.values())
            for weight, given in by_weight.items():
                yield self._look(end, weight, given)

    def _look(self, at: float, weight: float, requests: Sequence[Request]) -> Look:
        single = [request for request in requests if not request.pair]
        named = [request for request in single if request.track in (CANARY, STABLE)]
        if self._plan.unit == "user" and not all(request.user for request in named):
            raise UsageError(
                "records: expected a user in each of them, got one without; the plan counts users"
            )
        errors: list[tuple[Request, bool]] = []
        slow: list[tuple[Request, bool]] = []
        for request in named:
            failed = blame(request.status, request.code)
            answered = request.latency is not None
            if answered and failed is not Blame.CLIENT:
                errors.append((request, failed is Blame.MODEL))
            slow.append((request, request.latency is None or request.latency > self._slow))
        if self._plan.unit == "user":
            first = [request for request in named if request.user not in self._seen]
            first = list({request.user: request for request in reversed(first)}.values())
            errors = _once(errors, self._seen, self._failed)
            slow = _once(slow, self._seen, self._late)
            self._seen |= {request.user for request in named}
            named = first
        return Look(
            at=at,
            weight=weight,
            errors=_counts(errors),
            slow=_counts(slow),
            pairs=self._pairs(request for request in requests if request.pair),
            classes=_by((request.answer, request.track) for request in named if request.answer),
            faults=_by((request.fault, request.track) for request in requests if request.fault),
            cohorts=_cohorts(errors),
            routed=_tracks(request.track for request in named),
            unnamed=sum(request.track not in (CANARY, STABLE) for request in single),
        )

    def _pairs(self, requests: Iterable[Request]) -> Pairs:
        """
        The pairs whose second answer is among these.
        """
        found = Pairs()
        for request in requests:
            other = self._halves.pop(request.pair, None)
            if other is None or other.track == request.track:
                self._halves[request.pair] = request
                continue
            canary, stable = (request, other) if request.track == CANARY else (other, request)
            agree = bool(canary.answer) and canary.answer == stable.answer
            labelled = bool(request.label)
            mine, theirs = canary.answer == request.label, stable.answer == request.label
            found = found.plus(
                Pairs(
                    int(agree),
                    int(not agree),
                    int(labelled and theirs and not mine),
                    int(labelled and mine and not theirs),
                    int(labelled and mine == theirs),
                )
            )
        return found


def _once(
    events: Sequence[tuple[Request, bool]], seen: set[str], counted: set[str]
) -> list[tuple[Request, bool]]:
    """
    A user's first event, and a user's first request if it has none.
    """
    kept, now = [], set(seen)
    for request, bad in events:
        if bad and request.user not in counted:
            counted.add(request.user)
            kept.append((request, True))
        elif not bad and request.user not in now:
            kept.append((request, False))
        now.add(request.user)
    return kept


def _counts(events: Iterable[tuple[Request, bool]]) -> Counts:
    bad, good = {CANARY: 0, STABLE: 0}, {CANARY: 0, STABLE: 0}
    for request, is_bad in events:
        (bad if is_bad else good)[request.track] += 1
    return Counts(bad[CANARY], good[CANARY], bad[STABLE], good[STABLE])


def _cohorts(events: Iterable[tuple[Request, bool]]) -> dict[str, Counts]:
    by_name: dict[str, list[tuple[Request, bool]]] = defaultdict(list)
    for request, bad in events:
        if request.cohort:
            by_name[request.cohort].append((request, bad))
    return {name: _counts(some) for name, some in by_name.items()}


def _tracks(names: Iterable[str]) -> tuple[int, int]:
    given = list(names)
    return given.count(CANARY), given.count(STABLE)


def _by(named: Iterable[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for name, track in named:
        by_name[name].append(track)
    return {name: _tracks(tracks) for name, tracks in by_name.items()}
