"""
One loaded version of one model: its signatures, its requests, and its warm-up.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from google.protobuf import json_format

from tfcanary.errors import UsageError
from tfcanary.modelserver import batching, config, examples, graph, protos, tflite, unpublished
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import Array, from_proto, numpy_type, type_name
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
        self, fetches: Mapping[str, str], feeds: Mapping[str, Array], timeout_seconds: float | None
    ) -> dict[str, Array]:
        """
        Run the model.

        Args:
            fetches: for each output's name, the name of its tensor.
            feeds: for each input tensor's name, its value.
            timeout_seconds: the run ends with DEADLINE_EXCEEDED after this time; None for no limit.

        Returns:
            the fetched tensors, by output name.

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
        self._queues: dict[tuple[str, ...], batching.Queue] = {}
        try:
            self.signatures = self._model.signatures
            self.metadata_message, self.metadata_json = _metadata(name, version, self.signatures)
            self._queue_up(path, options)
            if options.warmup:
                self._warm_up(path / _WARMUP_FILE, options.warmup_iterations)
        except BaseException:
            self._close()
            raise

    def _queue_up(self, path: Path, options: LoadOptions) -> None:
        """
        Make a queue for each signature if requests run in batches.
        """
        if options.scheduler is None:
            return
        chosen = options.batches or _own_batching(path)
        if chosen is None:
            return
        for signature in self.signatures.values():
            fetches, key = _fetches(signature), _key(signature)
            if key not in self._queues:
                run = partial(_run_batch, self._model, fetches)
                self._queues[key] = options.scheduler.queue(chosen, run)

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
        for queue in self._queues.values():
            queue.close()
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
            inputs: a tensor for each of the signature's inputs, by alias.
            output_filter: the aliases of the outputs to return; all if empty.
            timeout_seconds: the run ends with DEADLINE_EXCEEDED after this time; None for no limit.

        Returns:
            the outputs, by alias.

        Raises:
            ServingError: the inputs or the filter do not fit the signature, or the run failed.
        """
        _check_inputs(signature, inputs)
        _check_filter(signature, output_filter)
        if timeout_seconds is not None and timeout_seconds <= 0:
            raise ServingError(Code.DEADLINE_EXCEEDED, "the deadline passed before the model ran")
        feeds = {signature.inputs[alias].name: array for alias, array in inputs.items()}
        fetches = _fetches(signature)
        queue = self._queues.get(_key(signature)) if self._queues else None
        if queue is None:
            outputs = self._model.run(fetches, feeds, timeout_seconds)
        else:
            # Signatures of the same tensors share a queue, which therefore names outputs by tensor.
            answers = queue.ask(feeds, timeout_seconds)
            outputs = {alias: answers[tensor] for alias, tensor in fetches.items()}
        return {alias: outputs[alias] for alias in output_filter or sorted(outputs)}

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
        self.predict(signature, tensors_of(signature, request.inputs, _WARMUP_TENSOR_BYTES))

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


def _fetches(signature: Any) -> dict[str, str]:
    """
    Name the tensor of each output, by alias.

    All outputs are fetched whatever a request asks for, because TensorFlow keeps a compiled graph for each set of
    fetches that it has seen.
    """
    return {alias: info.name for alias, info in signature.outputs.items()}


def _key(signature: Any) -> tuple[str, ...]:
    inputs, outputs = (
        sorted({info.name for info in side.values()}) for side in (signature.inputs, signature.outputs)
    )
    return (*inputs, "", *outputs)


def _run_batch(
    model: Model, fetches: Mapping[str, str], feeds: dict[str, Array], timeout_seconds: float | None
) -> dict[str, Array]:
    outputs = model.run(fetches, feeds, timeout_seconds)
    return {fetches[alias]: array for alias, array in outputs.items()}


def tensors_of(signature: Any, sent: Mapping[str, Any], limit: int) -> dict[str, Array]:
    """
    Read the inputs of a request.

    Args:
        signature: the SignatureDef that names the inputs.
        sent: TensorProtos by alias. Aliases that the signature lacks are refused before any tensor is made.
        limit: bytes in one tensor, at most.

    Returns:
        the tensors, by alias.

    Raises:
        ServingError: aliases are missing or unknown, or a tensor is malformed or too large.
    """
    _check_names(signature, sent)
    return {alias: from_proto(proto, alias, limit) for alias, proto in sent.items()}


def _check_names(signature: Any, names: Iterable[str]) -> None:
    wanted, sent = set(signature.inputs), set(names)
    if len(sent) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({{{_joined(sent)}}}) != len({{{_joined(wanted)}}}). Sent extra: {{{_joined(sent - wanted)}}}. "
            f"Missing but required: {{{_joined(wanted - sent)}}}."
        )
    for alias in sorted(sent - wanted):
        raise invalid(
            f"input tensor alias not found in signature: {alias}. "
            f"Inputs expected to be in the set {{{_joined(wanted)}}}."
        )


def _check_inputs(signature: Any, inputs: Mapping[str, Array]) -> None:
    _check_names(signature, inputs)
    for alias, array in inputs.items():
        expected = signature.inputs[alias].dtype
        if array.dtype != numpy_type(expected):
            # A session would convert the type; TensorFlow Serving refuses it.
            raise invalid(f"Expects {alias} to be {type_name(expected)} but {array.dtype} is provided")


def _check_filter(signature: Any, output_filter: Sequence[str]) -> None:
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_joined(signature.outputs)}}}."
            )
        if output_filter.count(alias) > 1:
            raise invalid(f"duplicate output tensor alias: {alias}")


def _joined(names: Any) -> str:
    return ",".join(sorted(names))


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
