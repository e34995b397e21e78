"""
Users' own requests, as the gateway's Envoy counts them, and what they say of two tracks.

One process is one scrape target: its totals are compared with its own. What was counted from one scrape to the next is
evidence if both fall into a time in which every gateway pod had the same routes, and if the process was not restarted.
"""

import enum
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tfcanary.errors import NoEvidenceError
from tfcanary.judge.counters import Reading, difference
from tfcanary.judge.counts import Counts
from tfcanary.judge.feed import CANARY, STABLE
from tfcanary.judge.look import Look
from tfcanary.judge.statuses import Blame, blame
from tfcanary.metrics.prometheus import Prometheus, Series

# Prometheus' own default for one scrape, twice over: a single lost scrape is no alarm.
STALE_SECONDS = 120.0


class What(enum.Enum):
    """
    What a total counts.

    Attributes:
        ANSWER: answers of one status.
        TIMED: answers whose time is known.
        QUICK: those of them within the limit.
    """

    ANSWER = "answer"
    TIMED = "timed"
    QUICK = "quick"


class Total(NamedTuple):
    """
    One total of one process.

    Attributes:
        what: what it counts.
        track: canary or stable; empty if the requests reached neither.
        status: HTTP's; None for a gRPC call, and where the status is not counted.
        code: gRPC's; None for REST.
    """

    what: What
    track: str
    status: int | None = None
    code: int | None = None

    def __str__(self) -> str:
        parts = (self.track or "no track", self.what.value, self.status, self.code)
        return " ".join(str(part) for part in parts if part is not None)


class Metrics(Protocol):
    """
    The metrics of one kind of gateway.
    """

    @property
    def selector(self) -> str:
        """
        The series of the tracks, as PromQL selects them.
        """

    @property
    def lag(self) -> float:
        """
        Seconds after which the last request is in every total.
        """

    def total(self, labels: Mapping[str, str]) -> Total | None:
        """
        What a series counts; None if that is of no interest.
        """


@dataclass(slots=True)
class Scrapes:
    """
    Looks from the scrapes of the gateway's pods.

    Attributes:
        metrics: how the gateway counts.
        stale: seconds without a scrape after which a target's silence is a problem.
    """

    metrics: Metrics
    stale: float = STALE_SECONDS
    _last: dict[str, Reading] = field(default_factory=dict)

    @property
    def last(self) -> Mapping[str, float]:
        """
        When each gateway pod was scraped last, in seconds since 1970; empty before the first scrape under these routes.
        """
        return {name: last.at for name, last in self._last.items()}

    def ask(self, prometheus: Prometheus, *, weight: float, since: float, now: float) -> Look | None:
        """
        What was counted since the last time, all under one weight.

        Args:
            prometheus: who scrapes the gateway.
            weight: the canary's, in per cent.
            since: when the last gateway pod had the routes with this weight, in seconds since 1970.
            now: as the Prometheus tells time.

        Returns:
            None if nothing was scraped since the last time, and that is not too long ago.

        Raises:
            UnreachableError: if the Prometheus does not answer.
            NoEvidenceError: if it has no such series, as nobody sent a request or nobody scrapes the gateway.
        """
        series = prometheus.samples(self.metrics.selector, seconds=self.stale, at=now)
        if not series and not self._last:
            raise NoEvidenceError(
                f"Prometheus: expected series {self.metrics.selector}, got none; does it scrape the gateway's pods "
                "(port 15020, /stats/prometheus), and does anybody send requests?"
            )
        return self.look(series, weight=weight, since=since, now=now)

    def look(self, series: Iterable[Series], *, weight: float, since: float, now: float) -> Look | None:
        """
        The same, from series that are given.
        """
        counted: dict[Total, int] = defaultdict(int)
        problems, ends = [], []
        readings = self._readings(series, weight)
        for target in sorted({*readings, *self._last}):
            after = readings.get(target)
            if after is not None and after[0].at < now - self.stale:
                after = None
            found = self._since_last(target, after and after[0], since + self.metrics.lag)
            if isinstance(found, str):
                problems.append(f"{target}: {found}")
            elif found is not None and after is not None:
                ends.append(after[0].at)
                for name, count in found.items():
                    counted[after[1][name]] += count
        if problems:
            return Look(at=now, weight=weight, problem="; ".join(problems))
        return _look(max(ends), weight, counted) if ends else None

    def _since_last(self, target: str, after: Reading | None, since: float) -> dict[str, int] | str | None:
        """
        What one target counted since its last reading, why that is not known, or None if there is nothing to compare.
        """
        before = self._last.get(target)
        if after is None:
            # A pod that ended is missed once: its last requests may be those that failed.
            self._last.pop(target, None)
            return f"no scrape since {before.at:.0f} s" if before else None
        if before is None or before.at < since or before.weight != after.weight:
            if after.at >= since:
                self._last[target] = after
            return None
        if after.at <= before.at:
            return None
        self._last[target] = after
        return difference(_with_new(before, after), after)

    def _readings(
        self, series: Iterable[Series], weight: float
    ) -> dict[str, tuple[Reading, dict[str, Total]]]:
        """
        The last scrape of each target, and what its totals are.
        """
        by_target: dict[str, list[tuple[Total, Series]]] = defaultdict(list)
        for one in series:
            total = self.metrics.total(one.labels)
            if one.samples and total is not None:
                by_target[_target(one.labels)].append((total, one))
        return {target: _reading(some, weight) for target, some in by_target.items()}


