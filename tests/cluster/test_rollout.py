"""
Rollouts on a real cluster: a good version reaches stable and drops nothing, and a bad one goes back.

The judged requests are the rollout's own, over REST and gRPC, and each of them has a record.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from planting import Kubectl
from pytest_kubernetes.providers.base import AClusterManager
from rolling import (
    ABSENT,
    BETTER,
    FAULTS,
    GOOD,
    MODEL,
    PERMUTED,
    QUICK,
    RELEASE,
    SLOW,
    Rolling,
    dead,
    digits_in_a_namespace,
)
from scraping import scraping

from tfcanary.cluster.layout import Layout
from tfcanary.contract import Api
from tfcanary.errors import UsageError
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.report.rollout_page import record_page
from tfcanary.rollout import starting, verbs
from tfcanary.rollout.cluster import ActiveError
from tfcanary.rollout.live import LiveCluster
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.planfile import plan_from
from tfcanary.rollout.state import State, from_text
from tfcanary.target import Target
from tfcanary.traffic.calls import metadata_call
from tfcanary.traffic.driver import Traffic
from tfcanary.traffic.records import Records
from tfcanary.wait import NotYet, wait_until

LOG = logging.getLogger(__name__)
drill = pytest.mark.skipif(os.environ.get("DRILL") != "full", reason="long: nox -s drill")


@pytest.fixture(scope="module")
def place(
    manager: AClusterManager, layout: Layout | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """
    A namespace whose model store has two good versions of digits and two bad ones.
    """
    with digits_in_a_namespace(manager, layout, tmp_path_factory.mktemp("faulty"), faults=FAULTS) as name:
        yield name


@pytest.fixture(scope="module")
def release(place: str, kubeconfig: Path, environment: Path) -> Rolling:
    return Rolling(Target(namespace=place, kubeconfig=kubeconfig), f"{place}.test", environment)


@pytest.fixture
def rolling(release: Rolling) -> Rolling:
    release.when.clear()
    release.reset()
    return release


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


def test_a_good_version_reaches_stable_and_drops_nothing(rolling: Rolling) -> None:
    """
    Beside the judged requests, users ask over both APIs all the time, and none of them fails.
    """
    live = LiveObjects(rolling.target)
    calls = [metadata_call(api, MODEL) for api in Api]
    with (
        Traffic(gateway_address(live, RELEASE), calls, rate=60.0, host=rolling.host) as users,
        rolling.started(BETTER) as (cluster, drive),
    ):
        end = drive()
        asked = users.stop()
        own = judged(cluster)
        record = cluster.last_record()

    LOG.info("%s after %.0f s, weights %s", end.phase.value, end.now - end.started, weights(rolling.states))
    assert Phase.SUCCEEDED is end.phase, end.reason
    asked.assert_none_failed(at_least=2000)
    own.assert_none_failed(at_least=1000)
    values = rolling.releases.values(RELEASE)
    assert BETTER == values["tracks"]["stable"]["version"]
    assert {"stable": 100} == values["routing"]["routes"][-1]["weights"]
    assert 0 == values["tracks"]["canary"]["replicas"]
    assert record is not None
    assert ("succeeded", GOOD, BETTER) == (record["end"], record["from"], record["to"])
    assert "sha256:" in record["facts"]["values"]
    assert "succeeded" in record_page(record)


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
    assert len(bad) <= 25
    assert harm <= 10
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
        scraping(rolling.target, RELEASE, tmp_path) as url,
        Traffic(gateway, calls, rate=50.0, host=rolling.host) as users,
        plant.planted(dead(place)),
        rolling.started(BETTER, steps=[10], traffic={"from": "prometheus", "url": url}) as (_, drive),
    ):
        end = drive()
        asked = users.stop()

    bad = np.flatnonzero(asked.failed)
    LOG.info("users: %d of %d failed; %s", len(bad), len(asked), end.reason)
    assert Phase.ROLLED_BACK is end.phase
    assert "errors worse than stable" in end.reason
    assert 0 < len(bad) <= 100
    assert 40 < end.per_second < 60


def command(rolling: Rolling, *arguments: str) -> list[str]:
    target = rolling.target
    return [
        *(sys.executable, "-m", "tfcanary", "rollout", *arguments),
        *(f"--release={RELEASE}", f"--namespace={target.namespace}", f"--kubeconfig={target.kubeconfig}"),
    ]


def state_of(rolling: Rolling) -> State:
    stored = rolling.cluster().load()
    assert stored is not None
    return from_text(stored.text)


def killed_in(rolling: Rolling, process: "subprocess.Popen[bytes]", phase: Phase) -> None:
    """
    Kill a driver with everything it has started, as soon as its rollout is in a phase.
    """

    def there() -> None:
        assert process.poll() is None, f"it ended with {process.returncode} before {phase.value}"
        state = state_of(rolling)
        if state.phase is not phase:
            raise NotYet(state.phase.value)

    wait_until(phase.value, there, timeout_seconds=120, interval_seconds=0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def driving(rolling: Rolling, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command(rolling, *arguments), start_new_session=True)


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


PHASES = [
    *(Phase.DEPLOY, Phase.EXAMINE, Phase.PROBE, Phase.JUDGE, Phase.WEIGH, Phase.WEIGH_SEEN),
    *(Phase.WHOLE, Phase.WHOLE_SEEN, Phase.WHOLE_DRAIN, Phase.RENEW),
    *(Phase.RETURN, Phase.RETURN_SEEN, Phase.RETURN_DRAIN, Phase.RETIRE),
]


@drill
def test_a_driver_that_is_killed_in_every_phase_still_gets_there(rolling: Rolling, tmp_path: Path) -> None:
    """
    Kill -9 of the driver and of its helm, fourteen times in one rollout; users ask all the time, and none of them fails.
    """
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"release: {RELEASE}\nto: {BETTER}\ntraffic: {{perSecond: 40}}\n"
        "limits: {least: 2s, drain: 11s}\nbake: {time: 10s}\njudge: {errors: {points: 5}}\n"
    )
    calls = [metadata_call(api, MODEL) for api in Api]
    with Traffic(
        gateway_address(LiveObjects(rolling.target), RELEASE), calls, rate=20.0, host=rolling.host
    ) as users:
        process = driving(rolling, "start", str(plan))
        for phase in PHASES:
            killed_in(rolling, process, phase)
            LOG.info("killed in %s", phase.value)
            process = resumed(rolling)
        assert 0 == process.wait(timeout=300)
        asked = users.stop()

    LOG.info("%s", asked.in_words())
    assert Phase.SUCCEEDED is state_of(rolling).phase
    asked.assert_none_failed(at_least=2000)


def resumed(rolling: Rolling) -> "subprocess.Popen[bytes]":
    """
    Another driver, once the Lease of the one before is over.
    """
    before = state_of(rolling).driver
    found: list[subprocess.Popen[bytes]] = []

    def taken() -> None:
        if not found or found[-1].poll() is not None:
            found.append(driving(rolling, "resume"))
        if state_of(rolling).driver == before:
            raise NotYet(before)

    wait_until("another driver", taken, timeout_seconds=90, interval_seconds=0.2)
    return found[-1]
