"""
What a gateway with many releases costs one of them: requests a second, memory, istiod's pushes, and the time of an upgrade.

    python benchmarks/fleet.py --release resnet --namespace resnet [--counts 1 10 100 500] [--own] [--json]

The release must be live, with all traffic to stable and `gateway.filters.shared`. The others are what the chart renders for
releases with a host each, without pods. `--own` gives the others filters of their own, as `shared: false` does. Traffic goes
to the release's gateway only; what was made is taken away at the end.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tfcanary.check.propagation import IN_A_ROW
from tfcanary.check.sources import from_release, releases_in
from tfcanary.contract import Api
from tfcanary.kube.envoy import ADMIN_PORT
from tfcanary.kube.gateway import gateway_pods
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.portforward import PodPort, forwarded
from tfcanary.kube.virtualservice import route_revision
from tfcanary.paths import CHART, VALUES
from tfcanary.target import Target
from tfcanary.traffic.calls import metadata_call
from tfcanary.traffic.driver import Traffic
from tfcanary.wait import NotYet, wait_until

NAMESPACE, LABEL, FIRST = "fleet-benchmark", "fleet-of", "fleet-0000"
SYSTEM = "istio-system"
# What a gateway reads of a release.
KINDS = {"Service", "Gateway", "DestinationRule", "VirtualService", "EnvoyFilter"}
CONNECTIONS = 16
ISTIOD_METRICS = 15014
STEPS = (VALUES / "canary-10.yaml", VALUES / "stable.yaml")


@dataclass(frozen=True, slots=True)
class Row:
    """
    One number of releases.

    Attributes:
        per_second: requests of 16 connections to the release's model, through the gateway.
        p99_ms: of those.
        gateway_mib: what the gateway's Envoy has allocated.
        push_ms: the mean time from a change to the proxies, as istiod measures it, over the upgrades.
        upgrade_seconds: of `helm upgrade` with another strategy, the mean of two.
        seen_seconds: from its return until the gateway answers with its revision, the larger of two; 0 if before.
    """

    releases: int
    per_second: float
    p99_ms: float
    gateway_mib: float
    push_ms: float
    upgrade_seconds: float
    seen_seconds: float


class Others:
    """
    Releases behind the gateway that have no pods, in a namespace of their own that lasts as long as the with block.
    """

    def __init__(self, target: Target) -> None:
        """
        Args:
            target: the cluster, and the namespace to make.
        """
        self._target, self._live = target, LiveObjects(target)

    def __enter__(self) -> Self:
        """
        Make the namespace.
        """
        kubectl(self._target, "create", "namespace", self._target.namespace)
        return self

    def __exit__(self, *_: object) -> None:
        """
        Take all away, and that in the gateway's namespace too.
        """
        mine = f"--selector={LABEL}={self._target.namespace}"
        kubectl(self._target, "delete", "envoyfilters", f"--namespace={SYSTEM}", mine)
        kubectl(self._target, "delete", "namespace", self._target.namespace)

    def make(self, numbers: range, *, own: bool) -> None:
        """
        Add releases, and wait until the gateway has the host of the last.

        Args:
            numbers: of the releases.
            own: whether each has filters of its own.
        """
        text = rendered(self._target.namespace, own=own)
        documents = [text.replace(FIRST, name_of(number)) for number in numbers]
        kubectl(self._target, "apply", "--server-side", "-f", "-", stdin="\n---\n".join(documents))
        last = name_of(numbers[-1])
        (pod, *_) = gateway_pods(self._live, last)
        wait_until("the last host", lambda: self._require_host(pod, last), timeout_seconds=300)

    def _require_host(self, pod: PodPort, name: str) -> None:
        path = "/config_dump?resource=dynamic_route_configs"
        if f'"{name}.' not in admin(self._live, pod, ADMIN_PORT, path).text:
            raise NotYet(f"no host of {name}")


class Subject:
    """
    The live release that is measured.
    """

    def __init__(self, name: str, target: Target) -> None:
        """
        Args:
            name: the release.
            target: where it is.
        """
        self._name = name
        self._live, self._releases = LiveObjects(target), releases_in(target)
        subject = from_release(name, target)
        self._address, self._host = subject.gateway, subject.host
        self._call = metadata_call(Api.REST, subject.routing.model)
        (self._pod, *_) = gateway_pods(self._live, name)

    def row(self, releases: int, seconds: float) -> Row:
        """
        Measure beside so many releases.
        """
        with Traffic(self._address, [self._call], concurrency=CONNECTIONS, host=self._host) as load:
            time.sleep(seconds)
            records = load.stop()
        records.assert_none_failed()
        pushed = self._pushes()
        took = [self._upgrade(file) for file in STEPS]
        count, total = (after - before for after, before in zip(self._pushes(), pushed, strict=True))
        return Row(
            releases,
            len(records) / seconds,
            1000 * records.quantile(0.99),
            int(admin(self._live, self._pod, ADMIN_PORT, "/memory").json()["allocated"]) / 2**20,
            1000 * total / count if count else math.nan,
            sum(upgrade for upgrade, _ in took) / len(took),
            max(seen for _, seen in took),
        )

    def _upgrade(self, file: Path) -> tuple[float, float]:
        """
        Seconds of `helm upgrade`, and from its end until its revision was seen.
        """
        with Traffic(self._address, [self._call], concurrency=1, host=self._host) as load:
            began = time.time()
            self._releases.apply(self._name, files=[file])
            upgraded = time.time()
            wanted = str(route_revision(self._live.virtual_service(self._name)))
            load.wait_for_revision(wanted, in_a_row=IN_A_ROW)
            records, start = load.records(), load.began
        of_it = records.revision == records.names.index(wanted)
        arrived = start + float((records.due + records.latency)[of_it].min())
        return upgraded - began, max(0.0, arrived - upgraded)

    def _pushes(self) -> tuple[float, float]:
        """
        How many changes istiod has brought to all proxies, and the seconds that they took together.
        """
        (istiod,) = self._live.pods_labelled("istiod", SYSTEM, {"app": "istiod"})[:1]
        pod = PodPort(istiod.metadata.name, SYSTEM, ISTIOD_METRICS)
        families = text_string_to_metric_families(admin(self._live, pod, ISTIOD_METRICS, "/metrics").text)
        found = {sample.name: sample.value for family in families for sample in family.samples}
        count, total = (found[f"pilot_proxy_convergence_time_{part}"] for part in ("count", "sum"))
        return count, total


def admin(live: LiveObjects, pod: PodPort, port: int, path: str) -> httpx.Response:
    """
    What a port of a pod that is no Service's says.
    """
    with forwarded(live, PodPort(pod.name, pod.namespace, port)) as address:
        return httpx.get(f"http://{address}{path}", timeout=60, trust_env=False).raise_for_status()


def name_of(number: int) -> str:
    """
    The name of a release; all are of one length.
    """
    return f"fleet-{number:04d}"


def rendered(namespace: str, *, own: bool) -> str:
    """
    What the gateway reads of a release, whose name stands wherever another's has to.
    """
    command = [
        "helm",
        "template",
        FIRST,
        str(CHART),
        f"--namespace={namespace}",
        f"--set=gateway.hosts={{{FIRST}.example}}",
    ]
    command += [f"--set=gateway.filters.shared={str(not own).lower()}"]
    command += [f"--values={VALUES / name}.yaml" for name in ("env/local", "models/resnet", "canary-10")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    objects = [one for one in yaml.safe_load_all(text) if one and one["kind"] in KINDS]
    for one in objects:
        one["metadata"]["labels"][LABEL] = namespace
    return str(yaml.safe_dump_all(objects))


def kubectl(target: Target, *arguments: str, stdin: str | None = None) -> None:
    """
    Run kubectl, and show what it says if it fails.
    """
    where = [f"--kubeconfig={target.kubeconfig}"] if target.kubeconfig else []
    done = subprocess.run(
        ["kubectl", *where, *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"kubectl {arguments[0]}: expected success, got {done.stderr[-500:]}")


def slope(rows: Sequence[Row]) -> float:
    """
    By what power of the number of releases the throughput changes, between the first row and the last.
    """
    first, last = rows[0], rows[-1]
    return math.log(last.per_second / first.per_second) / math.log(last.releases / first.releases)


def table(rows: Sequence[Row]) -> str:
    """
    The rows, with the throughput as a ratio to the first.
    """
    lines = [
        "| releases | requests/s | of the first | p99 ms | gateway MiB | push ms | helm upgrade s | seen after s |"
    ]
    lines.append("|---" * 8 + "|")
    lines += [
        f"| {row.releases} | {row.per_second:.0f} | {row.per_second / rows[0].per_second:.2f} | {row.p99_ms:.0f} | "
        f"{row.gateway_mib:.0f} | {row.push_ms:.0f} | {row.upgrade_seconds:.1f} | {row.seen_seconds:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """
    Measure, and print.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--release", default="resnet")
    parser.add_argument("--namespace", default="resnet")
    parser.add_argument("--kubeconfig", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 10, 100, 500])
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of load for each row (default: %(default)g)"
    )
    parser.add_argument("--own", action="store_true", help="the others have filters of their own")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    target = Target(namespace=options.namespace, kubeconfig=options.kubeconfig)
    subject, made = Subject(options.release, target), 1
    rows: list[Row] = []
    with Others(replace(target, namespace=NAMESPACE)) as others:
        for count in sorted(options.counts):
            if count > made:
                others.make(range(made, count), own=options.own)
            made = count
            rows.append(subject.row(count, options.seconds))
            print(f"{count} releases: {rows[-1]}", file=sys.stderr)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(table(rows))
    if len(rows) > 1:
        print(f"throughput changes by the power {slope(rows):.3f} of the number of releases")


if __name__ == "__main__":
    main()
