"""
What the gateway's counters say of two tracks, and when they say nothing.
"""

import pytest

from tfcanary.errors import NoEvidenceError, UsageError
from tfcanary.judge.counts import Counts
from tfcanary.metrics.gateway import Counted, EnvoyMetrics, IstioMetrics
from tfcanary.metrics.prometheus import Series
from tfcanary.metrics.scrapes import Scrapes

ISTIO = IstioMetrics(Counted("resnet", "models"))
LIMITED = IstioMetrics(Counted("resnet", "models", slow=0.25))
REQUESTS = "istio_requests_total"


def scraped(at, total, *, track="canary", code="200", grpc="", instance="gateway-1", metric=REQUESTS, le=""):
    labels = {
        "__name__": metric,
        "instance": instance,
        "job": "gateway",
        "destination_workload": track if track == "unknown" else f"resnet-{track}",
        "response_code": code,
    }
    if grpc:
        labels["grpc_response_status"] = grpc
    if le:
        labels["le"] = le
    return Series(labels, [(at - 15, 0), (at, total)])


def looks(*scrapes, metrics=ISTIO, weight=10.0, since=0.0, stale=120.0):
    """
    The look after each scrape of (time, series).
    """
    counters = Scrapes(metrics, stale=stale)
    return [counters.look(series, weight=weight, since=since, now=now) for now, series in scrapes]


def test_the_difference_of_two_scrapes_is_counted_and_not_the_total():
    first = [scraped(100, 1000), scraped(100, 9000, track="stable")]
    second = [scraped(115, 1010), scraped(115, 9090, track="stable")]

    nothing, look = looks((100, first), (115, second))

    assert nothing is None
    assert (115, 10) == (look.at, look.weight)
    assert Counts(canary_good=10, stable_good=90) == look.errors
    assert (10, 90) == look.routed


@pytest.mark.parametrize(
    ("code", "grpc", "expected"),
    [
        ("500", "", Counts(canary_bad=3)),
        ("404", "", Counts(canary_bad=3)),
        ("0", "", Counts(canary_bad=3)),
        ("200", "0", Counts(canary_good=3)),
        ("200", "5", Counts(canary_bad=3)),
        ("200", "14", Counts(canary_bad=3)),
        ("401", "", Counts()),
        ("200", "16", Counts()),
    ],
)
def test_whose_fault_a_status_is(code, grpc, expected):
    """
    A new series begins at 0: the first 500 of a process that was scraped before is one failure, not none.
    """
    healthy = scraped(100, 50)
    _, look = looks((100, [healthy]), (115, [scraped(115, 50), scraped(115, 3, code=code, grpc=grpc)]))

    assert expected == look.errors
    assert (3, 0) == look.routed


def test_slow_answers_are_those_beyond_the_bucket():
    def of(at, below, every):
        bucket, count = (
            "istio_request_duration_milliseconds_bucket",
            "istio_request_duration_milliseconds_count",
        )
        return [
            scraped(at, every),
            scraped(at, below, metric=bucket, le="250"),
            scraped(at, every, metric=count),
        ]

    _, look = looks((100, of(100, 40, 50)), (115, of(115, 47, 60)), metrics=LIMITED)

    assert Counts(canary_bad=3, canary_good=7) == look.slow
    assert 'le=~"|250"' in LIMITED.selector


def test_requests_that_no_pod_took_are_unnamed():
    """
    With no endpoint Envoy answers 503 by itself and names no workload: whose failure it was is not known.
    """
    before = scraped(100, 0, track="unknown", code="503")

    _, look = looks((100, [before]), (115, [scraped(115, 7, track="unknown", code="503")]))

    assert 7 == look.unnamed
    assert Counts() == look.errors


@pytest.mark.parametrize(
    ("second", "said"),
    [
        pytest.param([scraped(115, 5)], "reset, from 50 to 5", id="restarted"),
        pytest.param([scraped(115, float("nan"))], "expected a finite total", id="nan"),
        pytest.param([scraped(115, 7, code="503")], "expected the counters", id="counter-gone"),
        pytest.param([], "no scrape since 100 s", id="target-gone"),
    ],
)
def test_what_is_not_known_is_said_and_counts_for_nothing(second, said):
    _, look = looks((100, [scraped(100, 50)]), (115, second))

    assert said in look.problem
    assert "gateway gateway-1: " in look.problem
    assert Counts() == look.errors


def test_after_a_restart_it_goes_on_from_the_new_total():
    *_, look = looks((100, [scraped(100, 50)]), (115, [scraped(115, 5)]), (130, [scraped(130, 9)]))

    assert Counts(canary_good=4) == look.errors


def test_no_new_scrape_is_no_look_and_a_long_silence_is_a_problem():
    same = [scraped(100, 50)]

    _, between, late = looks((100, same), (105, same), (221, same))

    assert between is None
    assert "no scrape since 100 s" in late.problem


