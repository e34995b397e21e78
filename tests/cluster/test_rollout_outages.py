"""
What goes away in the middle of a rollout: its driver, the API server, the metrics.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rolling import BETTER, MODEL, RELEASE, Rolling, driving, killed_in, state_of
from scraping import scraping

from tfcanary.cluster import lifecycle
from tfcanary.cluster.layout import Layout
from tfcanary.contract import Api
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.state import State
from tfcanary.traffic.calls import metadata_call
from tfcanary.traffic.driver import Traffic
from tfcanary.wait import NotYet, wait_until

if TYPE_CHECKING:
    import subprocess

LOG = logging.getLogger(__name__)
pytestmark = pytest.mark.skipif(os.environ.get("DRILL") != "full", reason="long: nox -s drill")


@contextlib.contextmanager
def away(rolling: Rolling, pid: int, seconds: float) -> Iterator[list[float]]:
    """
    Stop a program for a while, from a rollout's first judged weight on.

    Yields:
        When it was stopped and when it went on, in seconds since 1970, once it did.
    """
    times: list[float] = []
    timer = threading.Timer(seconds, lambda: (os.kill(pid, signal.SIGCONT), times.append(time.time())))

    def stop(state: State) -> None:
        if state.exposed and state.phase is Phase.JUDGE:
            del rolling.when["away"]
            os.kill(pid, signal.SIGSTOP)
            times.append(time.time())
            timer.start()

    rolling.when["away"] = stop
    try:
        yield times
    finally:
        timer.cancel()
        os.kill(pid, signal.SIGCONT)


def raised(states: list[State], times: list[float]) -> list[float]:
    """
    The weights that were asked for inside an interval.
    """
    began, ended = times
    return [step.weight for step in states[-1].steps if began < step.asked < ended]


@pytest.mark.parametrize("seconds", [8, 25])
def test_an_api_server_that_is_away_changes_nothing_and_the_rollout_goes_on(
    rolling: Rolling, layout: Layout | None, seconds: float
) -> None:
    """
    A23. Shorter and longer than the driver's Lease; users' requests do not pass through it.
    """
    assert layout is not None
    (server,) = [line for line in lifecycle.status(layout) if line.component == "kube-apiserver"]
    assert server.pid is not None
    calls = [metadata_call(api, MODEL) for api in Api]
    with (
        Traffic(
            gateway_address(LiveObjects(rolling.target), RELEASE), calls, rate=20.0, host=rolling.host
        ) as users,
        rolling.started(BETTER) as (_, drive),
        away(rolling, server.pid, seconds) as times,
    ):
        end = drive()
        asked = users.stop()

    LOG.info("API server away for %.0f s: %s, %s", times[1] - times[0], end.phase.value, asked.in_words())
    assert Phase.SUCCEEDED is end.phase, end.reason
    assert [] == raised(rolling.states, times)
    asked.assert_none_failed(at_least=1000)


def test_a_prometheus_that_is_away_promotes_nothing_and_the_rollout_goes_on(
    rolling: Rolling, tmp_path: Path
) -> None:
    """
    A23. No metrics are no evidence.
    """
    calls = [metadata_call(api, MODEL) for api in Api]
    gateway = gateway_address(LiveObjects(rolling.target), RELEASE)
    with (
        scraping(rolling.target, RELEASE, tmp_path) as prometheus,
        Traffic(gateway, calls, rate=50.0, host=rolling.host) as users,
        rolling.started(BETTER, traffic={"from": "prometheus", "url": prometheus.url}) as (_, drive),
        away(rolling, prometheus.pid, 30) as times,
    ):
        end = drive()
        asked = users.stop()

    LOG.info("Prometheus away for %.0f s: %s, %s", times[1] - times[0], end.phase.value, asked.in_words())
    assert Phase.SUCCEEDED is end.phase, end.reason
    assert [] == raised(rolling.states, times)
    asked.assert_none_failed(at_least=2000)


PHASES = [
    *(Phase.DEPLOY, Phase.EXAMINE, Phase.PROBE, Phase.JUDGE, Phase.WEIGH, Phase.WEIGH_SEEN),
    *(Phase.WHOLE, Phase.WHOLE_SEEN, Phase.WHOLE_DRAIN, Phase.RENEW),
    *(Phase.RETURN, Phase.RETURN_SEEN, Phase.RETURN_DRAIN, Phase.RETIRE),
]


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
