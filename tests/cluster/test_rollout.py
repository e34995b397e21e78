"""
Rollouts on a real cluster: a good version reaches stable and drops nothing, and a bad one goes back.

The judged requests are the rollout's own, over REST and gRPC, and each of them has a record.
"""

import contextlib
import logging
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from planting import Kubectl
from pytest_kubernetes.providers.base import AClusterManager
from rolling import (
    ABSENT,
    BETTER,
    GOOD,
    MODEL,
    PERMUTED,
    QUICK,
    RELEASE,
    SLOW,
    Rolling,
    command,
    dead,
    driving,
    killed_in,
    state_of,
)
from scraping import scraping

from tfcanary.chart.source import digest
from tfcanary.cluster.layout import Layout
from tfcanary.contract import Api
from tfcanary.errors import UsageError
from tfcanary.export import manifest
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.paths import CHART
from tfcanary.rollout import starting, verbs
from tfcanary.rollout.cluster import ActiveError
from tfcanary.rollout.live import LiveCluster
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.planfile import plan_from
from tfcanary.rollout.state import State
from tfcanary.traffic.calls import metadata_call
from tfcanary.traffic.driver import Traffic
from tfcanary.traffic.records import Records
from tfcanary.wait import NotYet, wait_until

LOG = logging.getLogger(__name__)
DRILL = os.environ.get("DRILL") == "full"
drill = pytest.mark.skipif(not DRILL, reason="long: nox -s drill")
# The way back is one Helm revision, which takes its time from the processors: beside other tests it is not the figure. The
# canary has five requests a second, and how many of them fall into these seconds is chance.
MOST_BAD, MOST_SECONDS = (25, 5.0) if DRILL else (80, 30.0)


@pytest.fixture
def plant(manager: AClusterManager, place: str, tmp_path: Path) -> Kubectl:
    return Kubectl(manager, place, tmp_path)


def judged(cluster: LiveCluster) -> Records:
    """
    The requests of the rollout's own; no more are sent.
    """
    requests = cluster._requests
    assert requests is not None
    return requests._traffic.stop()


def weights(states: list[State]) -> list[float]:
    return [step.weight for step in states[-1].steps]


def test_a_good_version_reaches_stable_and_drops_nothing(
    rolling: Rolling, layout: Layout, place: str
) -> None:
    """
    Beside the judged requests, users ask over both APIs all the time, and none of them fails. A person opens the gate of
    the promotion.
    """
    live = LiveObjects(rolling.target)
    calls = [metadata_call(api, MODEL) for api in Api]
    with (
        Traffic(gateway_address(live, RELEASE), calls, rate=60.0, host=rolling.host) as users,
        rolling.started(BETTER, approvals=["promotion"]) as (cluster, drive),
    ):
        rolling.when["gate"] = lambda state: opened(rolling, state)
        end = drive()
        asked = users.stop()
        own = judged(cluster)
        record = cluster.last_record()

    LOG.info("%s after %.0f s, weights %s", end.phase.value, end.now - end.started, weights(rolling.states))
    assert Phase.SUCCEEDED is end.phase, end.reason
    asked.assert_none_failed(at_least=2000)
    own.assert_none_failed(at_least=1000)
    assert len(asked) + len(own) >= 5000
    values = rolling.releases.values(RELEASE)
    assert BETTER == values["tracks"]["stable"]["version"]
    assert {"stable": 100} == values["routing"]["routes"][-1]["weights"]
    assert 0 == values["tracks"]["canary"]["replicas"]
    assert record is not None
    assert ("succeeded", GOOD, BETTER) == (record["end"], record["from"], record["to"])
    assert "sha256:" in record["facts"]["values"]
    assert record["facts"]["chart"].endswith(f" sha256:{digest(CHART)}")
    for track, version in (("stable", GOOD), ("canary", BETTER)):
        sums = manifest.sha256(layout.models / place / MODEL / str(version) / manifest.SUMS)
        assert record["facts"][f"model {track}"].endswith(f" {version} sha256:{sums}")
    assert [("promotion", "ann")] == [(one["gate"], one["by"]) for one in record["approvals"]]


def opened(rolling: Rolling, state: State) -> None:
    """
    Let a rollout pass the gate that it waits at.
    """
    if state.awaiting:
        del rolling.when["gate"]
        verbs.ask(rolling.cluster(), verbs.PROMOTE, "ann")


def test_a_dead_canary_is_back_at_0_within_seconds(rolling: Rolling, plant: Kubectl, place: str) -> None:
    """
    It answers its probes, and nobody who comes through the mesh.
    """
    with (
        plant.planted(dead(place)),
        rolling.started(
            BETTER, steps=[10], traffic={"perSecond": 50}, limits={**QUICK["limits"], "least": "1s"}
        ) as (cluster, drive),
    ):
        end = drive()
        own = judged(cluster)

    bad = np.flatnonzero(own.failed)
    assert len(bad)
    harm = float(own.due[bad[-1]] - own.due[bad[0]])
    LOG.info("dead: %d failed answers in %.1f s; %s", len(bad), harm, end.reason)
    assert Phase.ROLLED_BACK is end.phase
    assert "roll back" in end.reason
    assert len(bad) <= MOST_BAD
    assert harm <= MOST_SECONDS
    assert GOOD == rolling.releases.values(RELEASE)["tracks"]["stable"]["version"]


def test_permuted_labels_are_found_before_any_user_gets_them(rolling: Rolling) -> None:
    """
    Every answer is 200 and well-formed; pairs of the same input show it at weight 0.
    """
    judge = {**QUICK["judge"], "signals": ["errors", "disagreement"]}
    with rolling.started(PERMUTED, judge=judge) as (_, drive):
        end = drive()

    LOG.info("permuted: %s", end.reason)
    assert Phase.ROLLED_BACK is end.phase
    assert "disagreement" in end.reason
    assert [] == weights(rolling.states)


