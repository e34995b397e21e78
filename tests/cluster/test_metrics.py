"""
Users' requests as a real Prometheus scrapes them from the real gateway, held against what the client itself counted.
"""

import functools
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import PLAIN
from planting import Kubectl
from scraping import scraping

from tfcanary.errors import NoEvidenceError
from tfcanary.judge.counts import Counts
from tfcanary.metrics.gateway import Counted, EnvoyMetrics
from tfcanary.metrics.prometheus import Prometheus
from tfcanary.metrics.scrapes import Scrapes
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

if TYPE_CHECKING:
    from tfcanary.judge.look import Look

RELEASE = "resnet"


@pytest.fixture
def prometheus(target: Target, stage: Any, tmp_path: Path) -> Iterator[str]:
    """
    The address of a Prometheus that scrapes the gateway's pod every second.
    """
    assert stage.gateway
    with scraping(target, RELEASE, tmp_path) as made:
        yield made.url


class Asked:
    """
    Requests of all kinds, and how each ended for the client that sent it.
    """

    # The model's server refuses a message that is none of this method's, and a body without a prediction.
    BAD_CALL = "/tensorflow.serving.PredictionService/Predict"
    BAD_PATH = "/v1/models/resnet:predict"

    def __init__(self, gateway: Any) -> None:
        self.gateway = gateway
        self.ended = Counter[tuple[str | None, bool]]()

    def send(self, times: int) -> None:
        """
        Send four requests so often, two of which fail.
        """
        for _ in range(times):
            for api in PLAIN:
                seen = self.gateway.ask(api)
                self.ended[seen.track, seen.status in ("200", "OK")] += 1
            called = self.gateway.ask("gRPC", self.BAD_CALL)
            posted = self.gateway.rest.post(self.BAD_PATH, content=b"{}")
            assert ("INVALID_ARGUMENT", 400) == (called.status, posted.status_code)
            self.ended[called.track, False] += 1
            self.ended[posted.headers["x-model-track"], False] += 1

    @property
    def counts(self) -> Counts:
        """
        How they ended, by track.
        """
        return Counts(*(self.ended[track, well] for track in ("canary", "stable") for well in (False, True)))


class Seen:
    """
    The looks at one weight, one after another.
    """

    def __init__(self, source: Prometheus, namespace: str) -> None:
        self.source = source
        self.scrapes = Scrapes(EnvoyMetrics(Counted(RELEASE, namespace, slow=10)), stale=30)
        self.weight, self.since = 0.0, 0.0
        self.looks: list[Look] = []

    def begin(self, weight: float, gateway: Any) -> int:
        """
        Wait for a scrape under the routes of now, and say how many requests it took: without any there is no series.
        """
        self.weight, self.since, sent = weight, time.time(), itertools.count()

        def began() -> None:
            gateway.ask("REST")
            next(sent)
            self.look()
            if not any(at >= self.since + self.scrapes.metrics.lag for at in self.scrapes.last.values()):
                raise NotYet("no scrape under these routes")

        wait_until("a scrape", began, timeout_seconds=60)
        self.looks = []
        return next(sent)

    def wait_until_quiet(self) -> None:
        """
        Wait for a scrape of the time after now, and forget what was counted until then.
        """
        now = time.time()

        def later() -> None:
            self.look()
            if min(self.scrapes.last.values()) < now + self.scrapes.metrics.lag:
                raise NotYet("no later scrape")

        wait_until("a later scrape", later, timeout_seconds=60)
        self.looks = []

    def look(self) -> None:
        """
        Ask for the next look, if there is one.
        """
        try:
            made = self.scrapes.ask(self.source, weight=self.weight, since=self.since, now=time.time())
        except NoEvidenceError as exc:
            raise NotYet(str(exc)) from exc
        if made:
            self.looks.append(made)

    def wait_for(self, requests: int, *, timed: int) -> None:
        """
        Wait until so many requests were counted, with a track or without, and of so many the time.
        """

        def all_there() -> None:
            self.look()
            answers = sum(sum(one.errors) + one.unnamed for one in self.looks)
            times = sum(sum(one.slow) for one in self.looks)
            if answers < requests or times < timed:
                raise NotYet(f"{answers} counted, {times} with their time")

        wait_until(f"{requests} requests in Prometheus", all_there, timeout_seconds=30)


@pytest.fixture
def seen(prometheus: str, namespace: str) -> Iterator[Seen]:
    with Prometheus(prometheus) as source:
        yield Seen(source, namespace)


def test_what_prometheus_scrapes_is_what_the_clients_saw(stage: Any, seen: Seen) -> None:
    """
    Request by request, of both tracks, over both APIs, with HTTP and gRPC status; before and after a change of weight.
    """
    asked = Asked(stage.gateway)
    for strategy, weight in (("canary-10", 10), ("canary-50", 50)):
        stage.play(strategy)
        seen.begin(weight, stage.gateway)
        # The last request of the beginning may be in the scrape that was begun with, or in the one after.
        seen.wait_until_quiet()
        asked.ended.clear()

        asked.send(30)
        seen.wait_for(120, timed=120)

        assert [] == [one.problem for one in seen.looks if one.problem]
        assert asked.counts == functools.reduce(Counts.plus, (one.errors for one in seen.looks))
        assert 60 == asked.counts.canary_bad + asked.counts.stable_bad
        slow = functools.reduce(Counts.plus, (one.slow for one in seen.looks))
        assert (0, 0, 120) == (slow.canary_bad, slow.stable_bad, slow.canary + slow.stable)


def test_a_canary_without_pods_is_not_silent(stage: Any, seen: Seen, kubectl: Kubectl) -> None:
    """
    Envoy answers for a track without endpoints. The counters say so: as requests without a track, or as the canary's.
    """
    stage.play("canary-50")
    canary = f"deployment/{RELEASE}-canary"
    kubectl("scale", canary, "--replicas=0")
    try:
        kubectl(
            "wait",
            "pod",
            f"-l=track=canary,app.kubernetes.io/instance={RELEASE}",
            "--for=delete",
            "--timeout=90s",
        )
        few = seen.begin(50, stage.gateway)
        answers = [stage.gateway.ask(api).status for _ in range(20) for api in PLAIN]
        # Envoy's own answers have no time of an upstream.
        seen.wait_for(len(answers), timed=0)
    finally:
        kubectl("scale", canary, "--replicas=1")
        kubectl("rollout", "status", canary, "--timeout=180s")

    failed = sum(status not in ("200", "OK") for status in answers)
    assert failed
    assert failed <= sum(one.errors.canary_bad + one.unnamed for one in seen.looks) <= failed + few
    assert 0 == sum(one.errors.stable_bad for one in seen.looks)
