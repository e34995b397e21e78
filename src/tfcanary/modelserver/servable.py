"""
One loaded version of one model: its signatures, its requests, and its warm-up.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from google.protobuf import json_format

from tfcanary.errors import UsageError
from tfcanary.modelserver import batching, config, examples, graph, protos, signatures, tflite, unpublished
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import Array
from tfcanary.protos import runtime

DEFAULT_SIGNATURE = "serving_default"
# As VerifySignature() in tensorflow_serving/servables/tensorflow/predict_util.cc.
_PREDICTABLE = {
    "tensorflow/serving/predict",
    "tensorflow/serving/classify",
    "tensorflow/serving/regress",
}
_WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_MAX_WARMUP_RECORDS = 1000
# A scheduler looks at every queue before each batch, and a client can ask for any set of outputs.
_MOST_QUEUES = 256
_WARMUP_TENSOR_BYTES = 1 << 31  # records come with the model, not from a client, and may be large


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """
    How models are loaded, as the command line says.

    Attributes:
        tags: the tags of the SavedModel's graph to load.
        intra_op_threads: threads within an operation; 0 for one per processor.
        inter_op_threads: operations that run at the same time; 0 for one per processor.
        warmup: whether to replay the model's warm-up records.
        warmup_iterations: how many times each record is replayed.
        check_method_names: whether a signature serves only the method that it was exported for.
        session_config: a ConfigProto; the two thread counts override it.
        prefer_tflite: whether a version's model.tflite is loaded instead of its saved_model.pb.
        tflite_interpreters: requests to a TensorFlow Lite model that run at the same time.
        scheduler: runs requests in batches; None runs them one by one.
        batches: how batches are made; None reads it from each version's batching_params.pbtxt.
    """

    tags: tuple[str, ...] = ("serve",)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    warmup: bool = True
    warmup_iterations: int = 1
    check_method_names: bool = False
    session_config: Any = None
    prefer_tflite: bool = False
    tflite_interpreters: int = 1
    scheduler: batching.Scheduler | None = None
    batches: batching.Parameters | None = None


class Model(Protocol):
    """
    A model that runs: a TensorFlow graph or a TensorFlow Lite model.

    Attributes:
        signatures: the model's SignatureDefs, by name.
    """

    signatures: dict[str, Any]

    def run(
        self, fetches: Sequence[str], feeds: Mapping[str, Array], timeout_seconds: float | None
    ) -> dict[str, Array]:
        """
        Run the model for some of its outputs.

        Args:
            fetches: the names of the tensors to compute; nothing that they do not need is run.
            feeds: for each input tensor's name, its value, of any shape that the model's operations take.
            timeout_seconds: the run ends with DEADLINE_EXCEEDED after this time; None for no limit.

        Returns:
            the fetched tensors, by name.

        Raises:
            ServingError: the inputs do not fit, the run failed, or the deadline passed.
        """

    def close(self) -> None:
        """
        Release the model's memory and threads.
        """


class Servable:
    """
    A loaded version, and how many requests use it.

    Attributes:
        name: the model's name.
        version: the version's number.
        signatures: the model's SignatureDefs, by name.
        metadata_message: the serialised GetModelMetadataResponse, made once because health probes ask for it often.
        metadata_json: the REST API's answer to the same question.
        check_method_names: as in `LoadOptions`.

    Raises:
        ServingError: the model does not load, or a warm-up record fails.
    """

    def __init__(self, name: str, version: int, path: Path, options: LoadOptions) -> None:
        self.name = name
        self.version = version
        self.check_method_names = options.check_method_names
        self._idle = threading.Condition()
        self._users = 0
        self._closing = False
        self._model: Model = _load(path, options)
        self._batches: _Batches | None = None
        try:
            self.signatures = self._model.signatures
            self.metadata_message, self.metadata_json = _metadata(name, version, self.signatures)
            chosen = options.batches or (_own_batching(path) if options.scheduler else None)
            if options.scheduler is not None and chosen is not None:
                self._batches = _Batches(self._model, options.scheduler, chosen)
            if options.warmup:
                self._warm_up(path / _WARMUP_FILE, options.warmup_iterations)
        except BaseException:
            self._close()
            raise

    def acquire(self) -> bool:
        """
        Keep the version loaded for one request.

        Returns:
            False if the version is being unloaded and takes no more requests.
        """
        with self._idle:
            if self._closing:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """
        End one `acquire`.
        """
        with self._idle:
            self._users -= 1
            if not self._users:
                self._idle.notify_all()

    def close(self) -> None:
        """
        Wait until no request uses the version, then unload it.
        """
        with self._idle:
            self._closing = True
            self._idle.wait_for(lambda: not self._users)
        self._close()

    def _close(self) -> None:
        if self._batches is not None:
            self._batches.close()
        self._model.close()

    def predict(
        self,
        signature: Any,
        inputs: Mapping[str, Array],
        output_filter: Sequence[str] = (),
        timeout_seconds: float | None = None,
    ) -> dict[str, Array]:
        """
        Run one signature.

        Args:
            signature: one of `signatures`.
            inputs: tensors by alias, of any shape that the model's operations take.
            output_filter: the aliases of the outputs to return; all if empty.
            timeout_seconds: the run ends with DEADLINE_EXCEEDED after this time; None for no limit.

        Returns:
            the outputs, by alias.

        Raises:
            ServingError: the filter does not fit the signature, the graph refuses the inputs, or the run failed.
        """
        wanted = signatures.outputs_of(signature, output_filter)
        if timeout_seconds is not None and timeout_seconds <= 0:
            raise ServingError(Code.DEADLINE_EXCEEDED, "the deadline passed before the model ran")
        feeds = {signature.inputs[alias].name: array for alias, array in inputs.items()}
        fetches = sorted(set(wanted.values()))
        run = self._model.run if self._batches is None else self._batches.run
        found = run(fetches, feeds, timeout_seconds)
        return {alias: found[tensor] for alias, tensor in wanted.items()}

    def _warm_up(self, path: Path, iterations: int) -> None:
        """
        Replay the recorded requests. A record that fails makes the load fail, as in TensorFlow Serving.
        """
        if not path.is_file():
            return
        count = 0
        try:
            for count, record in enumerate(runtime().records.tf_record_iterator(str(path)), start=1):
                if count > _MAX_WARMUP_RECORDS:
                    raise invalid(
                        f"Number of warmup records exceeds the maximum ({_MAX_WARMUP_RECORDS}) at {path}"
                    )
                for _ in range(iterations):
                    self._replay(record, path)
        except runtime().errors.OpError as error:
            raise ServingError(
                Code(error.error_code),
                f"{error.message}. Please verify your warmup data is in TFRecord format. ({path}, record {count + 1})",
            ) from error

    def _replay(self, record: bytes, path: Path) -> None:
        try:
            entry = protos.PredictionLog.FromString(record)
        except Exception as error:  # protobuf's DecodeError has moved between releases
            raise invalid(f"Failed to parse warmup record from {path}") from error
        kind = entry.WhichOneof("log_type")
        if kind in {"classify_log", "regress_log", "multi_inference_log"}:
            request = getattr(entry, kind).request
            tasks = {
                "classify_log": [(request, examples.CLASSIFY)],
                "regress_log": [(request, examples.REGRESS)],
            }.get(kind) or [(task, task.method_name) for task in request.tasks]
            for task, method in tasks:
                name = task.model_spec.signature_name or DEFAULT_SIGNATURE
                examples.ask(self, name, method, request.input, limit=_WARMUP_TENSOR_BYTES)
            return
        if kind != "predict_log":
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}, in {path}")
        request = entry.predict_log.request
        signature = self.signature(request.model_spec.signature_name)
        inputs = signatures.inputs_of(signature, request.inputs, _WARMUP_TENSOR_BYTES)
        self.predict(signature, inputs, list(request.output_filter))

    def signature(self, name: str) -> Any:
        """
        Find a signature by name; the empty name means the default signature.

        Raises:
            ServingError: there is none, or its method is not one that predict may run.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        signature = self.signatures[name]
        if self.check_method_names and signature.method_name not in _PREDICTABLE:
            raise ServingError(
                Code.INTERNAL,
                "Expected prediction signature method_name to be one of "
                f"{{{', '.join(sorted(_PREDICTABLE))}}}. Was: {signature.method_name}",
            )
        return signature


