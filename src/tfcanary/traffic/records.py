"""
A record of every request, kept as columns of a few tens of bytes each.

A slice by phase, API or track keeps all its requests. An assertion about an empty slice is an error. Times are of the
monotonic clock, in seconds since the start.
"""

import array
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tfcanary.contract import Api
from tfcanary.errors import DoesNotHoldError, NoEvidenceError, UsageError

SAMPLES = 5

NO_STATUS = 0
NO_CODE = -1

# The names of gRPC's status codes, by their number (google/rpc/code.proto).
CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
    *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)

# By column, the type code of the array that is written and the type of the array that is read.
_COLUMNS: Mapping[str, tuple[str, Any]] = {
    "due": ("d", np.float64),
    "late": ("f", np.float32),
    "latency": ("f", np.float32),
    "request": ("H", np.uint16),
    "user": ("I", np.uint32),
    "status": ("h", np.int16),
    "code": ("b", np.int8),
    "track": ("H", np.uint16),
    "revision": ("H", np.uint16),
    "version": ("H", np.uint16),
    "error": ("H", np.uint16),
    "digest": ("I", np.uint32),
}
# Numbers of these columns stand for names.
_NAMED = ("request", "track", "revision", "version", "error")
# A column of names has 16 bits; past so many different names the rest share one.
_MOST_NAMES, _OTHERS = 60_000, "(others)"


