"""
Batches: of what they are made, when they run, and what the model sees of them.
"""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import text_format

from tfcanary.errors import UsageError
from tfcanary.modelserver import batching, protos
from tfcanary.modelserver.status import Code, ServingError
from tfcanary.modelserver.tensors import to_proto
from tfcanary.modelserver.unpublished import BatchingParameters
from tfcanary.wait import NotYet, wait_until

FOR_EVER = 3600.0


class Model:
    """
    Doubles what it gets, once it may, and remembers what that was.
    """

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.timeouts: list[float | None] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.runs = threading.Semaphore(0)

    def __call__(self, feeds: dict[str, Any], timeout_seconds: float | None) -> dict[str, Any]:
        """
        As a session.
        """
        self.batches.append(feeds["x"].tolist())
        self.timeouts.append(timeout_seconds)
        self.runs.release()
        assert self.may_run.wait(30)
        return {"y": feeds["x"] * 2}


@pytest.fixture
def model() -> Model:
    return Model()


Made = Callable[..., batching.Queue]


@pytest.fixture
def queue(model: Model) -> Made:
    def make(threads: int = 1, run: Any = model, **parameters: Any) -> batching.Queue:
        return batching.Scheduler(threads).queue(batching.Parameters(**parameters), run)

    return make


@pytest.fixture
def ask() -> Any:
    with ThreadPoolExecutor(32) as pool:
        yield lambda queue, *rows, **more: pool.submit(
            queue.ask, {"x": np.array(rows, dtype=np.float32)}, **more
        )


def waiting(queue: batching.Queue, rows: int) -> None:
    """
    Wait until so many rows are in a queue.
    """

    def probe() -> None:
        if queue.waiting_rows != rows:
            raise NotYet(f"{queue.waiting_rows} rows")

    wait_until("the requests to be enqueued", probe, timeout_seconds=10, interval_seconds=0.001)


def answers(futures: list[Any]) -> list[Any]:
    return [future.result(30)["y"].tolist() for future in futures]


def test_requests_that_wait_together_run_as_one_batch_and_each_gets_its_rows(
    model: Model, queue: Made, ask: Any
) -> None:
    made = queue(max_batch_size=4, timeout_seconds=FOR_EVER)

    asked = [ask(made, 1.0)]
    waiting(made, 1)
    asked += [ask(made, 2.0, 3.0)]
    waiting(made, 3)
    asked += [ask(made, 4.0)]

    assert answers(asked) == [[2.0], [4.0, 6.0], [8.0]]
    assert model.batches == [[1.0, 2.0, 3.0, 4.0]]


def test_a_batch_that_is_not_full_runs_after_the_timeout(model: Model, queue: Made, ask: Any) -> None:
    made = queue(max_batch_size=4, timeout_seconds=0.01)

    assert answers([ask(made, 1.0)]) == [[2.0]]
    assert model.batches == [[1.0]]


def test_while_the_threads_are_busy_a_batch_grows_whatever_the_timeout(
    model: Model, queue: Made, ask: Any
) -> None:
    model.may_run.clear()
    made = queue(max_batch_size=8)
    asked = [ask(made, 0.0)]
    assert model.runs.acquire(timeout=10)

    asked += [ask(made, float(number)) for number in (1, 2, 3)]
    waiting(made, 3)
    model.may_run.set()

    assert answers(asked) == [[0.0], [2.0], [4.0], [6.0]]
    assert [sorted(batch) for batch in model.batches] == [[0.0], [1.0, 2.0, 3.0]]


def test_what_does_not_fit_opens_the_next_batch(model: Model, queue: Made, ask: Any) -> None:
    model.may_run.clear()
    made = queue(max_batch_size=2)
    asked = [ask(made, 0.0)]
    assert model.runs.acquire(timeout=10)
    for rows, sent in ((1, [1.0]), (3, [2.0, 3.0])):
        asked.append(ask(made, *sent))
        waiting(made, rows)
    model.may_run.set()

    assert answers(asked) == [[0.0], [2.0], [4.0, 6.0]]
    assert model.batches == [[0.0], [1.0], [2.0, 3.0]]


