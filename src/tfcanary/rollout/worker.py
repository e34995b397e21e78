"""
What is due in a rollout, done against a cluster.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from tfcanary.errors import CanaryError, ForbiddenError, NoEvidenceError, UnreachableError
from tfcanary.rollout.cluster import Cluster, Counted, LostLeaseError
from tfcanary.rollout.events import (
    Action,
    Announce,
    Announced,
    Applied,
    Apply,
    Event,
    Examine,
    Examined,
    Judge,
    Need,
    NotReady,
    Outage,
    Passed,
    Probe,
    Refused,
    Restore,
    Sight,
    Sighted,
)
from tfcanary.rollout.evidence import Evidence, missing
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.record import record
from tfcanary.rollout.state import State

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """
    What an action is part of.
    """

    plan: Plan
    state: State
    evidence: Evidence


class Worker:
    """
    Does one action at a time, and says what came of it.
    """

    def __init__(self, cluster: Cluster, require_turn: Callable[[State], None]) -> None:
        """
        Nothing is done yet.

        Args:
            cluster: the release.
            require_turn: raises LostLeaseError if another driver took over since this state.
        """
        self._cluster = cluster
        self._require_turn = require_turn

    def did(self, action: Action, work: Work) -> Event:
        """
        Do an action. What the cluster refuses is an event, and so is its silence.

        Raises:
            LostLeaseError: if another driver took over; nothing was done then.
        """
        now = self._cluster.now
        try:
            return self._do(action, work)
        except LostLeaseError:
            raise
        except ForbiddenError as exc:
            # Asking again would not help, and a rollout that cannot go on goes back.
            return Refused(now(), str(exc))
        except UnreachableError as exc:
            return Outage(now(), str(exc))
        except CanaryError as exc:
            return Refused(now(), str(exc))

    def _do(self, action: Action, work: Work) -> Event:
        cluster = self._cluster
        event: Event | None = None
        match action:
            case Apply() | Restore():
                event = self._revise(action, work.state)
            case Sight():
                seen = cluster.gateways(action.routes)
                event = Sighted(cluster.now(), seen.showing, seen.pods)
            case Examine():
                event = self._unready(action.need) or self._examined()
            case Probe():
                found = cluster.probe(action.count)
                event = work.evidence.probed(work.state, cluster.now(), found)
            case Judge():
                counted = self._counted(work)
                event = work.evidence.judged(work.state, cluster.now(), counted)
            case Announce():
                event = self._announce(work)
        return event or Passed(cluster.now())

    def _revise(self, action: Apply | Restore, state: State) -> Event:
        """
        Make a revision, at the very moment in which what it needs is Ready and it is this driver's turn.
        """
        cluster = self._cluster
        if isinstance(action, Apply) and action.need is not None:
            unready = self._unready(action.need)
            if unready:
                return unready
        self._require_turn(state)
        if isinstance(action, Apply):
            made = cluster.apply(action.values, action.description)
        else:
            made = cluster.restore(state.baseline, action.description)
        return Applied(cluster.now(), made.revision, made.routes)

    def _unready(self, need: Need) -> NotReady | None:
        track = self._cluster.track(need.track)
        wanted = max(1, track.wanted) if need.pods is None else need.pods
        if track.version == need.version and min(track.ready, track.endpoints) >= wanted:
            return None
        seen = (
            f"{need.track}: expected {wanted} pods of version {need.version}, got {track.ready} of version "
            f"{track.version}, {track.endpoints} of them endpoints"
        )
        return NotReady(self._cluster.now(), seen)

    def _examined(self) -> Examined:
        found = self._cluster.examine()
        return Examined(self._cluster.now(), found.problems, found.facts)

    def _counted(self, work: Work) -> Counted:
        """
        What was answered since the last look. Where that cannot be known, it is no evidence, and nothing else.
        """
        try:
            return self._cluster.counts(work.evidence.since(work.state))
        except ForbiddenError:
            raise
        except (UnreachableError, NoEvidenceError) as exc:
            return missing(self._cluster.now(), work.state.weight, str(exc))

    def _announce(self, work: Work) -> Event:
        """
        Make the end known. A webhook that cannot be told does not undo the rollout.
        """
        plan, state = work.plan, work.state
        try:
            self._cluster.announce(record(plan, state, self._cluster.facts()))
        except UnreachableError as exc:
            if self._cluster.now() - state.now < plan.limits.outage:
                return Outage(self._cluster.now(), str(exc))
            _log.warning("the end of %s was not made known: %s", state.run, exc)
        except CanaryError as exc:
            _log.warning("the end of %s was not made known: %s", state.run, exc)
        return Announced(self._cluster.now())
