"""
What should happen at a gateway: as values files say, or as the live release does, and where the two differ.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcanary import jwt, mesh, predict, release, routing
from tfcanary.errors import NoEvidenceError, UsageError
from tfcanary.evidence import OFF, SHOWN_FAILURES, Check, Door, Subject
from tfcanary.predict import Api, metadata_paths
from tfcanary.routing import Routing
from tfcanary.split import Decision


def from_files(
    files: Sequence[Path],
    *,
    gateway: str,
    host: str | None = None,
    model: str | None = None,
    chart: Path = routing.CHART,
    tokens: Sequence[jwt.Token] = (),
    tls: predict.Tls | None = None,
) -> Subject:
    """
    What values files over the chart's defaults say, with no cluster to ask.
    """
    values = routing.read_files(files)
    routing.check_keys(values, chart)
    expected = _parse(routing.coalesce(routing.chart_defaults(chart), values), model)
    return Subject(
        routing=expected,
        tokens=tuple(tokens),
        tls=tls,
        gateway=gateway,
        host=host or _host(expected),
        lost=(
            "the live release and VirtualService, since only --gateway and --values are given; add --release NAME",
            "which revision the routes have: that of the first answer is taken, and must stay",
        ),
    )


def from_release(
    name: str,
    *,
    namespace: str = "default",
    kubeconfig: Path | None = None,
    context: str | None = None,
    helm: str = "helm",
    files: Sequence[Path] = (),
    gateway: str | None = None,
    host: str | None = None,
    model: str | None = None,
    chart: Path = routing.CHART,
    each_pod: bool = True,
    tokens: Sequence[jwt.Token] = (),
    tls: predict.Tls | None = None,
) -> Subject:
    """
    What the live release says, and values files over it; a difference between the two is a finding.

    Raises:
        UsageError: if there is no such release, or a file has a key or a value that cannot be right.
        UnreachableError: if the cluster, helm or the gateway's address cannot be found.
    """
    given = routing.read_files(files)
    routing.check_keys(given, chart)
    releases = release.Releases(namespace=namespace, kubeconfig=kubeconfig, context=context, executable=helm)
    live_values = releases.values(name)
    live = _parse(live_values, model)
    values = routing.coalesce(live_values, given)
    expected = _parse(values, model)
    cluster = mesh.Mesh(namespace=namespace, kubeconfig=kubeconfig, context=context)
    virtual_service = cluster.virtual_service(name)
    findings = [_live_routes(virtual_service, expected, api) for api in Api]
    findings.append(_live_retries(virtual_service, values))
    findings.append(_live_objects(releases.drift(name)))
    if files:
        findings.insert(0, _live_values(live, expected, files))
    lost = [] if expected.attribution else [f"tracks and revisions: {OFF}"]
    try:
        before = _before(releases, name, model)
    except UsageError as exc:
        # It may be of another chart; what is live now is none the worse for it.
        before = None
        lost.append(f"the routes before the newest revision, which cannot be read: {exc}")
    doors: tuple[Door, ...] = ()
    if each_pod:
        doors = tuple(
            Door(pod.name, functools.partial(cluster.forwarded, pod))
            for pod in cluster.gateway_pods(name, tls=tls is not None)
        )
    else:
        lost.append("each gateway pod by itself")
    return Subject(
        routing=expected,
        tokens=tuple(tokens),
        tls=tls,
        predictions=functools.partial(cluster.predictions, name) if each_pod else None,
        gateway=gateway or cluster.gateway_address(name, tls=tls is not None),
        host=host or _host(expected),
        release=name,
        revision=mesh.route_revision(virtual_service) if expected.attribution and live.attribution else None,
        before=before,
        findings=tuple(findings),
        lost=tuple(lost),
        doors=doors,
        pods=Counter(pod.track for pod in cluster.pods(name) if pod.ready),
    )


def _before(releases: release.Releases, name: str, model: str | None) -> Routing | None:
    """
    The routes that the release had before the newest revision, if it had any that worked.
    """
    worked = [revision for revision in releases.history(name)[:-1] if revision.status == "superseded"]
    return _parse(releases.values(name, worked[-1].number), model) if worked else None


def _parse(values: Mapping[str, Any], model: str | None) -> Routing:
    if model is not None:
        values = routing.merge(values, {"model": {"name": model}})
    try:
        return routing.from_values(values)
    except UsageError as exc:
        if "model.name" in str(exc):
            raise UsageError(f"{exc}; name it with --model NAME, or add its values file") from exc
        raise


def _host(expected: Routing) -> str | None:
    """
    The host to ask for: the first name of the gateway's; a wildcard stands for any name below it.
    """
    first = expected.hosts[0]
    return None if first == "*" else first.replace("*", "check", 1)


def _live_values(live: Routing, expected: Routing, files: Sequence[Path]) -> Check:
    names = ", ".join(file.name for file in files)
    same = live == expected
    return Check(
        "live values",
        "",
        None,
        Decision.HELD if same else Decision.FAILED,
        f"as in {names}",
        "the same" if same else _routes(live),
        len(live.routes),
        detail=f"the files say {_routes(expected)}; apply them with helm upgrade --reset-then-reuse-values",
    )


def _live_retries(virtual_service: Mapping[str, Any], values: Mapping[str, Any]) -> Check:
    """
    The mesh tries again as often as the values say; more often would hide failures from every check.
    """
    section = values.get("routing") or {}
    wanted = section.get("retryAttempts", 0)
    http = virtual_service["spec"].get("http") or []
    # Without a word Istio tries twice again.
    seen = {entry.get("name", ""): (entry.get("retries") or {}).get("attempts", 2) for entry in http}
    odd = {name: attempts for name, attempts in seen.items() if attempts != wanted}
    return Check(
        "live retries",
        "",
        None,
        Decision.FAILED if odd else Decision.HELD,
        f"{wanted} on every route",
        ", ".join(f"{name} {attempts}" for name, attempts in odd.items()) or "the same",
        len(seen),
        detail="retries hide from this check what clients of another gateway would see" if odd else "",
    )


def _live_objects(drift: release.Drift) -> Check:
    """
    The live VirtualServices and DestinationRules are what Helm released, field by field: mirrors and subsets too.
    """
    decision = Decision.FAILED if drift.differences else Decision.HELD
    return Check(
        "live objects",
        "",
        None,
        decision if drift.objects else Decision.NOT_ENOUGH,
        "as Helm released them",
        "; ".join(drift.differences[:SHOWN_FAILURES])
        or ("the same" if drift.objects else "no routes in the release's manifest"),
        drift.objects,
        detail=_BEHIND_HELM if drift.differences else "",
    )


_BEHIND_HELM = "changed behind Helm's back? helm upgrade with the same values may not repair it"


def _routes(expected: Routing) -> str:
    return "; ".join(str(route) for route in expected.routes)


def _live_routes(virtual_service: Mapping[str, Any], expected: Routing, api: Api) -> Check:
    """
    What the live VirtualService says of each probe, beside what the values say.
    """
    problems = []
    # No token here: a condition on claims, which Istio writes as one on a header of that name, fits no request.
    probes = [probe for probe in expected.probes() if api is Api.REST or not probe.rest_only]
    try:
        for probe in probes:
            path = (
                probe.path(expected.model)
                if api is Api.REST
                else probe.prefix + metadata_paths(expected.model)[api]
            )
            weights = mesh.destination_weights(virtual_service, path, probe.headers)
            wanted = {track: weight for track, weight in probe.expected.weights.items() if weight}
            if {track: weight for track, weight in weights.items() if weight} != wanted:
                problems.append(f"{probe.name}: {routing.in_words(weights) or 'no route'}")
    except NoEvidenceError as exc:
        return Check("live routes", "", api, Decision.NOT_ENOUGH, "as the values say", str(exc), 0)
    return Check(
        "live routes",
        "",
        api,
        Decision.FAILED if problems else Decision.HELD,
        "the VirtualService says what the values say",
        "; ".join(problems) or "the same",
        len(probes),
        detail=_BEHIND_HELM if problems else "",
    )
