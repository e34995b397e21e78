"""
Run requests that wait at the same time as one batch, as TensorFlow Serving's batching session does.

One set of threads serves the queues of all models, versions and signatures. The queues take turns, batch by batch.
Follows tensorflow_serving/batching/batching_session.cc and TensorFlow's shared_batch_scheduler.h.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfcanary.errors import UsageError
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import Array

PER_MODEL_FILE = "batching_params.pbtxt"

Tensors = dict[str, Array]
Run = Callable[[Tensors, float | None], Tensors]


@dataclass(frozen=True, slots=True)
class Parameters:
    """
    The fields of a BatchingParameters message, with the defaults of TensorFlow Serving.

    Attributes:
        max_batch_size: rows in a batch, at most; also rows in a request, unless `split_at` is set.
        timeout_seconds: how long a batch that is not full waits for more rows once a thread is free.
        max_enqueued_batches: batches in the queue, at most; a request that would open one more is refused.
        allowed_batch_sizes: sizes that a batch is padded to, in increasing order; any size if empty.
        pad_variable_length_inputs: whether inputs of different shapes are padded to one shape.
        split_at: rows in a part of a split request, at most; 0 if requests are not split.
    """

    max_batch_size: int = 1000
    timeout_seconds: float = 0.0
    max_enqueued_batches: int = 10
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    split_at: int = 0

    @property
    def rows(self) -> int:
        """
        The largest number of rows that the model runs at once.
        """
        return self.split_at or self.max_batch_size


def parameters(config: Any) -> Parameters:
    """
    Read a BatchingParameters message.

    Raises:
        UsageError: a value is out of range, or two values contradict each other.
    """
    default = Parameters()
    most = _value(config, "max_batch_size", default.max_batch_size)
    splits = config.HasField("enable_large_batch_splitting") and config.enable_large_batch_splitting.value
    result = Parameters(
        max_batch_size=most,
        timeout_seconds=_value(config, "batch_timeout_micros", 0) / 1e6,
        max_enqueued_batches=_value(config, "max_enqueued_batches", default.max_enqueued_batches),
        allowed_batch_sizes=tuple(config.allowed_batch_sizes),
        pad_variable_length_inputs=config.pad_variable_length_inputs,
        split_at=_value(config, "max_execution_batch_size", most) if splits else 0,
    )
    for name, value, least in (
        ("max_batch_size", result.max_batch_size, 1),
        ("batch_timeout_micros", result.timeout_seconds, 0),
        ("max_enqueued_batches", result.max_enqueued_batches, 1),
        ("max_execution_batch_size", result.rows, 1),
    ):
        if value < least:
            raise UsageError(f"batching parameters: {name}: expected {least} or more, got {value}")
    if result.split_at > most:
        raise UsageError(
            f"batching parameters: max_execution_batch_size: expected at most max_batch_size {most}, got {result.split_at}"
        )
    sizes = result.allowed_batch_sizes
    if any(one >= other for one, other in itertools.pairwise(sizes)):
        raise UsageError(
            f"batching parameters: allowed_batch_sizes: expected increasing sizes, got {list(sizes)}"
        )
    if sizes and sizes[-1] != result.rows:
        raise UsageError(
            "batching parameters: Last entry in allowed_batch_sizes must match max_batch_size; "
            f"last entry was {sizes[-1]}; expected {result.rows}"
        )
    return result


def threads(config: Any, default: int) -> int:
    """
    Read how many threads process batches.

    Raises:
        UsageError: fewer than one.
    """
    count = _value(config, "num_batch_threads", default)
    if count < 1:
        raise UsageError(f"batching parameters: num_batch_threads: expected 1 or more, got {count}")
    return count


def _value(config: Any, name: str, default: int) -> int:
    # The numbers are wrapped messages, which tells an absent one from 0.
    return int(getattr(config, name).value) if config.HasField(name) else default


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """
    A request, or a part of a split one: its rows, its caller's deadline, and where its answer goes.
    """

    inputs: Mapping[str, Array]
    rows: int
    began: float
    deadline: float | None
    answer: "Future[Tensors]"


@dataclass(slots=True, eq=False)
class _Batch:
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0
    began: float = 0.0


class Scheduler:
    """
    The threads that process batches.

    Attributes:
        name: the name of the thread pool in the metrics.
        observe: called with the seconds that each request waited.
    """

    def __init__(self, count: int, name: str = "") -> None:
        self.name = name
        self.observe: Callable[[float], None] = lambda _: None
        self._changed = threading.Condition()
        self._queues: deque[Queue] = deque()
        for number in range(count):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def queue(self, chosen: Parameters, run: Run) -> "Queue":
        """
        Add a queue for one signature.

        Args:
            chosen: how its batches are made.
            run: runs a batch; it gets the tensors, and the seconds until the last caller's deadline or None.
        """
        made = Queue(self, chosen, run)
        with self._changed:
            self._queues.append(made)
        return made

    def remove(self, queue: "Queue") -> None:
        """
        Drop a queue that gets no more requests.
        """
        with self._changed:
            self._queues.remove(queue)

    def add(self, queue: "Queue", tasks: Sequence[_Task]) -> None:
        """
        Enqueue all parts of a request, or none of them.

        Raises:
            ServingError: UNAVAILABLE, because the queue is full.
        """
        with self._changed:
            queue.require_room(tasks)
            for task in tasks:
                queue.append(task)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                queue, batch = self._next()
            queue.process(batch, self.observe)
            # The next batch may never come; these tensors must not wait for it.
            del queue, batch

    def _next(self) -> tuple["Queue", _Batch]:
        """
        Wait until a queue has a batch to run; queues take turns.
        """
        while True:
            waits: list[float] = []
            now = time.monotonic()
            for queue in self._queues:
                ready = queue.ready_in(now)
                if ready is not None and ready <= 0:
                    self._queues.remove(queue)
                    self._queues.append(queue)
                    batch = queue.pop()
                    # Another batch may be ready, and all other threads may be waiting.
                    self._changed.notify()
                    return queue, batch
                if ready is not None:
                    waits.append(ready)
            self._changed.wait(min(waits, default=None))


class Queue:
    """
    The requests that wait for one signature of one version.
    """

    def __init__(self, scheduler: Scheduler, chosen: Parameters, run: Run) -> None:
        self._scheduler = scheduler
        self._parameters = chosen
        self._run = run
        self._batches: deque[_Batch] = deque([_Batch()])

    @property
    def waiting_rows(self) -> int:
        """
        How many rows are in the queue and do not run yet.
        """
        return sum(batch.rows for batch in self._batches)

    def ask(self, inputs: Mapping[str, Array], timeout_seconds: float | None = None) -> Tensors:
        """
        Run one request, in a batch with others if any wait.

        Args:
            inputs: tensors of shape (rows, ...), all with the same number of rows.
            timeout_seconds: how long the caller waits; None for as long as it takes.

        Returns:
            the outputs' rows that belong to this request.

        Raises:
            ServingError: the inputs are not rows, or too many; the queue is full; or the run failed.
        """
        rows = _rows(inputs)
        most = self._parameters.max_batch_size
        if rows > most:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {most}")
        now = time.monotonic()
        deadline = None if timeout_seconds is None else now + timeout_seconds
        sizes = self._cut(rows)
        parts = [inputs] if len(sizes) == 1 else _sliced(inputs, sizes)
        tasks = [_Task(part, size, now, deadline, Future()) for part, size in zip(parts, sizes, strict=True)]
        self._scheduler.add(self, tasks)
        answers = [task.answer.result() for task in tasks]
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def close(self) -> None:
        """
        Leave the scheduler; no requests may follow.
        """
        self._scheduler.remove(self)

    def _cut(self, rows: int) -> list[int]:
        most = self._parameters.rows
        whole, rest = divmod(rows, most)
        return [most] * whole + ([rest] if rest or not whole else [])

    def require_room(self, tasks: Sequence[_Task]) -> None:
        """
        Refuse tasks that would make the queue longer than `max_enqueued_batches`.
        """
        batches, rows = len(self._batches), self._batches[-1].rows
        for task in tasks:
            if rows + task.rows > self._parameters.rows:
                batches, rows = batches + 1, 0
            rows += task.rows
        limit = self._parameters.max_enqueued_batches
        if batches > max(limit, len(self._batches)):
            raise ServingError(
                Code.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; "
                f"currently {len(self._batches)} batches enqueued and max_enqueued_batches is {limit}",
            )

    def append(self, task: _Task) -> None:
        """
        Put a task into the last batch, or into a new one if it does not fit.
        """
        if self._batches[-1].rows + task.rows > self._parameters.rows:
            self._batches.append(_Batch())
        last = self._batches[-1]
        if not last.tasks:
            last.began = task.began
        last.tasks.append(task)
        last.rows += task.rows

    def ready_in(self, now: float) -> float | None:
        """
        Seconds until the first batch may run; None if it is empty.
        """
        first = self._batches[0]
        if len(self._batches) > 1 or first.rows >= self._parameters.rows:
            return 0.0
        return first.began + self._parameters.timeout_seconds - now if first.tasks else None

    def pop(self) -> _Batch:
        """
        Remove the first batch from the queue.
        """
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append(_Batch())
        return batch

    def process(self, batch: _Batch, observe: Callable[[float], None]) -> None:
        """
        Run a batch. Each task gets its rows of the outputs, or the error.
        """
        try:
            now = time.monotonic()
            for task in batch.tasks:
                observe(now - task.began)
            outputs = self._run(self._merged(batch), _remaining(batch, now))
            parts = _split(outputs, [task.rows for task in batch.tasks], self._padded(batch.rows))
        except BaseException as error:  # noqa: BLE001 - raised again in each caller that waits
            for task in batch.tasks:
                task.answer.set_exception(error)
            return
        for task, part in zip(batch.tasks, parts, strict=True):
            task.answer.set_result(part)

    def _padded(self, rows: int) -> int:
        return next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)

    def _merged(self, batch: _Batch) -> Tensors:
        padding = self._padded(batch.rows) - batch.rows
        if len(batch.tasks) == 1 and not padding:
            return dict(batch.tasks[0].inputs)
        merged = {}
        for name in batch.tasks[0].inputs:
            arrays = [task.inputs[name] for task in batch.tasks]
            if len({array.shape[1:] for array in arrays}) > 1:
                arrays = self._alike(name, arrays)
            if padding:
                # A copy of a request's row is certainly valid input.
                arrays.append(np.repeat(arrays[-1][:1], padding, axis=0))
            merged[name] = np.concatenate(arrays)
        return merged

    def _alike(self, name: str, arrays: list[Array]) -> list[Array]:
        """
        Pad arrays to their largest shape, each with its own first element.
        """
        if not self._parameters.pad_variable_length_inputs or len({array.ndim for array in arrays}) > 1:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off. "
                "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name "
                "have equal dimensions starting with the first dim.",
            )
        wanted = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
        padded = []
        for array in arrays:
            value = array.flat[0] if array.size else np.zeros(1, array.dtype)[0]
            larger = np.full((len(array), *wanted), value, dtype=array.dtype)
            larger[tuple(slice(size) for size in array.shape)] = array
            padded.append(larger)
        return padded


def _rows(inputs: Mapping[str, Array]) -> int:
    sizes = set()
    for array in inputs.values():
        if array.ndim == 0:
            raise invalid("Batching Run() input tensors must have at least one dimension")
        sizes.add(len(array))
    if not sizes:
        raise invalid("Batching Run() must have at least one input tensor")
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return int(sizes.pop())


def _remaining(batch: _Batch, now: float) -> float | None:
    """
    Seconds until the last deadline in a batch; None if a caller has no deadline.
    """
    deadlines = [task.deadline for task in batch.tasks if task.deadline is not None]
    if len(deadlines) < len(batch.tasks):
        return None
    remaining = max(deadlines) - now
    if remaining <= 0:
        raise ServingError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
    return remaining


def _split(outputs: Tensors, rows: Sequence[int], total: int) -> list[Tensors]:
    for array in outputs.values():
        if array.ndim == 0:
            raise ServingError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if len(array) != total:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes "
                "of the input tensors",
            )
    return _sliced(outputs, rows)


def _sliced(tensors: Mapping[str, Array], sizes: Sequence[int]) -> list[Tensors]:
    """
    Cut tensors along their first dimension into parts of these sizes.
    """
    starts = itertools.accumulate(sizes, initial=0)
    return [
        {name: array[start : start + size] for name, array in tensors.items()}
        for size, start in zip(sizes, starts, strict=False)
    ]
