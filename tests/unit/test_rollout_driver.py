"""
Whole rollouts through the real driver, transitions and judge, against a cluster that keeps every rule in sight.
"""

import contextlib

import pytest
from planned import begun, plan, rollout, state_of, when
from rollout_cluster import VALUES, As, FakeCluster, Killed, World

from tfcanary.errors import UnreachableError, UsageError
from tfcanary.rollout import starting, verbs
from tfcanary.rollout.cluster import ActiveError, LostLeaseError
from tfcanary.rollout.phases import Phase


def phases(cluster: FakeCluster) -> list[str]:
    return [text.partition(": ")[2].partition(",")[0] for _, text, _ in cluster.history[1:]]


def test_a_healthy_canary_becomes_stable_by_one_revision_for_each_change():
    cluster, state = rollout()

    assert (Phase.SUCCEEDED, "version 3 is on stable") == (state.phase, state.reason)
    assert [5, 25, 50, 90, 100, 0] == [one.weight for one in state.steps]
    assert all(one.seen is not None and one.pods == 3 for one in state.steps)
    assert [
        "deploy the canary at weight 0",
        *4 * ["change the weight"],
        "give the canary all traffic",
        "give stable the new version",
        "give stable all traffic",
        "retire the canary",
    ] == phases(cluster)
    assert all("[baseline 7]" in text for _, text, _ in cluster.history[1:])
    assert {"stable": 100} == cluster.weights()
    assert (3, 2) == (cluster.tracks["stable"].version, cluster.tracks["stable"].wanted)
    assert 0 == cluster.tracks["canary"].wanted


def test_a_dead_canary_costs_no_user_an_answer():
    """
    Its probes are answered at weight 0.
    """
    cluster, state = rollout(World(bad={3: 1.0}))

    assert (Phase.ROLLED_BACK, "the canary answered none of 60 probes") == (state.phase, state.reason)
    assert () == state.steps
    assert VALUES == cluster.given


@pytest.mark.parametrize("bad", [0.02, 0.1])
def test_a_canary_that_fails_more_than_stable_goes_back(bad):
    cluster, state = rollout(World(bad={3: bad}), plan(probes={"count": 0}))

    assert Phase.ROLLED_BACK is state.phase
    assert state.reason.startswith("roll back: errors worse than stable: canary ")
    assert max(one.weight for one in state.steps) <= 25
    assert VALUES == cluster.given


def test_a_fault_that_begins_in_the_bake_goes_back_by_one_change_of_the_weight():
    cluster = FakeCluster()
    driver = begun(cluster, plan(bake={"time": "10m"}))
    when(cluster, Phase.JUDGE, lambda: cluster.world.bad.update({3: 0.3}), weight=90)

    state = driver.drive()

    assert Phase.ROLLED_BACK is state.phase
    assert ["change the weight", "back"] == [text.split(":")[0] for text in phases(cluster)[-3:-1]]
    assert [90, 0] == [one.weight for one in state.steps[-2:]]


def test_fixed_steps_are_taken_in_their_order():
    _, state = rollout(given=plan(steps=[2, 20, 60]))

    assert (Phase.SUCCEEDED, [2, 20, 60, 90, 100, 0]) == (state.phase, [one.weight for one in state.steps])


def test_steps_of_values_files_send_their_own_routes():
    routes = [{"name": "everyone", "weights": {"stable": 80, "canary": 20}, "timeout": "3s"}]
    cluster, state = rollout(given=plan(steps=[{"routes": routes}]))

    assert Phase.SUCCEEDED is state.phase
    assert routes in [values["routing"]["routes"] for _, _, values in cluster.history]


def test_a_gate_waits_for_a_person_and_names_itself():
    cluster = FakeCluster()
    driver = begun(cluster, plan(approvals=[5, "promotion"]))
    seen = []

    def approve() -> None:
        state = state_of(cluster)
        seen.append((state.weight, state.awaiting))
        verbs.ask(As(cluster, "carla"), verbs.PROMOTE, "carla")

    cluster.trouble = lambda moment, _: (
        approve() if moment == "wait" and cluster.stored and state_of(cluster).awaiting else None
    )

    state = driver.drive()

    assert Phase.SUCCEEDED is state.phase
    assert [(5, "beyond 5 %"), (90, "promotion")] == seen
    assert [("beyond 5 %", "carla"), ("promotion", "carla")] == [
        (one.gate, one.by) for one in state.approvals
    ]


