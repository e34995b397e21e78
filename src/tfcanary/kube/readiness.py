"""
Why the pods of a release are not up: one line for each track, from what the cluster says of them.

The reason is where a person would look for it: why no pod is made, why a pod has no node, what a container waits for,
the last line of the log of one that ended, the last warning about a pod. Only objects of the release's namespace are
read. What may not be read is said.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfcanary.errors import ForbiddenError, UnreachableError
from tfcanary.kube.objects import SIDECAR, LiveObjects, in_mesh
from tfcanary.text import short

# A container in one of these states has not failed: it has not begun.
_NOT_BEGUN = frozenset({"ContainerCreating", "PodInitializing"})
# Volumes, and the sandbox with its network, are there before the first container is.
_BEFORE_CONTAINERS = frozenset({"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"})
_LONGEST = 400

# An object of the Kubernetes API, as JSON.
Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """
    Reads what is said of a pod; either may be forbidden.

    Attributes:
        events: the events about a pod, by its name.
        last_line: the last line of a container's log, by the names of its pod and itself, of the present run or of the
            one before.
    """

    events: Callable[[str], Sequence[Object]]
    last_line: Callable[[str, str, bool], str]


@dataclass(frozen=True, slots=True)
class NotUp:
    """
    The tracks of a release whose pods are not up.

    Attributes:
        reasons: by the name of a track, why not. Empty if all are up. Without a name, why nothing can be read.
        generations: by the name of a track, the generation of its Deployment.
        fleeting: the tracks of which a pod or its log went away between two questions; a reason of before says more.
    """

    reasons: Mapping[str, str]
    generations: Mapping[str, int] = field(default_factory=dict)
    fleeting: Collection[str] = ()


class _GoneError(Exception):
    """
    What a reason was to be read from is no longer there; its text is what is known without.
    """


def not_up(cluster: Callable[[], LiveObjects], release: str, app: str | None = None) -> NotUp:
    """
    Ask the cluster why the tracks of a release are not up.

    Args:
        cluster: gives the live objects; it may find that the cluster cannot be reached.
        release: the release.
        app: one application in it; None takes all.
    """
    try:
        live = cluster()
        pods = live.listed("pods", release, app)
    except UnreachableError as error:
        return NotUp({"": f"why it is not up cannot be read: {error}"})
    try:
        deployments = live.listed("deployments", release, app)
    except UnreachableError:
        # Pods alone say most of it.
        deployments = []
    return classified(deployments, pods, Read(live.events, live.last_line))


def classified(deployments: Sequence[Object], pods: Sequence[Object], read: Read) -> NotUp:
    """
    Classify recorded objects of one release.
    """
    tracks = {track_of(one): one for one in deployments}
    reasons: dict[str, str] = {}
    fleeting = []
    # The pod of `helm test` is of the release and of no track.
    for track in sorted({*tracks, *map(track_of, pods)} - {""}):
        of_track = [
            pod for pod in pods if track_of(pod) == track and "deletionTimestamp" not in pod["metadata"]
        ]
        try:
            reason = _of_track(tracks.get(track), of_track, read)
        except _GoneError as gone:
            reason = str(gone)
            fleeting.append(track)
        if reason:
            reasons[track] = short(reason, _LONGEST)
    generations = {track: int(one["metadata"].get("generation", 0)) for track, one in tracks.items()}
    return NotUp(reasons, generations, fleeting)


def track_of(item: Object) -> str:
    """
    The track that an object belongs to.
    """
    return str(item["metadata"].get("labels", {}).get("track", ""))


def _of_track(deployment: Object | None, pods: Sequence[Object], read: Read) -> str | None:
    found = [(pod, reason) for pod in pods if (reason := _of_pod(pod, read))]
    wanted = int(deployment["spec"].get("replicas", 1)) if deployment else 0
    if deployment and (refused := _refused(deployment)) and len(pods) - len(found) < wanted + 1:
        return f"no new pod is made: {refused}"
    if found:
        pod, reason = found[0]
        more = f" (and {len(found) - 1} more of its pods)" if len(found) > 1 else ""
        return f"pod {pod['metadata']['name']}{more}: {reason}"
    if wanted and not pods:
        return "no pod is made yet"
    return None


def _refused(deployment: Object) -> str | None:
    """
    Why the pods of a Deployment are not made: a quota, an admission webhook, Pod Security, a ServiceAccount.
    """
    for condition in deployment.get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message") or condition.get("reason"))
    return None


def _of_pod(pod: Object, read: Read) -> str | None:
    """
    Why a pod is not Ready, or is not in the mesh; None if it is both.
    """
    status = pod.get("status", {})
    conditions = {one["type"]: one for one in status.get("conditions", ())}
    if conditions.get("Ready", {}).get("status") == "True":
        return None if _in_mesh(pod) else _no_sidecar(pod)
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"has no node: {scheduled.get('message') or scheduled.get('reason')}"
    if status.get("phase") == "Failed":
        return f"{status.get('reason') or 'failed'}: {status.get('message') or 'no message'}"
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    # The sidecar's own trouble comes last: it is Ready only after the server.
    containers.sort(key=lambda one: one["name"] == SIDECAR)
    for container in containers:
        if reason := _of_container(pod, container, read):
            return f"container {container['name']} {reason}"
    warning, unread = _last_warning(pod, read)
    waiting = next((one["name"] for one in containers if not one.get("ready")), None)
    state = (
        f"container {waiting} is not Ready yet" if waiting else f"{status.get('phase', 'Pending')}, not Ready"
    )
    said = f"{warning['reason']}: {warning['message']}" if warning else unread
    sidecar = "" if _in_mesh(pod) else f"; it {_no_sidecar(pod)}"
    return f"{state}: {said}{sidecar}" if said else f"{state}{sidecar}"


def _in_mesh(pod: Object) -> bool:
    spec = pod.get("spec", {})
    names = [one["name"] for kind in ("containers", "initContainers") for one in spec.get(kind, ())]
    return in_mesh(names, pod["metadata"].get("annotations") or {})


def _no_sidecar(pod: Object) -> str:
    namespace = pod["metadata"].get("namespace", "NAMESPACE")
    return (
        f"has no sidecar: namespace {namespace} has no injection; label it istio-injection=enabled (or istio.io/rev="
        "REVISION), and restart the pods"
    )


def _of_container(pod: Object, container: Object, read: Read) -> str | None:
    """
    What a container waits for, or why it ended; None if it runs for the first time or has done its work.
    """
    state, last = container.get("state", {}), container.get("lastState", {})
    waiting = state.get("waiting", {})
    ended = state.get("terminated") or last.get("terminated")
    if waiting and not ended:
        reason = waiting.get("reason", "")
        return None if reason in _NOT_BEGUN else f"waits, {reason}: {waiting.get('message') or 'no message'}"
    if not ended or container.get("ready") or (ended.get("exitCode") == 0 and not waiting):
        return None
    return _ended(pod, container, ended, read)


def _ended(pod: Object, container: Object, ended: Object, read: Read) -> str:
    """
    Why a container ended.
    """
    if ended.get("reason") == "OOMKilled":
        limit = _memory_limit(pod, container["name"])
        return f"was killed because it needs more memory than its limit{limit} (OOMKilled)"
    how = f"ended with exit code {ended.get('exitCode')}"
    if ended.get("message") and ended.get("reason") in {"StartError", "ContainerCannotRun"}:
        return f"{how}: {ended['message']}"
    name = pod["metadata"]["name"]
    try:
        line = read.last_line(name, container["name"], "running" in container.get("state", {}))
    except ForbiddenError:
        return f"{how}; its log cannot be read: the right to get pods/log is missing"
    except LookupError as error:
        raise _GoneError(f"pod {name}: container {container['name']} {how}; its log is gone") from error
    except UnreachableError as error:
        return f"{how}; its log cannot be read: {error}"
    return f"{how}: {line}" if line else f"{how}, and wrote nothing"


def _memory_limit(pod: Object, name: str) -> str:
    spec = pod.get("spec", {})
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        if container["name"] == name:
            limit = container.get("resources", {}).get("limits", {}).get("memory")
            return f" of {limit}" if limit else ""
    return ""


def _last_warning(pod: Object, read: Read) -> tuple[Object | None, str]:
    """
    The last warning about a pod; or why there is none, in words.
    """
    try:
        events = read.events(pod["metadata"]["name"])
    except ForbiddenError:
        return None, "its events cannot be read: the right to list events is missing"
    except UnreachableError as error:
        return None, f"its events cannot be read: {error}"
    past = _past(pod.get("status", {}))
    warnings = sorted(_warnings(events, past), key=lambda pair: pair[0])
    return (warnings[-1][1], "") if warnings else (None, "")


def _past(status: Object) -> Collection[str]:
    """
    The reasons of warnings that a pod has done with: it has a node, or a container of it has begun.
    """
    past = set()
    if any(one["type"] == "PodScheduled" and one["status"] == "True" for one in status.get("conditions", ())):
        past.add("FailedScheduling")
    every = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    if any("waiting" not in one.get("state", {}) for one in every):
        past |= _BEFORE_CONTAINERS
    return past


def _warnings(events: Sequence[Object], past: Collection[str]) -> Iterator[tuple[str, Object]]:
    for event in events:
        if event.get("reason") in past:
            continue
        # A sidecar that is not Ready before the server is says nothing.
        if event.get("type") == "Warning" and SIDECAR not in event["involvedObject"].get("fieldPath", ""):
            when = event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp") or ""
            yield str(when), event
