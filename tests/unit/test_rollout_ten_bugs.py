"""
Ten bugs that users of other rollout tools reported, each by name: none of them is here.
"""

import contextlib
import math
from dataclasses import replace
from random import Random

import pytest
from planned import begun, plan, rollout, state_of, when
from rollout_cluster import VALUES, As, FakeCluster, World

from tfcanary.errors import NoEvidenceError, UnreachableError, UsageError
from tfcanary.judge.counters import Reading, difference
from tfcanary.judge.counts import Counts
from tfcanary.judge.look import Look
from tfcanary.rollout import starting, verbs
from tfcanary.rollout.cluster import ActiveError, Counted
from tfcanary.rollout.driver import Driver
from tfcanary.rollout.events import Examined, NotReady, Outage, Passed, Refused, Sighted
from tfcanary.rollout.phases import Kind, Phase, kind
from tfcanary.rollout.state import State
from tfcanary.rollout.transition import step

QUICK = {"most": "60s", "total": "20m"}
FORWARD = list(Phase)[: list(Phase).index(Phase.REDEPLOY)]


def asked(cluster: FakeCluster, verb: str, by: str = "carla") -> State:
    return verbs.ask(As(cluster, by), verb, by)


def test_1_a_promotion_that_fails_sends_nothing_to_the_broken_stable():
    """
    Flagger #1898, #1932: all traffic went to the broken stable, and the good canary was deleted.
    """
    cluster, state = rollout(World(slow={("stable", 3): math.inf}))

    assert (Phase.FAILED, Phase.RENEW) == (state.phase, state.failed_in)
    assert {"canary": 100} == cluster.weights()
    assert 1 == cluster.tracks["canary"].ready(cluster.time)
    assert [] == cluster.dropped

    cluster.world.slow.clear()
    driver = starting.abort(As(cluster, "ci"), "ci", by="bob")

    assert driver is not None
    assert Phase.ROLLED_BACK is driver.drive().phase
    assert (VALUES, []) == (cluster.given, cluster.dropped)


def test_2_a_canary_that_is_superseded_is_drained_first():
    """
    Argo Rollouts #4534, #4390, #4775, #3372: the route pointed at pods that were being removed.
    """
    cluster = FakeCluster(World(startup={1: 2.0, 2: 2.0, 3: 5.0, 4: 5.0}))
    driver = begun(cluster)
    refused = []

    def supersede() -> None:
        for me in ("laptop", "ci"):
            with pytest.raises(ActiveError) as error:
                begun(cluster, plan(to=4), me=me)
            refused.append(str(error.value))
            cluster.lease = "laptop", cluster.time + 30
        asked(cluster, verbs.ABORT)

    when(cluster, Phase.JUDGE, supersede, weight=50)
    assert Phase.ROLLED_BACK is driver.drive().phase
    cluster.trouble = lambda *_: None

    assert ["resnet-3-7" in line or "'laptop' drives one" in line for line in refused] == [True, True]
    assert Phase.SUCCEEDED is begun(cluster, plan(to=4)).drive().phase
    assert (4, []) == (cluster.tracks["stable"].version, cluster.dropped)


@pytest.mark.parametrize("phase", FORWARD, ids=lambda phase: phase.name)
@pytest.mark.parametrize("pods", [1, 5])
def test_3_an_abort_ends_from_every_phase(phase, pods):
    """
    Argo Rollouts #4898: four waits in a circle. The way back has an end from everywhere, whatever the canary's pods are.
    """
    values = {**VALUES, "tracks": {**VALUES["tracks"], "canary": {"version": 2, "replicas": pods}}}
    cluster = FakeCluster(values=values)
    capacity = {"requestsPerSecond": 100 / pods / 3, "onShortage": "scale", "mostPods": 50}
    driver = begun(cluster, plan(capacity=capacity))
    times = []

    def abort(_moment: str, _call: str) -> None:
        if not times and state_of(cluster).phase is phase:
            times.append(cluster.time)
            cluster.trouble = lambda *_: None
            asked(cluster, verbs.ABORT)
            cluster.caller = "laptop"

    cluster.trouble = abort
    state = driver.drive()

    assert times, "the phase was never there"
    assert Phase.ROLLED_BACK is state.phase
    assert cluster.time - times[0] < 120
    assert (values, []) == (cluster.given, cluster.dropped)


