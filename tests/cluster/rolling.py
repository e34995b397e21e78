"""
A release of digits whose versions are good or bad, to roll out in the tests.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from planting import istio
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.chart.values import merge
from tfcanary.check.sources import releases_in
from tfcanary.cluster import store
from tfcanary.cluster.layout import Layout
from tfcanary.commands.demo import DIGITS_MODELS
from tfcanary.export.cache import exported
from tfcanary.helm.releases import Releases
from tfcanary.paths import ROOT, VALUES
from tfcanary.report.rollout_page import record_page
from tfcanary.rollout import starting
from tfcanary.rollout.live import LiveCluster
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.planfile import plan_from
from tfcanary.rollout.state import State, from_text
from tfcanary.rollout.way import Way
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

RELEASE = MODEL = "digits"
GOOD, BETTER, PERMUTED, SLOW, ABSENT = 1, 2, 3, 4, 9
FAULTS = {PERMUTED: "permuted", SLOW: "slow=700"}
# Small models on two processors, and a canary that is plainly dead or plainly well: all in a minute.
QUICK: dict[str, Any] = {
    "release": RELEASE,
    "traffic": {"perSecond": 40},
    "limits": {"least": "2s", "most": "3m", "drain": "11s", "ready": "2m"},
    "bake": {"time": "10s"},
    "judge": {"errors": {"times": 2, "points": 5}},
}


def faulty(folder: Path, version: int) -> Path:
    """
    A digits model with a fault, in a folder of its version.
    """
    command = [sys.executable, "-m", "tfcanary", "export", "--arch=resnet20", "--weights=digits", "--seed=20"]
    command += [
        f"--output={folder}",
        f"--version={version}",
        f"--model-name={MODEL}",
        f"--fault={FAULTS[version]}",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / str(version)


@contextmanager
def digits_in_a_namespace(
    manager: AClusterManager, layout: Layout | None, folder: Path, *, faults: Mapping[int, str]
) -> Iterator[str]:
    """
    A namespace whose model store has two good versions of digits, and some that are bad. At the end all is removed.

    Args:
        manager: the cluster.
        layout: its files.
        folder: where the bad versions are made.
        faults: by version.
    """
    if layout is None:
        pytest.skip("the models are put into a local cluster's store")
    name = f"rollout-{uuid.uuid4().hex[:6]}"
    own = store.prepare_namespace(layout, name)
    for version, (arch, seed) in DIGITS_MODELS.items():
        store.publish(exported(version, arch=arch, weights="digits", seed=seed, name=MODEL), own, MODEL)
    for version in faults:
        store.publish(faulty(folder, version), own, MODEL)
    yield name
    helm = ["helm", "uninstall", RELEASE, f"--namespace={name}", f"--kubeconfig={manager.kubeconfig}"]
    subprocess.run([*helm, "--ignore-not-found"], check=True, capture_output=True)
    for what, item in (("namespace", name), ("persistentvolume", f"{store.CLAIM}-{name}")):
        manager.kubectl(["delete", what, item, "--wait=false"], as_dict=False)
    shutil.rmtree(own)


@dataclass
class Rolling:
    """
    A release to roll out, at version 1 on stable.
    """

    target: Target
    host: str
    environment: Path
    states: list[State] = field(default_factory=list)
    when: dict[str, Callable[[State], None]] = field(default_factory=dict)

    @property
    def releases(self) -> Releases:
        """
        The releases of its namespace.
        """
        return releases_in(self.target)

    def reset(self, **more: Any) -> None:
        """
        Version 1 on stable with all traffic, one pod of the canary, and more values.
        """
        files = [self.environment, VALUES / "models/digits.yaml", VALUES / "stable.yaml"]
        values = {"gateway": {"hosts": [self.host]}, "tracks": {"canary": {"replicas": 1}}}
        self.releases.apply(RELEASE, files=files, values=merge(values, more), reuse_values=False)
        self.states.clear()

    def saved(self, state: State) -> None:
        """
        Keep a state that was saved, and do what is to be done then.
        """
        self.states.append(state)
        for act in tuple(self.when.values()):
            act(state)

    def cluster(self, **given: Any) -> LiveCluster:
        """
        The release as a rollout sees it.
        """
        return LiveCluster(RELEASE, self.target, Way(), saved=self.saved, **given)

    @contextmanager
    def started(self, to: int, **changes: Any) -> Iterator[tuple[LiveCluster, Callable[[], State]]]:
        """
        A rollout that has been started, and what drives it to its end.
        """
        plan = plan_from(merge(QUICK, {"to": to, **changes}))
        with closing(self.cluster(plan=plan)) as cluster:
            driver = starting.start(cluster, plan, f"test-{uuid.uuid4().hex[:6]}", by="the tests")
            yield cluster, driver.drive
            self._keep_record(cluster)

    def _keep_record(self, cluster: LiveCluster) -> None:
        """
        Every rollout that has ended has a record and a page; they lie in reports/rollout by the test's name.
        """
        end, record = self.states[-1], cluster.last_record()
        assert record is not None
        assert (end.run, end.phase.value) == (record["run"], record["end"])
        page = record_page(record)
        folder = Path(os.environ.get("REPORTS", ROOT / "reports")) / "rollout"
        folder.mkdir(parents=True, exist_ok=True)
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].partition(" ")[0]
        (folder / f"{test}.json").write_text(json.dumps(record, indent=2))
        (folder / f"{test}.html").write_text(page)


def aborting(percent: int) -> dict[str, Any]:
    """
    The canary's sidecars answer so many per cent with 503, to every request that comes through the mesh.
    """
    fault = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": {"http_status": 503, "percentage": {"numerator": percent, "denominator": "HUNDRED"}},
    }
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "subFilter": {"name": "envoy.filters.http.router"},
    }
    change = {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "SIDECAR_INBOUND", "listener": {"filterChain": {"filter": manager}}},
        "patch": {"operation": "INSERT_BEFORE", "value": {"name": "chaos", "typed_config": fault}},
    }
    return {
        "workloadSelector": {"labels": {"track": "canary"}},
        "configPatches": [change],
    }


def dead(namespace: str, percent: int = 100) -> dict[str, Any]:
    """
    The object that plants it.
    """
    return istio("EnvoyFilter", "canary-dead", namespace, aborting(percent))


def command(rolling: Rolling, *arguments: str) -> list[str]:
    target = rolling.target
    return [
        *(sys.executable, "-m", "tfcanary", "rollout", *arguments),
        *(f"--release={RELEASE}", f"--namespace={target.namespace}", f"--kubeconfig={target.kubeconfig}"),
    ]


def state_of(rolling: Rolling) -> State:
    stored = rolling.cluster().load()
    if stored is None:
        raise NotYet("no state is stored")
    return from_text(stored.text)


def killed_in(rolling: Rolling, process: "subprocess.Popen[bytes]", phase: Phase) -> None:
    """
    Kill a driver with everything it has started, as soon as its rollout is in a phase.
    """

    def there() -> None:
        assert process.poll() is None, f"it ended with {process.returncode} before {phase.value}"
        state = state_of(rolling)
        if state.phase is not phase:
            raise NotYet(state.phase.value)

    wait_until(phase.value, there, timeout_seconds=120, interval_seconds=0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def driving(rolling: Rolling, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command(rolling, *arguments), start_new_session=True)