def test_no_weight_grows_in_a_blackout_and_the_time_does_not_count_as_the_steps():
    cluster = FakeCluster()
    cluster.time = 1_800_000_000.0 // 86400 * 86400 + 7.9 * 3600
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    window = {"days": days, "from": "07:50", "to": "08:05", "zone": "UTC"}

    state = begun(cluster, plan(blackouts=[window])).drive()

    assert Phase.SUCCEEDED is state.phase
    midnight = cluster.time // 86400 * 86400
    assert all(one.asked >= midnight + 8 * 3600 + 300 for one in state.steps)


def test_a_weight_that_the_pods_cannot_carry_is_not_given():
    _, state = rollout(given=plan(capacity={"requestsPerSecond": 30}, limits={"most": "2m", "total": "30m"}))

    assert Phase.ROLLED_BACK is state.phase
    assert state.reason.endswith("50 % of 100 requests a second needs 2 pods of the canary, and it has 1")
    assert [5, 25, 0] == [one.weight for one in state.steps]


def test_pods_are_scaled_before_the_weight_that_needs_them():
    cluster, state = rollout(given=plan(capacity={"requestsPerSecond": 30, "onShortage": "scale"}))

    assert (Phase.SUCCEEDED, 4) == (state.phase, state.replicas)
    pods = {
        values["routing"]["routes"][-1]["weights"].get("canary", 0): values["tracks"]["canary"]["replicas"]
        for _, _, values in cluster.history[1:-1]
    }
    assert {5: 1, 25: 2, 50: 3, 90: 4, 100: 4} == {weight: count for weight, count in pods.items() if weight}


def test_pods_that_are_scaled_are_bounded():
    given = plan(
        capacity={"requestsPerSecond": 10, "onShortage": "scale", "mostPods": 4},
        limits={"most": "2m", "total": "30m"},
    )
    _, state = rollout(given=given)

    assert state.reason.endswith(
        "50 % of 100 requests a second needs 5 pods of the canary, and at most 4 are allowed"
    )


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        (
            World(problems=("serving_default: another shape",)),
            "the canary must not get traffic: serving_default",
        ),
        (
            World(startup={1: 2.0, 2: 2.0, 3: float("inf")}),
            "deploy the canary at weight 0: helm upgrade: version 3",
        ),
        (
            World(spread=(0.5, 0.5, float("inf"))),
            "wait for the gateways: 2 of 3 gateway pods show the routes after 61 s",
        ),
        (
            World(forbidden=frozenset({"examine"})),
            "examine its interface and warm-up: examine: the role has no right",
        ),
    ],
)
def test_what_stands_against_a_canary_is_named(world, reason):
    _, state = rollout(world)

    assert reason == state.reason[: len(reason)]


def test_a_gateway_that_never_hears_of_weight_0_keeps_the_canarys_pods():
    """
    It ends, and nothing is dropped: the pods stay for as long as one gateway may send to them.
    """
    cluster = FakeCluster()
    driver = begun(cluster)

    def last_words() -> None:
        cluster.world.bad[3] = 1.0
        cluster.world.spread = (0.5, 0.5, float("inf"))

    when(cluster, Phase.JUDGE, last_words, weight=25)
    state = driver.drive()

    assert (Phase.FAILED, Phase.WITHDRAW_SEEN) == (state.phase, state.failed_in)
    assert 1 == cluster.tracks["canary"].wanted


def test_two_drivers_are_not_possible_and_the_second_is_told_of_the_first():
    cluster = FakeCluster()
    begun(cluster, me="laptop")

    with pytest.raises(ActiveError, match="'laptop' drives one of this release"):
        begun(cluster, me="ci")
    assert "laptop" == state_of(cluster).driver


def test_a_rollout_whose_driver_is_gone_is_not_started_over():
    cluster = FakeCluster()
    begun(cluster, me="laptop")
    cluster.time += 60

    with pytest.raises(ActiveError, match="rollout resnet-3-7, preparing: start is refused: it is active"):
        begun(cluster, me="ci")
    assert "" == cluster.lease[0], "a driver that is refused gives the Lease back"