@pytest.mark.parametrize("phase", list(Phase), ids=lambda phase: phase.name)
def test_3_no_phase_waits_for_ever(phase):
    """
    The worst that can be seen in each phase, again and again: every state comes to an end.
    """
    given = plan()
    cluster = FakeCluster()
    begun(cluster)
    begin = state_of(cluster)
    events = {
        Kind.APPLY: (
            lambda at: NotReady(at, "none"),
            lambda at: Refused(at, "no"),
            lambda at: Outage(at, "503"),
        ),
        Kind.SEEN: (lambda at: Sighted(at, 1, 2), lambda at: Sighted(at, 0, 0), lambda at: Outage(at, "503")),
        Kind.DRAIN: (Passed, Passed, lambda at: Outage(at, "503")),
        Kind.EXAMINE: (Examined, lambda at: NotReady(at, "none"), lambda at: Outage(at, "503")),
        Kind.PROBE: 3 * (lambda at: Outage(at, "503"),),
        Kind.JUDGE: 3 * (lambda at: Outage(at, "503"),),
    }
    for choice in range(3):
        state, at = replace(begin, phase=phase, exposed=True), begin.now
        for _ in range(40_000):
            if state.ended:
                break
            at += 5.0
            state, _ = step(given, state, events[kind(state.phase)][choice](at))
        assert state.ended


def test_4_an_aborted_canary_is_not_scaled_up_again():
    """
    Argo Rollouts #4973: when stable was short of pods, the aborted canary came back.
    """
    cluster, state = rollout(World(bad={3: 1.0}))
    revisions = len(cluster.history)
    cluster.tracks["stable"].ready_at = cluster.time + 300
    cluster.tracks["stable"].wanted = 10
    cluster.let_pass(60)

    with pytest.raises(UsageError, match="resume is refused: it has ended"):
        starting.resume(As(cluster, "ci"), "ci", by="bob")
    assert starting.abort(As(cluster, "ci"), "ci", by="bob") is None
    assert (revisions, 0, VALUES) == (len(cluster.history), cluster.weight("canary"), cluster.given)
    assert Phase.ROLLED_BACK is state.phase is state_of(cluster).phase


