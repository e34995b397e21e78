"""
Users' own requests, as the gateway's Envoy counts them with Istio's statistics, and what they say of two tracks.

One process is one scrape target: its totals are compared with its own. What was counted from one scrape to the next is
evidence if both fall into a time in which every gateway pod had the same routes, and if the process was not restarted.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tfcanary.errors import NoEvidenceError, UsageError
from tfcanary.judge.counters import Reading, difference
from tfcanary.judge.counts import Counts
from tfcanary.judge.look import Look
from tfcanary.judge.statuses import Blame, blame
from tfcanary.metrics.prometheus import Prometheus, Series

# https://istio.io/latest/docs/reference/config/metrics/
REQUESTS = "istio_requests_total"
_SLOW = "istio_request_duration_milliseconds_bucket"
_ALL = "istio_request_duration_milliseconds_count"
# Envoy's histogram buckets, in milliseconds: source/common/stats/histogram_impl.cc.
BUCKETS = (
    0.5,
    1,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10000,
    30000,
    60000,
    300000,
    600000,
    1800000,
    3600000,
)
# Prometheus' own default for one scrape, twice over: a single lost scrape is no alarm.
STALE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Tracks:
    """
    Whose requests are counted.

    Attributes:
        namespace: the release's.
        service: the name of the Service that the gateway sends its requests to.
        canary: the name of the canary's Deployment.
        stable: that of stable's.
        slow: the limit in seconds above which an answer is slow; None counts no slow ones. Envoy knows only some.
    """

    namespace: str
    service: str
    canary: str
    stable: str
    slow: float | None = None

    def __post_init__(self) -> None:
        """
        Refuse a limit that no bucket ends at.
        """
        if self.slow is None:
            return
        wanted = max(1e-6, self.slow * 1000)
        if wanted not in BUCKETS:
            nearest = min(BUCKETS, key=lambda bucket: abs(math.log(bucket / wanted)))
            raise UsageError(
                f"slow: expected a limit that Envoy counts, such as {nearest / 1000:g} s, got {self.slow:g} s"
            )

    @property
    def selector(self) -> str:
        """
        The series of these tracks, as PromQL selects them.
        """
        metrics = REQUESTS if self.slow is None else f"{REQUESTS}|{_SLOW}|{_ALL}"
        buckets = "" if self.slow is None else f', le=~"|{_bound(self.slow)}"'
        return (
            f'{{__name__=~"{metrics}", reporter="source", destination_service_name="{self.service}", '
            f'destination_service_namespace="{self.namespace}"{buckets}}}'
        )


def _bound(seconds: float) -> str:
    return f"{seconds * 1000:g}"


@dataclass(slots=True)
class MeshCounters:
    """
    Looks from the scrapes of the gateway's pods.

    Attributes:
        tracks: whose requests are counted.
        stale: seconds without a scrape after which a target's silence is a problem.
    """

    tracks: Tracks
    stale: float = STALE_SECONDS
    _last: dict[str, Reading] = field(default_factory=dict)

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
        series = prometheus.samples(self.tracks.selector, seconds=self.stale, at=now)
        if not series and not self._last:
            raise NoEvidenceError(
                f"Prometheus: expected {REQUESTS} of service {self.tracks.service}, got no series; does "
                "it scrape the gateway's pods (port 15020, /stats/prometheus), and does anybody send requests?"
            )
        return self.look(series, weight=weight, since=since, now=now)

    def look(self, series: Iterable[Series], *, weight: float, since: float, now: float) -> Look | None:
        """
        The same, from series that are given.
        """
        counted: dict[str, int] = defaultdict(int)
        problems, ends = [], []
        readings = _readings(series, weight)
        for target in sorted({*readings, *self._last}):
            after = readings.get(target)
            if after is not None and after.at < now - self.stale:
                after = None
            found = self._since_last(target, after, since)
            if isinstance(found, str):
                problems.append(f"{target}: {found}")
            elif found is not None and after is not None:
                ends.append(after.at)
                for key, count in found.items():
                    counted[key] += count
        if problems:
            return Look(at=now, weight=weight, problem="; ".join(problems))
        return self._counts(max(ends), weight, counted) if ends else None

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

    def _counts(self, at: float, weight: float, counted: Mapping[str, int]) -> Look | None:
        names = (self.tracks.canary, self.tracks.stable)
        bad, good, every, quick, answers = (dict.fromkeys(names, 0) for _ in range(5))
        unnamed = 0
        for key, count in counted.items():
            metric, workload, code, grpc = key.split("\n")
            if workload not in names:
                # Envoy had no pod to send it to, and names none: whose it was is not known.
                unnamed += count if metric == REQUESTS else 0
            elif metric == _ALL:
                every[workload] += count
            elif metric == _SLOW:
                quick[workload] += count
            else:
                answers[workload] += count
                # Code 0 is a client that gave up: over a canary that hangs they all do, and otherwise both tracks' alike.
                fault = blame(int(code), int(grpc) if grpc else None)
                if fault is not Blame.CLIENT:
                    (bad if fault is Blame.MODEL else good)[workload] += count
        if not unnamed and not any(answers.values()):
            return None
        canary, stable = names
        slow = {name: every[name] - quick[name] for name in names}
        return Look(
            at=at,
            weight=weight,
            errors=Counts(bad[canary], good[canary], bad[stable], good[stable]),
            slow=Counts(slow[canary], quick[canary], slow[stable], quick[stable]),
            routed=(answers[canary], answers[stable]),
            unnamed=unnamed,
        )


def _readings(series: Iterable[Series], weight: float) -> dict[str, Reading]:
    """
    The last scrape of each target.
    """
    by_target: dict[str, list[Series]] = defaultdict(list)
    for one in series:
        if one.samples:
            by_target[_target(one.labels)].append(one)
    return {target: _reading(some, weight) for target, some in by_target.items()}


def _reading(series: Sequence[Series], weight: float) -> Reading:
    at = max(one.samples[-1][0] for one in series)
    totals: dict[str, float] = defaultdict(float)
    for one in series:
        if one.samples[-1][0] == at:
            totals[_key(one.labels)] += one.samples[-1][1]
    return Reading(at=at, weight=weight, totals=dict(totals))


def _target(labels: Mapping[str, str]) -> str:
    return " ".join(filter(None, (labels.get("job"), labels.get("instance"))))


def _key(labels: Mapping[str, str]) -> str:
    """
    What tells one total from another; the request's own protocol and the client are of no interest.
    """
    code = "" if labels.get("__name__") in (_SLOW, _ALL) else labels.get("response_code", "")
    grpc = "" if labels.get("__name__") in (_SLOW, _ALL) else labels.get("grpc_response_status", "")
    return "\n".join((labels.get("__name__", ""), labels.get("destination_workload", ""), code, grpc))


def _with_new(before: Reading, after: Reading) -> Reading:
    """
    The earlier reading, with 0 for what the process had not counted then: the first 500 makes a series of its own.
    """
    return Reading(before.at, before.weight, dict.fromkeys(after.totals, 0.0) | dict(before.totals))
