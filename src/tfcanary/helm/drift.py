"""
Where live objects differ from a release's manifest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tfcanary.errors import DoesNotHoldError

ROUTING_KINDS = ("VirtualService", "DestinationRule")

# Reads a live object by kind and name; None if there is none.
Live = Callable[[str, str], Mapping[str, Any] | None]


class DriftError(DoesNotHoldError):
    """
    Live objects are not what the release says, and Helm did not repair them.

    Attributes:
        differences: a line for each field.
    """

    def __init__(self, name: str, differences: Sequence[str]) -> None:
        super().__init__(
            f"release {name!r}: was changed behind Helm's back, and an upgrade does not repair it: "
            f"{'; '.join(differences)}; put back what the release says "
            f"(helm get manifest {name} | kubectl apply --server-side --force-conflicts -f -), then upgrade again"
        )
        self.differences = tuple(differences)


@dataclass(frozen=True, slots=True)
class Drift:
    """
    The live routes and subsets beside those of the release's manifest.

    Attributes:
        objects: how many were compared.
        differences: a line for each field that differs, and for each object that is gone.
    """

    objects: int
    differences: tuple[str, ...]


def drift(manifest: str, live: Live) -> Drift:
    """
    Compare the routes and subsets of a manifest with the live ones, field by field.
    """
    documents = yaml.safe_load_all(manifest)
    objects = [one for one in documents if isinstance(one, Mapping) and one.get("kind") in ROUTING_KINDS]
    found: list[str] = []
    for one in objects:
        kind, name = one["kind"], one["metadata"]["name"]
        there = live(kind, name)
        if there is None:
            found.append(f"{kind} {name} is gone")
        else:
            found += differences(f"{kind} {name}: spec", one.get("spec"), there.get("spec"))
    return Drift(len(objects), tuple(found))


def differences(path: str, wanted: object, live: object) -> list[str]:
    """
    Where two trees of YAML differ, as lines of path, expected and got.
    """
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return [
            line
            for key in sorted({*wanted, *live})
            for line in differences(f"{path}.{key}", wanted.get(key), live.get(key))
        ]
    if isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        return [
            line
            for i, (one, other) in enumerate(zip(wanted, live, strict=True))
            for line in differences(f"{path}[{i}]", one, other)
        ]
    return [] if wanted == live else [f"{path}: expected {_brief(wanted)}, got {_brief(live)}"]


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
