"""
How an object of a manifest is compared with the live one, by kind.

Istio's objects and NetworkPolicies have no defaults: they are compared whole. The API server completes the objects of
Kubernetes itself: of those, every field that the manifest has is compared.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

_NOT_COMPARED = ("apiVersion", "kind", "metadata", "status")
# Compared whole, beside everything of Istio's.
_WHOLE = ("ConfigMap", "Secret", "NetworkPolicy", "Role", "ClusterRole")
# Fields that the API server never adds: one that only the live object has was put there by someone.
_NEVER_ADDED = frozenset(
    {"args", "command", "env", "envFrom", "hostNetwork", "initContainers", "volumeMounts"}
)
# The API server writes 1000m as 1, and 1024Mi as 1Gi.
_AMOUNTS = frozenset({"averageValue", "cpu", "ephemeral-storage", "memory", "sizeLimit", "storage"})
_AMOUNT = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)(m|[kMGTPE]|[KMGTPE]i)?")
_FACTORS = {
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** (power + 1) for power, suffix in enumerate("kMGTPE")},
    **{f"{suffix}i": Decimal(1024) ** (power + 1) for power, suffix in enumerate("KMGTPE")},
}


def object_differences(
    wanted: Mapping[str, Any], live: Mapping[str, Any], *, autoscaled: bool = False
) -> Iterator[str]:
    """
    Where a live object differs from its manifest, as lines of field, expected and got.

    Args:
        wanted: the object in the manifest.
        live: the same object in the cluster.
        autoscaled: whether an autoscaler sets its number of pods.
    """
    metadata, there = wanted["metadata"], live.get("metadata") or {}
    for part in ("labels", "annotations"):
        yield from _within(f"metadata.{part}", metadata.get(part) or {}, there.get(part) or {})
    body, live_body = _body(wanted), _body(live)
    if _is_whole(wanted):
        yield from _same("", body, live_body)
        return
    if autoscaled:
        body = {**body, "spec": {key: value for key, value in body["spec"].items() if key != "replicas"}}
    if wanted["kind"] == "Service":
        selector, live_selector = (one.get("spec", {}).get("selector") for one in (body, live_body))
        yield from _same("spec.selector", selector, live_selector)
        body = {**body, "spec": {key: value for key, value in body["spec"].items() if key != "selector"}}
    yield from _within("", body, live_body)


def _is_whole(wanted: Mapping[str, Any]) -> bool:
    group = str(wanted.get("apiVersion", "")).rpartition("/")[0]
    # A controller fills in the rules of an aggregated role.
    return (wanted["kind"] in _WHOLE and "aggregationRule" not in wanted) or group.endswith("istio.io")


def _body(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in _NOT_COMPARED}


def _same(path: str, wanted: object, live: object) -> Iterator[str]:
    """
    Where two trees differ at all. A field without a value is as one that is not there.
    """
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        for key in sorted({*wanted, *live}):
            yield from _same(_below(path, key), wanted.get(key), live.get(key))
    elif isinstance(wanted, list) and isinstance(live, list):
        yield from _lists(path, wanted, live, _same)
    elif wanted != live and not (wanted in (None, []) and live in (None, [])):
        yield _line(path, wanted, live)


def _within(path: str, wanted: object, live: object) -> Iterator[str]:
    """
    Where a live tree lacks what the wanted one has, or has more of what nothing else adds.
    """
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        for key in sorted({*wanted, *(_NEVER_ADDED & live.keys())}):
            yield from _within(_below(path, key), wanted.get(key), live.get(key))
    elif isinstance(wanted, list) and isinstance(live, list):
        yield from _lists(path, wanted, live, _within)
    elif wanted in (None, [], {}) and path.rpartition(".")[2] not in _NEVER_ADDED:
        return
    elif wanted != live and not (not wanted and live is None) and not _same_amount(path, wanted, live):
        yield _line(path, wanted, live)


def _lists(
    path: str,
    wanted: Sequence[object],
    live: Sequence[object],
    compare: Callable[[str, object, object], Iterator[str]],
) -> Iterator[str]:
    """
    Compare lists entry by entry: by the entries' names where all have one, by their places otherwise.
    """
    mine, theirs = _named(wanted), _named(live)
    if len(mine) == len(wanted) and len(theirs) == len(live):
        for name in dict.fromkeys((*mine, *theirs)):
            if name in mine and name in theirs:
                yield from compare(f"{path}[{name}]", mine[name], theirs[name])
            else:
                yield _line(f"{path}[{name}]", mine.get(name), theirs.get(name))
    elif len(wanted) == len(live):
        for number, (one, other) in enumerate(zip(wanted, live, strict=True)):
            yield from compare(f"{path}[{number}]", one, other)
    else:
        yield _line(path, wanted, live)


def _named(entries: Sequence[object]) -> dict[str, object]:
    return {str(entry["name"]): entry for entry in entries if isinstance(entry, Mapping) and "name" in entry}


def _same_amount(path: str, wanted: object, live: object) -> bool:
    return path.rpartition(".")[2] in _AMOUNTS and _amount(wanted) == _amount(live) is not None


def _amount(value: object) -> Decimal | None:
    found = _AMOUNT.fullmatch(str(value))
    return Decimal(found[1]) * _FACTORS.get(found[2], Decimal(1)) if found else None


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _line(path: str, wanted: object, live: object) -> str:
    return f"{path}: expected {_brief(wanted)}, got {_brief(live)}"


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