def test_a_driver_that_lost_its_lease_stops_before_its_next_write():
    cluster = FakeCluster()
    driver = begun(cluster, me="laptop")
    when(cluster, Phase.JUDGE, lambda: setattr(cluster, "lease", ("ci", cluster.time + 30)), weight=25)

    with pytest.raises(LostLeaseError, match="'laptop': 'ci' has its Lease now"):
        driver.drive()
    assert 25 == state_of(cluster).weight


def test_a_driver_that_slept_through_the_rest_of_its_rollout_writes_nothing():
    """
    The Lease is free again, and to have it is not enough: another driver has gone on and given it back.
    """
    cluster = FakeCluster()
    driver = begun(cluster, me="laptop")
    ends = []

    def sleep(moment: str, call: str) -> None:
        state = state_of(cluster)
        if (moment, call) == ("before", "hold") and cluster.calls[-2] == "track" and state.weight == 25:
            cluster.trouble = lambda *_: None
            cluster.let_pass(60)
            other = starting.abort(As(cluster, "ci"), "ci", by="bob")
            ends.append(other.drive())
            cluster.caller = "laptop"

    cluster.trouble = sleep
    with pytest.raises(LostLeaseError, match="'laptop': 'ci' drives resnet-3-7 now"):
        driver.drive()

    assert [Phase.ROLLED_BACK] == [state.phase for state in ends]
    assert VALUES == cluster.given


@pytest.mark.parametrize("abort", [False, True])
def test_an_answer_that_is_lost_after_every_write_has_no_other_effect(abort):
    """
    The write was made, and the driver is told that it timed out: nothing is done twice, and nothing is left out.
    """
    histories = []
    for lose in (False, True):
        cluster = FakeCluster()
        driver = begun(cluster)
        lost: set[tuple[int, str]] = set()

        def trouble(moment: str, call: str, cluster=cluster, lost=lost, lose=lose) -> None:
            state = state_of(cluster)
            if abort and moment == "wait" and state.phase is Phase.RETURN_DRAIN and not state.abort:
                verbs.ask(As(cluster, "carla"), verbs.ABORT, "carla")
                cluster.caller = "laptop"
            if (
                lose
                and moment == "after"
                and call in ("save", "apply", "restore")
                and (state.serial, call) not in lost
            ):
                lost.add((state.serial, call))
                raise UnreachableError("kubernetes: timed out")

        cluster.trouble = trouble
        state = driver.drive()
        assert (Phase.ROLLED_BACK if abort else Phase.SUCCEEDED) is state.phase
        assert not lose or len(lost) > 20
        histories.append([text.partition(": ")[2] for _, text, _ in cluster.history])

    assert histories[0] == histories[1]


@pytest.mark.parametrize(("away", "end"), [(20.0, Phase.SUCCEEDED), (float("inf"), Phase.FAILED)])
def test_stable_gets_nothing_back_before_its_new_pods_are_ready(away, end):
    """
    They were Ready once, and are not at the moment in which the traffic would return.
    """
    cluster = FakeCluster()
    driver = begun(cluster)

    def die(moment: str, call: str) -> None:
        if (moment, call) == ("after", "apply") and state_of(cluster).phase is Phase.RENEW:
            cluster.tracks["stable"].kept, cluster.tracks["stable"].ready_at = 0, cluster.time + away

    cluster.trouble = die
    state = driver.drive()

    assert (end, []) == (state.phase, cluster.dropped)
    assert ({"stable": 100} if end is Phase.SUCCEEDED else {"canary": 100}) == cluster.weights()


def test_an_api_server_that_is_away_changes_nothing_and_the_rollout_goes_on():
    """
    A23: 60 seconds of 429 in the middle of it; the weights stay as they are.
    """
    cluster = FakeCluster()
    driver = begun(cluster)
    away: list[float] = []

    def trouble(moment: str, call: str) -> None:
        state = state_of(cluster)
        if not away and state.weight == 25 and moment == "wait":
            away.append(cluster.time + 60)
        if away and cluster.time < away[0] and call in ("load", "save", "hold", "apply", "track"):
            assert 25 == cluster.weight("canary")
            raise UnreachableError("kubernetes: 429 Too Many Requests")

    cluster.trouble = trouble

    assert Phase.SUCCEEDED is driver.drive().phase
    assert away


