"""
The values of each revision of a rollout.

A revision changes the pods of a track or the weights, and never both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tfcanary.rollout.state import Baseline

Routes = Sequence[Mapping[str, Any]]


def objection(routes: Routes, *, stable: str, canary: str, unit: str) -> str:
    """
    Why the evidence of a rollout cannot rest on these routes; empty if it can.

    The canary's part must be drawn at random from the very requests that stable gets. A route of its own for some
    clients makes the two tracks' requests differ, and a part that no weight moves stays at stable.

    Args:
        routes: `routing.routes`.
        stable: the name of the track.
        canary: that of the other.
        unit: what the judge counts, request or user.
    """
    for index, route in enumerate(routes):
        name = f"routing.routes[{index}] ({route.get('name', '')})"
        weights = {track: weight for track, weight in (route.get("weights") or {}).items() if weight}
        if index + 1 < len(routes):
            for track in (stable, canary):
                if track in weights:
                    return (
                        f"{name}: expected that only the last route sends to {track}, got {weights[track]} % of this one; "
                        "the two tracks would not get the same requests"
                    )
            continue
        others = sorted(set(weights) - {stable, canary})
        if others or sum(weights.values()) != 100:
            return f"{name}: expected weights of {stable} and {canary} that sum to 100, got {_said(weights)}"
        if route.get("sticky") and unit != "user":
            return (
                f"{name}: sticky, and the judge counts requests; one failing user would count as many failures: "
                "set judge.unit to user"
            )
    return ""


def weight_of(routes: Routes, track: str) -> int:
    """
    A track's part of the last route, in per cent.
    """
    return int((routes[-1].get("weights") or {}).get(track, 0))


def weighed(routes: Routes, *, stable: str, canary: str, weight: float) -> list[dict[str, Any]]:
    """
    The routes with another weight of the canary in the last one.
    """
    share = round(weight)
    weights = {track: part for track, part in ((stable, 100 - share), (canary, share)) if part}
    return [*map(dict, routes[:-1]), {**routes[-1], "weights": weights}]


def track(version: int, *, pods: int | None = None) -> dict[str, Any]:
    """
    The values of a track.

    Args:
        version: of the model.
        pods: how many; None leaves it as it is. A number switches the autoscaler off, which would change it again.
    """
    if pods is None:
        return {"version": version}
    return {"version": version, "replicas": pods, "autoscaling": None}


def start_objection(baseline: Baseline, *, stable: str, canary: str, unit: str, to: int) -> str:
    """
    Why a rollout cannot begin here; empty if it can.
    """
    for name in (stable, canary):
        if name not in baseline.versions:
            return f"tracks: expected {name} among them, got {', '.join(sorted(baseline.versions))}"
    found = objection(baseline.routes, stable=stable, canary=canary, unit=unit)
    if found:
        return found
    weight = weight_of(baseline.routes, canary)
    if weight:
        return (
            f"routing.routes: expected weight 0 of {canary} before a rollout, got {weight} %; give {stable} all traffic "
            "first: helm upgrade --reset-then-reuse-values -f values/stable.yaml"
        )
    if baseline.versions[stable] == to:
        return f"to: expected another version than that of {stable}, got {to}"
    return ""


def _said(weights: Mapping[str, Any]) -> str:
    return ", ".join(f"{track}={weight}" for track, weight in weights.items()) or "none"
