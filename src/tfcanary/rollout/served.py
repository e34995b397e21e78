"""
Which image and which model the pods of each track have, by digest.
"""

import re
from collections.abc import Mapping
from typing import Any

from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.readiness import track_of
from tfcanary.rollout.tracks import Names

_SERVER, _VERIFIER = "model-server", "verify-model"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digests(live: LiveObjects, names: Names) -> dict[str, str]:
    """
    The image of each track as the cluster knows it, and the model as its pods verified it before they served it.

    Returns:
        By `image TRACK` and `model TRACK`, the name and the digest.
    """
    found: dict[str, str] = {}
    for pod in live.listed("pods", names.release):
        track = track_of(pod)
        if track not in (names.stable, names.canary) or "deletionTimestamp" in pod["metadata"]:
            continue
        for one in pod.get("status", {}).get("containerStatuses", ()):
            if one["name"] == _SERVER:
                found[f"image {track}"] = f"{one['image']} {one['imageID']}"
        version = pod["metadata"]["labels"].get("app.kubernetes.io/version", "")
        found[f"model {track}"] = f"{names.model} {version} {_of_model(live, pod)}"
    return found


def _of_model(live: LiveObjects, pod: Mapping[str, Any]) -> str:
    try:
        said = live.last_line(pod["metadata"]["name"], _VERIFIER, previous=False)
    except LookupError:
        # The model is served unverified, or the node has cleaned the log away.
        said = ""
    digest = _DIGEST.search(said)
    return digest[0] if digest else "without a digest: its pod says of no verification"