def test_a_full_queue_refuses_and_the_others_are_served(model: Model, queue: Made, ask: Any) -> None:
    model.may_run.clear()
    made = queue(max_batch_size=1, max_enqueued_batches=2)
    asked = [ask(made, 0.0)]
    assert model.runs.acquire(timeout=10)
    for rows in (1, 2):
        asked.append(ask(made, float(rows)))
        waiting(made, rows)

    with pytest.raises(ServingError, match="submitted is full; currently 2 batches enqueued") as refused:
        made.ask({"x": np.zeros(1, np.float32)})
    model.may_run.set()

    assert refused.value.code == Code.UNAVAILABLE
    assert answers(asked) == [[0.0], [2.0], [4.0]]


def test_a_request_larger_than_a_batch_is_invalid(queue: Made) -> None:
    with pytest.raises(
        ServingError, match="Task size 3 is larger than maximum input batch size 2"
    ) as refused:
        queue(max_batch_size=2).ask({"x": np.zeros(3, np.float32)})

    assert refused.value.code == Code.INVALID_ARGUMENT


def test_a_large_request_is_split_if_asked_for(model: Model, queue: Made, ask: Any) -> None:
    made = queue(max_batch_size=5, split_at=2, timeout_seconds=0.01)

    assert answers([ask(made, 1.0, 2.0, 3.0, 4.0, 5.0)]) == [[2.0, 4.0, 6.0, 8.0, 10.0]]
    assert model.batches == [[1.0, 2.0], [3.0, 4.0], [5.0]]


def test_a_batch_is_padded_to_an_allowed_size(model: Model, queue: Made, ask: Any) -> None:
    made = queue(max_batch_size=8, allowed_batch_sizes=(2, 4, 8))

    assert answers([ask(made, 7.0, 8.0, 9.0)]) == [[14.0, 16.0, 18.0]]
    assert model.batches == [[7.0, 8.0, 9.0, 7.0]]


def both(queue: batching.Queue, ask: Any) -> list[Any]:
    asked = [ask(queue, [1.0])]
    waiting(queue, 1)
    return [*asked, ask(queue, [2.0, 3.0])]


def test_inputs_of_different_shapes_are_padded_with_their_first_element(
    model: Model, queue: Made, ask: Any
) -> None:
    made = queue(max_batch_size=2, timeout_seconds=FOR_EVER, pad_variable_length_inputs=True)

    assert answers(both(made, ask)) == [[[2.0, 2.0]], [[4.0, 6.0]]]
    assert model.batches == [[[1.0, 1.0], [2.0, 3.0]]]


def test_inputs_of_different_shapes_are_refused_without_padding(queue: Made, ask: Any) -> None:
    asked = both(queue(max_batch_size=2, timeout_seconds=FOR_EVER), ask)

    errors = [future.exception(30) for future in asked]

    assert [error.code for error in errors] == [Code.FAILED_PRECONDITION] * 2
    assert "have different shapes and padding is turned off" in errors[0].message


def test_an_error_reaches_everyone_in_the_batch_and_the_next_one_runs(queue: Made, ask: Any) -> None:
    def run(feeds: dict[str, Any], _: Any) -> dict[str, Any]:
        if feeds["x"][0] < 0:
            raise ServingError(Code.INTERNAL, "broken")
        return {"y": feeds["x"]}

    made = queue(run=run, max_batch_size=2, timeout_seconds=FOR_EVER)
    asked = [ask(made, -1.0)]
    waiting(made, 1)
    asked.append(ask(made, -2.0))

    assert [str(future.exception(30)) for future in asked] == ["broken", "broken"]
    assert answers([ask(made, 1.0, 2.0)]) == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        pytest.param((), "Batched output tensor has 0 dimensions", id="scalar"),
        pytest.param((3,), "does not equal the sum of the 0th dimension sizes", id="other-size"),
    ],
)
def test_an_output_that_is_no_batch_is_a_failed_precondition(
    queue: Made, shape: tuple[int, ...], message: str
) -> None:
    made = queue(run=lambda *_: {"y": np.zeros(shape)})

    with pytest.raises(ServingError, match=message) as refused:
        made.ask({"x": np.zeros(2)})

    assert refused.value.code == Code.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param({"x": np.zeros(())}, "must have at least one dimension", id="scalar"),
        pytest.param(
            {"x": np.zeros(1), "z": np.zeros(2)}, "must have equal 0th-dimension size", id="unequal"
        ),
        pytest.param({}, "at least one input tensor", id="none"),
    ],
)
def test_an_input_that_is_no_batch_is_invalid(queue: Made, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError, match=message) as refused:
        queue().ask(inputs)

    assert refused.value.code == Code.INVALID_ARGUMENT


