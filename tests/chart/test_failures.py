"""
What helm itself says of refused values, with words in them that it also says of an unreachable cluster.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tfcanary.errors import UnreachableError
from tfcanary.helm.failures import ValuesRefusedError, classified
from tfcanary.paths import CHART, VALUES

WORDS = (
    "unauthorized",
    "certificate",
    "x509",
    "tls",
    "etcdserver",
    "timeout",
    "unreachable",
    "invalid",
    "already-exists",
)


@dataclass(frozen=True)
class Failed:
    """
    What helm left.
    """

    stderr: bytes
    returncode: int


def failure(program: str, *arguments: str, cwd: Path) -> Failed:
    done = subprocess.run([program, *arguments], check=False, capture_output=True, cwd=cwd)
    assert done.returncode != 0
    return Failed(done.stderr, done.returncode)


def named(place: str, word: str) -> dict[str, object]:
    """
    Values with one mistake, weights that sum to 90, and the word in one of their names.
    """
    track = word if place == "track" else "canary"
    route: dict[str, object] = {
        "name": f"{word}-users" if place == "route" else "everyone",
        "weights": {"stable": 80, track: 10},
    }
    if place == "header":
        match = {
            "name": "some",
            "match": {"headers": {"x-group": {"exact": f": {word}: "}}},
            "weights": {track: 90},
        }
        routes = [match, {"name": "everyone", "weights": {"stable": 100}}]
    else:
        routes = [route]
    return {
        "model": {"name": word if place == "model" else "resnet"},
        "tracks": {name: {"version": 1, "replicas": 1} for name in ("stable", "canary", track)},
        "gateway": {"hosts": [f"{word}.example" if place == "host" else "*"]},
        "routing": {"routes": routes},
    }


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("place", ["route", "track", "host", "model", "header"])
def test_a_refused_chart_is_wrong_values_whatever_its_names(tmp_path: Path, place: str, word: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(named(place, word)))
    base = VALUES / "env/local.yaml"

    failed = failure(
        "helm", "template", word, str(CHART), f"--values={base}", f"--values={file}", cwd=tmp_path
    )
    error = classified("helm upgrade", failed)

    assert b"must sum to 100" in failed.stderr
    assert ValuesRefusedError is type(error)
    assert 2 == error.exit_code


@pytest.mark.parametrize("word", WORDS)
def test_a_cluster_that_is_not_there_is_unreachable_whatever_the_release_is_called(
    tmp_path: Path, word: str
) -> None:
    config = tmp_path / "config"
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "c"}}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "contexts": [context],
        "current-context": "c",
        "users": [{"name": "c", "user": {}}],
    }
    config.write_text(yaml.safe_dump(content))

    error = classified("helm", failure("helm", "status", word, f"--kubeconfig={config}", cwd=tmp_path))

    assert UnreachableError is type(error)


def test_a_chart_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    error = classified("helm", failure("helm", "template", "resnet", "./nowhere", cwd=tmp_path))

    assert ValuesRefusedError is type(error)