def test_a_canary_that_dies_in_the_bake_goes_back(rolling: Rolling, plant: Kubectl, place: str) -> None:
    """
    The old version has a tenth of the traffic there, and what the new one does is still compared.
    """
    with contextlib.ExitStack() as planted, rolling.started(BETTER, bake={"time": "60s"}) as (_, drive):

        def die(state: State) -> None:
            if state.baking and state.phase is Phase.JUDGE:
                rolling.when.clear()
                planted.enter_context(plant.planted(dead(place)))

        rolling.when["die"] = die
        end = drive()

    LOG.info("bake: %s after weights %s", end.reason, weights(rolling.states))
    assert Phase.ROLLED_BACK is end.phase
    assert 90 in weights(rolling.states)
    assert GOOD == rolling.releases.values(RELEASE)["tracks"]["stable"]["version"]


def test_users_requests_decide_as_a_prometheus_has_them(
    rolling: Rolling, plant: Kubectl, place: str, tmp_path: Path
) -> None:
    """
    No request is the rollout's own: a canary that dies at its first weight is seen in the gateway's statistics.
    """
    calls = [metadata_call(api, MODEL) for api in Api]
    gateway = gateway_address(LiveObjects(rolling.target), RELEASE)
    with (
        scraping(rolling.target, RELEASE, tmp_path) as prometheus,
        Traffic(gateway, calls, rate=50.0, host=rolling.host) as users,
        plant.planted(dead(place)),
        rolling.started(BETTER, steps=[10], traffic={"from": "prometheus", "url": prometheus.url}) as (
            _,
            drive,
        ),
    ):
        end = drive()
        asked = users.stop()

    bad = np.flatnonzero(asked.failed)
    LOG.info("users: %d of %d failed; %s", len(bad), len(asked), end.reason)
    assert Phase.ROLLED_BACK is end.phase
    assert "errors worse than stable" in end.reason
    assert 0 < len(bad) <= 100
    assert 40 < end.per_second < 60


def test_whoever_comes_second_is_told_who_drives_and_verbs_reach_the_driver(
    rolling: Rolling, tmp_path: Path
) -> None:
    """
    A driver in a process of its own; it is killed, another goes on, a person pauses, resumes and aborts.
    """
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"release: {RELEASE}\nto: {BETTER}\ntraffic: {{perSecond: 40}}\n"
        "limits: {least: 2s, drain: 11s}\njudge: {errors: {points: 5}}\n"
    )
    first = driving(rolling, "start", str(plan))
    killed_in(rolling, first, Phase.WEIGH_SEEN)
    with contextlib.closing(rolling.cluster()) as cluster, pytest.raises(ActiveError, match="drives one"):
        starting.start(cluster, plan_from(state_of(rolling).plan), "second", by="somebody else")
    second = driving(rolling, "resume")

    def driven() -> None:
        # Before its Lease is over, the first one counts as alive.
        if second.poll() is not None:
            raise NotYet(f"resume ended with {second.returncode}")
        if state_of(rolling).driver.endswith(first_name):
            raise NotYet("the first still has it")

    first_name = state_of(rolling).driver
    try:
        wait_until("another driver", driven, timeout_seconds=60, interval_seconds=0.2)
        asked = verbs.ask(rolling.cluster(), verbs.PAUSE, "ann")
        assert "ann" == asked.paused
        with pytest.raises(UsageError, match="no gate waits"):
            verbs.ask(rolling.cluster(), verbs.PROMOTE, "ann")
        done = subprocess.run(command(rolling, "status"), check=True, capture_output=True, text=True)
        assert "ann" in done.stdout
        verbs.ask(rolling.cluster(), verbs.ABORT, "bob")
        assert 1 == second.wait(timeout=120)
    finally:
        if second.poll() is None:
            os.killpg(second.pid, signal.SIGKILL)
    end = state_of(rolling)
    assert Phase.ROLLED_BACK is end.phase
    assert "bob" in end.reason
    assert GOOD == rolling.releases.values(RELEASE)["tracks"]["stable"]["version"]


@drill
def test_a_slow_canary_goes_back(rolling: Rolling) -> None:
    judge = {**QUICK["judge"], "signals": ["errors", "slow"], "slowAfter": "500ms"}
    with rolling.started(SLOW, judge=judge, traffic={"perSecond": 10}) as (_, drive):
        end = drive()

    LOG.info("slow: %s after weights %s", end.reason, weights(rolling.states))
    assert Phase.ROLLED_BACK is end.phase


@drill
def test_5_per_cent_of_errors_go_back(rolling: Rolling, plant: Kubectl, place: str) -> None:
    judge = {"errors": {"times": 2, "points": 0.5}}
    with plant.planted(dead(place, 5)), rolling.started(BETTER, judge=judge) as (cluster, drive):
        end = drive()
        own = judged(cluster)

    LOG.info("5 %%: %d of %d failed, %s", own.failed.sum(), len(own), end.reason)
    assert Phase.ROLLED_BACK is end.phase


@drill
def test_a_version_that_is_never_ready_gets_nothing(rolling: Rolling) -> None:
    with rolling.started(ABSENT, limits={**QUICK["limits"], "ready": "45s"}) as (_, drive):
        end = drive()

    LOG.info("never Ready: %s", end.reason)
    assert Phase.ROLLED_BACK is end.phase
    assert [] == weights(rolling.states)