def test_two_gateway_pods_are_compared_each_with_itself():
    """
    A pod that is new, or was missed, begins when it is first scraped.
    """
    first = [scraped(100, 50)]
    second = [scraped(115, 60), scraped(112, 1000, instance="gateway-2")]
    third = [scraped(130, 61), scraped(127, 1004, instance="gateway-2", code="200")]

    _, one, both = looks((100, first), (115, second), (130, third))

    assert Counts(canary_good=10) == one.errors
    assert Counts(canary_good=5) == both.errors


def test_a_scrape_across_a_change_of_weight_belongs_to_neither():
    counters = Scrapes(ISTIO)

    def look(at, total, weight, since):
        return counters.look([scraped(at, total)], weight=weight, since=since, now=at)

    assert look(100, 50, 10.0, 0.0) is None
    assert look(115, 60, 10.0, 0.0).errors == Counts(canary_good=10)
    # The weight changed at 120 s, and every gateway pod had it at 125 s.
    assert look(130, 90, 30.0, 125.0) is None
    found = look(145, 95, 30.0, 125.0)
    assert (30.0, Counts(canary_good=5)) == (found.weight, found.errors)


def test_a_scrape_from_before_the_change_is_not_begun_from():
    """
    The routes were at every pod at 125 s, and the newest scrape is of 120 s.
    """
    counters = Scrapes(ISTIO)
    assert counters.look([scraped(120, 50)], weight=30.0, since=125.0, now=126) is None
    assert counters.look([scraped(135, 80)], weight=30.0, since=125.0, now=136) is None
    assert counters.look([scraped(150, 81)], weight=30.0, since=125.0, now=151).errors == Counts(
        canary_good=1
    )


def test_a_limit_that_envoy_does_not_count_is_refused():
    with pytest.raises(
        UsageError, match=r"slow: expected a limit that Envoy counts, such as 0\.25 s, got 0\.3 s"
    ):
        Counted("resnet", "models", slow=0.3)


class Empty:
    """
    A Prometheus without series.
    """

    asked = ""

    def samples(self, selector, **_):  # noqa: D102
        self.asked = selector
        return []


def test_no_series_at_all_is_named():
    prometheus = Empty()

    with pytest.raises(NoEvidenceError, match="got none; does it scrape the gateway's pods"):
        Scrapes(ISTIO).ask(prometheus, weight=0, since=0, now=1)

    assert (
        f'{{__name__=~"{REQUESTS}", reporter="source", destination_service_name="resnet", '
        'destination_service_namespace="models", le=~"|"}'
    ) == prometheus.asked


def of_cluster(at, total, *, name="upstream_rq", port=8501, subset="canary", **labels):
    labels = {
        "__name__": f"envoy_cluster_{name}",
        "instance": "gateway-1",
        "cluster_name": f"outbound|{port}|{subset}|resnet.models.svc.cluster.local",
        **labels,
    }
    return Series(labels, [(at, total)])


@pytest.mark.parametrize(
    ("series", "errors", "slow"),
    [
        pytest.param({"response_code": "200"}, Counts(canary_good=4), Counts(), id="REST-200"),
        pytest.param({"response_code": "503"}, Counts(canary_bad=4), Counts(), id="REST-503"),
        pytest.param({"response_code_class": "5xx"}, None, None, id="REST-class"),
        pytest.param({"response_code": "200", "port": 8500}, None, None, id="gRPC-http-status"),
        pytest.param({"name": "grpc_0", "port": 8500}, Counts(canary_good=4), Counts(), id="gRPC-0"),
        pytest.param({"name": "grpc_14", "port": 8500}, Counts(canary_bad=4), Counts(), id="gRPC-14"),
        pytest.param({"name": "grpc_16", "port": 8500}, Counts(), Counts(), id="gRPC-client"),
        pytest.param({"name": "grpc_total", "port": 8500}, None, None, id="gRPC-total"),
        pytest.param(
            {"response_code": "200", "subset": "stable"}, Counts(stable_good=4), Counts(), id="stable"
        ),
        pytest.param({"response_code": "200", "subset": ""}, None, None, id="no-subset"),
    ],
)
def test_envoys_own_counters_are_read_by_cluster(series, errors, slow):
    """
    One cluster is one subset and port, which name the track and the API.
    """
    metrics = EnvoyMetrics(Counted("resnet", "models"))
    base = {"response_code": "201"}

    _, look = looks(
        (100, [of_cluster(100, 0, **base), of_cluster(100, 1, **series)]),
        (115, [of_cluster(115, 0, **base), of_cluster(115, 5, **series)]),
        metrics=metrics,
    )

    assert errors == (look and look.errors)
    assert slow == (look and look.slow)
