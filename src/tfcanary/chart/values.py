"""
Read values files and put them together as Helm does.

Maps are merged, lists are replaced whole, and null removes a key of the chart's defaults.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tfcanary.errors import UsageError
from tfcanary.paths import CHART


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """
    Put one values file over another, as `helm -f base -f over` does: nulls stay, for the defaults below.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def coalesce(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Put a user's values over the chart's defaults, as Helm does: a null takes the key away.
    """
    merged = {**defaults, **values}
    for key, value in values.items():
        below = defaults.get(key)
        if value is None:
            del merged[key]
        elif isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = coalesce(below, value)
        elif isinstance(value, Mapping):
            merged[key] = coalesce({}, value)
    return merged


def tracks_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    The settings of a release's tracks by name. One that is null was taken away, and Helm may keep the null.
    """
    return {name: settings for name, settings in (values.get("tracks") or {}).items() if settings is not None}


def read_values(path: Path) -> dict[str, Any]:
    """
    Read one values file.

    Raises:
        UsageError: if it is missing, is not YAML, is empty, or is not a map.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
        raise UsageError(f"values file {str(path)!r}: cannot be read: {reason}") from exc
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise UsageError(f"values file {str(path)!r}: not YAML: {exc}") from exc
    if values is None:
        raise UsageError(
            f"values file {str(path)!r}: empty; expected a map such as routing: {{routes: [...]}}"
        )
    if not isinstance(values, dict):
        raise UsageError(f"values file {str(path)!r}: expected a map, got {type(values).__name__}")
    return {_key(name): _with_string_keys(value) for name, value in values.items()}


def _with_string_keys(value: object) -> object:
    """
    The value as Helm reads it: it turns YAML into JSON, in which every key is a string.
    """
    if isinstance(value, dict):
        return {_key(name): _with_string_keys(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_with_string_keys(below) for below in value]
    return value


def _key(name: object) -> str:
    return json.dumps(name) if isinstance(name, bool | int | float | None) else str(name)


def read_files(files: Sequence[Path]) -> dict[str, Any]:
    """
    Read values files and put each over those before it, as `helm -f … -f …` does.
    """
    values: dict[str, Any] = {}
    for file in files:
        values = merge(values, read_values(file))
    return values


def chart_defaults(chart: Path = CHART) -> dict[str, Any]:
    """
    The chart's own values.
    """
    return read_values(chart / "values.yaml")
