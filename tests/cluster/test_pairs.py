"""
Any strategy follows any other under load: no request fails, and of the release's objects only the routes change.

Among the cluster's tests are 15 ordered pairs for each API of the gateway. `nox -s zero_drop` (ZERO_DROP=full) takes
every pair. Each test leaves its figures in reports/zero-drop.
"""

import itertools
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gatewayapi import UNSAID
from planting import versions
from pytest_kubernetes.providers.base import AClusterManager
from test_strategies import SEED
from test_zero_drop import FULL, RELEASE, Scene
from tour import every_pair

from tfcanary.kube.objects import LiveObjects
from tfcanary.paths import VALUES

# Of the ordered pairs, those that are taken where not all of them are asked for.
SAMPLE = 15
ROUTES = ("VirtualService", "HTTPRoute")


@pytest.fixture(scope="module", params=["istio", "gateway-api"])
def api(request: pytest.FixtureRequest) -> str:
    """
    The API that says the routes at the gateway.
    """
    return str(request.param)


@pytest.fixture(scope="module")
def models() -> Path:
    """
    Three tracks give each strategy what it names.
    """
    return VALUES / "models/resnet-abn.yaml"


@pytest.fixture(scope="module")
def more_values(api: str) -> dict[str, Any]:
    return {"gateway": {"api": api}}


@pytest.fixture
def others(manager: AClusterManager, namespace: str, tmp_path: Path) -> Callable[[], dict[str, str]]:
    """
    The versions of the release's live objects but its routes.
    """

    def read() -> dict[str, str]:
        where = [f"--namespace={namespace}", f"--kubeconfig={manager.kubeconfig}"]
        manifest = tmp_path / "manifest.yaml"
        manifest.write_bytes(
            subprocess.run(
                ["helm", "get", "manifest", RELEASE, *where], check=True, capture_output=True
            ).stdout
        )
        found = manager.kubectl(["get", "-f", str(manifest), "-o", "json"])["items"]
        return versions(one for one in found if one["kind"] not in ROUTES)

    return read


def tour_of(api: str) -> list[Path]:
    """
    Strategies, each of which follows the one before it, in an order that the seed decides: every pair, or a sample there
    and back.
    """
    files = sorted(VALUES.glob("*.yaml"))
    if api == "gateway-api":
        files = [file for file in files if file.stem not in UNSAID]
    random.Random(SEED).shuffle(files)  # noqa: S311 - nothing secret
    return every_pair(files) if FULL else [*files, *files[-2::-1]][: SAMPLE + 1]


def test_a_tour_takes_every_ordered_pair() -> None:
    files = [Path(name) for name in "abcde"]

    tour = every_pair(files)

    assert sorted((a, b) for a in files for b in files if a != b) == sorted(itertools.pairwise(tour))


@pytest.mark.usefixtures("installed")
def test_any_strategy_follows_any_other(releases, target, host, api, others):
    """
    One strategy follows another under load: no request fails, and no object but the routes is written.
    """
    tour = tour_of(api)
    scene = Scene(f"pairs_{api}", releases, LiveObjects(target), host)
    scene.notes.update(pairs=len(tour) - 1, done=0)
    releases.apply(RELEASE, files=[tour[0]])
    wrong = {}
    with scene.load:
        scene.arrived()
        seen = others()
        assert seen
        try:
            for before, after in itertools.pairwise(tour):
                scene.apply(f"{before.stem} → {after.stem}", after)
                scene.notes["done"] += 1
                kept, seen = seen, others()
                if kept != seen:
                    wrong[f"{before.stem} → {after.stem}"] = sorted(kept.items() ^ seen.items())
            scene.until(100 * scene.notes["pairs"])
        finally:
            # A tour that is interrupted leaves its figures.
            records = scene.keep(scene.load.stop())

    assert {} == wrong
    records.assert_none_failed(at_least=100 * scene.notes["pairs"])
