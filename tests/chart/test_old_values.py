"""
The values files of the chart before this one: this chart takes them, and routes as that one did.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import old_chart
import pytest
import yaml

from tfcanary.chart.source import version_of
from tfcanary.paths import CHART

STRATEGIES = old_chart.strategies()
ENVIRONMENTS = ["air-gapped", "gke", "kind"]
# What a file of that chart cannot have said itself.
GIVEN = {"security": {"jwt": {"issuer": "https://issuer.example", "jwks": '{"keys":[]}'}}}


@pytest.fixture(scope="module")
def old_values(tmp_path_factory):
    return old_chart.unpack_values(tmp_path_factory.mktemp("old"))


@pytest.fixture
def routes(helm, old_values):
    """
    The http lists that a chart renders from the old files, for the gateway and for the mesh.
    """

    def rendered(chart: Path, *files: str) -> list[list[dict[str, Any]]]:
        given = [argument for name in files for argument in ("-f", str(old_values / f"{name}.yaml"))]
        text = helm(
            *("template", "resnet", str(chart), "--kube-version=1.34.4", *given, "-f", "-"),
            "--show-only=templates/virtualservice.yaml",
            stdin=json.dumps(GIVEN),
        )
        return [document["spec"]["http"] for document in yaml.safe_load_all(text)]

    return rendered


def without_hash(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    The entries without the revision, which may be another one for the same routes.
    """
    for entry in entries:
        del entry["headers"]["response"]["set"]["x-route-revision"]
    return entries


def models(strategy: str) -> str:
    return "models/resnet-abn" if strategy == "ab-test" else "models/resnet"


@pytest.mark.parametrize(
    ("place", "routing"),
    [
        *(pytest.param("local", name, id=name) for name in STRATEGIES),
        *(pytest.param(name, "composed", id=f"composed-{name}") for name in ENVIRONMENTS),
    ],
)
def test_old_files_give_the_same_routes(routes, place, routing):
    """
    The gateway and the mesh send each request where they sent it, by the same weights, with the same headers and limits.
    """
    files = (f"env/{place}", models(routing), routing)
    before, now = (routes(chart, *files) for chart in (old_chart.CHART, CHART))

    assert [2, 2] == [len(before), len(now)]
    assert all(entries for entries in before)
    assert [without_hash(entries) for entries in before] == [without_hash(entries) for entries in now]


def test_each_old_key_is_taken_with_its_default(helm):
    """
    No key has gone or moved: the defaults of that chart, given as values, change nothing.

    A key that moves has to be refused with the name of the new one and the version in which it moved.
    """
    with tarfile.open(old_chart.CHART) as archive:
        file = archive.extractfile("tfserving-canary/values.yaml")
        assert file is not None
        defaults = file.read().decode()
    command = ("template", "resnet", str(CHART), "--kube-version=1.34.4", "-f", "values/env/gke.yaml")
    command += ("-f", "values/models/resnet.yaml")

    # The old defaults come first. What they lack, such as the images, stands in the files of this tree.
    given = helm(*command[:4], "-f", "-", *command[4:], stdin=defaults)

    assert helm(*command) == given


def test_the_versions_differ():
    """
    The release says which of the two charts it has.
    """
    assert ("tfserving-canary", "0.1.0") != version_of(CHART)
    with tarfile.open(old_chart.CHART) as archive:
        file = archive.extractfile("tfserving-canary/Chart.yaml")
        assert file is not None
        assert "0.1.0" == yaml.safe_load(file)["version"]