def test_a_batch_runs_as_long_as_its_most_patient_caller_waits(model: Model, queue: Made, ask: Any) -> None:
    made = queue(max_batch_size=2, timeout_seconds=FOR_EVER)
    asked = [ask(made, 1.0, timeout_seconds=50.0)]
    waiting(made, 1)
    asked.append(ask(made, 2.0, timeout_seconds=100.0))
    answers(asked)
    answers([ask(made, 1.0, 2.0)])

    assert 50 < (model.timeouts[0] or 0) <= 100
    assert model.timeouts[1] is None


def test_who_waited_in_vain_is_told_so(model: Model, queue: Made, ask: Any) -> None:
    model.may_run.clear()
    made = queue(max_batch_size=1)
    first = ask(made, 0.0)
    assert model.runs.acquire(timeout=10)
    late = ask(made, 1.0, timeout_seconds=1e-9)
    waiting(made, 1)
    model.may_run.set()

    error = late.exception(30)
    assert (error.code, error.message) == (
        Code.RESOURCE_EXHAUSTED,
        "Run() timeout exceeded while waiting in batching queue",
    )
    assert answers([first]) == [[0.0]]


def test_queues_take_turns(model: Model, ask: Any) -> None:
    """However long one is, the other's first batch is not last."""
    scheduler = batching.Scheduler(1)
    order: list[str] = []

    def named(name: str) -> Any:
        def run(feeds: dict[str, Any], timeout: float | None) -> dict[str, Any]:
            order.append(name)
            return model(feeds, timeout)

        return run

    long, short = (
        scheduler.queue(batching.Parameters(max_batch_size=1), named(name)) for name in ("long", "short")
    )
    model.may_run.clear()
    asked = [ask(long, 0.0)]
    assert model.runs.acquire(timeout=10)
    asked += [ask(long, float(number)) for number in range(4)]
    waiting(long, 4)
    asked.append(ask(short, 9.0))
    waiting(short, 1)
    model.may_run.set()
    answers(asked)

    assert "short" in order[:3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("max_batch_size { value: 0 }", "max_batch_size: expected 1 or more, got 0", id="size"),
        pytest.param("max_enqueued_batches { value: 0 }", "max_enqueued_batches: expected 1", id="enqueued"),
        pytest.param("batch_timeout_micros { value: -1 }", "batch_timeout_micros: expected 0", id="timeout"),
        pytest.param("allowed_batch_sizes: [4, 2, 1000]", "expected increasing sizes", id="order"),
        pytest.param("allowed_batch_sizes: [2, 4]", "last entry was 4; expected 1000", id="last"),
        pytest.param(
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true }"
            " max_execution_batch_size { value: 9 }",
            "max_execution_batch_size: expected at most max_batch_size 8, got 9",
            id="execution",
        ),
    ],
)
def test_parameters_that_cannot_be_right_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        batching.parameters(text_format.Parse(text, BatchingParameters()))


def test_without_parameters_the_originals_defaults_hold() -> None:
    assert batching.parameters(BatchingParameters()) == batching.Parameters(
        max_batch_size=1000, timeout_seconds=0.0, max_enqueued_batches=10
    )


# The server


