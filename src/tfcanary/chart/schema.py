"""
The chart's own values.schema.json as the judge of keys and types.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfcanary.errors import UsageError
from tfcanary.paths import CHART
from tfcanary.routing.parse import known_keys


def check_keys(values: Mapping[str, Any], chart: Path = CHART) -> None:
    """
    Refuse keys that the chart does not know: a misspelt one would leave its default standing, unsaid.

    Raises:
        UsageError: naming the path, and the keys that there are.
    """
    path = chart / "values.schema.json"
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise UsageError(f"chart {str(chart)!r}: values.schema.json cannot be read: {exc}") from exc
    _check_keys("", values, schema, schema.get("definitions", {}))


def _check_keys(path: str, value: object, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> None:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    if isinstance(value, Mapping):
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        for key, below in value.items():
            inner = f"{path}.{key}".removeprefix(".")
            if key in properties:
                _check_keys(inner, below, properties[key], definitions)
            elif isinstance(others, Mapping):
                _check_keys(inner, below, others, definitions)
            elif not others:
                known_keys(path or "values", value, tuple(properties))
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, below in enumerate(value):
            _check_keys(f"{path}[{index}]", below, schema["items"], definitions)
