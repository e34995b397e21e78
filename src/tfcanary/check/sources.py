"""
What should happen at a gateway: as values files say, or as the live release does, and where the two differ.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcanary.chart.schema import require_known_keys, require_types
from tfcanary.chart.umbrella import Copy, copy_in, given_to
from tfcanary.chart.values import chart_defaults, coalesce, merge, read_files
from tfcanary.check.finding import BY_VERSION, OFF, Finding
from tfcanary.check.live import live_objects, live_routes, live_values, misplaced_values
from tfcanary.check.pods import pod_versions, sidecars, tracks_pods
from tfcanary.check.reasons import Reasons
from tfcanary.check.subject import GatewayPod, Subject
from tfcanary.check.surroundings import Surroundings
from tfcanary.client.endpoint import Tls
from tfcanary.contract import Api
from tfcanary.errors import MissingValueError, NotFoundError, UnreachableError, UsageError
from tfcanary.helm.drift import Drift, DriftError
from tfcanary.helm.releases import TIMEOUT_SECONDS, Releases
from tfcanary.kube import readiness
from tfcanary.kube.gateway import gateway_accounts, gateway_address, gateway_pods
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.portforward import PodPort, forwarded
from tfcanary.kube.virtualservice import route_revision
from tfcanary.metrics.tfserving import predictions
from tfcanary.paths import CHART
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Routing, asked_host
from tfcanary.routing.tokens import Token
from tfcanary.target import Target


def releases_in(target: Target, *, timeout_seconds: int = TIMEOUT_SECONDS) -> Releases:
    """
    The releases of a namespace, whose upgrades are compared with its live objects.
    """

    @functools.cache
    def cluster() -> LiveObjects:
        return LiveObjects(target)

    return Releases(
        target,
        lambda wanted: cluster().read(wanted),
        not_up=lambda name: readiness.not_up(cluster, name),
        timeout_seconds=timeout_seconds,
    )


def from_files(
    files: Sequence[Path],
    *,
    gateway: str,
    host: str | None = None,
    model: str | None = None,
    chart: Path = CHART,
    subchart: str | None = None,
    tokens: Sequence[Token] = (),
    tls: Tls | None = None,
) -> Subject:
    """
    What values files over the chart's defaults say, with no cluster to ask.
    """
    values = given_to(subchart, read_files(files))
    require_known_keys(values, chart)
    values = coalesce(chart_defaults(chart), values)
    require_types(values, chart)
    expected = _parse(values, model, chart)
    return Subject(
        routing=expected,
        tokens=tuple(tokens),
        tls=tls,
        gateway=gateway,
        host=host or asked_host(expected.hosts),
        lost=(
            _ONLY_FILES,
            "which revision the routes have: that of the first answer is taken, and must stay",
            *_unversioned(expected),
        ),
    )


_ONLY_FILES = (
    "the live release and VirtualService, its pods, and the gateway's own configuration, "
    "since only --gateway and --values are given; add --release NAME"
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
    subchart: str | None = None,
    each_pod: bool = True,
    tokens: Sequence[Token] = (),
    tls: Tls | None = None,
    allowed_filters: Sequence[str] = (),
) -> Subject:
    """
    What the live release says, and values files over it; a difference between the two is a finding.

    Raises:
        UsageError: if there is no such release, or a file has a key or a value that cannot be right.
        UnreachableError: if the cluster, helm or the gateway's address cannot be found.
        DriftError: if the release's VirtualService (or HTTPRoute) or Gateway is gone.
    """
    given = given_to(subchart, read_files(files))
    require_known_keys(given, chart)
    releases = releases_in(target)
    copy = copy_in(name, releases.values(name), subchart)
    values = coalesce(copy.values, given)
    live, expected = (_parse(one, model, chart) for one in (copy.values, values))
    cluster, drift = LiveObjects(target), releases.drift(name)
    secure = tls is not None
    with _drift_first(name, target, drift):
        virtual_service = cluster.virtual_service(copy.name)
        gateways = gateway_pods(cluster, copy.name, tls=secure) if each_pod else ()
        address = gateway or gateway_address(cluster, copy.name, tls=secure)
    findings = [live_values(live, expected, files)] if files else []
    findings += [*(live_routes(virtual_service, expected, api) for api in Api), live_objects(drift)]
    before, unread = _before(releases, copy, model, chart)
    served, unasked = _pods(cluster, copy.name, expected, each_pod=each_pod)
    host = host or asked_host(expected.hosts)
    return Subject(
        routing=expected,
        tokens=tuple(tokens),
        tls=tls,
        predictions_run=functools.partial(predictions, cluster, name, app=copy.app) if each_pod else None,
        gateway=address,
        host=host,
        release=name,
        revision=route_revision(virtual_service) if expected.attribution and live.attribution else None,
        before=before,
        findings=(*([misplaced_values(copy)] if copy.key else ()), *findings, *served),
        lost=(*unasked, *_lost(expected, drift), *unread),
        gateway_pods=_opened(cluster, gateways),
        pods=Counter(pod.track for pod in cluster.pods(name, copy.app) if pod.ready),
        around=Surroundings(
            cluster, copy.name, values, expected, gateways, host or address, tuple(allowed_filters)
        ).look,
        reason=_reasons(cluster, copy.name, tls=secure).of,
        not_up=lambda: readiness.not_up(lambda: cluster, name, copy.app).reasons,
    )


def _reasons(cluster: LiveObjects, name: str, *, tls: bool) -> Reasons:
    return Reasons(cluster, name, functools.partial(gateway_accounts, cluster, name, tls=tls))


def _opened(cluster: LiveObjects, pods: Sequence[PodPort]) -> tuple[GatewayPod, ...]:
    return tuple(GatewayPod(pod.name, functools.partial(forwarded, cluster, pod)) for pod in pods)


@contextlib.contextmanager
def _drift_first(name: str, target: Target, drift: Drift) -> Iterator[None]:
    """
    Where an object of the release that the check needs is gone, say what differs from the release, and the repair.
    """
    try:
        yield
    except NotFoundError as exc:
        if not drift.differences:
            raise
        raise DriftError(name, target.namespace, drift.differences) from exc


def _pods(
    cluster: LiveObjects, name: str, expected: Routing, *, each_pod: bool
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """
    Findings about the pods of the tracks, and what is lost.
    """
    try:
        tracks = tracks_pods(cluster, name, expected)
    except UnreachableError as exc:
        return (), (f"the pods of each track: {exc}",)
    if not each_pod:
        return (sidecars(tracks),), (_NO_POD,)
    served, unasked = pod_versions(cluster, expected, tracks)
    return (sidecars(tracks), *served), unasked


_NO_POD = "each gateway pod by itself, and which version each pod of a track has"


def _lost(expected: Routing, drift: Drift) -> Iterator[str]:
    """
    What values without versions, routes without attribution, and missing rights take away, in words.
    """
    yield from _unattributed(expected)
    yield from _unversioned(expected)
    for kind in drift.unread:
        yield f"whether each live {kind} is as released: no right to read it"


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


def _before(
    releases: Releases, copy: Copy, model: str | None, chart: Path
) -> tuple[Routing | None, tuple[str, ...]]:
    """
    The routes that the release had before the newest revision, if it had any that worked; and what is lost, in words.
    """
    worked = [revision for revision in releases.history(copy.release)[:-1] if revision.status == "superseded"]
    if not worked:
        return None, ()
    try:
        values = releases.values(copy.release, worked[-1].number)
        return _parse(copy_in(copy.release, values, copy.key or None).values, model, chart), ()
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
