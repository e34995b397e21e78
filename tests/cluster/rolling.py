"""
A release of digits whose versions are good or bad, to roll out in the tests.
"""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planting import istio

from tfcanary.chart.values import merge
from tfcanary.check.sources import releases_in
from tfcanary.helm.releases import Releases
from tfcanary.paths import VALUES
from tfcanary.rollout import starting
from tfcanary.rollout.live import LiveCluster
from tfcanary.rollout.planfile import plan_from
from tfcanary.rollout.state import State
from tfcanary.rollout.way import Way
from tfcanary.target import Target

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

    def reset(self) -> None:
        """
        Version 1 on stable with all traffic, and one pod of the canary.
        """
        files = [self.environment, VALUES / "models/digits.yaml", VALUES / "stable.yaml"]
        values = {"gateway": {"hosts": [self.host]}, "tracks": {"canary": {"replicas": 1}}}
        self.releases.apply(RELEASE, files=files, values=values, reuse_values=False)
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
