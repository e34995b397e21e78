"""
Every verb in every state: allowed, or refused by name; and twice gives the same.
"""

from dataclasses import replace

import pytest
from planned import begun, plan, state_of, when
from rollout_cluster import As, FakeCluster

from tfcanary.errors import UnreachableError, UsageError
from tfcanary.rollout import starting, verbs
from tfcanary.rollout.cluster import ActiveError
from tfcanary.rollout.phases import Phase, Stage
from tfcanary.rollout.state import State
from tfcanary.rollout.verbs import TABLE, VERBS, refusal

# By stage, the letters of the verbs that are allowed: Start, Pause, Resume, pRomote at a gate as G, Anyway, aBort.
ALLOWED = {
    Stage.NONE: "S",
    Stage.PREPARING: "PRB",
    Stage.STEPPING: "PRGAB",
    Stage.BAKING: "PRGAB",
    Stage.PROMOTING: "RGAB",
    Stage.BACK: "RB",
    Stage.SUCCEEDED: "S",
    Stage.ROLLED_BACK: "SB",
    Stage.FAILED: "B",
}
LETTERS = {
    verbs.START: "S",
    verbs.PAUSE: "P",
    verbs.RESUME: "R",
    verbs.PROMOTE: "G",
    verbs.ANYWAY: "A",
    verbs.ABORT: "B",
}
READING = (verbs.STATUS, verbs.EXPLAIN, verbs.HISTORY)
PHASES = {
    Stage.PREPARING: (Phase.EXAMINE, {}),
    Stage.STEPPING: (Phase.JUDGE, {"exposed": True, "weight": 5.0, "awaiting": "beyond 5 %"}),
    Stage.BAKING: (Phase.JUDGE, {"exposed": True, "baking": True, "weight": 90.0, "awaiting": "promotion"}),
    Stage.PROMOTING: (Phase.RENEW, {"exposed": True, "weight": 100.0}),
    Stage.BACK: (Phase.WITHDRAW_DRAIN, {"exposed": True}),
    Stage.SUCCEEDED: (Phase.SUCCEEDED, {"exposed": True}),
    Stage.ROLLED_BACK: (Phase.ROLLED_BACK, {"exposed": True}),
    Stage.FAILED: (Phase.FAILED, {"exposed": True, "failed_in": Phase.RENEW, "weight": 100.0}),
}


def at(stage: Stage) -> FakeCluster:
    """
    A cluster whose rollout is at a stage, and whose driver is gone.
    """
    cluster = FakeCluster()
    if stage is Stage.NONE:
        return cluster
    begun(cluster)
    phase, changed = PHASES[stage]
    state = replace(state_of(cluster), phase=phase, **changed)
    assert stage is state.stage
    cluster.save(state.as_text(), cluster.stored.version)
    cluster.let_pass(31)
    return cluster


def saved(cluster: FakeCluster) -> State | None:
    return replace(state_of(cluster), now=0) if cluster.stored else None


def test_the_table_is_complete():
    assert {(verb, stage) for verb in VERBS for stage in Stage} == set(TABLE)
    assert set(LETTERS) | {*READING, verbs.WATCH} == set(VERBS)


@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.name)
@pytest.mark.parametrize("verb", VERBS)
def test_every_cell_is_allowed_or_refused_by_name(verb, stage):
    cluster = at(stage)
    state = state_of(cluster) if cluster.stored else None

    why = refusal(verb, state)

    if verb in READING:
        allowed = True
    elif verb == verbs.WATCH:
        allowed = stage is not Stage.NONE
    else:
        allowed = LETTERS[verb] in ALLOWED[stage]
    assert allowed is (why == "")
    if why:
        subject = "rollout" if state is None else f"rollout resnet-3-7, {stage.value}"
        assert why.startswith(f"{subject}: {verb} is refused: ")
        assert "\n" not in why


