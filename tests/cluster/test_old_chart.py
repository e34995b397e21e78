"""
A release of the chart before this one is upgraded and goes back, under an open load over REST and gRPC without retries. Helm
takes both charts from a registry, each by its digest.

In CI two strategies have a short load. DRILL=full has more of both. The figures are in the log.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import old_chart
import pytest
from pytest_kubernetes.providers.base import AClusterManager
from registries import Registry, running
from rolling import digits_in_a_namespace
from test_tokens import ISSUED, ISSUER, bearer

from tfcanary.chart.values import merge
from tfcanary.check.propagation import IN_A_ROW
from tfcanary.check.sources import releases_in
from tfcanary.client.pictures import default_pictures
from tfcanary.client.request import PredictRequest
from tfcanary.cluster import binaries
from tfcanary.cluster.layout import Layout
from tfcanary.contract import SERVING_PREPROCESS, Api
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.virtualservice import route_revision
from tfcanary.paths import CHART
from tfcanary.report.table import phases_table
from tfcanary.target import Target
from tfcanary.traffic.calls import Population, metadata_call, prediction_call
from tfcanary.traffic.driver import Traffic
from tfcanary.traffic.records import Records

RELEASE = MODEL = "digits"
DRILL = os.environ.get("DRILL") == "full"
ENOUGH = 5_000 if DRILL else 1_000
RATE = 50.0
USERS = Population(users=50)
LOG = logging.getLogger(__name__)
drill = pytest.mark.skipif(not DRILL, reason="long: nox -s drill")

TOKENS = {"security": {"jwt": {"issuer": ISSUER, "jwks": ISSUED.jwks}}}
# What clients send, by the track that it takes them to. A third of all say in a header that they are the canary's group.
STAFF = {"canary": bearer(ISSUED.token(group="canary")), "stable": []}
# On the way back the routes of 0.1.0 are there before its filters.
FORWARD = ("0.1.0", "upgraded", "shared filters", "upgraded again")


@dataclass(frozen=True, slots=True)
class Charts:
    """
    Both charts by digest, as Helm takes them.
    """

    old: str
    new: str


class OldRelease:
    """
    A release of the chart of version 0.1.0, with the values files of that version.
    """

    def __init__(self, target: Target, charts: Charts, values: Path, environment: Path) -> None:
        self.releases = releases_in(target)
        self.cluster = LiveObjects(target)
        self.host = f"{target.namespace}.test"
        self.charts = charts
        self._values, self._environment = values, environment
        self.load: Traffic

    def install(self, strategy: str, more: dict[str, Any]) -> int:
        """
        Its pods, then its traffic, and the revision that has both.
        """
        files = [self._environment, self._values / "models/digits.yaml", self._values / "stable.yaml"]
        values = {"gateway": {"hosts": [self.host]}, "tracks": {"canary": {"replicas": 1}}}
        self.releases.apply(
            RELEASE, chart=self.charts.old, files=files, values=merge(values, more), reuse_values=False
        )
        strategy_file = self._values / f"{strategy}.yaml"
        return self.releases.apply(RELEASE, chart=self.charts.old, files=[strategy_file]).number

    def loaded(self, headers: Mapping[str, Sequence[tuple[str, str]]]) -> Traffic:
        """
        The load, mostly of cheap requests. Those with headers are named after them.
        """
        asked = PredictRequest.one(SERVING_PREPROCESS, "image_bytes", default_pictures()[0].content)
        calls = []
        for name, sent in headers.items():
            cheap = [replace(metadata_call(api, MODEL, dict(sent)), name=name) for api in Api]
            real = [replace(prediction_call(api, MODEL, asked, dict(sent)), name=name) for api in Api]
            calls += [*cheap * 10, real[0], *cheap * 10, real[1]]
        address = gateway_address(self.cluster, RELEASE)
        self.load = Traffic(address, calls, rate=RATE, host=self.host, population=USERS)
        return self.load

    def changed(self, phase: str, chart: str, **values: Any) -> None:
        """
        Upgrade with a chart and the values that the release has, until both APIs show its routes, and a while longer.
        """
        self.load.mark(phase)
        self.releases.apply(RELEASE, chart=chart, values=values)
        self.seen()

    def returned(self, phase: str, revision: int) -> None:
        """
        `helm rollback` to a revision, until both APIs show its routes, and a while longer.
        """
        self.load.mark(phase)
        self.releases.rollback(RELEASE, revision)
        self.seen()

    def seen(self) -> None:
        """
        Wait until both APIs show the live routes, and a while longer.
        """
        revision = route_revision(self.cluster.virtual_service(RELEASE))
        self.load.wait_for_revision(revision, in_a_row=IN_A_ROW)
        self.load.wait_for(ENOUGH // 10)


@pytest.fixture(scope="module")
def place(
    manager: AClusterManager, layout: Layout | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """
    A namespace whose model store has the two good versions of digits.
    """
    with digits_in_a_namespace(manager, layout, tmp_path_factory.mktemp("faulty"), faults={}) as name:
        yield name


@pytest.fixture(scope="module")
def charts(identity: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Charts]:
    """
    In a registry of the test, of which Helm reads the authority and the password where it always does.
    """
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}:{binaries.ensure('release')}")
        with running(folder, identity) as registry:
            for name in ("SSL_CERT_FILE", "HELM_REGISTRY_CONFIG"):
                patch.setenv(name, registry.environment[name])
            registry.run("helm", "package", CHART, f"--destination={folder}")
            (new,) = folder.glob("tfserving-canary-*.tgz")
            yield Charts(_pushed(registry, old_chart.CHART), _pushed(registry, new))


def _pushed(registry: Registry, chart: Path) -> str:
    name, _, version = chart.stem.rpartition("-")
    registry.run("helm", "push", chart, f"oci://{registry.address}/charts")
    place = f"{registry.address}/charts/{name}"
    return f"oci://{place}@{registry.run('crane', 'digest', f'{place}:{version}').strip()}"


@pytest.fixture(scope="module")
def old(place: str, kubeconfig: Path, charts: Charts, tmp_path_factory: pytest.TempPathFactory) -> OldRelease:
    values = old_chart.unpack_values(tmp_path_factory.mktemp("old"))
    return OldRelease(
        Target(namespace=place, kubeconfig=kubeconfig), charts, values, values / "env/local.yaml"
    )


def there_and_back(
    old: OldRelease,
    strategy: str,
    more: dict[str, Any],
    headers: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({"any": ()}),
) -> Records:
    """
    Upgraded and back, twice: by `helm rollback` from the gateway's own filters, and by an upgrade with the old chart.
    """
    began = old.install(strategy, more)
    with old.loaded(headers) as load:
        old.seen()
        old.load.mark("0.1.0")
        load.wait_for(ENOUGH // 10)
        old.changed("upgraded", old.charts.new)
        old.changed("shared filters", old.charts.new, gateway={"filters": {"shared": True}})
        old.returned("rolled back", began)
        old.changed("upgraded again", old.charts.new)
        old.changed("downgraded", old.charts.old)
        load.wait_for(max(1, ENOUGH - len(load.records())), timeout_seconds=120)
        records = load.stop()
    LOG.info("%s:\n%s", strategy, phases_table(records))
    return records


@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        pytest.param("canary-sticky-users", {}, id="sticky-users"),
        *(
            pytest.param(name, {}, id=name, marks=drill)
            for name in ("canary-30", "canary-cookie", "composed", "shadow")
        ),
    ],
)
def test_no_request_fails(old: OldRelease, strategy: str, more: dict[str, Any]) -> None:
    """
    On the way there and on either way back every request gets the model's answer.
    """
    there_and_back(old, strategy, more).assert_none_failed(at_least=ENOUGH)


def misrouted(records: Records) -> dict[str, int]:
    """
    Of some requests, those that another track answered than the one of their token, by that track.
    """
    wrong = {
        track: records.of(request=track).counts("track").total() - len(records.of(request=track, track=track))
        for track in STAFF
    }
    return {name: count for name, count in wrong.items() if count}


def test_tokens_keep_their_track(old: OldRelease) -> None:
    """
    No request fails on any way, and on the way there no forged group takes a client to the canary. Clients with a token may
    get stable between two parts of a gateway's configuration: the log says how many did.
    """
    records = there_and_back(old, "canary-user-group", TOKENS, STAFF)

    wrong = {phase.about: misrouted(phase) for phase in records.phases()}
    LOG.info("misrouted: %s", wrong)
    records.assert_none_failed(at_least=ENOUGH)
    assert {"canary"} >= {name for phase in FORWARD for name in wrong[phase]}