@dataclass(frozen=True, slots=True)
class Mark:
    """
    The start of a phase, which lasts until the next mark.

    Attributes:
        seconds: since the start of the load.
    """

    seconds: float
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """
    Requests, one row each, in the order in which they were due.

    Attributes:
        due: when the request was due, in seconds since the start.
        late: by how many seconds it was sent later than that.
        latency: the seconds from `due` to the last byte of the answer.
        request: what the sender calls this kind of request.
        user: the number of the user who sent it.
        status: the HTTP status; `NO_STATUS` if there was none, and for gRPC.
        code: the gRPC status code; `NO_CODE` for REST.
        track: the track that the answer names.
        revision: the route revision that the answer names.
        version: the model version that the answer names; empty where the request asked for one itself.
        error: why the request failed; the empty name, 0, if it did not.
        digest: the CRC-32 of the answer's body.
        names: the strings that `request`, `track`, `revision`, `version` and `error` are numbers of.
        marks: the starts of the phases, in order.
        about: which slice of the requests this is.
    """

    due: npt.NDArray[np.float64]
    late: npt.NDArray[np.float32]
    latency: npt.NDArray[np.float32]
    request: npt.NDArray[np.uint16]
    user: npt.NDArray[np.uint32]
    status: npt.NDArray[np.int16]
    code: npt.NDArray[np.int8]
    track: npt.NDArray[np.uint16]
    revision: npt.NDArray[np.uint16]
    version: npt.NDArray[np.uint16]
    error: npt.NDArray[np.uint16]
    digest: npt.NDArray[np.uint32]
    names: tuple[str, ...]
    marks: tuple[Mark, ...]
    about: str = "all requests"

    def __len__(self) -> int:
        return len(self.due)

    @property
    def nbytes(self) -> int:
        """
        The memory that the columns take.
        """
        return sum(getattr(self, name).nbytes for name in _COLUMNS)

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        """
        Which requests did not get the model's answer; each has an error.
        """
        failed: npt.NDArray[np.bool_] = self.error != 0
        return failed

    def answered(self) -> "Records":
        """
        The requests that got the model's answer.
        """
        return self._where(~self.failed, f"{self.about}, answered")

    def phase(self, name: str) -> "Records":
        """
        The requests due from a mark of this name (included) to the next mark (excluded), for all marks of the name.

        Raises:
            UsageError: if there is no such mark.
        """
        self._require_mark(name)
        starts = np.array([mark.seconds for mark in self.marks])
        which = np.searchsorted(starts, self.due, side="right") - 1
        wanted = np.array([mark.name == name for mark in self.marks])
        return self._where((which >= 0) & wanted[which], name)

    def around(self, name: str, *, before: float, after: float) -> "Records":
        """
        The requests due from `before` seconds before a mark of this name to `after` seconds after it (excluded).

        Raises:
            UsageError: if there is no such mark.
        """
        self._require_mark(name)
        near = np.zeros(len(self), dtype=bool)
        for mark in self.marks:
            if mark.name == name:
                near |= (self.due >= mark.seconds - before) & (self.due < mark.seconds + after)
        return self._where(near, f"around {name}")

    def of(
        self, *, api: Api | None = None, track: str | None = None, request: str | None = None
    ) -> "Records":
        """
        The requests over this API, answered by this track, of this kind.
        """
        keep = np.ones(len(self), dtype=bool)
        words = [self.about]
        if api is not None:
            keep &= (self.code == NO_CODE) == (api is Api.REST)
            words.append(api.value)
        if track is not None:
            keep &= self.track == self._number(track)
            words.append(f"by {track}")
        if request is not None:
            keep &= self.request == self._number(request)
            words.append(request)
        return self._where(keep, ", ".join(words))

    def counts(self, column: str) -> Counter[str]:
        """
        How many requests by `track`, `revision`, `version`, `request` or `error`; requests without one are left out.
        """
        numbers, counts = np.unique(getattr(self, column), return_counts=True)
        return Counter(
            {self.names[n]: int(count) for n, count in zip(numbers, counts, strict=True) if self.names[n]}
        )

    def outcomes(self) -> Counter[str]:
        """
        How many requests by HTTP status or gRPC code.
        """
        both, counts = np.unique(np.stack([self.status, self.code]), axis=1, return_counts=True)
        found: Counter[str] = Counter()
        for (status, code), count in zip(both.T, counts, strict=True):
            found[_outcome(int(status), int(code))] += int(count)
        return found

    def quantile(self, part: float) -> float:
        """
        The latency, in seconds, that this part of the requests does not exceed; NaN without requests.
        """
        return float(np.quantile(self.latency, part)) if len(self) else float("nan")

    def require(self, n: int) -> Self:
        """
        Return these records if there are at least n requests, and at least one.

        Raises:
            NoEvidenceError: if there are fewer.
        """
        if len(self) < max(1, n):
            raise NoEvidenceError(f"{self.about}: expected at least {max(1, n)} requests, got {len(self)}")
        return self

    def assert_none_failed(self, *, at_least: int = 1) -> None:
        """
        Assert that every request got the model's answer.

        Raises:
            NoEvidenceError: if there are fewer than `at_least`.
            DoesNotHoldError: with outcomes, latency and the first few of those that failed.
        """
        self.require(at_least)
        failed = int(self.failed.sum())
        if failed:
            raise DoesNotHoldError(
                f"{self.about}: expected 0 of {len(self)} requests to fail, got {failed}; {self.in_words()}; "
                f"first: {' | '.join(self.samples())}"
            )

    def samples(self, most: int = SAMPLES) -> list[str]:
        """
        The first requests that failed, in words.
        """
        found = []
        for i in np.flatnonzero(self.failed)[:most]:
            track = self.names[self.track[i]] or "no track"
            found.append(
                f"at {self.due[i]:.3f} s {self.names[self.request[i]]}: "
                f"{_outcome(int(self.status[i]), int(self.code[i]))} {self.names[self.error[i]]} "
                f"({track}, after {self.latency[i]:.3f} s)"
            )
        return found

    def in_words(self) -> str:
        """
        Outcomes, tracks, latency.
        """
        return (
            f"outcomes {counts_in_words(self.outcomes())}; tracks {counts_in_words(self.counts('track'))}; latency median "
            f"{self.quantile(0.5) * 1000:.0f} ms, 99 % {self.quantile(0.99) * 1000:.0f} ms, "
            f"most {self.quantile(1) * 1000:.0f} ms"
        )

    def summary(self) -> dict[str, Any]:
        """
        The figures of this slice, for a report.
        """
        seconds = float(self.due[-1] - self.due[0]) if len(self) > 1 else 0.0
        return {
            "about": self.about,
            "requests": len(self),
            "failed": int(self.failed.sum()),
            "seconds": round(seconds, 3),
            "perSecond": round((len(self) - 1) / seconds, 1) if seconds else None,
            "outcomes": dict(self.outcomes()),
            "tracks": dict(self.counts("track")),
            "revisions": dict(self.counts("revision")),
            "latencyMs": {
                name: round(self.quantile(part) * 1000, 1) if len(self) else None
                for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
            },
            "lateMs": round(float(self.late.max()) * 1000, 1) if len(self) else None,
            "samples": self.samples(),
        }

    def phases(self) -> "list[Records]":
        """
        Every phase once, in order, those without requests too.
        """
        return [self.phase(name) for name in dict.fromkeys(mark.name for mark in self.marks)]

    def _require_mark(self, name: str) -> None:
        known = [mark.name for mark in self.marks]
        if name not in known:
            raise UsageError(f"phase {name!r}: expected one of {', '.join(known)}")

    def _number(self, name: str) -> int:
        return self.names.index(name) if name in self.names else -1

    def _where(self, keep: npt.NDArray[np.bool_], about: str) -> "Records":
        columns = {name: getattr(self, name)[keep] for name in _COLUMNS}
        return dataclasses.replace(self, **columns, about=about)


