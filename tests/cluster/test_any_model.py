"""
A model of every kind in the zoo, served by the chart's default values: `helm test`, a canary at 10 %, its check, and one fault.

Each kind is a release of its own in one namespace, installed afresh. Its stable track has version 1, its canary version 2,
which is the same once more; version 3 is the one with the fault.
"""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zoo
from planting import Kubectl
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.check.sources import releases_in
from tfcanary.cluster import store
from tfcanary.cluster.layout import Layout
from tfcanary.commands import check, servable
from tfcanary.contract import Api
from tfcanary.helm.releases import Releases
from tfcanary.paths import ROOT, VALUES
from tfcanary.target import Target

REPORTS = Path(os.environ.get("REPORTS", ROOT / "reports"))
# The whole number is for a run of its own; here a few show that the loop works.
REPETITIONS = int(os.environ.get("REPETITIONS", "2"))
# Text, tables and a network with a state: the models whose checks are repeated.
REPEATED = ("string", "tabular", "recurrent")
WRONG_VERSION = "wrong version"
# Each fault is planted in two or three kinds; those of all kinds are found without a cluster, in tests/modelserver.
PLANTED = {
    "ragged": "swapped",
    "ragged-parts": WRONG_VERSION,
    "string": "shape",
    "dictionary": "swapped",
    "scalar": "dtype",
    "multi-input": "dtype",
    "batch-free": WRONG_VERSION,
    "tflite": "nan",
    "recurrent": WRONG_VERSION,
    "half-plus-two": "shape",
    "tabular": "nan",
}
# The checks that fail, each with words that it has.
FOUND = {
    "nan": {("answers", "REST"): "canary: output", ("answers", "gRPC"): "that are not finite"},
    "dtype": {("interface", None): "DT_DOUBLE"},
    "shape": {("interface", None): "serving_default outputs"},
    "swapped": {("agreement", None): "look swapped"},
    WRONG_VERSION: {("version", "REST"): "1 on ", ("version", "gRPC"): "1 on "},
}
# Enough to find what is planted, with few requests.
QUICK = ("--alpha=1e-4", "--power=0.99", "--detect=40", "--timeout=12", "--agree=0.9")


