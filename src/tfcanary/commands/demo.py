"""
The main job from nothing: two ResNets behind one gateway, traffic moved by `helm upgrade`, every move proven; and at the
end two models of handwritten digits, whose answers are right, and a rollout from one to the other.
"""

import argparse
import contextlib
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tfcanary import cli
from tfcanary.check.report import Report
from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release, releases_in
from tfcanary.client.pictures import classification
from tfcanary.client.request import PredictRequest
from tfcanary.client.rest import RestClient
from tfcanary.cluster import binaries, lifecycle, store
from tfcanary.cluster.layout import DEFAULT_NAME, Layout, clusters_folder
from tfcanary.contract import SERVING_PREPROCESS
from tfcanary.errors import DoesNotHoldError, UnreachableError, UsageError
from tfcanary.export import manifest
from tfcanary.export.architectures import LABELLED, published_weights_at_hand
from tfcanary.export.cache import MODEL, RESNETS, exported, exported_resnet
from tfcanary.paths import ROOT
from tfcanary.report.rollout_view import teller
from tfcanary.report.table import findings_table, strategies_table, write
from tfcanary.rollout import starting
from tfcanary.rollout.live import LiveCluster
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.planfile import plan_from
from tfcanary.target import Target

RELEASE = NAMESPACE = MODEL

LOG = logging.getLogger(__name__)
VALUES = ROOT / "values"
LOCAL = VALUES / "env/local.yaml"
STRATEGIES = ("stable", "canary-10", "canary-30", "canary-user-group", "stable")
# A second release, whose answers can be right: two trainings of one small network, chosen by a header.
DIGITS = "digits"
# values/models/digits.yaml names the same versions.
DIGITS_MODELS = {1: ("resnet20", 20), 2: ("resnet20", 21)}
DIGITS_HOST = "digits.example"
# Pods first, traffic afterwards: the chart refuses both at once.
DIGITS_STRATEGIES = ("stable", "canary-user-group")
# A rollout in little more than a minute: as many requests as two cores answer beside the rest, and a short bake. A tolerance
# of 5 points takes a tenth of the requests that the default takes.
ROLLOUT = {
    "release": DIGITS,
    "to": 2,
    "traffic": {"perSecond": 40},
    "limits": {"least": "3s", "drain": "12s"},
    "bake": {"time": "20s"},
    "judge": {"errors": {"points": 5}},
}
DIGITS_HEADERS: dict[str, dict[str, str]] = {"stable": {}, "canary": {"user-group": "canary"}}


@dataclass(frozen=True, slots=True)
class Cluster:
    """
    Where the demo runs.

    Attributes:
        layout: the local cluster; none where one was given.
        environment: the values file that says where images and models come from.
    """

    layout: Layout | None
    kubeconfig: Path | None
    context: str | None
    environment: Path


@dataclass(slots=True)
class Times:
    """
    How long each part took, in seconds, in order.
    """

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """
        Measure the body.
        """
        began = time.monotonic()
        LOG.info("── %s", name)
        yield
        self.parts[name] = time.monotonic() - began


def main(argv: Sequence[str] | None = None, *, prog: str = "nox -s demo --") -> int:
    """
    Run the demo.
    """
    parser = cli.Parser(prog=prog, description=__doc__)
    parser.add_argument(
        "--name", default=DEFAULT_NAME, help=f"the local cluster's name (default: {DEFAULT_NAME})"
    )
    parser.add_argument(
        "--no-install", action="store_true", help="never install distribution packages, only name them"
    )
    parser.add_argument(
        "--context", help="use this context of your kubeconfig, a cluster with Istio, and build none"
    )
    parser.add_argument(
        "--env",
        type=Path,
        metavar="FILE",
        help="with --context or KUBECONFIG: values file with your images, model store and gateway; "
        "the store must hold resnet/1 and resnet/2",
    )
    return cli.run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    times = Times()
    cluster = _given(arguments)
    with times.part("cluster"):
        if cluster is None:
            layout = Layout(arguments.name)
            lifecycle.up(layout, install=not arguments.no_install)
            cluster = Cluster(layout, layout.kubeconfig, None, LOCAL)
    if cluster.layout is not None:
        with times.part("models"):
            folder = store.prepare_namespace(cluster.layout, NAMESPACE)
            for path in _resnets():
                store.publish(path, folder, MODEL)
    reports = _move_traffic(cluster, times)
    right: list[Right] = []
    promoted = True
    try:
        if cluster.layout is not None and all(report.held for _, report in reports):
            with times.part("digits"):
                right = _ask_for_digits(cluster, cluster.layout, reports[-1][1].gateway)
            with times.part("rollout"):
                promoted = _roll_out(cluster)
    finally:
        # The summary comes last, where it is read, also if the digits failed.
        write(strategies_table(reports), sys.stdout)
    for line in right:
        _print(str(line))
    _print("")
    _print(
        f"{time.monotonic() - began:.0f} s: " + ", ".join(f"{k} {v:.0f} s" for k, v in times.parts.items())
    )
    held = all(report.held for _, report in reports)
    if held and promoted and all(line.held for line in right):
        _print(_next_lines(cluster, reports[-1][1].gateway))
        return 0
    return DoesNotHoldError.exit_code if held else max(report.exit_code for _, report in reports)


