"""
One release in a real cluster, as a rollout needs it.

Every revision is Helm's. Past Helm only a ConfigMap with the state, one with the last record, and a Lease are written.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tfcanary.chart.umbrella import require_plain
from tfcanary.check.sources import releases_in
from tfcanary.errors import UnreachableError
from tfcanary.judge.feed import Feed
from tfcanary.kube.claim import ChangedError, Claim
from tfcanary.kube.objects import LiveObjects
from tfcanary.rollout import notify, rights
from tfcanary.rollout.cluster import (
    Counted,
    Deployed,
    Examination,
    LostLeaseError,
    OvertakenError,
    Probes,
    Seen,
    Stored,
    Track,
)
from tfcanary.rollout.gateways import Gateways
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.planfile import plan_from
from tfcanary.rollout.requests import Moment, Pace, Requests, requests_of
from tfcanary.rollout.revisions import Revisions
from tfcanary.rollout.served import digests
from tfcanary.rollout.state import Baseline, State, from_text
from tfcanary.rollout.tracks import Names, Tracks
from tfcanary.rollout.way import Way
from tfcanary.routing.route import asked_host
from tfcanary.target import Target

STATE, RECORD = "rollout", "rollout-record"
# The most pairs that are sent for one look: it must not wait for them.
MOST_PAIRS = 20

_log = logging.getLogger(__name__)


def claim_of(live: LiveObjects, release: str, what: str = STATE) -> Claim:
    """
    The ConfigMap and the Lease of a release's rollouts.
    """
    labels = {"app.kubernetes.io/instance": release, "app.kubernetes.io/component": what}
    return Claim(live, f"{release}-{what}", labels=labels)


@dataclass(frozen=True, slots=True)
class _Parts:
    """
    What is known once there is a plan.
    """

    plan: Plan
    values: Mapping[str, Any]
    revisions: Revisions
    tracks: Tracks
    gateways: Gateways
    pace: Pace


class LiveCluster:
    """
    The protocol of `tfcanary.rollout.cluster`.
    """

    # ruff: noqa: D102 - the protocol says what each method does

    def __init__(
        self,
        release: str,
        target: Target,
        way: Way | None = None,
        *,
        plan: Plan | None = None,
        saved: Callable[[State], None] = lambda _: None,
    ) -> None:
        """
        Nothing is connected yet.

        Args:
            release: the Helm release.
            target: where it is.
            way: how it is reached.
            plan: that of a rollout which is to start; None takes that of the one there is.
            saved: is told of each state that this process has written.
        """
        self._release, self._target, self._way = release, target, way or Way()
        self._live = LiveObjects(target)
        self._state, self._record = (claim_of(self._live, release, what) for what in (STATE, RECORD))
        self._plan, self._saved = plan, saved
        self._me = ""
        self._made: _Parts | None = None
        self._requests: Requests | None = None

    def close(self) -> None:
        """
        End what runs beside the driver.
        """
        if self._requests is not None:
            self._requests.close()
            self._requests = None

    def now(self) -> float:
        return time.time()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def load(self) -> Stored | None:
        found = self._state.load()
        return None if found is None else Stored(*found)

    def save(self, text: str, version: str | None) -> None:
        try:
            self._state.save(text, version)
        except ChangedError as exc:
            raise OvertakenError(str(exc)) from exc
        self._saved(from_text(text))

    def hold(self, me: str) -> str:
        self._me = me
        return self._state.hold(me)

    def free(self, me: str) -> None:
        self._state.free(me)

    def baseline(self) -> Baseline:
        rights.require(self._live, rights.IN_NAMESPACE, self._live.namespace)
        parts = self._parts
        for some in rights.at_gateway(parts.values):
            rights.require(self._live, some, parts.values["gateway"]["namespace"])
        return parts.revisions.baseline(patience_seconds=parts.plan.limits.ready)

    def apply(self, values: Mapping[str, Any], description: str) -> Deployed:
        with self._renewed():
            return self._parts.revisions.apply(values, description)

    def restore(self, baseline: Baseline, description: str) -> Deployed:
        with self._renewed():
            return self._parts.revisions.restore(baseline, description)

    def track(self, name: str) -> Track:
        return self._parts.tracks.track(name)

    def gateways(self, routes: str) -> Seen:
        return self._parts.gateways.seen(routes)

    def examine(self) -> Examination:
        with self._renewed():
            parts = self._parts
            return Examination(parts.tracks.examine(parts.plan.to), digests(self._live, parts.tracks.names))

    def probe(self, count: int) -> Probes:
        tracks = self._parts.tracks
        with self._renewed():
            pairs = tracks.pairs(count)
        ok = [(pair.canary.ok, pair.stable.ok) for pair in pairs]
        looks = self._feed().looks(tracks.records(pairs, at=self.now(), weight=0.0))
        return Probes(
            ok.count((True, True)),
            ok.count((False, True)),
            ok.count((True, False)),
            ok.count((False, False)),
            next(looks, None),
        )

    def counts(self, since: float | None) -> Counted:
        parts, state = self._parts, self._now_saved()
        weights = parts.revisions.weights_with(state.routes)
        if self._requests is None:
            self._requests = requests_of(parts.plan, parts.tracks, parts.gateways, self._way)
        moment = Moment(state.weight, state.since, since, self.now(), weights)
        counted = self._requests.counted(moment)
        beside = self._beside(moment, max([since or 0.0, *(look.at for look in counted.looks)]))
        return Counted((*counted.looks, *beside), counted.per_second)

    def facts(self) -> Mapping[str, str]:
        parts = self._parts
        return {**parts.revisions.facts(), "model": parts.tracks.names.model}

    def announce(self, record: Mapping[str, Any]) -> None:
        text = json.dumps(record, allow_nan=False)
        while True:
            found = self._record.load()
            try:
                self._record.save(text, found[1] if found else None)
                break
            except ChangedError:
                continue
        if self._parts.plan.webhook:
            notify.told(self._parts.plan.webhook, record)

    def last_record(self) -> dict[str, Any] | None:
        """
        The record of the last rollout that has ended; None if there was none.
        """
        found = self._record.load()
        return None if found is None else dict(json.loads(found[0]))

    @property
    def _parts(self) -> _Parts:
        if self._made is None:
            plan = self._plan or plan_from(self._now_saved().plan)
            releases = releases_in(self._target, timeout_seconds=int(plan.limits.ready))
            values = releases.values(self._release)
            require_plain(self._release, values)
            names = Names(self._release, str(values["model"]["name"]), plan.stable, plan.canary)
            host = self._way.host or asked_host(values["gateway"]["hosts"])
            self._made = _Parts(
                plan,
                values,
                Revisions(releases, self._live, names, self._way.chart),
                Tracks(self._live, names, self._way.given),
                Gateways(
                    self._live,
                    self._release,
                    names.model,
                    host,
                    self._way.tls,
                    values["gateway"]["namespace"],
                ),
                Pace(plan.probes_per_second, MOST_PAIRS),
            )
        return self._made

    def _now_saved(self) -> State:
        stored = self.load()
        if stored is None:
            raise UnreachableError(f"release {self._release!r}: its rollout's state is gone")
        return from_text(stored.text)

    def _feed(self) -> Feed:
        plan = self._parts.plan
        return Feed(plan.judge, slow=plan.slow, sticky=plan.judge.unit == "user")

    def _beside(self, moment: Moment, at: float) -> Iterator[Any]:
        """
        Pairs beside the users' requests. Where a track has no pod to ask, the requests themselves say so.
        """
        count = self._parts.pace.due(moment.now)
        if not count:
            return
        try:
            with self._renewed():
                pairs = self._parts.tracks.pairs(count)
        except LostLeaseError:
            raise
        except UnreachableError as exc:
            _log.warning("no pairs: %s", exc)
            return
        yield from self._feed().looks(self._parts.tracks.records(pairs, at=at, weight=moment.weight))

    @contextlib.contextmanager
    def _renewed(self) -> Iterator[None]:
        """
        Renew the Lease while something takes longer than that lasts.

        Raises:
            LostLeaseError: at the end, if another driver took it meanwhile.
        """
        with self._state.renewed(self._me) as taken:
            yield
        if taken:
            raise LostLeaseError(f"driver {self._me!r}: {taken[0]!r} has its Lease now; see `rollout status`")