@dataclass(frozen=True, slots=True)
class Served:
    """
    One kind of model, installed as a release of its name.
    """

    kind: str
    target: Target
    releases: Releases
    requests: Path

    def helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """
        Run helm on the release.
        """
        command = ["helm", *arguments, *where(self.target)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def where(target: Target) -> tuple[str, str]:
    """
    What tells helm and the check of the namespace and the cluster.
    """
    return f"--namespace={target.namespace}", f"--kubeconfig={target.kubeconfig}"


@dataclass(frozen=True, slots=True)
class Seen:
    """
    How a check ended, with its report and its table.
    """

    code: int
    report: dict[str, Any]
    table: str

    def failed(self) -> dict[tuple[str, str | None], str]:
        """
        What was seen and said by each kind of check that failed, over each API.
        """
        found: dict[tuple[str, str | None], str] = {}
        for one in self.report["checks"]:
            if one["decision"] == "failed":
                key = one["name"], one["api"]
                found[key] = f"{found.get(key, '')}{one['observed']}; {one['detail']}\n"
        return found


@pytest.fixture(scope="module")
def place(
    manager: AClusterManager, layout: Layout | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """
    A namespace whose model store has three versions of every kind, with the manifests that the command writes.
    """
    if layout is None:
        pytest.skip("the models are put into a local cluster's store")
    name = f"any-model-{uuid.uuid4().hex[:6]}"
    built = tmp_path_factory.mktemp("zoo")
    faulty = {kind: f"{kind}-{fault}" for kind, fault in PLANTED.items() if fault != WRONG_VERSION}
    zoo.build(built, *PLANTED, *(f"{kind}-{zoo.NEXT}" for kind in PLANTED), *faulty.values())
    folder = store.prepare_namespace(layout, name)
    for kind in PLANTED:
        versions = {1: built / kind / "1", 2: built / f"{kind}-{zoo.NEXT}" / "2"}
        if kind in faulty:
            versions[3] = built / faulty[kind] / "2"
        for number, version in versions.items():
            assert 0 == servable.main(["manifest", str(version)])
            store.publish_own(version, folder, kind, number)
    yield name
    for what, item in (("namespace", name), ("persistentvolume", f"{store.CLAIM}-{name}")):
        manager.kubectl(["delete", what, item, "--wait=false"], as_dict=False)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def install(
    request: pytest.FixtureRequest,
    kubeconfig: Path,
    environment: Path,
    place: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Served]]:
    """
    Install a kind, all traffic to stable, and begin with the next kind while this one is tried: most of an installation is
    waiting.
    """
    items = [item for item in request.session.items if item.path == request.path]
    kinds = list(dict.fromkeys(item.callspec.params["served"] for item in items))
    target = Target(namespace=place, kubeconfig=kubeconfig)
    begun: dict[str, Future[Served]] = {}

    def begin(kind: str) -> Served:
        requests = tmp_path_factory.mktemp(kind) / "requests.jsonl"
        requests.write_text("".join(json.dumps(line) + "\n" for line in zoo.MODELS[kind].requests))
        found = Served(kind, target, releases_in(target), requests)
        values = {
            "model": {"name": kind},
            "tracks": {"stable": {"version": 1}, "canary": {"version": 2}},
            "gateway": {"hosts": [f"{kind}.{place}.test"]},
            **needed(kind),
        }
        files = [environment, VALUES / "stable.yaml"]
        found.releases.apply(kind, files=files, values=values, reuse_values=False)
        return found

    with ThreadPoolExecutor(1) as one_at_a_time:

        def give(kind: str) -> Served:
            this = kinds.index(kind)
            for one in kinds[this : this + 2]:
                if one not in begun:
                    begun[one] = one_at_a_time.submit(begin, one)
            return begun[kind].result()

        yield give
    for kind in begun:
        subprocess.run(["helm", "uninstall", kind, "--ignore-not-found", *where(target)], check=True)


@pytest.fixture(scope="module", params=PLANTED)
def served(request: pytest.FixtureRequest, install: Callable[[str], Served]) -> Iterator[Served]:
    """
    A kind, installed.
    """
    found = install(request.param)
    yield found
    found.helm("uninstall", found.kind)


def needed(kind: str) -> Mapping[str, Any]:
    """
    What a kind takes beside the default values: that its model.tflite is the model, and a request where none can be made.
    """
    if kind == "tflite":
        return {"server": {"preferTflite": True}}
    if not zoo.MODELS[kind].takes_made:
        return {"helmTest": {"request": json.dumps(zoo.MODELS[kind].requests[0])}}
    return {}


@pytest.fixture
def checked(served: Served, capsys: pytest.CaptureFixture[str]) -> Callable[..., Seen]:
    """
    Run `tfcanary check` of the release, which has canary-10.
    """

    def run(*options: str) -> Seen:
        capsys.readouterr()
        code = check.main(
            [
                f"--release={served.kind}",
                *where(served.target),
                f"--values={VALUES / 'canary-10.yaml'}",
                "--json",
                *options,
            ]
        )
        report, table = capsys.readouterr()
        assert report, table
        return Seen(code, json.loads(report), table)

    return run


def test_helm_test_passes(served: Served) -> None:
    done = served.helm("test", served.kind, "--logs", "--timeout=120s")

    assert 0 == done.returncode, f"{done.stdout}{done.stderr}"
    for api in Api:
        assert f"{api.value}: serving_default predicted" in done.stdout


def test_the_check_of_canary_10_holds(served: Served, checked: Callable[..., Seen]) -> None:
    """
    Over both APIs, with requests of the model's own. Three kinds are checked again and again, without an alarm.
    """
    served.releases.apply(served.kind, files=[VALUES / "canary-10.yaml"])
    times = REPETITIONS if served.kind in REPEATED else 1

    seen = [checked(f"--requests={served.requests}") for _ in range(times)]

    REPORTS.mkdir(parents=True, exist_ok=True)
    figures = {
        "checks": len(seen),
        "alarms": sum(one.code != 0 for one in seen),
        "requests": sum(one.report["requests"] for one in seen),
        "seconds": [one.report["seconds"] for one in seen],
    }
    (REPORTS / f"any-model-{served.kind}.json").write_text(json.dumps(figures, indent=2) + "\n")
    for one in seen:
        assert {} == one.failed(), one.table
        assert (0, True) == (one.code, one.report["held"]), one.table
        assert zoo.MODELS[served.kind].profile == one.report["profile"]
        for name in ("split", "answers", "version"):
            asked = {row["api"] for row in one.report["checks"] if row["name"] == name}
            assert {api.value for api in Api} == asked


def test_a_planted_fault_is_found(
    manager: AClusterManager, served: Served, checked: Callable[..., Seen], tmp_path: Path
) -> None:
    """
    The canary's next version has the fault; or its requests reach stable's pods, which have version 1. The inputs are made
    from the signature where the model takes such.
    """
    fault = PLANTED[served.kind]
    changed = {} if fault == WRONG_VERSION else {"tracks": {"canary": {"version": 3}}}
    served.releases.apply(served.kind, files=[VALUES / "canary-10.yaml"], values=changed)
    if fault == WRONG_VERSION:
        to_stable(Kubectl(manager, served.target.namespace, tmp_path), served.kind)
    given = () if zoo.MODELS[served.kind].takes_made else (f"--requests={served.requests}",)

    seen = checked(*given, *QUICK)

    failed = seen.failed()
    assert 1 == seen.code, seen.table
    for name, words in FOUND[fault].items():
        assert words in failed.get(name, ""), seen.table


def to_stable(kubectl: Kubectl, release: str) -> None:
    """
    Let the subset of the canary choose stable's pods.
    """
    subsets = kubectl.get("destinationrule", release)["spec"]["subsets"]
    place = [subset["name"] for subset in subsets].index("canary")
    kubectl.patch(
        "destinationrule", release, {"path": f"/spec/subsets/{place}/labels/track", "value": "stable"}
    )
