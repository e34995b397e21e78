"""
The check on a real gateway: quick where all is well, no alarm over many repetitions, and each planted fault found by name.

Faults are planted with kubectl, past Helm, and Helm repairs them.
"""

import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.check.report import Report
from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release
from tfcanary.check.subject import Options, Subject
from tfcanary.contract import Api
from tfcanary.helm.drift import DriftError
from tfcanary.helm.releases import Releases
from tfcanary.judge.verdict import Outcome
from tfcanary.paths import CHART, ROOT, VALUES
from tfcanary.report.html import html
from tfcanary.report.junit import junit
from tfcanary.report.table import findings_table
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

RELEASE = "resnet"
REPORTS = Path(os.environ.get("REPORTS", ROOT / "reports"))
# Beside the splits: waiting for the routes, and predictions.
FEW_MORE = 300
# The whole number is for a run of its own; here a few show that the loop works.
REPETITIONS = int(os.environ.get("REPETITIONS", "3"))

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture
def subject(target: Target) -> Callable[..., Subject]:
    def ask(*files: Path) -> Subject:
        return from_release(RELEASE, target, files=files)

    return ask


def failed(found: Report) -> set[str]:
    return {one.title for one in found.findings if one.outcome is Outcome.FAILED}


def test_canary_10_is_decided_quickly(releases: Releases, subject: Callable[..., Subject]) -> None:
    """
    Both protocols, every gateway pod and predictions are checked within the planned number of requests, and the report is kept.

    benchmarks/check.py measures how long that takes: a busy machine is no fault of the check.
    """
    file = VALUES / "canary-10.yaml"
    releases.apply(RELEASE, files=[file])

    found = check_gateway(subject(file))

    REPORTS.mkdir(parents=True, exist_ok=True)
    (REPORTS / "canary-10.html").write_text(html(found))
    (REPORTS / "canary-10.xml").write_text(junit(found))
    assert found.held, str(findings_table(found))
    assert {"REST", "gRPC"} == {
        one.api.value
        for one in found.findings
        if one.about.startswith("pod istio-ingressgateway") and one.api
    }
    planned = Counter({one.api: one.needed for one in found.findings if one.name == "split"})
    assert set(Api) == set(planned)
    assert planned.total() + FEW_MORE >= len(found.records)


def test_repetitions_raise_no_alarm(releases: Releases, subject: Callable[..., Subject]) -> None:
    """
    Checks of a correct release that does not change all hold, and leave no thread behind.
    """
    releases.apply(RELEASE, files=[VALUES / "canary-10.yaml"])
    asked = subject(VALUES / "canary-10.yaml")

    found = [check_gateway(asked)]
    threads = threading.active_count()
    found += [check_gateway(asked) for _ in range(REPETITIONS - 1)]

    def nothing_left() -> None:
        if threading.active_count() > threads:
            raise NotYet(f"{threading.active_count()} threads, {threads} before")

    wait_until("threads of the port-forwards", nothing_left, timeout_seconds=20)
    REPORTS.mkdir(parents=True, exist_ok=True)
    figures = {
        "repetitions": len(found),
        "alarms": sum(not one.held for one in found),
        "requests": sum(len(one.records) for one in found),
        "seconds": [round(one.seconds, 2) for one in found],
        "verdicts": sorted({one.verdict for one in found if not one.held}),
    }
    (REPORTS / "repetitions.json").write_text(json.dumps(figures, indent=2) + "\n")
    assert 0 == figures["alarms"], figures["verdicts"]


@pytest.fixture
def planted(
    manager: AClusterManager, namespace: str, releases: Releases, tmp_path: Path
) -> Iterator[Callable[[str, Callable[[dict[str, Any]], None], Path], None]]:
    """
    Change a live object's spec; afterwards remove the object. Helm makes it again at the next upgrade, with which every test
    begins.
    """
    touched = []

    def plant(kind: str, change: Callable[[dict[str, Any]], None], file: Path) -> None:
        releases.apply(RELEASE, files=[file])
        live = manager.kubectl(["get", kind, RELEASE, "-n", namespace, "-o", "json"])
        change(live["spec"])
        patch = json.dumps([{"op": "replace", "path": "/spec", "value": live["spec"]}])
        patched = tmp_path / "patch.json"
        patched.write_text(patch)
        manager.kubectl(
            ["patch", kind, RELEASE, "-n", namespace, "--type=json", f"--patch-file={patched}"], as_dict=False
        )
        touched.append(kind)

    yield plant
    for kind in touched:
        manager.kubectl(["delete", kind, RELEASE, "-n", namespace], as_dict=False)


def shift(*, rest: int | None = None, grpc: int | None = None) -> Callable[[dict[str, Any]], None]:
    """
    Give the canary another weight, over one protocol or both.
    """

    def change(spec: dict[str, Any]) -> None:
        for entry in spec["http"]:
            weight = grpc if entry["name"].endswith("-grpc") else rest
            if weight is not None:
                for destination in entry["route"]:
                    is_canary = destination["destination"]["subset"] == "canary"
                    destination["weight"] = weight if is_canary else 100 - weight

    return change


def without_subset(spec: dict[str, Any]) -> None:
    spec["subsets"] = [one for one in spec["subsets"] if one["name"] != "canary"]


def without_attribution(spec: dict[str, Any]) -> None:
    for entry in spec["http"]:
        for destination in entry["route"]:
            destination.pop("headers", None)


def without_mirror(spec: dict[str, Any]) -> None:
    for entry in spec["http"]:
        entry.pop("mirror")
        entry.pop("mirrorPercentage")


def retrying(spec: dict[str, Any]) -> None:
    for entry in spec["http"]:
        entry["retries"] = {"attempts": 2}