def test_an_api_server_that_stays_away_stops_the_driver_and_leaves_the_rollout_for_another():
    cluster = FakeCluster()
    driver = begun(cluster, plan(limits={"outage": "20s"}))

    def gone(_moment: str, call: str) -> None:
        if call in ("load", "save", "hold"):
            raise UnreachableError("kubernetes: no answer")

    when(cluster, Phase.JUDGE, lambda: setattr(cluster, "trouble", gone), weight=5)
    with pytest.raises(UnreachableError, match="no answer"):
        driver.drive()
    cluster.trouble = lambda *_: None
    cluster.let_pass(40)

    other = starting.resume(As(cluster, "ci"), "ci", by="bob")

    assert other is not None
    assert other.drive().ended


def test_metrics_that_are_away_promote_nothing_and_the_steps_time_ends_it():
    cluster = FakeCluster()
    driver = begun(cluster, plan(limits={"most": "2m", "total": "30m"}))
    when(cluster, Phase.JUDGE, lambda: setattr(cluster.world, "blind", True), weight=5)

    state = driver.drive()

    assert Phase.ROLLED_BACK is state.phase
    assert state.reason.startswith(
        "not decided at 5 % within 120 s: wait: no evidence in the last look: prometheus"
    )
    assert [5, 0] == [one.weight for one in state.steps]


def calls_of(cluster: FakeCluster) -> int:
    return len([call for call in cluster.calls if call != "wait"])


def test_a_driver_that_is_killed_at_any_call_is_followed_by_one_that_ends_the_rollout():
    """
    A18: every boundary between two calls, before and after the effect, and in the middle of Helm's.
    """
    given = plan(
        probes={"count": 5},
        bake={"time": "15s"},
        judge={"leastRequests": 1},
        limits={"look": "10s", "least": "10s"},
    )
    moments = []
    whole = FakeCluster()
    driver = begun(whole, given)
    whole.trouble = lambda moment, call: moments.append((state_of(whole).phase, moment, call))
    assert Phase.SUCCEEDED is driver.drive().phase
    # While something is waited for, each look is as the one before.
    boundaries = sorted(moments.index(one) for one in set(moments))

    for kill in boundaries:
        cluster = FakeCluster()
        driver = begun(cluster, given)
        left = iter(range(kill + 1))

        def trouble(_moment: str, _call: str, left=left) -> None:
            if next(left, None) is None:
                raise Killed

        cluster.trouble = trouble
        with contextlib.suppress(Killed):
            driver.drive()
        cluster.trouble = lambda *_: None
        cluster.let_pass(31)
        if state_of(cluster).ended:
            continue
        ask = starting.abort if kill % 2 else starting.resume
        other = ask(As(cluster, "ci"), "ci", by="bob")
        before = cluster.time

        assert other is not None
        assert other.drive().ended, moments[kill]
        assert cluster.time - before <= (120 if kill % 2 else 600)
    assert len(boundaries) > 100


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (
            {"routing": {"routes": [{"name": "everyone", "weights": {"stable": 90, "canary": 10}}]}},
            "expected weight 0 of canary",
        ),
        (
            {"tracks": {**VALUES["tracks"], "stable": {"version": 3, "replicas": 2}}},
            "to: expected another version than that of stable, got 3",
        ),
        (
            {"tracks": {"stable": {"version": 1, "replicas": 2}}},
            "tracks: expected canary among them, got stable",
        ),
        ({"image": {"tag": "x" * 300_000}}, "expected values of at most 262144 bytes"),
    ],
)
def test_a_release_that_has_no_place_for_a_rollout_is_left_as_it_is(values, why):
    cluster = FakeCluster(values={**VALUES, **values})

    with pytest.raises(UsageError, match=why):
        begun(cluster)
    assert (None, 1, "") == (cluster.stored, len(cluster.history), cluster.lease[0])