def served(tmp_path: Path, models: Path, parameters: str, *flags: str) -> list[str]:
    """
    The flags of a server that makes batches.
    """
    file = tmp_path / "batching.config"
    file.write_text(parameters)
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    return [
        f"--model_base_path={models}/mixed",
        "--model_name=mixed",
        "--file_system_poll_wait_seconds=0",
        "--grpc_max_threads=16",
        "--enable_batching",
        f"--batching_parameters_file={file}",
        f"--monitoring_config_file={monitoring}",
        *flags,
    ]


def sizes(*rows: list[float]) -> Any:
    request = protos.PredictRequest(model_spec={"name": "mixed", "signature_name": "sizes"})
    to_proto(np.array(rows, dtype=np.float32), 1, request.inputs["x"])
    return request


def test_requests_of_both_apis_run_as_one_batch(open_server: Any, models: Path, tmp_path: Path) -> None:
    """The batch is full with the eighth request, and without it waits for longer than the test."""
    parameters = """
        max_batch_size { value: 8 } batch_timeout_micros { value: 600000000 }
        thread_pool_name { value: "pool" }
    """
    server = open_server("/v1/models/mixed/metadata", *served(tmp_path, models, parameters))

    def over_grpc(number: int) -> list[Any]:
        answer = server.predict(sizes([float(number), 1.0]))
        return [list(answer.outputs["rows"].int_val), list(answer.outputs["sum"].float_val)]

    def over_rest(number: int) -> list[Any]:
        body = {"signature_name": "sizes", "inputs": [[float(number), 1.0]]}
        answer = server.rest.post("/v1/models/mixed:predict", json=body)
        assert answer.status_code == 200, answer.text
        return [answer.json()["outputs"]["rows"], answer.json()["outputs"]["sum"]]

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for ask in (over_grpc, over_rest) for number in range(4)]
        got = [future.result(60) for future in asked]

    assert got == [[[8], [number + 1.0]] for _ in range(2) for number in range(4)]
    page = server.rest.get("/monitoring/prometheus/metrics").text
    assert ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name="pool"} 8' in page


def test_the_model_sees_the_padding_and_the_client_does_not(
    open_server: Any, models: Path, tmp_path: Path
) -> None:
    parameters = "max_batch_size { value: 8 } allowed_batch_sizes: [4, 8]"
    server = open_server("/v1/models/mixed/metadata", *served(tmp_path, models, parameters))

    answer = server.predict(sizes([1.0], [2.0]))

    assert list(answer.outputs["rows"].int_val) == [4, 4]
    assert list(answer.outputs["sum"].float_val) == [1.0, 2.0]


def test_what_cannot_be_a_batch_is_invalid_over_grpc(open_server: Any, models: Path, tmp_path: Path) -> None:
    server = open_server("/v1/models/mixed/metadata", *served(tmp_path, models, ""))
    request = protos.PredictRequest(model_spec={"name": "mixed", "signature_name": "scalar"})
    to_proto(np.float32(1), 1, request.inputs["x"])

    with pytest.raises(grpc.RpcError) as caught:
        server.predict(request)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "must have at least one dimension" in caught.value.details()


def test_a_versions_own_parameters_go_before_the_servers(
    open_server: Any, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "mixed" / "7", tmp_path / "mixed" / "7")
    (tmp_path / "mixed" / "7" / "batching_params.pbtxt").write_text(
        "max_batch_size { value: 4 } allowed_batch_sizes: 4"
    )
    server = open_server(
        "/v1/models/mixed/metadata",
        *served(tmp_path, tmp_path, "max_batch_size { value: 2 }", "--enable_per_model_batching_parameters"),
    )

    assert list(server.predict(sizes([1.0], [2.0], [3.0])).outputs["rows"].int_val) == [4] * 3


def test_without_parameters_of_its_own_a_version_then_runs_one_by_one(
    open_server: Any, models: Path, tmp_path: Path
) -> None:
    server = open_server(
        "/v1/models/mixed/metadata",
        *served(tmp_path, models, "allowed_batch_sizes: 1000", "--enable_per_model_batching_parameters"),
    )

    assert list(server.predict(sizes([1.0])).outputs["rows"].int_val) == [1]
