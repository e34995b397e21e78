"""
The chart's own values.schema.json as the judge of keys and types.

The same schema refuses a value here and in `helm upgrade`; what it cannot say, rules across keys, is the chart's
validate.yaml's there and `tfcanary.routing.parse`'s here.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError, best_match

from tfcanary.errors import MissingValueError, UsageError
from tfcanary.paths import CHART

_NAMES = {
    "string": "text",
    "object": "a map",
    "array": "a list",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
# The entries of these lists have to be whole; elsewhere a values file may leave out what another one or the chart says.
_WHOLE = ("routing", "routes")


def require_known_keys(values: Mapping[str, Any], chart: Path = CHART) -> None:
    """
    Refuse keys that the chart does not know: a misspelt one would leave its default standing, unsaid.

    Args:
        values: what a user gives, without the chart's defaults.
        chart: the folder of the chart.

    Raises:
        UsageError: naming the path, the unknown key, and the keys that there are.
    """
    _require(
        error for error in _validator(chart).iter_errors(values) if error.validator == "additionalProperties"
    )


def require_types(values: Mapping[str, Any], chart: Path = CHART) -> None:
    """
    Refuse values of a wrong type, or outside of their bounds.

    Keys that the chart does not know are passed over, since they may be another version's; but not in a route, where an
    unknown condition would change which requests it takes.

    Raises:
        MissingValueError: if a route lacks a value.
        UsageError: naming the path, what was expected and what was got.
    """
    _require(
        error
        for error in _validator(chart).iter_errors(values)
        if error.validator not in ("additionalProperties", "required")
        or tuple(error.absolute_path)[:2] == _WHOLE
    )


@functools.cache
def _validator(chart: Path) -> Draft7Validator:
    path = chart / "values.schema.json"
    try:
        return Draft7Validator(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as exc:
        raise UsageError(f"chart {str(chart)!r}: values.schema.json cannot be read: {exc}") from exc


def _require(errors: Iterable[ValidationError]) -> None:
    error = best_match(errors)
    if error is None:
        return
    path = _path(error.absolute_path)
    schema = error.schema
    if error.validator == "additionalProperties":
        known = schema.get("properties", {})
        unknown = next(key for key in error.instance if key not in known)
        raise UsageError(f"{path or 'values'}: unknown key {unknown!r}; expected one of {', '.join(known)}")
    if error.validator == "required":
        missing = next(key for key in schema["required"] if key not in error.instance)
        raise MissingValueError(f"{path}.{missing}", _wanted(schema.get("properties", {}).get(missing, {})))
    # YAML reads 7, yes and 1e3 as something else than text.
    hint = "; quote numbers and true/false" if error.validator_value == "string" else ""
    raise UsageError(f"{path}: expected {_wanted(schema)}, got {error.instance!r}{hint}")


def _path(parts: Iterable[str | int]) -> str:
    """
    A values path as Helm writes it: `routing.routes[0].weights`.
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _wanted(schema: Mapping[str, Any]) -> str:
    """
    What a schema accepts, in words.
    """
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if schema.get("maxProperties") == 1:
        return f"exactly one of {', '.join(schema['properties'])}"
    kinds = schema.get("type", "object" if "properties" in schema else ())
    named = (
        " or ".join(_NAMES[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))
        or "another value"
    )
    return f"{named}{_bounds(schema)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']} to {schema['maximum']}"
    if "minimum" in schema:
        return f" from {schema['minimum']}"
    if "pattern" in schema:
        return f" that matches {schema['pattern']}"
    for key in ("minItems", "minProperties"):
        if key in schema:
            return f" with at least {schema[key]} {'entry' if schema[key] == 1 else 'entries'}"
    return " that is not empty" if schema.get("minLength") else ""
