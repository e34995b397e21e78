"""
Checks of the live objects, before any request is made.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcanary.chart.umbrella import Copy
from tfcanary.check.finding import Finding, outcome_of, shown
from tfcanary.contract import Api, metadata_paths
from tfcanary.errors import NoEvidenceError
from tfcanary.helm.drift import Drift
from tfcanary.judge.verdict import Outcome
from tfcanary.kube.httproute import http_entries
from tfcanary.kube.virtualservice import destination_weights
from tfcanary.routing.probes import probes_of
from tfcanary.routing.route import Routing, weights_in_words


def live_values(live: Routing, expected: Routing, files: Sequence[Path]) -> Finding:
    """
    The live release has the routes that the files say.
    """
    names = ", ".join(file.name for file in files)
    same = live == expected
    return Finding(
        "live values",
        "",
        None,
        Outcome.HELD if same else Outcome.FAILED,
        f"as in {names}",
        "the same" if same else _routes(live) + _versions(live, expected),
        len(live.routes),
        detail=f"the files say {_routes(expected)}{_versions(expected, live)}; apply them with helm upgrade --reset-then-reuse-values",
    )


def misplaced_values(copy: Copy) -> Finding:
    """
    The values of an umbrella chart have those of models and strategies where a copy of the chart reads them.
    """
    seen = f"{', '.join(copy.misplaced)} at the top, where no copy of the chart reads it"
    return Finding(
        "values",
        copy.key,
        None,
        outcome_of(copy.misplaced),
        f"under {copy.key}",
        seen if copy.misplaced else "none at the top",
        1,
        detail=f"that upgrade changed nothing; indent the file below {copy.key}:" if copy.misplaced else "",
    )


def live_retries(virtual_service: Mapping[str, Any], values: Mapping[str, Any]) -> Finding:
    """
    The mesh retries as often as the values say. More often would hide failures from every check.
    """
    section = values.get("routing") or {}
    wanted = section.get("retryAttempts", 0)
    http = http_entries(virtual_service)
    # Istio retries twice where nothing is said.
    seen = {entry.get("name", ""): (entry.get("retries") or {}).get("attempts", 2) for entry in http}
    odd = {name: attempts for name, attempts in seen.items() if attempts != wanted}
    return Finding(
        "live retries",
        "",
        None,
        Outcome.FAILED if odd else Outcome.HELD,
        f"{wanted} on every route",
        ", ".join(f"{name} {attempts}" for name, attempts in odd.items()) or "the same",
        len(seen),
        detail="retries hide from this check what clients of another gateway would see" if odd else "",
    )


def live_objects(drift: Drift) -> Finding:
    """
    Every live object of the release is what Helm released, field by field.
    """
    decision = Outcome.FAILED if drift.differences else Outcome.HELD
    same = f"all {drift.objects} the same" if drift.objects else "nothing in the release's manifest"
    unread = f"; {', '.join(drift.unread)} may not be read" if drift.unread else ""
    return Finding(
        "live objects",
        "",
        None,
        decision if drift.objects else Outcome.NOT_ENOUGH,
        "as Helm released them",
        (shown(drift.differences) or same) + unread,
        drift.objects,
        detail=_BEHIND_HELM if drift.differences else "",
    )


_BEHIND_HELM = "changed behind Helm's back? helm upgrade with the same values may not repair it"


def _routes(expected: Routing) -> str:
    return "; ".join(str(route) for route in expected.routes)


def _versions(one: Routing, other: Routing) -> str:
    """
    The versions of one that are not those of the other.
    """
    return "".join(
        f"; {track} is version {version}"
        for track, version in one.versions.items()
        if other.versions.get(track) != version
    )


def live_routes(virtual_service: Mapping[str, Any], expected: Routing, api: Api) -> Finding:
    """
    The live VirtualService sends each probe where the values say.
    """
    problems = []
    # Istio writes a condition on claims as one on a header of that name. Without a token, no request fits it.
    probes = [probe for probe in probes_of(expected) if api is Api.REST or not probe.rest_only]
    try:
        for probe in probes:
            path = (
                probe.path(expected.model)
                if api is Api.REST
                else probe.prefix + metadata_paths(expected.model)[api]
            )
            named = expected.grpc_metadata if api is Api.GRPC else {}
            weights = destination_weights(virtual_service, path, {**named, **probe.headers})
            wanted = {track: weight for track, weight in probe.expected.weights.items() if weight}
            if {track: weight for track, weight in weights.items() if weight} != wanted:
                problems.append(f"{probe.name}: {weights_in_words(weights) or 'no route'}")
    except NoEvidenceError as exc:
        return Finding("live routes", "", api, Outcome.NOT_ENOUGH, "as the values say", str(exc), 0)
    return Finding(
        "live routes",
        "",
        api,
        Outcome.FAILED if problems else Outcome.HELD,
        "the VirtualService says what the values say",
        "; ".join(problems) or "the same",
        len(probes),
        detail=_BEHIND_HELM if problems else "",
    )
