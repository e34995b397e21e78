"""
A dead canary, by this project's rollout and by Argo Rollouts' documented example: the same cluster, fault and users.
"""

import logging
import os
from pathlib import Path

import argo
import numpy as np
import pytest
from planting import Kubectl
from pytest_kubernetes.providers.base import AClusterManager
from rolling import BETTER, MODEL, RELEASE, Rolling, dead
from scraping import scraping

from tfcanary.contract import Api
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.rollout.phases import Phase
from tfcanary.traffic.calls import metadata_call
from tfcanary.traffic.driver import Traffic
from tfcanary.traffic.records import Records
from tfcanary.wait import NotYet, wait_until

LOG = logging.getLogger(__name__)
pytestmark = pytest.mark.skipif(os.environ.get("DRILL") != "full", reason="long: nox -s drill")
CALLS = [metadata_call(api, MODEL) for api in Api]
USERS = 50.0


def harm(asked: Records) -> tuple[int, float]:
    """
    How many of the users' requests failed, and the seconds from the first of them to the last.
    """
    bad = np.flatnonzero(asked.failed)
    return len(bad), float(asked.due[bad[-1]] - asked.due[bad[0]])


def test_a_dead_canary_costs_a_peers_users_more(
    rolling: Rolling, manager: AClusterManager, place: str, kubeconfig: Path, tmp_path: Path
) -> None:
    kubectl = Kubectl(manager, place, tmp_path)
    gateway = gateway_address(LiveObjects(rolling.target), RELEASE)
    with scraping(rolling.target, RELEASE, tmp_path) as prometheus, kubectl.planted(dead(place)):
        with (
            Traffic(gateway, CALLS, rate=USERS, host=rolling.host) as users,
            rolling.started(BETTER, steps=[20], traffic={"from": "prometheus", "url": prometheus.url}) as (
                _,
                drive,
            ),
        ):
            end = drive()
            ours = harm(users.stop())
        stable, canary = (argo.deployment(kubectl, track) for track in ("stable", "canary"))
        with (
            argo.controller(kubeconfig, place, tmp_path, kubectl),
            kubectl.planted(*argo.objects(place, prometheus.url, stable)),
        ):
            argo.phase(kubectl, "Healthy", timeout_seconds=180)
            answering(gateway, argo.host(place))
            with Traffic(gateway, CALLS, rate=USERS, host=argo.host(place)) as users:
                argo.update(kubectl, canary)
                found = argo.phase(kubectl, "Degraded", timeout_seconds=600)
                theirs = harm(users.stop())

    LOG.info("ours: %d failed in %.1f s; %s", *ours, end.reason)
    LOG.info("Argo Rollouts: %d failed in %.1f s; %s", *theirs, found["status"].get("message", ""))
    LOG.info(
        "ratio: %.0f x the failures, %.0f x the time", theirs[0] / ours[0], theirs[1] / max(0.1, ours[1])
    )
    assert Phase.ROLLED_BACK is end.phase
    assert "aborted" in found["status"].get("message", "")
    assert ours[0] * 10 < theirs[0]


def answering(gateway: str, host: str) -> None:
    """
    Wait until the gateway has the peer's routes.
    """

    def there() -> None:
        with Traffic(gateway, CALLS, concurrency=1, most=10, host=host) as load:
            records = load.join()
        if records.failed.any():
            raise NotYet(records.in_words())

    wait_until("the peer's routes", there, timeout_seconds=60, interval_seconds=0.5)
