"""
The requests that a rollout judges: the users', as a Prometheus counts them, or our own.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from tfcanary.errors import NoEvidenceError
from tfcanary.judge.feed import CANARY, STABLE, Feed, Request
from tfcanary.judge.look import Look
from tfcanary.kube.gateway import gateway_address
from tfcanary.metrics.gateway import Counted as Whose
from tfcanary.metrics.gateway import EnvoyMetrics, IstioMetrics
from tfcanary.metrics.prometheus import Prometheus
from tfcanary.metrics.scrapes import Scrapes
from tfcanary.rollout.cluster import Counted
from tfcanary.rollout.gateways import Gateways
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.tracks import Tracks
from tfcanary.rollout.way import Way
from tfcanary.traffic.calls import Population, prediction_call
from tfcanary.traffic.driver import Traffic
from tfcanary.traffic.records import NO_CODE, NO_STATUS, Records

# Past the limit of slow answers, requests that have not ended hold the others' up for no longer than this.
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Moment:
    """
    What is known of the routes when requests are counted.

    Attributes:
        weight: the canary's in per cent, which every gateway pod has.
        since: since when, in seconds since 1970.
        after: the time of the last record that was judged; None for none.
        now: the time, in seconds since 1970.
        weights: by the hash of routes, the canary's weight under them.
    """

    weight: float
    since: float
    after: float | None
    now: float
    weights: Mapping[str, float]


@dataclass(slots=True)
class Pace:
    """
    How many of so many a second are due.

    Attributes:
        per_second: how many.
        most: how many are due at once, whatever time has passed.
    """

    per_second: float
    most: int
    _from: float | None = None

    def due(self, now: float) -> int:
        """
        How many are due since the last time, in which the first one only begins.
        """
        if self._from is None or not self.per_second:
            self._from = now
            return 0
        count = int((now - self._from) * self.per_second)
        self._from += count / self.per_second
        return min(self.most, count)


class Requests(Protocol):
    """
    A source of counted requests.
    """

    def counted(self, moment: Moment) -> Counted:
        """
        What was answered since the last time.

        Raises:
            NoEvidenceError: if it cannot be known.
            UnreachableError: if the source does not answer.
        """

    def close(self) -> None:
        """
        Count no more.
        """


class OwnRequests:
    """
    Requests that we send ourselves, over both APIs, each with its own record.
    """

    def __init__(self, traffic: Traffic, feed: Feed, *, slow: float, tracks: Mapping[str, str]) -> None:
        """
        Start the load.

        Args:
            traffic: it has not started yet.
            feed: makes looks.
            slow: seconds above which an answer is slow.
            tracks: by the name that answers have, canary or stable.
        """
        self._traffic, self._feed, self._tracks = traffic, feed, tracks
        self._patience = max(PATIENCE_SECONDS, 2 * slow)
        self._taken = 0
        self._waiting: list[Request] = []
        self._open = contextlib.ExitStack()
        self._open.enter_context(traffic)

    def close(self) -> None:
        """
        Stop the load.
        """
        self._open.close()

    def counted(self, moment: Moment) -> Counted:
        """
        The requests whose turn has come, in the order in which they were due.
        """
        records, until = self._traffic.ended_since(self._taken)
        began = self._traffic.began
        self._taken += len(records)
        self._waiting += self._read(records, began, moment)
        # A slower track is counted in its turn as well; a request that is not answered at all is not waited for.
        turn = max(began + until, moment.now - self._patience)
        due = [request for request in self._waiting if request.at <= turn]
        self._waiting = [request for request in self._waiting if request.at > turn]
        if moment.after is not None:
            # What ended after its turn counts now: nothing is judged under a time that has passed.
            due = [dataclasses.replace(one, at=max(one.at, moment.after)) for one in due]
        return Counted(tuple(self._feed.looks(due)), self._taken / max(1.0, moment.now - began))

    def _read(self, records: Records, began: float, moment: Moment) -> Iterator[Request]:
        """
        The records as the judge reads them. Those under routes that are not known are left out.
        """
        for i in range(len(records)):
            revision = records.names[records.revision[i]]
            if revision and revision not in moment.weights:
                continue
            status, code = int(records.status[i]), int(records.code[i])
            yield Request(
                at=began + float(records.due[i]),
                weight=moment.weights.get(revision, moment.weight),
                track=self._tracks.get(records.names[records.track[i]], ""),
                status=None if status == NO_STATUS else status,
                code=None if code == NO_CODE else code,
                latency=float(records.latency[i]),
                user=f"user-{records.user[i]}",
            )


class UsersRequests:
    """
    The users' requests, as a Prometheus scrapes them from the gateway's pods.
    """

    def __init__(self, prometheus: Prometheus, whose: Whose) -> None:
        """
        Nothing is asked yet.

        Args:
            prometheus: who scrapes the gateway.
            whose: the release and its tracks.
        """
        self._prometheus = prometheus
        # Istio's own statistics name what answered; where its filters are missing, Envoy counts by cluster.
        self._kinds = [Scrapes(IstioMetrics(whose)), Scrapes(EnvoyMetrics(whose))]
        # The time and the weight of the last look, and the requests a second.
        self._last: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def close(self) -> None:
        """
        Close the connections.
        """
        self._prometheus.close()

    def counted(self, moment: Moment) -> Counted:
        """
        The requests from one scrape to the next, both under the present routes.
        """
        look = self._look(moment)
        at, weight, per_second = self._last
        if look is None:
            return Counted((), per_second)
        if not look.problem:
            # The first look at a weight begins with its routes, and not where the look before it ended.
            if look.at > at > 0 and look.weight == weight:
                per_second = (sum(look.answers) + look.unnamed) / (look.at - at)
            self._last = look.at, look.weight, per_second
        return Counted((look,), per_second)

    def _look(self, moment: Moment) -> Look | None:
        """
        A look at whichever statistics the gateway has.
        """
        *others, last = self._kinds
        for scrapes in others:
            with contextlib.suppress(NoEvidenceError):
                found = self._ask(scrapes, moment)
                self._kinds = [scrapes]
                return found
        return self._ask(last, moment)

    def _ask(self, scrapes: Scrapes, moment: Moment) -> Look | None:
        return scrapes.ask(self._prometheus, weight=moment.weight, since=moment.since, now=moment.now)


def requests_of(plan: Plan, tracks: Tracks, gateways: Gateways, way: Way) -> Requests:
    """
    The source of the requests that a plan names.

    Raises:
        UsageError: if they cannot be counted so.
        UnreachableError: if the gateway or stable cannot be found.
    """
    if plan.traffic.prometheus is not None:
        slow = plan.slow if "slow" in plan.judge.signals else None
        whose = Whose(plan.release, tracks.live.namespace, plan.canary, plan.stable, slow)
        prometheus = Prometheus(plan.traffic.prometheus, token_file=way.token_file, ca_file=way.ca_file)
        return UsersRequests(prometheus, whose)
    address = way.gateway or gateway_address(tracks.live, plan.release, tls=way.tls is not None)
    by_user = plan.judge.unit == "user"
    calls = [
        prediction_call(api, tracks.names.model, request, request.headers)
        for request in tracks.requests(tracks.interface())
        for api in request.apis
    ]
    traffic = Traffic(
        address,
        calls,
        rate=plan.traffic.per_second,
        host=gateways.host,
        population=Population() if by_user else None,
        tls=way.tls,
    )
    feed = Feed(plan.judge, slow=plan.slow, sticky=by_user)
    return OwnRequests(traffic, feed, slow=plan.slow, tracks={plan.canary: CANARY, plan.stable: STABLE})