@pytest.mark.parametrize(
    ("kind", "change", "found"),
    [
        pytest.param(
            "virtualservice",
            shift(rest=50, grpc=50),
            {"live routes (REST)", "live routes (gRPC)", "split everyone (REST)", "split everyone (gRPC)"},
            id="weight-patched",
        ),
        pytest.param(
            "virtualservice",
            shift(grpc=0),
            {"live routes (gRPC)", "split everyone (gRPC)"},
            id="grpc-left-behind",
        ),
        pytest.param(
            "virtualservice",
            without_attribution,
            {"split everyone (REST)", "split everyone (gRPC)"},
            id="tracks-unnamed",
        ),
        pytest.param("virtualservice", retrying, {"live retries"}, id="retries-that-hide-errors"),
        pytest.param(
            "destinationrule",
            without_subset,
            {"failed requests (REST)", "failed requests (gRPC)"},
            id="subset-missing",
        ),
    ],
)
def test_a_planted_fault_is_found_by_name(
    subject: Callable[..., Subject],
    planted: Any,
    kind: str,
    change: Any,
    found: set[str],
) -> None:
    """
    A live object that differs from the release is named, over both APIs.
    """
    file = VALUES / "canary-10.yaml"
    planted(kind, change, file)

    seen = check_gateway(subject(file), Options(timeout_seconds=10))

    assert found <= failed(seen), str(findings_table(seen))
    assert 1 == seen.exit_code
    assert {one.api for one in seen.findings} >= set(Api)


MIRROR_ALL = (
    "routing: {routes: [{name: everyone, mirror: {track: canary, percent: 100}, weights: {stable: 100}}]}\n"
)
# Enough to tell the mirror from none at all; each prediction is run twice here.
FEW = Options(timeout_seconds=10, alpha=1e-3, power=0.99, detect=40)


@pytest.fixture
def mirror_all(tmp_path: Path) -> Path:
    file = tmp_path / "mirror-all.yaml"
    file.write_text(MIRROR_ALL)
    return file


def test_a_mirror_is_counted_at_the_pods(
    releases: Releases, subject: Callable[..., Subject], mirror_all: Path
) -> None:
    """
    Of predictions with 588 KiB of picture each, all are counted by the canary's own server, over both APIs.
    """
    releases.apply(RELEASE, files=[mirror_all])

    seen = check_gateway(subject(mirror_all), FEW)

    assert seen.held, str(findings_table(seen))
    rows = [one for one in seen.findings if one.name == "mirror"]
    assert list(Api) == [one.api for one in rows]
    assert all("588 KiB" in one.observed for one in rows)


def test_a_mirror_that_is_off_is_found(
    subject: Callable[..., Subject], planted: Any, mirror_all: Path
) -> None:
    """
    A missing mirror is found in the live objects, and by the copies that do not arrive.
    """
    planted("virtualservice", without_mirror, mirror_all)

    seen = check_gateway(subject(mirror_all), FEW)

    assert {"live objects", "mirror everyone (REST)", "mirror everyone (gRPC)"} == failed(seen), str(
        findings_table(seen)
    )


def test_a_path_prefix_is_proven(releases: Releases, subject: Callable[..., Subject]) -> None:
    """
    Requests below the prefix, beside it and without it go where they should, over both APIs.
    """
    file = VALUES / "canary-path.yaml"
    releases.apply(RELEASE, files=[file])

    seen = check_gateway(subject(file))

    assert seen.held, str(findings_table(seen))
    assert {"no route beside /canary (REST)", "no route beside /canary (gRPC)"} <= {
        one.title for one in seen.findings
    }


def test_drift_is_no_success(releases: Releases, planted: Any) -> None:
    """
    A weight was patched past Helm. The upgrade to the same file leaves it, and names the field.
    """
    file = VALUES / "canary-10.yaml"
    planted("virtualservice", shift(rest=50, grpc=50), file)

    with pytest.raises(
        DriftError, match=r"VirtualService resnet: spec\.http\[everyone-\w+\]\.route\[\d\]\.weight: expected"
    ):
        releases.apply(RELEASE, files=[file])


def test_a_killed_helm_leaves_nothing_pending(
    releases: Releases, subject: Callable[..., Subject], namespace: str, kubeconfig: Path
) -> None:
    """
    After `kill -9` in the middle of an upgrade the next one recovers, and the release is deployed.
    """
    stuck = [
        "helm",
        "upgrade",
        RELEASE,
        str(CHART),
        "--namespace",
        namespace,
        "--wait",
        "--timeout=300s",
        "--reset-then-reuse-values",
        "--set=tracks.canary.version=9",
        f"--kubeconfig={kubeconfig}",
    ]
    process = subprocess.Popen(stuck, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def pending() -> None:
        status = releases.current(RELEASE).status
        if status != "pending-upgrade":
            raise NotYet(status)

    wait_until("a pending upgrade", pending, timeout_seconds=60)
    process.kill()
    process.wait()

    recovered = releases.recover(RELEASE, after_seconds=5)
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])

    assert "deployed" == recovered.status
    assert subject(VALUES / "stable.yaml").findings
    assert {Outcome.HELD} == {one.outcome for one in subject(VALUES / "stable.yaml").findings}


def test_what_is_closed_is_refused(releases: Releases, subject: Callable[..., Subject]) -> None:
    """
    The gateway refuses metrics, other models, other spellings of the path, and the services that could change the model.
    """
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])

    found = check_gateway(subject(VALUES / "stable.yaml"), Options(security=True))

    rows = [one for one in found.findings if one.name == "security"]
    assert [Outcome.HELD] * 2 == [one.outcome for one in rows], str(findings_table(found))
    assert found.held, str(findings_table(found))
