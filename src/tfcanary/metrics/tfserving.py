"""
What TensorFlow Serving counts of itself, read from the pods of a track.
"""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tfcanary.contract import METRICS_PATH, SERVER_PORT, rest_path
from tfcanary.errors import UnreachableError
from tfcanary.kube.objects import REQUEST_SECONDS, LiveObjects
from tfcanary.kube.portforward import PodPort, forwarded
from tfcanary.text import short

# A histogram of TensorFlow Serving: one observation for each run of a model's graph.
_RUNS = ":tensorflow:serving:runtime_latency_count"


def predictions(live: LiveObjects, release: str, track: str, *, app: str | None = None) -> int:
    """
    How many predictions the ready pods of a track have run since they started.

    Raises:
        UnreachableError: if a pod cannot be asked.
    """
    total = 0
    for pod in live.pods(release, app):
        if pod.track == track and pod.ready:
            with forwarded(live, PodPort(pod.name, live.namespace, SERVER_PORT)) as address:
                total += _runs(pod.name, address)
    return total


def _runs(pod: str, address: str) -> int:
    """
    The predictions of all models of one server; a model that ran none has no sample.
    """
    try:
        page = httpx.get(f"http://{address}{METRICS_PATH}", timeout=REQUEST_SECONDS, trust_env=False)
        page.raise_for_status()
        families = list(text_string_to_metric_families(page.text))
    except (httpx.HTTPError, ValueError) as exc:
        raise UnreachableError(
            f"pod {pod}: its metrics at port {SERVER_PORT} cannot be read: {exc}; "
            "the right to create pods/portforward in its namespace opens a way"
        ) from exc
    return sum(int(sample.value) for family in families for sample in family.samples if sample.name == _RUNS)


def version_states(live: LiveObjects, pod: str, model: str) -> dict[str, str]:
    """
    The versions of a model that one pod has, each with its state, such as AVAILABLE.

    Raises:
        UnreachableError: if the pod cannot be asked.
    """
    with forwarded(live, PodPort(pod, live.namespace, SERVER_PORT)) as address:
        try:
            url = f"http://{address}{rest_path(model, 'status')}"
            answer = httpx.get(url, timeout=REQUEST_SECONDS, trust_env=False)
            answer.raise_for_status()
            found = answer.json()["model_version_status"]
            return {str(one["version"]): str(one["state"]) for one in found}
        except (httpx.HTTPError, ValueError, TypeError, LookupError) as exc:
            raise UnreachableError(
                f"pod {pod}: its version status at port {SERVER_PORT} cannot be read: {short(str(exc))}; "
                "the right to create pods/portforward in its namespace opens a way"
            ) from exc
