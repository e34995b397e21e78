"""
Which version each pod of a track serves, as the pod itself says.

The pods of a track are those that the mesh sends its requests to now: the ready ones that the Service selects and that
have the labels of the track's subset.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tfcanary.check.finding import SHOWN_FAILURES, Finding, outcome_of, shown
from tfcanary.errors import UnreachableError
from tfcanary.kube.objects import SIDECAR, LiveObjects, in_mesh, is_ready
from tfcanary.metrics.tfserving import version_states
from tfcanary.routing.route import Routing

AVAILABLE = "AVAILABLE"
_AT_A_TIME = 8

# By pod, its versions with their states; or why it cannot be asked.
States = Mapping[str, Mapping[str, str] | UnreachableError]
# By track, its pods as the Kubernetes API gives them.
Tracks = Mapping[str, Sequence[Any]]


def pod_versions(
    cluster: LiveObjects, expected: Routing, tracks: Tracks
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """
    A finding for each track, and what could not be asked, in words.

    Args:
        cluster: the live objects.
        expected: the tracks and their versions.
        tracks: the pods of each track.
    """
    names = {track: [pod.metadata.name for pod in pods] for track, pods in tracks.items()}
    every = {name for some in names.values() for name in some}

    def ask(pod: str) -> Mapping[str, str] | UnreachableError:
        try:
            return version_states(cluster, pod, expected.model)
        except UnreachableError as exc:
            return exc

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        states = dict(zip(every, pool.map(ask, every), strict=True))
    findings = [
        as_declared(
            track, version, {pod: states[pod] for pod in names[track]}, needed=track in _used(expected)
        )
        for track, version in expected.versions.items()
    ]
    unasked = dict.fromkeys(str(one) for one in states.values() if isinstance(one, UnreachableError))
    return tuple(one for one in findings if one), tuple(unasked)


def tracks_pods(cluster: LiveObjects, name: str, expected: Routing) -> Tracks:
    """
    For each track of a release, the pods that get its requests.

    Raises:
        UnreachableError: if the cluster does not say.
    """
    service, rule = (
        cluster.read({"apiVersion": version, "kind": kind, "metadata": {"name": name}})
        for version, kind in (("v1", "Service"), ("networking.istio.io/v1", "DestinationRule"))
    )
    selector = ((service or {}).get("spec") or {}).get("selector")
    pods = cluster.pods_labelled("pods", cluster.namespace, selector) if selector else ()
    subsets = {
        one["name"]: one.get("labels") or {} for one in ((rule or {}).get("spec") or {}).get("subsets") or ()
    }
    return {
        track: [pod for pod in pods if _gets_requests(pod, subsets.get(track, {"track": track}))]
        for track in expected.tracks
    }


def by_address(tracks: Tracks) -> dict[str, dict[str, str]]:
    """
    For each track, the names of its pods by their addresses.
    """
    return {
        track: {pod.status.pod_ip: pod.metadata.name for pod in pods if pod.status.pod_ip}
        for track, pods in tracks.items()
    }


def sidecars(tracks: Tracks) -> Finding:
    """
    Every pod is part of the mesh. Policies do not hold in a pod without a sidecar.
    """
    pods = {pod.metadata.name: pod for some in tracks.values() for pod in some}
    bare = sorted(name for name, pod in pods.items() if not _in_mesh(pod))
    more = f" and {len(bare) - SHOWN_FAILURES} more" if len(bare) > SHOWN_FAILURES else ""
    return Finding(
        "sidecars",
        "",
        None,
        outcome_of(bare),
        f"{SIDECAR} in every pod",
        f"no {SIDECAR} in pod {', '.join(bare[:SHOWN_FAILURES])}{more}"
        if bare
        else f"in each of {len(pods)} pods",
        len(pods),
        detail="the mesh's policies do not hold there: label the namespace istio-injection=enabled, or with the "
        "istio.io/rev of your Istio, and start the pods again"
        if bare
        else "",
    )


def _in_mesh(pod: Any) -> bool:
    containers = (*pod.spec.containers, *(pod.spec.init_containers or ()))
    return in_mesh([one.name for one in containers], pod.metadata.annotations or {})


def _gets_requests(pod: Any, labels: Mapping[str, str]) -> bool:
    labelled = labels.items() <= (pod.metadata.labels or {}).items()
    return labelled and is_ready(pod) and pod.metadata.deletion_timestamp is None


def _used(expected: Routing) -> set[str]:
    """
    The tracks that get requests, or copies of some.
    """
    return {*expected.serving(), *(route.mirror.track for route in expected.routes if route.mirror)}


def as_declared(track: str, version: str, states: States, *, needed: bool) -> Finding | None:
    """
    Every pod of a track has the track's version, and no other; None if there is no pod to ask, and none is needed.

    Args:
        track: the track.
        version: what it should serve.
        states: what its pods said.
        needed: whether it gets requests.
    """
    asked = {pod: said for pod, said in states.items() if not isinstance(said, UnreachableError)}
    if not asked and (states or not needed):
        return None
    odd = [
        f"pod {pod}: {in_words(said)}"
        for pod, said in asked.items()
        if {one for one, state in said.items() if state == AVAILABLE} != {version}
    ]
    problems = odd or ([] if asked else ["no ready pod has the labels of the Service and of its subset"])
    return Finding(
        "pods",
        track,
        None,
        outcome_of(problems),
        f"version {version} {AVAILABLE} on each pod",
        shown(problems) or f"version {version} on each of {len(asked)} pods",
        len(asked),
        detail=f"requests for {track} reach these pods too; see their labels, and tracks.{track}.version"
        if odd
        else "",
    )


def in_words(states: Mapping[str, str]) -> str:
    """
    The versions that a pod has, with their states.
    """
    return ", ".join(f"version {version} {state}" for version, state in states.items()) or "no version"
