"""
A record of every request, kept as columns of a few tens of bytes each.

A slice by phase, API or track keeps all its requests. An assertion about an empty slice is an error.
"""

import array
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc.aio
import numpy as np
import numpy.typing as npt

from tfcanary.contract import Api
from tfcanary.errors import DoesNotHoldError, NoEvidenceError, UsageError

SAMPLES = 5
NO_STATUS = 0
NO_CODE = -1


@dataclass(frozen=True, slots=True)
class Mark:
    """
    From here on it is this phase.
    """

    seconds: float
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """
    Requests, one row each, in the order in which they were due.

    Attributes:
        due: when it was to be sent, in seconds since the start.
        late: how much later it was sent.
        latency: from `due` to the last byte of the answer.
        status: the HTTP status; 0 if none came, or for gRPC.
        code: the gRPC code; -1 for REST.
        digest: of the answer's body, to tell answers apart.
        names: the words that `request`, `track`, `revision` and `error` are numbers of.
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
    error: npt.NDArray[np.uint16]
    digest: npt.NDArray[np.uint32]
    names: tuple[str, ...]
    apis: tuple[Api, ...]
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

    def phase(self, name: str) -> "Records":
        """
        The requests that were due in this phase; of a name used twice, both times.
        """
        if name not in {mark.name for mark in self.marks}:
            known = ", ".join(mark.name for mark in self.marks)
            raise UsageError(f"phase {name!r}: expected one of {known}")
        starts = np.array([mark.seconds for mark in self.marks])
        which = np.searchsorted(starts, self.due, side="right") - 1
        wanted = np.array([mark.name == name for mark in self.marks])
        return self._where((which >= 0) & wanted[which], name)

    def around(self, name: str, *, before: float, after: float) -> "Records":
        """
        The requests due within so many seconds of the start of a phase.
        """
        found = self._where(np.zeros(len(self), dtype=bool), f"around {name}")
        for mark in self.marks:
            if mark.name == name:
                near = (self.due >= mark.seconds - before) & (self.due < mark.seconds + after)
                found = self._where(near, f"around {name}")
        return found

    def of(
        self, *, api: Api | None = None, track: str | None = None, request: str | None = None
    ) -> "Records":
        """
        The requests over this API, answered by this track, of this name.
        """
        keep = np.ones(len(self), dtype=bool)
        words = [self.about]
        if api is not None:
            numbers = [i for i, its in enumerate(self.apis) if its is api]
            keep &= np.isin(self.request, numbers)
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
        How many requests by `track`, `revision`, `request` or `error`; what an answer did not say is left out.
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
        The latency that this part of the requests does not exceed.
        """
        return float(np.quantile(self.latency, part)) if len(self) else float("nan")

    def require(self, n: int) -> Self:
        """
        Go on only with at least so many requests.

        Raises:
            NoEvidenceError: if there are fewer.
        """
        if len(self) < max(1, n):
            raise NoEvidenceError(f"{self.about}: expected at least {max(1, n)} requests, got {len(self)}")
        return self

    def assert_none_failed(self, *, at_least: int = 1) -> None:
        """
        Every request got the model's answer, and there are enough of them.

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

    def table(self) -> str:
        """
        A line for each phase.
        """
        head = ("phase", "requests", "failed", "per s", "tracks", "p50 ms", "p99 ms", "max ms")
        rows: list[tuple[str, ...]] = [head]
        for phase in [*self.phases(), self]:
            made = phase.summary()
            latency = made["latencyMs"]
            rows.append(
                (
                    phase.about,
                    str(made["requests"]),
                    str(made["failed"]),
                    str(made["perSecond"] or ""),
                    counts_in_words(phase.counts("track")),
                    *(
                        str(latency[name] if latency[name] is not None else "")
                        for name in ("p50", "p99", "max")
                    ),
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def _number(self, name: str) -> int:
        return self.names.index(name) if name in self.names else -1

    def _where(self, keep: npt.NDArray[np.bool_], about: str) -> "Records":
        columns = {name: getattr(self, name)[keep] for name in _COLUMNS}
        return dataclasses.replace(self, **columns, about=about)


_COLUMNS = (
    "due", "late", "latency", "request", "user", "status", "code", "track", "revision", "error", "digest",
)  # fmt: skip


_TYPES = {
    "due": ("d", np.float64), "late": ("f", np.float32), "latency": ("f", np.float32), "request": ("H", np.uint16),
    "user": ("I", np.uint32), "status": ("h", np.int16), "code": ("b", np.int8), "track": ("H", np.uint16),
    "revision": ("H", np.uint16), "error": ("H", np.uint16), "digest": ("I", np.uint32),
}  # fmt: skip


class Recorder:
    """
    Where the driver writes; one thread only.
    """

    def __init__(self) -> None:
        self.columns = {name: array.array(_TYPES[name][0]) for name in _COLUMNS}
        self._appends = tuple(self.columns[name].append for name in _COLUMNS)
        self._numbers: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        return len(self.columns["due"])

    def number(self, name: str) -> int:
        """
        The number of a word; past 60,000 different ones, that of "(others)".
        """
        found = self._numbers.get(name)
        if found is None:
            if len(self._numbers) >= 60_000:
                name = "(others)"
            found = self._numbers.setdefault(name, len(self._numbers))
        return found

    def add(self, *row: float) -> None:
        for append, value in zip(self._appends, row, strict=True):
            append(value)  # type: ignore[arg-type]

    def records(self, apis: tuple[Api, ...], marks: Sequence[Mark]) -> Records:
        made: dict[str, Any] = {
            name: np.array(column, dtype=_TYPES[name][1]) for name, column in self.columns.items()
        }
        order = np.argsort(made["due"], kind="stable")
        return Records(
            **{name: column[order] for name, column in made.items()},
            names=tuple(self._numbers),
            apis=apis,
            marks=tuple(marks),
        )


def _outcome(status: int, code: int) -> str:
    if code != NO_CODE:
        return _CODES.get(code, f"gRPC {code}")
    return str(status) if status else "no answer"


_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def counts_in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "none"