def _target(cluster: Cluster, namespace: str) -> Target:
    helm = str(binaries.program("tools", "helm"))
    return Target(namespace=namespace, kubeconfig=cluster.kubeconfig, context=cluster.context, helm=helm)


def _given(arguments: argparse.Namespace) -> Cluster | None:
    """
    The cluster that the user named, unless it is a local one of ours.
    """
    named = os.environ.get("KUBECONFIG")
    if arguments.context is None and (not named or Path(named).is_relative_to(clusters_folder())):
        return None
    if arguments.env is None:
        raise UsageError(
            "--env: expected a values file for the cluster that --context or KUBECONFIG names, got none; "
            "start from values/env/gke.yaml, or unset KUBECONFIG to use a local cluster"
        )
    return Cluster(None, Path(named) if named else None, arguments.context, arguments.env)


def _resnets() -> list[Path]:
    """
    Both ResNets, with the published weights where they can be had, and what that means for their answers.
    """
    if published_weights_at_hand():
        try:
            found = [exported_resnet(version, weights="imagenet") for version in RESNETS]
        except UnreachableError as error:
            LOG.info("%s", error)
        else:
            LOG.info("weights: the published ones of ImageNet: the answers name what is on a photograph")
            return found
    LOG.info(
        "weights: random, as the published ones cannot be had from here: "
        "the answers are well-formed and mean nothing; those of the digits at the end are right"
    )
    return [exported_resnet(version) for version in RESNETS]


@dataclass(frozen=True, slots=True)
class Right:
    """
    How many held-out pictures a track named rightly, through the gateway.

    Attributes:
        wanted: how many the manifest says.
        elsewhere: answers of another track, and failures.
    """

    track: str
    right: int
    wanted: int
    pictures: int
    elsewhere: int

    @property
    def held(self) -> bool:
        """
        Whether they are as many as the model named rightly when it was exported.
        """
        return self.pictures > 0 and not self.elsewhere and self.right == self.wanted

    def __str__(self) -> str:
        """
        For people.
        """
        result = "held" if self.held else f"NOT HELD, {self.wanted} expected, {self.elsewhere} astray"
        share = self.right / max(1, self.pictures)
        return f"digits, {self.track}: {self.right} of {self.pictures} held-out pictures right ({share:.1%}): {result}"


def _ask_for_digits(cluster: Cluster, layout: Layout, gateway: str) -> list[Right]:
    """
    Install the digits beside the ResNets, and ask each track about every picture that it was not trained on.
    """
    folder = store.prepare_namespace(layout, DIGITS)
    paths = {
        version: exported(version, arch=arch, weights="digits", seed=seed, name=DIGITS)
        for version, (arch, seed) in DIGITS_MODELS.items()
    }
    for path in paths.values():
        store.publish(path, folder, DIGITS)
    target = _target(cluster, DIGITS)
    releases = releases_in(target)
    for strategy in DIGITS_STRATEGIES:
        LOG.info("helm upgrade %s: %s", DIGITS, strategy)
        files = [cluster.environment, VALUES / "models/digits.yaml", VALUES / f"{strategy}.yaml"]
        # An earlier demo has ended with a rollout, whose values are others.
        releases.apply(DIGITS, files=files, values={"gateway": {"hosts": [DIGITS_HOST]}}, reuse_values=False)
    # It also waits until the gateway has the routes.
    report = check_gateway(from_release(DIGITS, target))
    LOG.info("%s", report.verdict)
    if not report.held:
        write(findings_table(report), sys.stdout)
        raise DoesNotHoldError(f"release {DIGITS}: {report.verdict}")
    with RestClient(gateway, DIGITS, host=DIGITS_HOST) as client:
        tracks = zip(DIGITS_HEADERS.items(), paths.values(), strict=True)
        return [_right(client, track, headers, path) for (track, headers), path in tracks]


