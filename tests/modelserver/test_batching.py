"""
Batches: which requests they hold, when they run, and what the model sees of them.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from tfcanary.errors import UsageError
from tfcanary.modelserver import batching
from tfcanary.modelserver.status import Code, ServingError
from tfcanary.modelserver.unpublished import BatchingParameters
from tfcanary.wait import NotYet, wait_until

NEVER = 3600.0  # seconds, longer than any test


class Model:
    """
    Doubles its input as soon as it may run, and records every batch.
    """

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.timeouts: list[float | None] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.runs = threading.Semaphore(0)

    def __call__(self, feeds: dict[str, Any], timeout_seconds: float | None) -> dict[str, Any]:
        """
        Run a batch, as a session does.
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
    Wait until a queue has this number of rows.
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
    made = queue(max_batch_size=4, timeout_seconds=NEVER)

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
    made = queue(max_batch_size=2, timeout_seconds=NEVER, pad_variable_length_inputs=True)

    assert answers(both(made, ask)) == [[[2.0, 2.0]], [[4.0, 6.0]]]
    assert model.batches == [[[1.0, 1.0], [2.0, 3.0]]]


def test_inputs_of_different_shapes_are_refused_without_padding(queue: Made, ask: Any) -> None:
    asked = both(queue(max_batch_size=2, timeout_seconds=NEVER), ask)

    errors = [future.exception(30) for future in asked]

    assert [error.code for error in errors] == [Code.FAILED_PRECONDITION] * 2
    assert "have different shapes and padding is turned off" in errors[0].message


def test_an_error_reaches_everyone_in_the_batch_and_the_next_one_runs(queue: Made, ask: Any) -> None:
    def run(feeds: dict[str, Any], _: Any) -> dict[str, Any]:
        if feeds["x"][0] < 0:
            raise ServingError(Code.INTERNAL, "broken")
        return {"y": feeds["x"]}

    made = queue(run=run, max_batch_size=2, timeout_seconds=NEVER)
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
    made = queue(max_batch_size=2, timeout_seconds=NEVER)
    asked = [ask(made, 1.0, timeout_seconds=50.0)]
    waiting(made, 1)
    asked.append(ask(made, 2.0, timeout_seconds=100.0))
    answers(asked)
    answers([ask(made, 1.0, 2.0)])

    assert 50 < (model.timeouts[0] or 0) <= 100
    assert model.timeouts[1] is None


def test_a_request_that_waits_past_its_deadline_gets_an_error(model: Model, queue: Made, ask: Any) -> None:
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
    """The first batch of a short queue runs before the last one of a long queue."""
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