def _load(path: Path, options: LoadOptions) -> Model:
    lite = path / tflite.FILE
    if options.prefer_tflite and lite.is_file():
        return tflite.TfLite(lite, options.tflite_interpreters)
    session = graph.session_config(options.session_config, options.intra_op_threads, options.inter_op_threads)
    return graph.Graph(path, options.tags, session)


def _own_batching(path: Path) -> batching.Parameters | None:
    """
    Read a version's own batching parameters; None without the file.
    """
    file = path / batching.PER_MODEL_FILE
    if not file.is_file():
        return None
    try:
        return batching.parameters(config.read_text_proto(file, unpublished.BatchingParameters()))
    except UsageError as error:
        raise invalid(str(error)) from error


class _Batches:
    """
    The queues of a version: one for each set of inputs and outputs that is asked for.

    Signatures of the same tensors share a queue. A request for some of a signature's outputs has a queue of its own,
    as in BatchingSession::InternalRun() of tensorflow_serving/batching/batching_session.cc.
    """

    def __init__(self, model: Model, scheduler: batching.Scheduler, chosen: batching.Parameters) -> None:
        self._model = model
        self._scheduler = scheduler
        self._parameters = chosen
        self._adding = threading.Lock()
        self._queues: dict[tuple[tuple[str, ...], tuple[str, ...]], batching.Queue] = {}

    def run(
        self, fetches: Sequence[str], feeds: Mapping[str, Array], timeout_seconds: float | None
    ) -> dict[str, Array]:
        """
        Run the model in a batch with other requests, see `Model`.
        """
        queue = self._queue(tuple(fetches), tuple(sorted(feeds)))
        if queue is None:
            return self._model.run(fetches, feeds, timeout_seconds)
        return queue.ask(feeds, timeout_seconds)

    def _queue(self, fetches: tuple[str, ...], feeds: tuple[str, ...]) -> batching.Queue | None:
        """
        Find or add the queue of a request; None if clients have asked for too many sets of outputs.
        """
        key = (fetches, feeds)
        found = self._queues.get(key)
        if found is None:
            with self._adding:
                if key not in self._queues and len(self._queues) < _MOST_QUEUES:
                    self._queues[key] = self._scheduler.queue(
                        self._parameters, partial(self._model.run, fetches)
                    )
                found = self._queues.get(key)
        return found

    def close(self) -> None:
        """
        Leave the scheduler; no requests may follow.
        """
        for queue in self._queues.values():
            queue.close()


def _metadata(name: str, version: int, signatures: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """
    Write the answer to a metadata request: as a serialised message, and as the REST API's JSON.
    """
    definitions = protos.SignatureDefMap()
    for key, signature in signatures.items():
        definitions.signature_def[key].CopyFrom(signature)
    response = protos.GetModelMetadataResponse()
    response.model_spec.name = name
    response.model_spec.version.value = version
    response.metadata["signature_def"].Pack(definitions)

    spec, signature_def = (
        to_json(message, preserving_proto_field_name=True) for message in (response.model_spec, definitions)
    )
    # As ToJsonString() in tensorflow_serving/model_servers/http_rest_api_util.cc joins them.
    text = f'{{\n"model_spec":{spec},\n"metadata": {{"signature_def": {signature_def}}}\n}}\n'
    return response.SerializeToString(), text.encode()


def to_json(message: Any, *, preserving_proto_field_name: bool = False) -> str:
    """
    Write a message as JSON with the settings of TensorFlow Serving: all fields, one space of indentation.
    """
    return json_format.MessageToJson(
        message,
        indent=1,
        preserving_proto_field_name=preserving_proto_field_name,
        always_print_fields_with_no_presence=True,
    )
