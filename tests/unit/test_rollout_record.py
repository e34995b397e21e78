"""
The release record, and the state that it is made of.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from planned import begun, plan, rollout, state_of, when
from rollout_cluster import VALUES, As, FakeCluster, World

from tfcanary import rollout as package
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.rollout import verbs
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.record import record
from tfcanary.rollout.state import SCHEMA, Approval, Note, State, Step, from_text

RECORD = Draft7Validator(
    json.loads((Path(package.__file__).parent / "record.schema.json").read_text(encoding="utf-8"))
)
TEXT = st.text(max_size=50)
TIME = st.floats(0, 2e9)


@pytest.mark.parametrize(
    ("world", "end"),
    [
        (World(), "succeeded"),
        (World(bad={3: 1.0}), "rolled back"),
        (World(bad={3: 0.2}), "rolled back"),
        (World(slow={("stable", 3): float("inf")}), "failed"),
        (World(problems=("another signature",)), "rolled back"),
    ],
)
def test_every_end_is_announced_once_with_a_record_of_the_schema(world, end):
    cluster, _ = rollout(world)

    (made,) = cluster.announced
    assert [] == [error.message for error in RECORD.iter_errors(json.loads(json.dumps(made)))]
    assert (end, "ann", 1, 3) == (made["end"], made["startedBy"], made["from"], made["to"])
    assert {"revision": 7, "values": VALUES} == made["baseline"]
    # The canary of a rollout that went back has no pods any more; what it was is known from when it was examined.
    assert {"chart": "sha256:1", "model canary": "half 3 sha256:2"} == made["facts"]


def test_a_record_says_what_was_shown_and_what_was_not():
    cluster, _ = rollout()

    (made,) = cluster.announced
    assert made["shown"][0].startswith("errors: at most 0.5 points more errors than stable, 95 % sure, from ")
    assert "accuracy: nothing was asked about accuracy" in made["notShown"]
    assert "traffic: the requests were our own, not the users'" in made["notShown"]

    cluster, _ = rollout(World(bad={3: 1.0}))
    (made,) = cluster.announced
    assert [] == made["shown"]
    assert made["notShown"][0].startswith("errors: not proven to be within its tolerance; ")
    assert "probes: no clean ones at weight 0" in made["notShown"]


def test_a_record_names_who_approved_and_who_went_on_without_a_proof():
    cluster = FakeCluster()
    driver = begun(cluster, plan(approvals=[0]))
    asks = iter((verbs.PROMOTE, verbs.ANYWAY))
    cluster.trouble = lambda moment, _: (
        verbs.ask(As(cluster, "carla"), next(asks), "carla")
        if moment == "wait"
        and (state_of(cluster).awaiting or (state_of(cluster).weight == 5 and not state_of(cluster).anyway))
        else None
    )
    driver.drive()

    (made,) = cluster.announced
    assert [("beyond 0 %", "carla")] == [(one["gate"], one["by"]) for one in made["approvals"]]
    assert "carla" == made["withoutProof"]


def test_whoever_cannot_be_told_of_the_end_does_not_change_it():
    cluster = FakeCluster()
    driver = begun(cluster)

    def trouble(_moment: str, call: str) -> None:
        if call == "announce":
            raise UnreachableError("webhook: 503")

    cluster.trouble = trouble
    state = driver.drive()

    assert (Phase.SUCCEEDED, True, []) == (state.phase, state.announced, cluster.announced)


def test_an_end_that_nobody_was_told_of_is_told_before_the_next_rollout():
    cluster, state = rollout(World(bad={3: 1.0}))
    cluster.announced.clear()
    untold = replace(state, announced=False)
    cluster.save(untold.as_text(), cluster.stored.version)

    begun(cluster)

    assert ["rolled back"] == [made["end"] for made in cluster.announced]
    assert (Phase.DEPLOY, "laptop") == (state_of(cluster).phase, cluster.lease[0])


def test_the_state_of_a_long_rollout_is_a_few_kilobytes():
    cluster = FakeCluster()
    driver = begun(
        cluster, plan(ramp={"ladder": [1, 2, 5, 10, 20, 40, 60], "answers": 1}, approvals=[1, 2, 5, 10])
    )
    sizes = []

    def trouble(moment: str, _call: str) -> None:
        sizes.append(len(cluster.stored.text))
        if moment == "wait" and state_of(cluster).awaiting:
            verbs.ask(As(cluster, "carla"), verbs.PROMOTE, "carla")

    cluster.trouble = trouble

    assert Phase.SUCCEEDED is driver.drive().phase
    assert max(sizes) < 12_000


def test_a_state_is_bounded_however_often_a_rollout_is_nudged():
    cluster = FakeCluster()
    begun(cluster)
    state = state_of(cluster)
    for number in range(1000):
        state = state.noted(f"{number} " + 1000 * "x").weighed(number % 100).judged(1000 * "y")
        state = replace(state, earlier=state.as_earlier())

    assert len(state.as_text()) < 64 * 1024
    assert (30, 60, 10) == (len(state.notes), len(state.steps), len(state.earlier))
    assert state.notes[-1].text.startswith("999 ")


@given(
    phases=st.tuples(st.sampled_from(Phase), st.none() | st.sampled_from(Phase)),
    texts=st.tuples(TEXT, TEXT, TEXT, TEXT),
    lists=st.tuples(
        st.lists(st.builds(Step, TIME, TIME, st.none() | TIME, st.integers(0, 9), TEXT), max_size=3),
        st.lists(st.builds(Approval, TEXT, TEXT, TIME), max_size=3),
        st.lists(st.builds(Note, TIME, TEXT), max_size=3),
    ),
    outage=st.none() | TIME,
)
@settings(max_examples=100, deadline=None)
def test_a_state_survives_being_written_down(phases, texts, lists, outage):
    state = replace(
        _STATE,
        phase=phases[0],
        failed_in=phases[1],
        hold=texts[0],
        reason=texts[1],
        judge=texts[2],
        by=texts[3],
        steps=tuple(lists[0]),
        approvals=tuple(lists[1]),
        notes=tuple(lists[2]),
        earlier=tuple(lists[2]),
        outage=outage,
    )

    assert state == from_text(state.as_text())
    assert state.as_text() == from_text(state.as_text()).as_text()


def _begun() -> State:
    cluster = FakeCluster()
    begun(cluster)
    return state_of(cluster)


_STATE = _begun()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "expected what a rollout saved, got JSONDecodeError"),
        ("[]", "expected what a rollout saved, got TypeError"),
        ("{}", "expected what a rollout saved, got KeyError: 'schema'"),
        (_STATE.as_text().replace(SCHEMA, "other/9"), f"expected schema {SCHEMA}, got 'other/9'"),
        (
            _STATE.as_text().replace('"DEPLOY"', '"LATER"'),
            "expected what a rollout saved, got KeyError: 'LATER'",
        ),
        (_STATE.as_text().replace('"serial"', '"number"'), "expected what a rollout saved, got TypeError"),
    ],
)
def test_a_state_that_is_none_is_refused_in_one_line(text, line):
    with pytest.raises(UsageError) as refused:
        from_text(text)

    assert str(refused.value).startswith(f"rollout's state: {line}")
    assert "\n" not in str(refused.value)


def test_a_record_is_possible_at_any_time():
    cluster = FakeCluster()
    driver = begun(cluster)
    made = []
    when(cluster, Phase.JUDGE, lambda: made.append(record(plan(), state_of(cluster), {})), weight=25)
    driver.drive()

    assert [] == list(RECORD.iter_errors(json.loads(json.dumps(made[0]))))
    assert ("", None) == (made[0]["end"], made[0]["endedAt"])