def _reading(series: Sequence[tuple[Total, Series]], weight: float) -> tuple[Reading, dict[str, Total]]:
    at = max(one.samples[-1][0] for _, one in series)
    totals: dict[Total, float] = defaultdict(float)
    for total, one in series:
        if one.samples[-1][0] == at:
            totals[total] += one.samples[-1][1]
    reading = Reading(at=at, weight=weight, totals={str(total): count for total, count in totals.items()})
    return reading, {str(total): total for total in totals}


def _target(labels: Mapping[str, str]) -> str:
    return " ".join(filter(None, (labels.get("job"), labels.get("instance"))))


def _with_new(before: Reading, after: Reading) -> Reading:
    """
    The earlier reading, with 0 for what the process had not counted then: the first 500 makes a series of its own.

    A total that is gone stays missed. Envoy begins those of a cluster from 0 when istiod changes it, as it does when a
    track's last pod goes: what was counted after the last scrape is lost, and may be what failed.
    """
    return Reading(before.at, before.weight, dict.fromkeys(after.totals, 0.0) | dict(before.totals))


def _look(at: float, weight: float, counted: Mapping[Total, int]) -> Look | None:
    bad, good, timed, quick, answers = (dict.fromkeys((CANARY, STABLE), 0) for _ in range(5))
    unnamed = 0
    for total, count in counted.items():
        if total.track not in answers:
            # Envoy had no pod to send it to, and names none: whose it was is not known.
            unnamed += count if total.what is What.ANSWER else 0
        elif total.what is not What.ANSWER:
            (timed if total.what is What.TIMED else quick)[total.track] += count
        else:
            answers[total.track] += count
            # Status 0 is a client that gave up: over a canary that hangs they all do, and otherwise both tracks' alike.
            fault = blame(total.status, total.code)
            if fault is not Blame.CLIENT:
                (bad if fault is Blame.MODEL else good)[total.track] += count
    if not any(counted.values()):
        return None
    slow = {track: timed[track] - quick[track] for track in answers}
    return Look(
        at=at,
        weight=weight,
        errors=Counts(bad[CANARY], good[CANARY], bad[STABLE], good[STABLE]),
        slow=Counts(slow[CANARY], quick[CANARY], slow[STABLE], quick[STABLE]),
        routed=(answers[CANARY], answers[STABLE]),
        unnamed=unnamed,
    )
