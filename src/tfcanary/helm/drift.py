"""
Where live objects differ from a release's manifest.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import yaml

from tfcanary.errors import DoesNotHoldError, ForbiddenError
from tfcanary.helm.compare import object_differences

# What an upgrade leaves as it finds it: Helm compares these with its last manifest and not with the live objects.
ROUTING_KINDS = ("VirtualService", "HTTPRoute", "DestinationRule")
_AT_A_TIME = 8

# Reads the live object of an object of a manifest; None if there is none. Where it may not: ForbiddenError.
Live = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


class DriftError(DoesNotHoldError):
    """
    Live objects are not what the release says, and Helm did not repair them.

    Attributes:
        differences: a line for each field.
    """

    def __init__(self, name: str, namespace: str, differences: Sequence[str]) -> None:
        super().__init__(
            f"release {name!r}: was changed behind Helm's back, and an upgrade does not repair it: "
            f"{'; '.join(differences)}; {repair(name, namespace, differences)}"
        )
        self.differences = tuple(differences)


def repair(name: str, namespace: str, differences: Sequence[str] = ()) -> str:
    """
    How to put back what a release says, in words.

    Helm 4 applies as the field manager `helm`. Fields that kubectl then owned under a name of its own would be in the
    way of every later upgrade.
    """
    added = any(": expected None, got " in line for line in differences)
    return (
        f"put back what the release says (helm get manifest {name} --namespace {namespace} | "
        "kubectl apply --server-side --force-conflicts --field-manager=helm -f -), "
        f"{'remove with kubectl edit what it expects to be None, ' if added else ''}then upgrade again"
    )


@dataclass(frozen=True, slots=True)
class Drift:
    """
    The live objects beside those of the release's manifest.

    Attributes:
        objects: how many were compared.
        differences: a line for each field that differs, and for each object that is gone.
        unread: the kinds that may not be read here, in order.
    """

    objects: int
    differences: tuple[str, ...]
    unread: tuple[str, ...] = ()


def drift(manifest: str, live: Live, kinds: Collection[str] | None = None) -> Drift:
    """
    Compare the objects of a manifest with the live ones, field by field.

    Args:
        manifest: YAML, as `helm get manifest` prints it.
        live: reads a live object.
        kinds: those to compare; None compares all.
    """
    documents = yaml.safe_load_all(manifest)
    objects = [
        one
        for one in documents
        if isinstance(one, Mapping) and "kind" in one and (kinds is None or one["kind"] in kinds)
    ]
    autoscaled = {_scaled(one) for one in objects if one["kind"] == "HorizontalPodAutoscaler"}

    def compare(one: Mapping[str, Any]) -> list[str] | None:
        what = (one["kind"], one["metadata"]["name"])
        try:
            there = live(one)
        except ForbiddenError:
            return None
        if there is None:
            return [f"{' '.join(what)} is gone"]
        return [
            f"{' '.join(what)}: {line}"
            for line in object_differences(one, there, autoscaled=what in autoscaled)
        ]

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        found = list(pool.map(compare, objects))
    unread = {one["kind"] for one, lines in zip(objects, found, strict=True) if lines is None}
    return Drift(
        sum(lines is not None for lines in found),
        tuple(line for lines in found for line in lines or ()),
        tuple(sorted(unread)),
    )


def _scaled(autoscaler: Mapping[str, Any]) -> tuple[str, str]:
    """
    Kind and name of what an autoscaler scales.
    """
    target = autoscaler["spec"]["scaleTargetRef"]
    return target["kind"], target["name"]