def _roll_out(cluster: Cluster) -> bool:
    """
    Release the second model of digits step by step, on the evidence of requests of our own.
    """
    target = _target(cluster, DIGITS)
    releases_in(target).apply(DIGITS, files=[VALUES / "stable.yaml"])
    plan = plan_from(ROLLOUT)
    saved = teller(lambda line: LOG.info("%s", line.partition(" ")[2]))
    with contextlib.closing(LiveCluster(DIGITS, target, plan=plan, saved=saved)) as live:
        end = starting.start(live, plan, f"demo-{os.getpid()}", by="nox -s demo").drive()
    _print(f"rollout {end.run}: {end.phase.value}: {end.reason}, after {end.now - end.started:.0f} s")
    return end.phase is Phase.SUCCEEDED


def _right(client: RestClient, track: str, headers: dict[str, str], model: Path) -> Right:
    """
    Ask one track about every held-out picture.
    """
    facts = json.loads((model / manifest.NAME).read_text(encoding="utf-8"))["accuracy"]
    pictures = sorted((model.parent / LABELLED).glob("*/*.png"))
    right = elsewhere = 0
    for path in pictures:
        request = PredictRequest.one(SERVING_PREPROCESS, "image_bytes", path.read_bytes())
        answer = client.predict(request, headers)
        found = classification(answer)
        if found is None or answer.track != track:
            elsewhere += 1
        elif found.labels[:1] == (path.parent.name,):
            right += 1
    wanted = round(facts["held_out"] * facts["pictures"])
    return Right(track, right, wanted, len(pictures), elsewhere)


def _move_traffic(cluster: Cluster, times: Times) -> list[tuple[str, Report]]:
    """
    Install at stable, then apply one strategy after the other, and check the gateway after each.
    """
    target = _target(cluster, NAMESPACE)
    releases = releases_in(target)
    reports = []
    for number, strategy in enumerate(STRATEGIES):
        file = VALUES / f"{strategy}.yaml"
        files = [cluster.environment, VALUES / "models/resnet.yaml", file] if number == 0 else [file]
        with times.part(f"{strategy}{' again' if number and strategy == 'stable' else ''}"):
            # The environment's file may be the user's own, from anywhere.
            names = (str(f).removeprefix(f"{ROOT}/") for f in files)
            LOG.info("helm upgrade %s -f %s", RELEASE, " -f ".join(names))
            releases.apply(RELEASE, files=files)
            report = check_gateway(from_release(RELEASE, target, files=[file]))
        LOG.info("%s", report.verdict)
        reports.append((strategy, report))
        if not report.held:
            write(findings_table(report), sys.stdout)
            break
    return reports


def _next_lines(cluster: Cluster, gateway: str) -> str:
    lines = ["", "The cluster stays up. Next:"]
    if cluster.layout is not None:
        lines.append(f"  {lifecycle.export(cluster.layout)}")
    python = Path(sys.executable)
    if python.is_relative_to(ROOT):
        python = python.relative_to(ROOT)
    upgrade = f"helm upgrade {RELEASE} charts/tfserving-canary -n {NAMESPACE}"
    check_again = f"{python} scripts/check_gateway.py --release {RELEASE} --namespace {NAMESPACE}"
    if cluster.context is not None:
        upgrade += f" --kube-context {shlex.quote(cluster.context)}"
        check_again += f" --context {shlex.quote(cluster.context)}"
    lines.append(f"  curl -i http://{gateway}/v1/models/{MODEL}/metadata")
    if cluster.layout is not None:
        lines.append(f"  curl -i -H 'Host: {DIGITS_HOST}' http://{gateway}/v1/models/{DIGITS}/metadata")
    lines += [f"  {upgrade} --reset-then-reuse-values -f values/canary-10.yaml", f"  {check_again}"]
    if cluster.layout is not None:
        lines.append("  python3 -m nox -s down")
    return "\n".join(lines)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
