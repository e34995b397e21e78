"""
The chart's own values.schema.json as the judge of keys and types.

The same schema refuses a value here and in `helm upgrade`. It cannot express rules across keys. These are in the
chart's validate.yaml for Helm, and in `tfcanary.routing.parse` here.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend

from tfcanary.errors import MissingValueError, UsageError
from tfcanary.paths import CHART
from tfcanary.text import short

_NAMES = {
    "string": "a string",
    "object": "a map",
    "array": "a list",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
# The entries of this list must be complete. Elsewhere a values file may leave out what another file or the chart says.
_WHOLE = ("routing", "routes")
# Draft 7 calls 80.0 an integer.
_Validator: type[Validator] = extend(  # type: ignore[no-untyped-call]
    Draft7Validator,
    type_checker=Draft7Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def require_known_keys(values: Mapping[str, Any], chart: Path = CHART) -> None:
    """
    Refuse keys that the chart does not know: with a misspelt key the default would silently stay in force.

    Args:
        values: what a user gives, without the chart's defaults.
        chart: the folder of the chart.

    Raises:
        UsageError: naming the path, the unknown key, and the keys that there are.
    """
    _require(
        error for error in _validator(chart).iter_errors(values) if error.validator == "additionalProperties"
    )


def require_types(
    values: Mapping[str, Any], chart: Path = CHART, *, read: Sequence[Sequence[str]] = ((),)
) -> None:
    """
    Refuse values of a wrong type, or outside of their bounds.

    Keys that the chart does not know are ignored, because they may be another version's. In a route they are refused:
    an unknown condition would change which requests the route takes.

    Args:
        values: a release's values, or files over the chart's defaults.
        chart: the folder of the chart.
        read: the paths that matter, with `*` for any key; all that there are by default.

    Raises:
        MissingValueError: if a route lacks a value.
        UsageError: naming the path, what was expected and what was got.
    """
    _require(
        error
        for error in _validator(chart).iter_errors(values)
        if (
            error.validator not in ("additionalProperties", "required")
            or tuple(error.absolute_path)[:2] == _WHOLE
        )
        and any(_overlap(error.absolute_path, path) for path in read)
    )


def _overlap(path: Iterable[str | int], other: Sequence[str]) -> bool:
    """
    Whether one of two paths leads to the other.
    """
    return all(name in ("*", part) for part, name in zip(path, other, strict=False))


@functools.cache
def _validator(chart: Path) -> Validator:
    path = chart / "values.schema.json"
    try:
        return _Validator(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as exc:
        raise UsageError(f"chart {str(chart)!r}: values.schema.json cannot be read: {exc}") from exc


def _require(errors: Iterable[ValidationError]) -> None:
    """
    Raise the most relevant of the schema's errors, in one line.
    """
    error = best_match(errors)
    if error is not None:
        raise described(error)


def problems(schema: Mapping[str, Any], document: Any, root: str) -> Iterator[tuple[str, UsageError]]:
    """
    All that a schema refuses in a document, each as the path of what is refused and an error of one line.

    Args:
        schema: of JSON Schema's draft 7.
        document: what was read.
        root: what the document is called where the path is empty.
    """
    said = set()
    for error in sorted(_Validator(schema).iter_errors(document), key=lambda one: list(map(str, one.path))):
        path = _path(error.absolute_path) or root
        for key in _keys(error) or [""]:
            line = described(error, root, key)
            if str(line) not in said:
                said.add(str(line))
                yield path, line


def _keys(error: ValidationError) -> list[str]:
    """
    The keys that are missing, or that the schema does not know, if the error is about those.
    """
    schema: Any = error.schema
    given: Any = error.instance
    if error.validator == "additionalProperties":
        return [key for key in given if key not in schema.get("properties", {})]
    if error.validator == "required":
        return [key for key in schema["required"] if key not in given]
    return []


def described(error: ValidationError, root: str = "values", key: str = "") -> UsageError:
    """
    One of the schema's errors in one line: the path, what was expected, what was got.

    Args:
        error: what the schema refuses.
        root: what the document is called where the path is empty.
        key: which of several keys that are missing or unknown; by default the first.
    """
    path = _path(error.absolute_path)
    schema: Any = error.schema
    properties = schema.get("properties", {})
    key = key or next(iter(_keys(error)), "")
    if error.validator == "additionalProperties":
        return UsageError(f"{path or root}: unknown key {key!r}; expected one of {', '.join(properties)}")
    if error.validator == "required":
        return MissingValueError(f"{path}.{key}".removeprefix("."), _wanted(properties.get(key, {})))
    wanted = "a list without duplicates" if error.validator == "uniqueItems" else _wanted(schema)
    # YAML reads 7, yes and 1e3 as something else than a string.
    unquoted = error.validator_value == "string" and isinstance(error.instance, int | float)
    hint = "; quote numbers and true/false" if unquoted else ""
    return UsageError(f"{path or root}: expected {wanted}, got {short(repr(error.instance))}{hint}")


def _path(parts: Iterable[str | int]) -> str:
    """
    A values path as Helm writes it: `routing.routes[0].weights`.
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _wanted(schema: Mapping[str, Any]) -> str:
    """
    What a schema accepts, in words: its own title, or what its keywords say.
    """
    if "title" in schema:
        return str(schema["title"])
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
