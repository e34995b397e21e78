"""
What should happen at a gateway: as values files say, or as the live release does, and where the two differ.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcanary.chart.schema import require_known_keys, require_types
from tfcanary.chart.values import chart_defaults, coalesce, merge, read_files
from tfcanary.check.finding import BY_VERSION, OFF
from tfcanary.check.live import live_objects, live_retries, live_routes, live_values
from tfcanary.check.pods import pod_versions
from tfcanary.check.subject import GatewayPod, Subject
from tfcanary.client.endpoint import Tls
from tfcanary.contract import Api
from tfcanary.errors import MissingValueError, UsageError
from tfcanary.helm.releases import TIMEOUT_SECONDS, Releases
from tfcanary.kube.gateway import gateway_address, gateway_pods
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.portforward import forwarded
from tfcanary.kube.virtualservice import route_revision
from tfcanary.metrics.tfserving import predictions
from tfcanary.paths import CHART
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Routing
from tfcanary.routing.tokens import Token
from tfcanary.target import Target


def releases_in(target: Target, *, timeout_seconds: int = TIMEOUT_SECONDS) -> Releases:
    """
    The releases of a namespace, whose upgrades are compared with its live objects.
    """

    @functools.cache
    def cluster() -> LiveObjects:
        return LiveObjects(target)

    return Releases(target, lambda wanted: cluster().read(wanted), timeout_seconds=timeout_seconds)


def from_files(
    files: Sequence[Path],
    *,
    gateway: str,
    host: str | None = None,
    model: str | None = None,
    chart: Path = CHART,
    tokens: Sequence[Token] = (),
    tls: Tls | None = None,
) -> Subject:
    """
    What values files over the chart's defaults say, with no cluster to ask.
    """
    values = read_files(files)
    require_known_keys(values, chart)
    values = coalesce(chart_defaults(chart), values)
    require_types(values, chart)
    expected = _parse(values, model, chart)
    return Subject(
        routing=expected,
        tokens=tuple(tokens),
        tls=tls,
        gateway=gateway,
        host=host or _host(expected),
        lost=(
            "the live release and VirtualService, since only --gateway and --values are given; add --release NAME",
            "which revision the routes have: that of the first answer is taken, and must stay",
            *_unversioned(expected),
        ),
    )


def from_release(
    name: str,
    target: Target,
    *,
    files: Sequence[Path] = (),
    gateway: str | None = None,
    host: str | None = None,
    model: str | None = None,
    chart: Path = CHART,
    each_pod: bool = True,
    tokens: Sequence[Token] = (),
    tls: Tls | None = None,
) -> Subject:
    """
    What the live release says, and values files over it; a difference between the two is a finding.

    Raises:
        UsageError: if there is no such release, or a file has a key or a value that cannot be right.
        UnreachableError: if the cluster, helm or the gateway's address cannot be found.
    """
    given = read_files(files)
    require_known_keys(given, chart)
    releases = releases_in(target)
    installed = releases.values(name)
    live = _parse(installed, model, chart)
    values = coalesce(installed, given)
    expected = _parse(values, model, chart)
    cluster = LiveObjects(target)
    virtual_service = cluster.virtual_service(name)
    findings = [live_values(live, expected, files)] if files else []
    findings += [live_routes(virtual_service, expected, api) for api in Api]
    drift = releases.drift(name)
    findings += [live_retries(virtual_service, values), live_objects(drift)]
    before, unread = _before(releases, name, model, chart)
    pods = _gateway_pods(cluster, name, tls=tls is not None) if each_pod else ()
    served, unasked = pod_versions(cluster, name, expected) if each_pod else ((), ())
    return Subject(
        routing=expected,
        tokens=tuple(tokens),
        tls=tls,
        predictions_run=functools.partial(predictions, cluster, name) if each_pod else None,
        gateway=gateway or gateway_address(cluster, name, tls=tls is not None),
        host=host or _host(expected),
        release=name,
        revision=route_revision(virtual_service) if expected.attribution and live.attribution else None,
        before=before,
        findings=(*findings, *served),
        lost=(
            *unasked,
            *_unattributed(expected),
            *_unversioned(expected),
            *(f"the live {kind}s of the release: no right to read them" for kind in drift.unread),
            *unread,
            *(() if each_pod else ("each gateway pod by itself, and which version each pod of a track has",)),
        ),
        gateway_pods=pods,
        pods=Counter(pod.track for pod in cluster.pods(name) if pod.ready),
    )


def _unattributed(expected: Routing) -> Iterator[str]:
    """
    What is lost where the routes name neither track nor revision.
    """
    if expected.attribution:
        return
    if expected.by_version:
        yield f"revisions, and each track's own interface and predictions: {BY_VERSION}"
    else:
        yield f"tracks and revisions: {OFF}"


def _unversioned(expected: Routing) -> Iterator[str]:
    """
    What is lost where the values do not say which version a track serves.
    """
    unknown = [track for track in expected.serving() if track not in expected.versions]
    if unknown:
        yield (
            f"which version answers for {', '.join(unknown)}: no values name it; "
            "add the file with tracks.NAME.version, such as values/models/resnet.yaml"
        )


def _gateway_pods(cluster: LiveObjects, name: str, *, tls: bool) -> tuple[GatewayPod, ...]:
    return tuple(
        GatewayPod(pod.name, functools.partial(forwarded, cluster, pod))
        for pod in gateway_pods(cluster, name, tls=tls)
    )


def _before(
    releases: Releases, name: str, model: str | None, chart: Path
) -> tuple[Routing | None, tuple[str, ...]]:
    """
    The routes that the release had before the newest revision, if it had any that worked; and what is lost, in words.
    """
    worked = [revision for revision in releases.history(name)[:-1] if revision.status == "superseded"]
    if not worked:
        return None, ()
    try:
        return _parse(releases.values(name, worked[-1].number), model, chart), ()
    except UsageError as exc:
        # It may be of another chart; what is live now is none the worse for it.
        return None, (f"the routes before the newest revision, which cannot be read: {exc}",)


def _parse(values: Mapping[str, Any], model: str | None, chart: Path) -> Routing:
    if model is not None:
        values = merge(values, {"model": {"name": model}})
    try:
        return from_values(values, chart)
    except MissingValueError as exc:
        if exc.path == "model.name":
            raise UsageError(f"{exc}; name it with --model NAME, or add its values file") from exc
        raise


def _host(expected: Routing) -> str | None:
    """
    The host to ask for: the first name of the gateway's; a wildcard stands for any name below it.
    """
    first = expected.hosts[0]
    return None if first == "*" else first.replace("*", "check", 1)
