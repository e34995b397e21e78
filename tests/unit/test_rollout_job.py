"""
What a Job needs beyond a laptop: its rights known before anything changes, and a start that may come twice.
"""

from dataclasses import replace

import pytest
from planned import begun, plan, state_of
from rollout_cluster import As, FakeCluster

from tfcanary.errors import ForbiddenError
from tfcanary.rollout import rights, starting
from tfcanary.rollout.cluster import ActiveError
from tfcanary.rollout.phases import Phase

RUN = "digits-0123abcd"


class Cluster:
    """
    Says of rights whether this user has them.
    """

    def __init__(self, *missing: tuple[str, str, str]) -> None:
        self.missing, self.asked = missing, []

    def may(self, verb: str, resource: str, group: str, namespace: str) -> bool:
        """
        As of `LiveObjects`.
        """
        self.asked.append((verb, resource, group, namespace))
        return (verb, resource, group) not in self.missing


def started(cluster: FakeCluster, me: str, run: str = RUN, patience: float = 32.0):
    return starting.start(As(cluster, me), plan(), me, by="job", run=run, patience_seconds=patience)


def test_every_right_is_asked_for():
    cluster = Cluster()

    rights.require(cluster, rights.IN_NAMESPACE, "models")

    wanted = {
        (verb, resource, group, "models")
        for (group, resource), verbs in rights.IN_NAMESPACE.items()
        for verb in verbs
    }
    assert wanted == set(cluster.asked)


def test_all_rights_that_are_missing_are_named():
    cluster = Cluster(("create", "pods/portforward", ""), ("patch", "virtualservices", "networking.istio.io"))

    with pytest.raises(
        ForbiddenError,
        match=r"expected the right to patch virtualservices\.networking\.istio\.io, create pods/portforward "
        r"in namespace 'models', got none; rollout\.enabled",
    ):
        rights.require(cluster, rights.IN_NAMESPACE, "models")


@pytest.mark.parametrize(
    ("filters", "uri", "wanted"),
    [
        pytest.param(False, "", [rights.AT_GATEWAY], id="plain"),
        pytest.param(True, "", [rights.AT_GATEWAY, rights.FILTERS], id="filters"),
        pytest.param(True, "https://a", [rights.AT_GATEWAY, rights.FILTERS, rights.TOKENS], id="tokens"),
    ],
)
def test_what_the_values_leave_out_needs_no_right(filters, uri, wanted):
    values = {"gateway": {"filters": {"enabled": filters}}, "security": {"jwt": {"jwksUri": uri}}}

    assert wanted == list(rights.at_gateway(values))


def test_a_start_by_name_begins_a_rollout_of_that_name():
    cluster = FakeCluster()

    end = started(cluster, "first").drive()

    assert (RUN, Phase.SUCCEEDED) == (end.run, end.phase)


def test_a_start_that_comes_again_goes_on_once_the_lease_is_over():
    """
    The first pod was killed: nothing gave its Lease back.
    """
    cluster = FakeCluster()
    started(cluster, "first")
    before = state_of(cluster)

    driver = started(cluster, "second")

    assert replace(before, driver="second", now=0, notes=()) == replace(state_of(cluster), now=0, notes=())
    assert Phase.SUCCEEDED is driver.drive().phase


def test_a_driver_that_is_alive_is_not_pushed_aside():
    cluster = FakeCluster()
    started(cluster, "first")

    with pytest.raises(ActiveError, match="'first' drives one"):
        started(cluster, "second", patience=3.0)


def test_what_has_ended_is_not_begun_again():
    cluster = FakeCluster()
    end = started(cluster, "first").drive()
    revisions = len(cluster.history)

    again = started(cluster, "second").drive()

    assert replace(end, driver="", now=0, notes=()) == replace(again, driver="", now=0, notes=())
    assert revisions == len(cluster.history)


def test_another_rollout_is_not_driven_on_by_the_name_of_this():
    cluster = FakeCluster()
    begun(cluster)
    cluster.let_pass(31)

    with pytest.raises(ActiveError, match="start is refused"):
        started(cluster, "job")
