"""
Files of requests: those that the traffic driver recorded, and anybody's, as CSV or as a JSON object on each line.

A file is not trusted. Its size, its rows and its lines are bounded, and a column that is not known is refused: a misspelt one
would be missing data.
"""

import csv
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfcanary.errors import UsageError
from tfcanary.judge.feed import CANARY, STABLE, Request
from tfcanary.text import short
from tfcanary.traffic.records import CODES, NO_CODE, NO_STATUS, Records

MOST_ROWS = 5_000_000
_MOST_BYTES = 1 << 30
_MOST_LINE = 1 << 16

NAMES = ("user", "cohort", "answer", "fault", "pair", "label")
COLUMNS = ("time", "track", "weight", "revision", "status", "code", "latency", *NAMES)


def write(records: Records, file: Path) -> None:
    """
    Write the driver's records, a JSON object on each line.

    A request that failed with an answer that is not the model's keeps no status: nothing of it counts as an answer.
    """
    with file.open("w", encoding="utf-8") as stream:
        for i in range(len(records)):
            status, code = int(records.status[i]), int(records.code[i])
            failed_as_good = bool(records.error[i]) and (200 <= status < 300 or code == 0)
            row = {
                "time": float(records.due[i]),
                "track": records.names[records.track[i]],
                "revision": records.names[records.revision[i]],
                "status": None if status == NO_STATUS or failed_as_good else status,
                "code": None if code == NO_CODE or failed_as_good else code,
                "latency": float(records.latency[i]),
                "user": str(int(records.user[i])),
            }
            stream.write(json.dumps(row) + "\n")


class Reader:
    """
    Reads files of requests.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float],
        weight: float | None,
        canary: str = CANARY,
        stable: str = STABLE,
    ) -> None:
        """
        Remember what the files do not say.

        Args:
            weights: the canary's weight in per cent, by route revision.
            weight: that of rows that name neither a weight nor a known revision; None to refuse them.
            canary: what the files call the canary's track.
            stable: what they call stable's.
        """
        self._weights, self._weight = weights, weight
        self._tracks = {canary: CANARY, stable: STABLE}

    def read(self, file: Path) -> list[Request]:
        """
        All requests of a file.

        Raises:
            UsageError: naming the first row that is not one.
        """
        try:
            if file.stat().st_size > _MOST_BYTES:
                raise UsageError(
                    f"records {str(file)!r}: expected at most {_MOST_BYTES >> 20} MiB, got more; cut the file"
                )
            with file.open(encoding="utf-8", newline="") as stream:
                lines = _lines(stream, file)
                rows = (
                    _json_rows(lines) if file.suffix in (".jsonl", ".json", ".ndjson") else _csv_rows(lines)
                )
                return [self._request(number, row) for number, row in rows]
        except OSError as exc:
            raise UsageError(f"records {str(file)!r}: cannot be read: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise UsageError(f"records {str(file)!r}: expected UTF-8, got other bytes") from exc

    def _request(self, number: int, row: Mapping[str, Any]) -> Request:
        unknown = [name for name in row if name not in COLUMNS]
        if unknown:
            raise UsageError(
                f"records, row {number}: expected the columns {', '.join(COLUMNS)}, got {short(str(unknown[0]), 40)!r}"
            )
        track = _text(number, "track", row.get("track"))
        status, code = _status(number, row.get("status")), _code(number, row.get("code"))
        return Request(
            at=_number(number, "time", row.get("time")),
            weight=self._weight_of(number, row),
            track=self._tracks.get(track, ""),
            status=status,
            code=code,
            latency=None
            if _empty(row.get("latency"))
            else _number(number, "latency", row["latency"], least=0),
            **{name: _text(number, name, row.get(name)) for name in NAMES},
        )

    def _weight_of(self, number: int, row: Mapping[str, Any]) -> float:
        if not _empty(row.get("weight")):
            return _number(number, "weight", row["weight"], least=0, most=100)
        revision = _text(number, "revision", row.get("revision"))
        weight = self._weights.get(revision, self._weight)
        if weight is None:
            raise UsageError(
                f"records, row {number}: expected a weight, or --weight for the revision {revision or '(none)'!r}"
            )
        return weight


def _lines(stream: Iterator[str], file: Path) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        if number > MOST_ROWS + 1 or len(line) > _MOST_LINE:
            raise UsageError(
                f"records {str(file)!r}, line {number}: expected at most {MOST_ROWS:,} rows of {_MOST_LINE:,} characters"
            )
        yield line


def _csv_rows(lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines, restkey="(more)", strict=True)
    try:
        yield from enumerate(reader, 1)
    except csv.Error as exc:
        raise UsageError(f"records, line {reader.line_num}: expected CSV, got {short(str(exc), 80)}") from exc


def _json_rows(lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    numbers = itertools.count(1)
    for line in lines:
        if not line.strip():
            continue
        number = next(numbers)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"records, row {number}: expected JSON, got {short(line, 40)!r}") from exc
        if not isinstance(row, dict):
            raise UsageError(f"records, row {number}: expected an object, got {short(line, 40)!r}")
        yield number, row


def _empty(value: Any) -> bool:
    return value is None or value == ""


def _text(number: int, name: str, value: Any) -> str:
    if isinstance(value, (dict, list, bool)):
        raise UsageError(f"records, row {number}: {name}: expected text, got {type(value).__name__}")
    return "" if value is None else short(str(value))


def _number(number: int, name: str, value: Any, *, least: float = -math.inf, most: float = math.inf) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not (math.isfinite(found) and least <= found <= most):
        raise UsageError(
            f"records, row {number}: {name}: expected a finite number, got {short(repr(value), 40)}"
        )
    return found


def _status(number: int, value: Any) -> int | None:
    if _empty(value) or value in (0, "0"):
        return None
    found = _number(number, "status", value, least=100, most=599)
    return int(found)


def _code(number: int, value: Any) -> int | None:
    if _empty(value):
        return None
    if value in CODES:
        return CODES.index(value)
    found = _number(number, "code", value, least=NO_CODE, most=len(CODES) - 1)
    return None if found == NO_CODE else int(found)