ALWAYS = {"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "zone": "UTC"}


@pytest.mark.parametrize("why", ["paused", "awaits an approval", "blackout"])
def test_5_a_verdict_is_not_ignored_while_the_rollout_is_held(why):
    """
    Flagger #1801: 18 failures of 5 allowed, and nothing happened at the gate.
    """
    cluster = FakeCluster()
    hour = 3600 * (cluster.time // 3600 + 1)
    cluster.time = hour - 40
    window = {"from": f"{int(hour // 3600 % 24):02}:00", "to": f"{int(hour // 3600 % 24):02}:59", **ALWAYS}
    driver = begun(cluster, plan(approvals=[5], blackouts=[window] if why == "blackout" else []))
    began = []

    def trouble(moment: str, _call: str) -> None:
        state = state_of(cluster)
        if moment != "wait" or state.phase is not Phase.JUDGE or not state.weight:
            return
        if why == "paused" and not state.paused and not began:
            asked(cluster, verbs.PAUSE)
        if why == "blackout" and state.awaiting:
            asked(cluster, verbs.PROMOTE)
        if state.hold.startswith(why) and not began:
            began.append(cluster.time)
            cluster.world.bad[3] = 1.0

    cluster.trouble = trouble
    state = driver.drive()

    assert Phase.ROLLED_BACK is state.phase
    assert "roll back: errors worse than stable" in state.reason
    assert state.steps[-1].weight == 0
    assert state.steps[-1].asked - began[0] <= 30


def _reset() -> str:
    said = difference(Reading(1.0, 5, {"ok": 100.0}), Reading(16.0, 5, {"ok": 3.0}))
    assert isinstance(said, str)
    return said


def look(cluster: FakeCluster, **changed: object) -> Counted:
    """
    A look that would do, but for what is changed.
    """
    good = {"at": cluster.time, "weight": 5, "errors": Counts(0, 500, 0, 9500)}
    return Counted((Look(**{**good, **changed}),), 100.0)  # type: ignore[arg-type]


def _raise(error: Exception) -> Counted:
    raise error


NO_DATA = {
    "no answer": lambda _c: _raise(UnreachableError("prometheus: no answer")),
    "cannot be known": lambda _c: _raise(NoEvidenceError("prometheus: no such series")),
    "no look": lambda _c: Counted((), 100.0),
    "a problem": lambda c: look(c, problem="two weights within the scrape"),
    "a counter that was reset": lambda c: look(c, problem=_reset()),
    "a time that is no number": lambda c: look(c, at=math.nan),
    "a time without end": lambda c: look(c, at=math.inf),
    "the same time again": lambda _c: look(_c, at=1_799_999_000.0),
    "an old time": lambda c: look(c, at=c.time - 3600),
    "a clock that runs ahead": lambda c: look(c, at=c.time + 3600),
    "counts that are no numbers": lambda c: look(c, errors=Counts(math.nan, 500, 0, 9500)),  # type: ignore[arg-type]
    "counts below 0": lambda c: look(c, errors=Counts(0, -1, 0, 9500)),
    "counts of a half": lambda c: look(c, errors=Counts(0, 0.5, 0, 9500)),  # type: ignore[arg-type]
    "counts that are true": lambda c: look(c, errors=Counts(0, True, 0, 9500)),  # noqa: FBT003
    "no counts": lambda c: look(c, errors=Counts()),
    "no weight": lambda c: look(c, weight=math.nan),
    "a weight below 0": lambda c: look(c, weight=-1),
    "a weight above 100": lambda c: look(c, weight=101),
    "another weight": lambda c: look(c, weight=25, errors=Counts(0, 2500, 0, 7500)),
    "answers of nobody": lambda c: look(c, errors=Counts(), unnamed=1000),
    "mostly answers of nobody": lambda c: look(c, unnamed=1000),
    "only errors": lambda c: look(c, errors=Counts(500, 0, 9500, 0)),
    "no answer of the canary": lambda c: look(c, errors=Counts(0, 0, 0, 10000)),
    "no requests a second": lambda c: Counted(look(c).looks, 0.0),
    "requests a second that are no number": lambda c: Counted(look(c).looks, math.nan),
    "requests a second without end": lambda c: Counted(look(c).looks, math.inf),
    "a gap in every second look": lambda c: Counted((*look(c).looks, *look(c, problem="gap").looks), 100.0),
}


@pytest.mark.parametrize("form", NO_DATA.values(), ids=NO_DATA)
def test_6_evidence_that_is_missing_is_no_success(form):
    """
    Argo Rollouts #4479, #4393, #1329, #943: nothing measured, or only errors, and the rollout was Successful.
    """
    cluster = FakeCluster()
    driver = begun(cluster, plan(limits=QUICK))
    usual = cluster.counts
    cluster.counts = lambda since: form(cluster) if cluster.weight("canary") else usual(since)  # type: ignore[method-assign]
    cluster.anyway = True

    state = driver.drive()

    assert Phase.ROLLED_BACK is state.phase
    assert [5, 0] == [one.weight for one in state.steps]


def test_6_the_look_that_the_forms_change_would_do():
    cluster = FakeCluster()
    driver = begun(cluster, plan(limits=QUICK))
    usual = cluster.counts
    cluster.counts = lambda since: (  # type: ignore[method-assign]
        look(cluster) if cluster.weight("canary") == 5 else usual(since)
    )

    assert 25 in [one.weight for one in driver.drive().steps]


def test_7_a_failure_does_not_leak_into_the_next_rollout():
    """
    Argo Rollouts #3082, #841: an old failure stopped new revisions. 100 rollouts one after another, good and bad.
    """
    random = Random(7)  # noqa: S311 - no secret comes of it
    cluster = FakeCluster(World(startup=dict.fromkeys(range(1, 200), 2.0), rate=400.0))
    cluster.world.bad = {}
    for number in range(100):
        stable = cluster.tracks["stable"].version
        to = number + 10
        fault = random.choice(("none", "dead", "dead", "signature", "never ready", "aborted", "aborted"))
        cluster.world.bad = {to: 1.0} if fault == "dead" else {}
        cluster.world.problems = ("another signature",) if fault == "signature" else ()
        cluster.world.startup[to] = math.inf if fault == "never ready" else 2.0
        cluster.trouble = lambda *_: None
        before = cluster.history[-1][0]
        driver = begun(
            cluster, plan(to=to, bake={"time": "10s"}, limits={"look": "5s"}), me=f"driver-{number}"
        )
        fresh = state_of(cluster)
        if fault == "aborted":
            when(cluster, Phase.JUDGE, lambda: asked(cluster, verbs.ABORT), weight=random.choice((0, 5, 25)))

        state = driver.drive()

        assert (before, "", (), ()) == (fresh.baseline.revision, fresh.judge, fresh.steps, fresh.approvals)
        assert len(fresh.earlier) == min(number, 10)
        expected = Phase.SUCCEEDED if fault == "none" else Phase.ROLLED_BACK
        assert expected is state.phase, (fault, state.reason)
        assert cluster.tracks["stable"].version == (to if fault == "none" else stable)
    assert [] == cluster.dropped


def test_8_an_abort_is_not_repeated_by_itself_and_needs_something_to_abort():
    """
    Argo Rollouts #2929, #3120, #1292: retried by itself, not to be retried, and stable scaled to 0 with nothing running.
    """
    cluster = FakeCluster()
    with pytest.raises(UsageError, match="rollout: abort is refused: there is none"):
        starting.abort(As(cluster, "ci"), "ci", by="bob")
    assert (None, 1) == (cluster.stored, len(cluster.history))

    driver = begun(cluster)
    when(
        cluster, Phase.JUDGE, lambda: [asked(cluster, verbs.ABORT, by) for by in ("carla", "dan")], weight=25
    )
    state = driver.drive()

    assert "aborted by carla" == state.reason
    assert 1 == sum(": restore the baseline" in text for _, text, _ in cluster.history)
    assert driver.drive() == state


def test_9_a_rollback_is_possible_while_paused_and_nothing_goes_on_after_the_end():
    """
    OpenKruise #257, KubeVela #7170: refused while paused, a stale step after the success.
    """
    cluster = FakeCluster()
    driver = begun(cluster)
    when(
        cluster, Phase.JUDGE, lambda: [asked(cluster, verb) for verb in (verbs.PAUSE, verbs.ABORT)], weight=5
    )

    assert Phase.ROLLED_BACK is driver.drive().phase

    cluster, state = rollout()
    revisions = len(cluster.history)
    for verb in (verbs.RESUME, verbs.PROMOTE, verbs.ANYWAY, verbs.PAUSE, verbs.ABORT):
        with pytest.raises(UsageError, match="resnet-3-7, succeeded: "):
            asked(cluster, verb)
    assert (state, revisions) == (Driver(As(cluster, "laptop"), "laptop").drive(), len(cluster.history))


def test_9_a_second_writer_between_any_read_and_write_loses_nothing():
    """
    Two writers race at a save of every phase: both are kept.
    """
    undisturbed, _ = rollout()
    cluster = FakeCluster()
    driver = begun(cluster)
    raced: set[int] = set()

    def race(moment: str, call: str) -> None:
        if (moment, call) == ("before", "save") and state_of(cluster).serial not in raced:
            raced.add(state_of(cluster).serial)
            paused = state_of(cluster).paused
            with contextlib.suppress(UsageError):
                asked(cluster, verbs.RESUME if paused else verbs.PAUSE)
            if not paused:
                with contextlib.suppress(UsageError):
                    asked(cluster, verbs.RESUME)
            cluster.caller = "laptop"

    cluster.trouble = race
    state = driver.drive()

    assert Phase.SUCCEEDED is state.phase
    assert [text.split("#")[0] for _, text, _ in undisturbed.history] == [
        text.split("#")[0] for _, text, _ in cluster.history
    ]
    assert len(raced) == state.serial
    assert "resumed by carla" in [note.text for note in state.notes]


def test_10_a_repair_can_be_shipped_while_stable_fails():
    """
    Argo Rollouts #1774, Flagger #639: an unhealthy stable made the fix impossible.
    """
    cluster = FakeCluster(World(bad={1: 1.0}))
    driver = begun(cluster, plan(limits={"most": "30m"}))
    held = []

    def promote() -> None:
        held.append(state_of(cluster).hold)
        asked(cluster, verbs.ANYWAY)

    cluster.trouble = lambda moment, _: (
        promote() if moment == "wait" and not held and cluster.stored and state_of(cluster).stuck else None
    )
    state = driver.drive()

    assert held[0].startswith("inconclusive: stable fails too")
    assert (Phase.SUCCEEDED, "carla") == (state.phase, state.anyway)
    assert [5, 90, 100, 0] == [one.weight for one in state.steps]


def test_10_a_deadline_that_has_passed_is_kept_by_the_records_time():
    """
    Argo Rollouts #4128: stuck for ever. No driver was alive when the deadline passed; the next one keeps it.
    """
    cluster = FakeCluster(World(bad={1: 1.0}))
    driver = begun(cluster, plan(limits=QUICK))
    state = driver.drive()

    assert Phase.ROLLED_BACK is state.phase
    assert state.reason.startswith("not decided at 5 % within 60 s: inconclusive: stable fails too")

    cluster = FakeCluster()
    begun(cluster)
    cluster.time += 5 * 3600
    late = starting.resume(As(cluster, "ci"), "ci", by="bob")

    assert late is not None
    assert late.drive().reason.startswith("not finished within 14400 s")
