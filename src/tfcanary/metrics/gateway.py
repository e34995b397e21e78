"""
How a gateway counts requests: by Istio's own statistics, or by Envoy's of each cluster where Istio's filters are missing.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tfcanary.contract import Api
from tfcanary.errors import UsageError
from tfcanary.judge.feed import CANARY, STABLE
from tfcanary.metrics.scrapes import Total, What

# Envoy's histogram buckets, in milliseconds: source/common/stats/histogram_impl.cc.
BUCKETS = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 18e5, 36e5)
# Counters are up to date in every scrape, and histograms as of Envoy's last flush: stats_flush_interval, 5 s by default.
FLUSH_SECONDS = 5.0
_GRPC_CODE = re.compile(r"envoy_cluster_grpc_(\d{1,2})")
_CLUSTER = re.compile(r"outbound\|(8500|8501)\|([^|]+)\|")
_PORTS = {"8501": Api.REST, "8500": Api.GRPC}


@dataclass(frozen=True, slots=True)
class Counted:
    """
    Whose requests are counted.

    Attributes:
        release: the release, after which its Service and Deployments are named.
        namespace: the release's.
        canary: the name of the track that is the canary.
        stable: that of the one beside it.
        slow: the limit in seconds above which an answer is slow; None counts no slow ones. Envoy knows only some.
    """

    release: str
    namespace: str
    canary: str = CANARY
    stable: str = STABLE
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
    def lag(self) -> float:
        """
        Seconds after which the last request is in every total.
        """
        return 0.0 if self.slow is None else FLUSH_SECONDS

    @property
    def bound(self) -> str:
        """
        The label `le` of the histogram's bucket that ends at the limit; empty without one.
        """
        return "" if self.slow is None else f"{self.slow * 1000:g}"

    def role(self, track: str) -> str:
        """
        Which of the two a track is; empty if neither.
        """
        return {self.canary: CANARY, self.stable: STABLE}.get(track, "")


@dataclass(frozen=True, slots=True)
class IstioMetrics:
    """
    Istio's own: https://istio.io/latest/docs/reference/config/metrics/.

    Where no pod took a request, they name no workload.
    """

    counted: Counted

    @property
    def lag(self) -> float:
        """
        Seconds after which the last request is in every total.
        """
        return self.counted.lag

    @property
    def selector(self) -> str:
        """
        The series of the tracks, as PromQL selects them.
        """
        of, bound = self.counted, self.counted.bound
        slow = "|istio_request_duration_milliseconds_(bucket|count)" if bound else ""
        return (
            f'{{__name__=~"istio_requests_total{slow}", reporter="source", '
            f'destination_service_name="{of.release}", destination_service_namespace="{of.namespace}", '
            f'le=~"|{bound}"}}'
        )

    def total(self, labels: Mapping[str, str]) -> Total | None:
        """
        What a series counts.
        """
        workload = labels.get("destination_workload", "")
        track = self.counted.role(workload.removeprefix(f"{self.counted.release}-"))
        name = labels.get("__name__", "")
        if name.endswith("_bucket"):
            return Total(What.QUICK, track)
        if name.endswith("_count"):
            return Total(What.TIMED, track)
        grpc = labels.get("grpc_response_status", "")
        if grpc.isdigit():
            return Total(What.ANSWER, track, code=int(grpc))
        status = labels.get("response_code", "")
        return Total(What.ANSWER, track, status=int(status) if status.isdigit() else None)


@dataclass(frozen=True, slots=True)
class EnvoyMetrics:
    """
    Envoy's own of each cluster, which is one subset and port: they name the track also where it has no pod.

    Istio's bootstrap leaves them out unless the gateway's `proxyStatsMatcher` includes them, as on the local cluster.
    """

    counted: Counted

    @property
    def lag(self) -> float:
        """
        Seconds after which the last request is in every total.
        """
        return self.counted.lag

    @property
    def selector(self) -> str:
        """
        The series of the tracks, as PromQL selects them.
        """
        of, bound = self.counted, self.counted.bound
        slow = "|upstream_rq_time_(bucket|count)" if bound else ""
        return (
            f'{{__name__=~"envoy_cluster_(upstream_rq|grpc_[0-9]+{slow})", '
            f'cluster_name=~"outbound[|]850[01][|]({of.canary}|{of.stable})[|]{of.release}[.]{of.namespace}[.]svc[.].*", '
            f'le=~"|{bound}"}}'
        )

    def total(self, labels: Mapping[str, str]) -> Total | None:
        """
        What a series counts. A gRPC call's HTTP status is always 200, and says nothing.
        """
        found = _CLUSTER.match(labels.get("cluster_name", ""))
        if found is None:
            return None
        api, track, name = _PORTS[found[1]], self.counted.role(found[2]), labels.get("__name__", "")
        if name.endswith("_bucket"):
            return Total(What.QUICK, track)
        if name.endswith("_count"):
            return Total(What.TIMED, track)
        if code := _GRPC_CODE.fullmatch(name):
            return Total(What.ANSWER, track, code=int(code[1])) if api is Api.GRPC else None
        status = labels.get("response_code", "")
        return Total(What.ANSWER, track, status=int(status)) if api is Api.REST and status.isdigit() else None