class Recorder:
    """
    Collects records, one request at a time, from one thread.
    """

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {name: array.array(code) for name, (code, _) in _COLUMNS.items()}
        self._numbers: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        return len(self._columns["due"])

    def add(
        self,
        *,
        due: float,
        latency: float,
        request: str,
        late: float = 0.0,
        user: int = 0,
        status: int = NO_STATUS,
        code: int = NO_CODE,
        track: str = "",
        revision: str = "",
        version: str = "",
        error: str = "",
        digest: int = 0,
    ) -> None:
        """
        Add one request; the columns of `Records` say what each value is.
        """
        columns, number = self._columns, self._number
        columns["due"].append(due)
        columns["late"].append(late)
        columns["latency"].append(latency)
        columns["request"].append(number(request))
        columns["user"].append(user)
        columns["status"].append(status)
        columns["code"].append(code)
        columns["track"].append(number(track))
        columns["revision"].append(number(revision))
        columns["version"].append(number(version))
        columns["error"].append(number(error))
        columns["digest"].append(digest)

    def records(self, marks: Sequence[Mark] = (), *, first: int = 0) -> Records:
        """
        The records so far, in the order in which the requests were due.

        Args:
            marks: the starts of the phases.
            first: how many of those that ended first are left out.
        """
        made = {
            name: np.array(self._columns[name][first:], dtype=kind) for name, (_, kind) in _COLUMNS.items()
        }
        order = np.argsort(made["due"], kind="stable")
        columns: dict[str, Any] = {name: column[order] for name, column in made.items()}
        return Records(**columns, names=tuple(self._numbers), marks=tuple(marks))

    def _number(self, name: str) -> int:
        found = self._numbers.get(name)
        if found is None:
            if len(self._numbers) >= _MOST_NAMES:
                name = _OTHERS
            found = self._numbers.setdefault(name, len(self._numbers))
        return found


def joined(several: Sequence[Records]) -> Records:
    """
    The requests of several recorders on one clock, in the order in which they were due.
    """
    numbers: dict[str, int] = {"": 0}
    parts: dict[str, list[npt.NDArray[Any]]] = {
        name: [np.array([], kind)] for name, (_, kind) in _COLUMNS.items()
    }
    for records in several:
        to = np.array([numbers.setdefault(name, len(numbers)) for name in records.names])
        for name in _COLUMNS:
            column = getattr(records, name)
            parts[name].append(to[column].astype(column.dtype) if name in _NAMED else column)
    made = {name: np.concatenate(columns) for name, columns in parts.items()}
    order = np.argsort(made["due"], kind="stable")
    columns: dict[str, Any] = {name: column[order] for name, column in made.items()}
    marks = sorted((mark for records in several for mark in records.marks), key=lambda mark: mark.seconds)
    return Records(**columns, names=tuple(numbers), marks=tuple(marks))


def _outcome(status: int, code: int) -> str:
    if code != NO_CODE:
        return CODES[code] if 0 <= code < len(CODES) else f"gRPC {code}"
    return str(status) if status else "no answer"


def counts_in_words(counts: Mapping[str, int]) -> str:
    """
    Counts by name, in the order of the names.
    """
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "none"
