"""
The metrics of TensorFlow Serving that this server counts, under the same names, as a Prometheus page.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from tfcanary.modelserver.status import Code

DEFAULT_PATH = "/monitoring/prometheus/metrics"

# In microseconds. monitoring::Buckets::Exponential(10, 1.8, 33), up to about 20 minutes.
_LIMITS = [10 * 1.8**power for power in range(33)]
# monitoring::Buckets::Exponential(100, 1.2, 52), up to about a second.
_QUEUING_LIMITS = [100 * 1.2**power for power in range(52)]

_COUNT = ":tensorflow:serving:request_count"
_REQUEST = ":tensorflow:serving:request_latency"
_RUNTIME = ":tensorflow:serving:runtime_latency"
_QUEUING = ":tensorflow:serving:batching_session:queuing_latency"

Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, limits: list[float]) -> None:
        self.limits = limits
        self.counts = [0] * (len(limits) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_right(self.limits, value)] += 1
        self.sum += value


class Metrics:
    """
    Counts requests, and measures how long they take.

    TensorFlow Serving uses any model name that a client sends as a label, and a client can grow its page without
    bound. Here a model that is not served counts under the empty name.

    Args:
        is_served: whether the configuration has a model of this name.
    """

    def __init__(self, is_served: Callable[[str], bool]) -> None:
        self._is_served = is_served
        self._lock = threading.Lock()
        self._requests: dict[Labels, int] = {}
        self._latencies: dict[str, dict[Labels, _Histogram]] = {_REQUEST: {}, _RUNTIME: {}, _QUEUING: {}}

    def request(self, model: str, api: str, entrypoint: str, code: Code, seconds: float) -> None:
        """
        Count a request, and its latency if its code is OK.

        Args:
            model: the name that the request has.
            api: the method, as each API writes it.
            entrypoint: ``GRPC`` or ``REST``.
            code: how the request ended.
            seconds: its latency.
        """
        name = model if self._is_served(model) else ""
        labels = (("model_name", name), ("status", code.name))
        with self._lock:
            self._requests[labels] = self._requests.get(labels, 0) + 1
            if code is Code.OK:
                self._add(_REQUEST, (("model_name", name), ("API", api), ("entrypoint", entrypoint)), seconds)

    def run(self, model: str, api: str, seconds: float) -> None:
        """
        Count the seconds that the model ran for a request.
        """
        with self._lock:
            self._add(_RUNTIME, (("model_name", model), ("API", api), ("runtime", "TF1")), seconds)

    def queued(self, pool: str, seconds: float) -> None:
        """
        Count the seconds that a request waited for its batch.
        """
        with self._lock:
            self._add(_QUEUING, (("thread_pool_name", pool),), seconds)

    def _add(self, name: str, labels: Labels, seconds: float) -> None:
        histogram = self._latencies[name].get(labels)
        if histogram is None:
            limits = _QUEUING_LIMITS if name == _QUEUING else _LIMITS
            histogram = self._latencies[name][labels] = _Histogram(limits)
        histogram.add(seconds * 1e6)

    def page(self) -> str:
        """
        Write all series in Prometheus's text format.
        """
        with self._lock:
            lines = [f"# TYPE {_COUNT} counter"]
            lines += [f"{_COUNT}{{{_written(labels)}}} {count}" for labels, count in self._requests.items()]
            for name, histograms in self._latencies.items():
                lines.append(f"# TYPE {name} histogram")
                for labels, histogram in histograms.items():
                    lines += _histogram_lines(name, _written(labels), histogram)
        return "\n".join(lines) + "\n"


def _histogram_lines(name: str, labels: str, histogram: _Histogram) -> list[str]:
    limits = [f"{limit:g}" for limit in histogram.limits] + ["+Inf"]
    counts = list(accumulate(histogram.counts))
    return [
        *(f'{name}_bucket{{{labels},le="{le}"}} {n}' for le, n in zip(limits, counts, strict=True)),
        f"{name}_sum{{{labels}}} {histogram.sum:.17g}",
        f"{name}_count{{{labels}}} {counts[-1]}",
    ]


def _written(labels: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
