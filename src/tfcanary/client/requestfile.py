"""
Files of predictions to ask for: JSON lines, each a REST predict body with what else is known of the request.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcanary.client.answer import Interface
from tfcanary.client.jsontensors import COLUMNS, ROWS, inputs_of
from tfcanary.client.request import PredictRequest
from tfcanary.contract import SERVING_DEFAULT
from tfcanary.errors import UsageError
from tfcanary.text import printable, short

MOST_BYTES = 64 * 1024 * 1024
MOST_REQUESTS = 100
KEYS = (ROWS, COLUMNS, "signature_name", "label", "headers")
# The client and the gateway write these themselves.
_OWN_HEADERS = ("connection", "content-length", "content-type", "host", "te", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class RequestLine:
    """
    One request of a file.

    Attributes:
        where: the file and the line, for errors.
        body: its rows or columns.
        label: the right answer, if it is known.
    """

    where: str
    body: Mapping[str, Any]
    signature: str = SERVING_DEFAULT
    label: str | None = None
    headers: Mapping[str, str] | None = None

    def prepared(self, interface: Interface) -> PredictRequest:
        """
        The request for a model of this interface.

        Raises:
            UsageError: with the line and the key, if the model has no such signature or input.
        """
        declared = interface.get(self.signature)
        if declared is None:
            raise UsageError(
                f"{self.where}: signature_name: expected one of {', '.join(sorted(interface))}, "
                f"got {self.signature!r}"
            )
        try:
            inputs = inputs_of(self.body, declared.inputs)
        except ValueError as exc:
            raise UsageError(f"{self.where}: {exc}") from exc
        return PredictRequest(
            self.signature,
            inputs,
            declared,
            rows=ROWS in self.body,
            body=self.body,
            headers=self.headers or {},
            label=self.label,
        )


def read_requests(file: Path) -> tuple[RequestLine, ...]:
    """
    Read a file of requests; empty lines are passed over.

    Raises:
        UsageError: with the line and the key, if the file cannot be read, is too large, or has a line that is no request.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"requests {str(file)!r}: cannot be read: {exc.strerror}") from exc
    if len(content) > MOST_BYTES:
        raise UsageError(f"requests {str(file)!r}: expected at most {MOST_BYTES >> 20} MiB, got more")
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    if not 0 < len(lines) <= MOST_REQUESTS:
        raise UsageError(f"requests {str(file)!r}: expected 1 to {MOST_REQUESTS} lines, got {len(lines)}")
    return tuple(_line(f"requests {file.name!r} line {number}", line) for number, line in lines)


def _line(where: str, line: bytes) -> RequestLine:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{where}: expected a JSON object, got {short(repr(exc), 120)}") from exc
    if not isinstance(found, dict):
        raise UsageError(f"{where}: expected a JSON object, got {type(found).__name__}")
    for key in found:
        if key not in KEYS:
            raise UsageError(f"{where}: {printable(key)}: expected one of {', '.join(KEYS)}")
    if (ROWS in found) == (COLUMNS in found):
        raise UsageError(
            f"{where}: expected either {ROWS} or {COLUMNS}, got {'both' if ROWS in found else 'neither'}"
        )
    signature, label = found.get("signature_name", SERVING_DEFAULT), found.get("label")
    if not isinstance(signature, str):
        raise UsageError(f"{where}: signature_name: expected a string, got {short(repr(signature), 60)}")
    if isinstance(label, bool) or not isinstance(label, str | int | None):
        raise UsageError(f"{where}: label: expected a string or a whole number, got {short(repr(label), 60)}")
    key = ROWS if ROWS in found else COLUMNS
    return RequestLine(
        where,
        {key: found[key]},
        signature or SERVING_DEFAULT,
        None if label is None else str(label),
        dict(_headers(where, found.get("headers", {}))),
    )


def _headers(where: str, given: Any) -> Iterator[tuple[str, str]]:
    """
    The headers of a line, which both APIs must be able to send.
    """
    if not isinstance(given, dict):
        raise UsageError(f"{where}: headers: expected an object, got {short(repr(given), 60)}")
    for name, value in given.items():
        low = name.lower()
        if not re.fullmatch(r"[a-z0-9_.-]+", low) or low.endswith("-bin") or low.startswith("grpc-"):
            raise UsageError(f"{where}: headers: expected names that REST and gRPC can send, got {name!r}")
        if low in _OWN_HEADERS:
            raise UsageError(f"{where}: headers: {name} is the client's own; leave it out")
        if not isinstance(value, str) or not re.fullmatch(r"[\x20-\x7e]*", value):
            raise UsageError(
                f"{where}: headers: {name}: expected a string of printable ASCII, got {short(repr(value), 60)}"
            )
        yield name, value
