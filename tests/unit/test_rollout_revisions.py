"""
The revisions of a rollout, as Helm is asked for them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tfcanary.chart.source import version_of
from tfcanary.chart.values import merge
from tfcanary.errors import ForbiddenError, UnreachableError, UsageError
from tfcanary.helm.failures import HelmError
from tfcanary.helm.releases import Revision
from tfcanary.kube.virtualservice import route_revision
from tfcanary.paths import CHART
from tfcanary.rollout.revisions import Revisions
from tfcanary.rollout.tracks import Names

GIVEN: dict[str, Any] = {
    "model": {"name": "resnet"},
    "tracks": {"stable": {"version": 1}, "canary": {"version": 2, "replicas": 1}},
    "routing": {"routes": [{"name": "everyone", "weights": {"stable": 100}}]},
}


def routes(canary: int) -> dict[str, Any]:
    weights = {"stable": 100 - canary, "canary": canary} if canary else {"stable": 100}
    return {"routing": {"routes": [{"name": "everyone", "weights": weights}]}}


class Helm:
    """
    Helm's releases in memory: every call, and what the release was given in each revision.
    """

    def __init__(self, **changes: Any) -> None:
        self.revisions: list[tuple[str, dict[str, Any]]] = [("Install complete", merge(GIVEN, changes))]
        self.calls: list[str] = []
        self.status = "deployed"
        self.chart_version = version_of(CHART)
        self.refuses = self.silent = False
        self.denies: UnreachableError | None = None

    def _revision(self, number: int) -> Revision:
        return Revision("resnet", "models", number, self.status, "", self.revisions[number - 1][0])

    def current(self, _name: str) -> Revision:
        """
        The newest.
        """
        self.calls.append("current")
        return self._revision(len(self.revisions))

    def apply(
        self, _name: str, *, values: Any, description: str, reuse_values: bool = True, **_: Any
    ) -> Revision:
        """
        An upgrade.
        """
        self.calls.append("upgrade")
        before = self.revisions[-1][1] if reuse_values else {}
        self.revisions.append((description, merge(before, values)))
        return self._revision(len(self.revisions))

    def rollback(self, _name: str, number: int) -> Revision:
        """
        Back to a revision.
        """
        self.calls.append(f"rollback {number}")
        if self.refuses:
            raise HelmError("helm rollback: no such revision")
        self.revisions.append((f"Rollback to {number}", self.revisions[number - 1][1]))
        return self._revision(len(self.revisions))

    def reapply(self, wanted: Mapping[str, Any]) -> None:
        """
        The routes of a revision, past Helm.
        """
        if self.denies:
            raise self.denies
        self.calls.append(f"routes {route_revision(wanted)}")

    def values(self, _name: str, number: int | None = None, *, defaults: bool = True) -> dict[str, Any]:
        """
        What the release was given, over defaults that have attribution.
        """
        given = self.revisions[(number or len(self.revisions)) - 1][1]
        return merge({"routing": {"attribution": True}}, given) if defaults else given

    def chart(self, _name: str) -> tuple[str, str]:
        """
        The chart of the release.
        """
        return self.chart_version

    @property
    def weights(self) -> dict[str, int]:
        """
        Of the live routes.
        """
        found: dict[str, int] = self.revisions[-1][1]["routing"]["routes"][-1]["weights"]
        return found

    def virtual_service(self, _name: str) -> dict[str, Any]:
        """
        The live routes, whose hash is their weights.
        """
        if self.silent:
            raise UnreachableError("VirtualService 'resnet': the cluster cannot be reached")
        hashed = "-".join(f"{track}{weight}" for track, weight in self.weights.items())
        destinations = [
            {"destination": {"host": "resnet", "subset": track}, "weight": weight}
            for track, weight in self.weights.items()
        ]
        headers = {"response": {"set": {"x-route-revision": hashed}}}
        return {
            "metadata": {"name": "resnet"},
            "spec": {"http": [{"route": destinations, "headers": headers}]},
        }


def revisions(helm: Any) -> Revisions:
    return Revisions(helm, helm, Names("resnet", "resnet", "stable", "canary"), CHART)


def test_the_way_back_is_helms_rollback_where_this_process_made_the_revision() -> None:
    """
    It has the values that an upgrade would give.
    """
    helm = Helm()
    made = revisions(helm)
    made.apply({"tracks": {"canary": {"version": 3, "replicas": 2}}}, "deploy")
    made.apply(routes(10), "weight 10")

    back = made.apply(routes(0), "weight 0")

    assert ["current", "upgrade", "upgrade", "routes stable100", "rollback 2"] == helm.calls
    assert (4, "stable100") == (back.revision, back.routes)
    assert (
        merge(merge(GIVEN, {"tracks": {"canary": {"version": 3, "replicas": 2}}}), routes(0))
        == helm.revisions[-1][1]
    )


@pytest.mark.parametrize("error", [ForbiddenError, UnreachableError])
def test_routes_that_cannot_be_changed_wait_for_helm(
    error: type[UnreachableError], caplog: pytest.LogCaptureFixture
) -> None:
    helm = Helm()
    made = revisions(helm)
    made.apply({"tracks": {"canary": {"version": 3}}}, "deploy")
    made.apply(routes(10), "weight 10")
    helm.denies = error("VirtualService 'resnet': the cluster answered")

    back = made.apply(routes(0), "weight 0")

    assert (4, "stable100") == (back.revision, back.routes)
    assert "the routes wait for Helm" in caplog.text


def test_pods_that_have_changed_meanwhile_are_not_rolled_back_with_the_weight() -> None:
    helm = Helm()
    made = revisions(helm)
    made.apply({"tracks": {"canary": {"replicas": 2}}}, "deploy")
    made.apply({"tracks": {"canary": {"replicas": 5}}}, "scale")
    made.apply(routes(10), "weight 10")

    made.apply(routes(0), "weight 0")

    assert "rollback 3" == helm.calls[-1]
    assert 5 == helm.revisions[-1][1]["tracks"]["canary"]["replicas"]


def test_another_driver_upgrades_to_the_same_values() -> None:
    """
    It has not made the revisions, and what it does not know it does not roll back to.
    """
    helm = Helm()
    first = revisions(helm)
    first.apply({"tracks": {"canary": {"replicas": 2}}}, "deploy")
    first.apply(routes(10), "weight 10")

    revisions(helm).apply(routes(0), "weight 0")

    assert ["current", "upgrade"] == helm.calls[-2:]
    assert {"stable": 100} == helm.weights


def test_a_rollback_that_helm_refuses_is_an_upgrade() -> None:
    helm = Helm()
    made = revisions(helm)
    made.apply({"tracks": {"canary": {"replicas": 2}}}, "deploy")
    made.apply(routes(10), "weight 10")
    helm.refuses = True

    made.apply(routes(0), "weight 0")

    assert ["routes stable100", "rollback 2", "upgrade"] == helm.calls[-3:]
    assert {"stable": 100} == helm.weights


def test_a_cluster_that_is_silent_after_an_upgrade_is_asked_again() -> None:
    """
    The revision is known and its routes are not: the next attempt goes back to it by Helm alone.
    """
    helm = Helm()
    made = revisions(helm)
    helm.silent = True
    with pytest.raises(UnreachableError):
        made.apply(routes(10), "weight 10")
    helm.silent = False

    again = made.apply(routes(10), "weight 10")

    assert ["current", "upgrade", "rollback 2"] == helm.calls
    assert (3, "stable90-canary10") == (again.revision, again.routes)


def test_a_revision_that_is_there_is_not_made_again() -> None:
    """
    Its driver was killed before it could say so.
    """
    helm = Helm()
    revisions(helm).apply(routes(10), "weight 10")

    again = revisions(helm).apply(routes(10), "weight 10")

    assert ["current", "upgrade", "current"] == helm.calls
    assert (2, "stable90-canary10") == (again.revision, again.routes)


def test_after_a_failure_the_newest_revision_is_looked_at_again() -> None:
    helm = Helm()
    made = revisions(helm)
    made.apply(routes(10), "weight 10")
    helm.apply, upgrade = _failing(helm), helm.apply  # type: ignore[method-assign]
    with pytest.raises(HelmError):
        made.apply(routes(50), "weight 50")
    helm.apply = upgrade  # type: ignore[method-assign]

    made.apply(routes(50), "weight 50")

    assert ["current", "upgrade"] == helm.calls[-2:]


def _failing(helm: Helm) -> Any:
    def fail(*_: Any, **__: Any) -> Revision:
        helm.calls.append("failed")
        raise HelmError("helm upgrade: timed out")

    return fail


def test_the_baseline_is_what_the_user_gave() -> None:
    helm = Helm()

    found = revisions(helm).baseline()

    assert (1, GIVEN) == (found.revision, found.values)
    assert {"stable": 1, "canary": 2} == found.versions
    assert {"stable": 1, "canary": 1} == found.replicas


@pytest.mark.parametrize(
    ("changes", "status", "chart", "said"),
    [
        pytest.param({}, "pending-upgrade", None, "which is pending-upgrade", id="pending"),
        pytest.param(
            {"routing": {"attribution": False}},
            "deployed",
            None,
            "routing.attribution true, got false",
            id="unnamed",
        ),
        pytest.param(
            {"routing": {"retryAttempts": 2}},
            "deployed",
            None,
            "expected routing.retryAttempts 0, got 2",
            id="retries",
        ),
        pytest.param(
            {"gateway": {"api": "gateway-api"}}, "deployed", None, "gateway.api istio, got", id="http-route"
        ),
        pytest.param({}, "deployed", ("tfserving-canary", "0.0.1"), "got tfserving-canary 0.0.1", id="chart"),
        pytest.param(
            {"tracks": {"canary": {"version": "v2"}}}, "deployed", None, "tracks.canary.version", id="version"
        ),
    ],
)
def test_a_release_that_no_rollout_can_begin_with_is_named(
    changes: Any, status: str, chart: tuple[str, str] | None, said: str
) -> None:
    helm = Helm(**changes)
    helm.status = status
    helm.chart_version = chart or helm.chart_version

    with pytest.raises(UsageError, match=said):
        revisions(helm).baseline()
    assert 1 == len(helm.revisions)


def test_a_release_that_helm_is_at_work_on_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A Job begins while the upgrade that made it waits for pods.
    """
    helm = Helm()
    looks = ["pending-upgrade", "pending-upgrade", "deployed"]
    current = helm.current

    def later(name: str) -> Revision:
        helm.status = looks.pop(0) if looks else "deployed"
        return current(name)

    helm.current = later  # type: ignore[method-assign]
    monkeypatch.setattr("tfcanary.rollout.revisions._LOOK_SECONDS", 0.01)

    assert 1 == revisions(helm).baseline(patience_seconds=30).revision
    assert not looks


def test_the_weight_under_routes_is_remembered() -> None:
    """
    A driver that takes over reads the live ones.
    """
    helm = Helm()
    made = revisions(helm)
    made.apply(routes(10), "weight 10")
    made.apply(routes(50), "weight 50")

    assert {"stable90-canary10": 10.0, "stable50-canary50": 50.0} == made.weights_with("stable50-canary50")
    assert {"stable50-canary50": 50.0} == revisions(helm).weights_with("stable50-canary50")


def test_a_chart_has_a_name_and_a_version(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text("name: tfserving-canary\nversion: 9.9.9\n")

    assert ("tfserving-canary", "9.9.9") == version_of(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        version_of(tmp_path / "nowhere")
