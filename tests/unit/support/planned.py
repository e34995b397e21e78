"""
Whole rollouts against the fake cluster.
"""

from typing import Any

from rollout_cluster import As, FakeCluster, World

from tfcanary.rollout.evidence import JudgeEvidence
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.planfile import plan_from
from tfcanary.rollout.starting import start
from tfcanary.rollout.state import State, from_text


def plan(**keys: Any) -> Plan:
    """
    A plan of short times for version 3.
    """
    return plan_from({"release": "resnet", "to": 3, "bake": {"time": "60s"}, **keys})


def begun(
    cluster: FakeCluster, given: Plan | None = None, *, me: str = "laptop", evidence: Any = JudgeEvidence
):
    """
    A driver of a rollout that has begun.
    """
    return start(As(cluster, me), given or plan(), me, by="ann", evidence=evidence)


def rollout(
    world: World | None = None, given: Plan | None = None, *, seed: int = 0, evidence: Any = JudgeEvidence
) -> tuple[FakeCluster, State]:
    """
    A rollout to its end.
    """
    cluster = FakeCluster(world, seed=seed)
    return cluster, begun(cluster, given, evidence=evidence).drive()


def state_of(cluster: FakeCluster) -> State:
    """
    The state that is saved.
    """
    assert cluster.stored is not None
    return from_text(cluster.stored.text)


def when(cluster: FakeCluster, phase: Phase, do: Any, *, weight: float | None = None) -> None:
    """
    Do something once, as soon as the saved rollout is in a phase.
    """
    done = []

    def look(moment: str, _call: str) -> None:
        if done or moment != "wait" or cluster.stored is None:
            return
        state = state_of(cluster)
        if state.phase is phase and weight in (None, state.weight):
            done.append(True)
            do()

    cluster.trouble = look
