"""
The ConfigMap and the Lease of a rollout, on a real API server: one writer at a time, and nothing is lost or overwritten.
"""

import datetime as dt
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from planting import Kubectl
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.errors import ForbiddenError, UnreachableError
from tfcanary.kube.claim import ChangedError, Claim
from tfcanary.kube.objects import LiveObjects
from tfcanary.target import Target

NAME = "resnet-rollout"


@pytest.fixture
def claim(target: Target, manager: AClusterManager) -> Iterator[Claim]:
    yield Claim(LiveObjects(target), NAME, labels={"app.kubernetes.io/instance": "resnet"})
    for kind in ("configmap", "lease"):
        manager.kubectl(["delete", kind, NAME, "-n", target.namespace, "--ignore-not-found"], as_dict=False)


def lease(manager: AClusterManager, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = manager.kubectl(["get", "lease", NAME, "-n", namespace, "-o", "json"])
    return found["spec"]


def test_what_was_saved_is_loaded_and_an_older_version_does_not_overwrite_it(claim: Claim) -> None:
    assert claim.load() is None

    claim.save("one", None)
    text, version = claim.load() or ("", "")
    claim.save("two", version)

    assert "one" == text
    with pytest.raises(ChangedError):
        claim.save("three", version)
    with pytest.raises(ChangedError):
        claim.save("three", None)
    assert "two" == (claim.load() or ("",))[0]


def test_of_many_writers_at_once_each_step_has_one(claim: Claim) -> None:
    """
    Eight writers each add 1 ten times, reading again where they were overtaken: nothing is lost.
    """
    claim.save("0", None)

    def add() -> None:
        for _ in range(10):
            while True:
                text, version = claim.load() or ("", "")
                try:
                    claim.save(str(int(text) + 1), version)
                except ChangedError:
                    continue
                break

    writers = [threading.Thread(target=add) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert "80" == (claim.load() or ("",))[0]


def test_one_holder_at_a_time(claim: Claim, manager: AClusterManager, namespace: str) -> None:
    """
    The holder renews it. Another gets the holder's name, until it is freed.
    """
    assert "a" == claim.hold("a")
    first = lease(manager, namespace)
    assert "a" == claim.hold("b")
    assert "a" == claim.hold("a")

    claim.free("b")
    assert "a" == claim.hold("b")
    claim.free("a")
    assert "b" == claim.hold("b")
    assert "b" == claim.hold("a")

    assert ("a", 15, 0) == (first["holderIdentity"], first["leaseDurationSeconds"], first["leaseTransitions"])
    claim.free("b")
    claim.free("b")


def test_a_holder_whose_time_is_over_is_replaced(
    claim: Claim, kubectl: Kubectl, manager: AClusterManager, namespace: str
) -> None:
    claim.hold("dead")
    long_ago = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    kubectl.patch("lease", NAME, {"path": "/spec/renewTime", "value": long_ago})

    assert "next" == claim.hold("next")

    assert 1 == lease(manager, namespace)["leaseTransitions"]


def test_of_many_who_want_it_one_gets_it(claim: Claim) -> None:
    got: list[str] = []

    def want(me: str) -> None:
        got.append(claim.hold(me))

    drivers = [threading.Thread(target=want, args=(f"driver-{number}",)) for number in range(8)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()

    assert 1 == len(set(got))


def test_errors_say_what_the_driver_needs(target: Target, claim: Claim) -> None:
    live = LiveObjects(target)
    live.configuration.api_key = {"authorization": "Bearer none"}
    live.configuration.cert_file = live.configuration.key_file = None
    with pytest.raises(
        ForbiddenError,
        match="answered 401 to get; the driver of a rollout needs get, create and update of configmaps",
    ):
        Claim(live, NAME).load()

    live.configuration.host = "https://127.0.0.1:1"
    with pytest.raises(
        UnreachableError, match=r"configmap 'resnet-rollout' in namespace .* cannot be reached"
    ):
        Claim(live, NAME).load()
    assert claim.load() is None
