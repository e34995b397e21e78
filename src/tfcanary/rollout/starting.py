"""
Begin a rollout, or take over one whose driver is gone.
"""

from collections.abc import Callable

from tfcanary.errors import UsageError
from tfcanary.judge.plan import compact
from tfcanary.rollout import verbs
from tfcanary.rollout.cluster import ActiveError, Cluster, OvertakenError
from tfcanary.rollout.desired import start_objection
from tfcanary.rollout.driver import Driver
from tfcanary.rollout.evidence import Evidence, JudgeEvidence
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import MOST_VALUES, State, from_text

Makes = Callable[[Plan], Evidence]


def start(
    cluster: Cluster,
    plan: Plan,
    me: str,
    *,
    by: str,
    run: str | None = None,
    patience_seconds: float = 0.0,
    evidence: Makes = JudgeEvidence,
) -> Driver:
    """
    Write a rollout's first state, and return who drives it.

    Args:
        cluster: the release.
        plan: what to do.
        me: the driver's name, which no other has.
        by: who starts it.
        run: the rollout's name. If the release's last rollout has it, that one is driven on, and what has ended stays so:
            a Job may be started again. None makes a new name.
        patience_seconds: how long to wait for the Lease of a driver that may be gone.
        evidence: makes the judge of a plan.

    Raises:
        ActiveError: if another rollout or driver is active, by its name.
        UsageError: if the release as it is has no place for a rollout.
        UnreachableError: if the cluster does not answer. Nothing has changed then.
    """
    _take_lease(cluster, me, patience_seconds)
    try:
        if run is not None and _is(cluster, run):
            driver = Driver(cluster, me, evidence=evidence)
            driver.take_over()
            return driver
        _begin(cluster, plan, me, by=by, run=run, evidence=evidence)
    except BaseException:
        cluster.free(me)
        raise
    return Driver(cluster, me, evidence=evidence)


def _is(cluster: Cluster, run: str) -> bool:
    """
    Whether the release's last rollout has this name.
    """
    stored = cluster.load()
    return stored is not None and from_text(stored.text).run == run


def _begin(cluster: Cluster, plan: Plan, me: str, *, by: str, run: str | None, evidence: Makes) -> None:
    stored = cluster.load()
    before = from_text(stored.text) if stored else None
    why = verbs.refusal(verbs.START, before)
    if why:
        raise ActiveError(why)
    if before is not None and not before.announced:
        # Its driver ended before it could say so.
        driver = Driver(cluster, me, evidence=evidence)
        driver.take_over()
        driver.drive()
        _take_lease(cluster, me)
        stored = cluster.load()
    baseline = cluster.baseline()
    objection = start_objection(
        baseline, stable=plan.stable, canary=plan.canary, unit=plan.judge.unit, to=plan.to
    )
    if objection:
        raise UsageError(f"release {plan.release!r}: {objection}")
    size = len(compact(dict(baseline.values)))
    if size > MOST_VALUES:
        raise UsageError(
            f"release {plan.release!r}: expected values of at most {MOST_VALUES} bytes, which the rollout must keep, got {size}"
        )
    now = cluster.now()
    state = State(
        run=run or f"{plan.release}-{plan.to}-{baseline.revision}",
        plan=plan.document,
        digest=plan.digest,
        by=by,
        started=now,
        baseline=baseline,
        driver=me,
        phase=Phase.DEPLOY,
        entered=now,
        now=now,
        replicas=max(1, baseline.replicas.get(plan.canary, 1)),
        earlier=before.as_earlier() if before is not None else (),
    )
    try:
        cluster.save(state.noted(f"started by {by}").as_text(), stored.version if stored else None)
    except OvertakenError as exc:
        raise ActiveError(
            f"release {plan.release!r}: another rollout was started at the same time; see `rollout status`"
        ) from exc


def resume(cluster: Cluster, me: str, *, by: str, evidence: Makes = JudgeEvidence) -> Driver | None:
    """
    End a pause, and drive the rollout if nobody does.

    Returns:
        The driver; None if another one is at work.

    Raises:
        UsageError: if it is refused now.
        UnreachableError: if the cluster does not answer.
    """
    return _asked(cluster, verbs.RESUME, me, by, evidence)


def abort(cluster: Cluster, me: str, *, by: str, evidence: Makes = JudgeEvidence) -> Driver | None:
    """
    Send the rollout back to its baseline, and drive it there if nobody does; as `resume`.
    """
    return _asked(cluster, verbs.ABORT, me, by, evidence)


def _asked(cluster: Cluster, verb: str, me: str, by: str, evidence: Makes) -> Driver | None:
    state = verbs.ask(cluster, verb, by)
    if state.ended or cluster.hold(me) != me:
        return None
    driver = Driver(cluster, me, evidence=evidence)
    driver.take_over()
    return driver


def _take_lease(cluster: Cluster, me: str, patience_seconds: float = 0.0) -> None:
    holder, ends = cluster.hold(me), cluster.now() + patience_seconds
    while holder != me and cluster.now() < ends:
        cluster.wait(1.0)
        holder = cluster.hold(me)
    if holder != me:
        raise ActiveError(
            f"rollout: {holder!r} drives one of this release; `rollout status` shows it, `rollout abort` ends it"
        )
