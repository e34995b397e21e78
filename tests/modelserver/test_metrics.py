import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tfcanary.modelserver import config, protos
from tfcanary.modelserver.metrics import Metrics
from tfcanary.modelserver.status import Code
from tfcanary.modelserver.tensors import to_proto
from tfcanary.wait import NotYet, wait_until

COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda name: name == "m")


def value(page: str, series: str) -> float:
    """
    Read one series of a page; 0 if the page lacks it.
    """
    found = re.search(f"^{re.escape(series)} (.*)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_requests_are_counted_by_model_and_status(metrics: Metrics) -> None:
    for code in (Code.OK, Code.OK, Code.NOT_FOUND):
        metrics.request("m", "Predict", "GRPC", code, 0.001)

    page = metrics.page()
    assert f"# TYPE {COUNT} counter" in page.splitlines()
    assert value(page, f'{COUNT}{{model_name="m",status="OK"}}') == 2
    assert value(page, f'{COUNT}{{model_name="m",status="NOT_FOUND"}}') == 1


def test_only_answers_have_a_latency(metrics: Metrics) -> None:
    """The latency is a histogram of microseconds with the original's limits; each bucket counts the values below it."""
    metrics.request("m", "predict", "REST", Code.OK, 15e-6)
    metrics.request("m", "predict", "REST", Code.OK, 0.5)
    metrics.request("m", "predict", "REST", Code.UNAVAILABLE, 9.0)

    page = metrics.page()
    labels = 'model_name="m",API="predict",entrypoint="REST"'
    limits = ["10", "18", "708235", "+Inf"]
    assert [value(page, f'{LATENCY}_bucket{{{labels},le="{limit}"}}') for limit in limits] == [0, 1, 2, 2]
    assert value(page, f"{LATENCY}_count{{{labels}}}") == 2
    assert value(page, f"{LATENCY}_sum{{{labels}}}") == pytest.approx(500_015)


def test_names_that_clients_make_up_do_not_grow_the_page(metrics: Metrics) -> None:
    for number in range(1000):
        metrics.request(f"made-up-{number}", "Predict", "GRPC", Code.NOT_FOUND, 0.0)

    page = metrics.page()
    assert value(page, f'{COUNT}{{model_name="",status="NOT_FOUND"}}') == 1000
    assert "made-up" not in page


def test_a_models_name_is_escaped() -> None:
    metrics = Metrics(lambda _: True)
    metrics.request('a"b\\c\nd', "Predict", "GRPC", Code.OK, 0.0)

    assert 'model_name="a\\"b\\\\c\\nd"' in metrics.page()


def test_the_server_counts_what_both_apis_answered(server: Any) -> None:
    message = protos.PredictRequest(model_spec={"name": "half"})
    to_proto(np.zeros(1, np.float32), 1, message.inputs["x"])
    series = {
        "grpc": f'{LATENCY}_count{{model_name="half",API="Predict",entrypoint="GRPC"}}',
        "rest": f'{LATENCY}_count{{model_name="half",API="predict",entrypoint="REST"}}',
        "runs": ':tensorflow:serving:runtime_latency_count{model_name="half",API="Predict",runtime="TF1"}',
        "missing": f'{COUNT}{{model_name="",status="NOT_FOUND"}}',
    }
    before = server.rest.get("/metrics").text

    server.predict(message)
    server.rest.post("/v1/models/half:predict", json={"instances": [1.0]})
    server.rest.post("/v1/models/nope:predict", json={"instances": [1.0]})

    after = server.rest.get("/metrics")
    assert after.headers["content-type"] == "text/plain"
    assert {name: value(after.text, key) - value(before, key) for name, key in series.items()} == {
        "grpc": 1,
        "rest": 1,
        "runs": 2,
        "missing": 1,
    }


def test_a_request_whose_deadline_passes_is_counted_as_that(server: Any) -> None:
    """The client stops waiting, and the server is told so, before the run has ended."""
    message = protos.PredictRequest(model_spec={"name": "mixed", "signature_name": "slow"})
    to_proto(np.array(10**9), 9, message.inputs["count"])
    keys = [
        f'{COUNT}{{model_name="mixed",status="{status}"}}' for status in ("DEADLINE_EXCEEDED", "INTERNAL")
    ]
    before = [value(server.rest.get("/metrics").text, key) for key in keys]

    with pytest.raises(grpc.RpcError):
        server.predict(message, timeout=0.3)

    def counted() -> None:
        page = server.rest.get("/metrics").text
        if [value(page, key) - known for key, known in zip(keys, before, strict=True)] != [1, 0]:
            raise NotYet(page)

    wait_until("the request to be counted", counted, timeout_seconds=10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", None, id="nothing"),
        pytest.param("prometheus_config { enable: false path: '/x' }", None, id="off"),
        pytest.param("prometheus_config { enable: true }", "/monitoring/prometheus/metrics", id="default"),
        pytest.param("prometheus_config: { enable: true, path: '/x' }", "/x", id="path"),
    ],
)
def test_the_monitoring_configuration_says_where_the_page_is(
    text: str, expected: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text(text)

    assert config.metrics_path(file) == expected
