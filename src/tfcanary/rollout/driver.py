"""
The driver: does what is due in a rollout, and saves what came of it before the next thing is done.

It can be killed anywhere. The next driver finds the phase that was saved, and repeats it.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tfcanary.errors import ForbiddenError, NotFoundError, UnreachableError
from tfcanary.rollout.cluster import Cluster, LostLeaseError, OvertakenError, Stored
from tfcanary.rollout.events import Event, Judge, Outage, Taken
from tfcanary.rollout.evidence import Evidence, JudgeEvidence
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.planfile import plan_from
from tfcanary.rollout.state import State, from_text
from tfcanary.rollout.transition import due, step
from tfcanary.rollout.worker import Work, Worker

# Seconds between two looks at what is waited for, and the most between two tries of a cluster that does not answer.
POLL, MOST_BACK_OFF = 1.0, 30.0
# How often a state is written at once on top of what others have written meanwhile.
TRIES = 20
# Seconds for which a cluster may be out of reach before a plan is known.
PATIENCE = 60.0

_log = logging.getLogger(__name__)


T = TypeVar("T")


class Driver:
    """
    One process that drives a rollout, by the name that its Lease has.
    """

    def __init__(
        self, cluster: Cluster, me: str, *, evidence: Callable[[Plan], Evidence] = JudgeEvidence
    ) -> None:
        """
        Nothing is done yet.

        Args:
            cluster: the release.
            me: a name that no other driver has.
            evidence: makes the judge of a plan.
        """
        self._cluster = cluster
        self._me = me
        self._make_evidence = evidence
        self._worker = Worker(cluster, self._require_turn)
        self._known: tuple[str, Plan, Evidence] | None = None
        self._failures = 0

    def take_over(self) -> State:
        """
        Become the driver of the rollout that there is; the Lease is this driver's already.

        Raises:
            UnreachableError: if the cluster stays out of reach.
        """
        return self._commit(Taken(self._cluster.now(), self._me), None)

    def drive(self) -> State:
        """
        Go on until the rollout has ended, and give the Lease back.

        Raises:
            LostLeaseError: if another driver took over. Nothing was changed since.
            UnreachableError: if the cluster stays out of reach; the rollout stays as it is, for `resume`.
        """
        try:
            return self._driven()
        finally:
            # A driver that is killed does not come here: then the Lease runs out.
            with contextlib.suppress(UnreachableError):
                self._cluster.free(self._me)

    def _driven(self) -> State:
        while True:
            stored, state = self._patiently(self._mine)
            plan, evidence = self._of(state)
            actions = due(plan, state)
            if not actions:
                return state
            event = self._worker.did(actions[0], Work(plan, state, evidence))
            after = self._commit(event, state.serial, (stored, state))
            if isinstance(event, Outage):
                self._back_off()
                continue
            self._failures = 0
            if after.serial == state.serial and not after.ended:
                self._cluster.wait(plan.limits.look if isinstance(actions[0], Judge) else POLL)

    def _of(self, state: State) -> tuple[Plan, Evidence]:
        """
        The plan of a state, and who judges by it.
        """
        if self._known is None or self._known[0] != state.digest:
            plan = plan_from(state.plan)
            self._known = state.digest, plan, self._make_evidence(plan)
        return self._known[1], self._known[2]

    def _mine(self) -> tuple[Stored, State]:
        """
        The state, if this driver drives it and has the Lease.
        """
        self._require_lease()
        stored, state = read(self._cluster)
        self._require_driver(state)
        return stored, state

    def _require_lease(self) -> None:
        holder = self._cluster.hold(self._me)
        if holder != self._me:
            raise LostLeaseError(
                f"driver {self._me!r}: {holder!r} has its Lease now; it changed nothing since, see `rollout status`"
            )

    def _require_turn(self, state: State) -> None:
        """
        Refuse a write that is not due any more.

        Having the Lease is not enough: another driver may have had it meanwhile, have gone on, and have given it back.
        """
        self._require_lease()
        _, now = read(self._cluster)
        self._require_driver(now)
        if now.serial != state.serial:
            raise LostLeaseError(
                f"driver {self._me!r}: {state.run} went on without it; it changed nothing since, see `rollout status`"
            )

    def _require_driver(self, state: State) -> None:
        if state.driver != self._me:
            raise LostLeaseError(
                f"driver {self._me!r}: {state.driver!r} drives {state.run} now; it changed nothing since, "
                "see `rollout status`"
            )

    def _commit(self, event: Event, serial: int | None, known: tuple[Stored, State] | None = None) -> State:
        """
        Save what follows from an event, on top of whatever others have written meanwhile.

        An answer that was lost does no harm: a phase that was left already is not left again.

        Args:
            event: what happened.
            serial: the phase that it comes of; None for taking over.
            known: the state as it was read last; None to read it.
        """
        given = [known] if known is not None else []

        def attempt() -> State:
            for _ in range(TRIES):
                found, state = given.pop() if given else read(self._cluster)
                if serial is not None:
                    self._require_driver(state)
                    if state.serial != serial:
                        return state
                after, _ = step(self._of(state)[0], state, event)
                if replace(after, now=state.now) == state:
                    return state
                try:
                    self._cluster.save(after.as_text(), found.version)
                except OvertakenError:
                    continue
                return after
            raise UnreachableError(
                f"rollout's state: others changed it {TRIES} times between a read and a write"
            )

        return self._patiently(attempt)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """
        Try again while the cluster does not answer, for as long as the plan allows.
        """
        began, patience = self._cluster.now(), self._known[1].limits.outage if self._known else PATIENCE
        while True:
            try:
                return attempt()
            except (LostLeaseError, ForbiddenError):
                raise
            except UnreachableError as exc:
                if self._cluster.now() - began > patience:
                    raise
                _log.warning("%s; trying again", exc)
                self._back_off()

    def _back_off(self) -> None:
        self._cluster.wait(min(MOST_BACK_OFF, POLL * 2**self._failures))
        self._failures = min(self._failures + 1, 10)


def read(cluster: Cluster) -> tuple[Stored, State]:
    """
    The state of a rollout that must be there.

    Raises:
        UsageError: if it is not.
    """
    stored = cluster.load()
    if stored is None:
        raise NotFoundError("rollout: expected one of this release, got none; start one with `rollout start`")
    return stored, from_text(stored.text)