@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.name)
@pytest.mark.parametrize("verb", [verbs.PAUSE, verbs.RESUME, verbs.PROMOTE, verbs.ANYWAY, verbs.ABORT])
def test_twice_gives_the_same(verb, stage):
    """
    The second time nothing changes: not the state, and not what is said.
    """
    cluster, said = at(stage), []
    states = [saved(cluster)]
    for _ in range(2):
        try:
            verbs.ask(As(cluster, "carla"), verb, "carla")
            said.append("")
        except UsageError as error:
            said.append(str(error))
        states.append(saved(cluster))
        cluster.let_pass(1)

    if verb == verbs.ABORT and stage is Stage.FAILED:
        # It goes back once more; the second abort finds it on its way.
        assert Stage.BACK is states[1].stage
    assert said[0] == said[1]
    assert states[1] == states[2]
    if said[0]:
        assert states[0] == states[1]


@pytest.mark.parametrize(
    "stage", [one for one in Stage if "S" not in ALLOWED[one]], ids=lambda stage: stage.name
)
def test_start_names_the_rollout_that_is_in_its_way_and_changes_nothing(stage):
    cluster = at(stage)
    before = saved(cluster)

    for _ in range(2):
        with pytest.raises(ActiveError, match=f"rollout resnet-3-7, {stage.value}: start is refused: "):
            starting.start(As(cluster, "ci"), plan(), "ci", by="bob")
    assert (before, "") == (saved(cluster), cluster.lease[0])


def test_promote_without_a_gate_says_what_does_without_one():
    cluster = at(Stage.STEPPING)
    cluster.save(
        replace(state_of(cluster), awaiting="", since=cluster.time).as_text(), cluster.stored.version
    )

    with pytest.raises(
        UsageError, match="no gate waits for an approval; the judge goes on by itself, and --anyway"
    ):
        verbs.ask(As(cluster, "carla"), verbs.PROMOTE, "carla")


def test_a_verb_reaches_the_driver_that_is_at_work():
    cluster = FakeCluster()
    driver = begun(cluster)
    others = []
    when(
        cluster,
        Phase.JUDGE,
        lambda: others.append(starting.abort(As(cluster, "ci"), "ci", by="bob")),
        weight=5,
    )

    state = driver.drive()

    assert [None] == others
    assert (Phase.ROLLED_BACK, "aborted by bob", "laptop") == (state.phase, state.reason, state.driver)


@pytest.mark.parametrize("ask", [starting.abort, starting.resume])
def test_a_rollout_whose_driver_is_gone_is_driven_by_whoever_asks(ask):
    cluster = FakeCluster()
    begun(cluster)
    cluster.let_pass(31)

    driver = ask(As(cluster, "ci"), "ci", by="bob")

    assert driver is not None
    state = driver.drive()
    assert ("ci", True) == (state.driver, state.ended)


def test_a_pause_holds_the_weight_until_it_is_resumed():
    cluster = FakeCluster()
    driver = begun(cluster)
    weights = []

    def trouble(moment: str, _call: str) -> None:
        state = state_of(cluster)
        if moment != "wait" or state.phase is not Phase.JUDGE or state.weight != 5:
            return
        if not weights:
            verbs.ask(As(cluster, "carla"), verbs.PAUSE, "carla")
        weights.append(cluster.weight("canary"))
        if len(weights) == 300:
            assert "paused by carla" == state.hold
            verbs.ask(As(cluster, "carla"), verbs.RESUME, "carla")

    cluster.trouble = trouble

    assert Phase.SUCCEEDED is driver.drive().phase
    assert {5} == set(weights)


def test_a_wish_that_others_always_overtake_is_refused_in_the_end():
    cluster = at(Stage.STEPPING)

    def overtake(moment: str, call: str) -> None:
        if (moment, call) == ("before", "save"):
            stored = cluster.stored
            cluster.stored = replace(stored, version=str(int(stored.version) + 1))

    cluster.trouble = overtake

    with pytest.raises(UnreachableError, match=r"pause was not written down: .* 20 times"):
        verbs.ask(As(cluster, "carla"), verbs.PAUSE, "carla")
