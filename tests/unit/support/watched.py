"""
The states that a watcher of a rollout sees: each one that is saved.
"""

from collections.abc import Callable
from typing import Any

from planned import begun, state_of
from rollout_cluster import As, FakeCluster, World

from tfcanary.rollout import verbs
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import State

# What the world's tracks fail of themselves.
FAILING = {1: 0.002, 2: 0.002, 3: 0.002}


def watched(
    given: Plan,
    world: World | None = None,
    *,
    do: Callable[[FakeCluster, State], None] | None = None,
    seed: int = 0,
) -> list[State]:
    """
    The states of a rollout, its end last.

    Args:
        given: the plan.
        world: what the cluster does by itself.
        do: what people and faults do to the cluster whenever the driver waits.
        seed: of the fake cluster.
    """
    cluster = FakeCluster(world or World(bad=dict(FAILING)), seed=seed)
    driver = begun(cluster, given)
    seen = [state_of(cluster)]

    def look(moment: str, call: str) -> None:
        if (moment, call) == ("after", "save"):
            seen.append(state_of(cluster))
        elif moment == "wait" and do is not None:
            do(cluster, seen[-1])

    cluster.trouble = look
    driver.drive()
    return seen


def approving(by: str, *, after: float = 5.0) -> Callable[[FakeCluster, State], None]:
    """
    Somebody who approves whatever waits for it, so many seconds later.
    """
    waits: dict[str, float] = {}

    def do(cluster: FakeCluster, state: State) -> None:
        if state.awaiting and cluster.time - waits.setdefault(state.awaiting, cluster.time) >= after:
            verbs.ask(As(cluster, by), verbs.PROMOTE, by)

    return do


def only(states: list[State], **is_so: Any) -> State:
    """
    The first state in which attributes have these values.
    """
    return next(one for one in states if all(getattr(one, name) == value for name, value in is_so.items()))
