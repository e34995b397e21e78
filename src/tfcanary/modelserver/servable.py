"""
One version of one model, loaded: what it can be asked, and the asking.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from tfcanary.modelserver import examples, protos
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import Array, from_proto, numpy_type, type_name

DEFAULT_SIGNATURE = "serving_default"
# As VerifySignature() in tensorflow_serving/servables/tensorflow/predict_util.cc.
_PREDICTABLE = {
    "tensorflow/serving/predict",
    "tensorflow/serving/classify",
    "tensorflow/serving/regress",
}
_WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_MAX_WARMUP_RECORDS = 1000
_WARMUP_TENSOR_BYTES = 1 << 31  # the model's own records, not a stranger's


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """
    What the command line says about loading any model.

    Attributes:
        tags: which of the SavedModel's graphs to load.
        intra_op_threads: threads within an operation, 0 for one per processor.
        inter_op_threads: operations at a time, 0 for one per processor.
        warmup: whether to replay the model's warm-up records.
        warmup_iterations: how often each of them.
        check_method_names: whether a signature serves only the method that it was exported for.
    """

    tags: tuple[str, ...] = ("serve",)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    warmup: bool = True
    warmup_iterations: int = 1
    check_method_names: bool = False


@cache
def runtime() -> protos.Runtime:
    """
    Start TensorFlow, once.
    """
    return protos.Runtime()


class Servable:
    """
    A SavedModel in a session of its own, as the original loads it: TF1 and TF2 models alike.

    Attributes:
        name: the model's name.
        version: the version's number.
        signatures: what the model can be asked, by name.
        metadata_message: a serialised GetModelMetadataResponse, made once, as gateways are probed with it.
        metadata_json: the same for REST.
        check_method_names: as in the options.
    """

    def __init__(self, name: str, version: int, path: Path, options: LoadOptions) -> None:
        self.name = name
        self.version = version
        self.check_method_names = options.check_method_names
        self._runtime = runtime()
        self._idle = threading.Condition()
        self._users = 0
        self._closing = False
        graph = self._runtime.graph.Graph()
        config = protos.ConfigProto(
            intra_op_parallelism_threads=options.intra_op_threads,
            inter_op_parallelism_threads=options.inter_op_threads,
            # Without it each session gets whatever the first one of the process asked for.
            use_per_session_threads=bool(options.inter_op_threads),
        )
        with graph.as_default():
            self._session: Any = self._runtime.session.Session(graph=graph, config=config)
            try:
                meta_graph = self._runtime.loader.load(self._session, list(options.tags), str(path))
            except Exception as error:
                self._session.close()
                raise _load_error(error) from error
        self.signatures: dict[str, Any] = dict(meta_graph.signature_def)
        self.metadata_message, self.metadata_json = _metadata(name, version, self.signatures)
        if options.warmup:
            try:
                self._warm_up(path / _WARMUP_FILE, options.warmup_iterations)
            except Exception:
                self._session.close()
                raise

    def acquire(self) -> bool:
        """
        Keep the version loaded for one request; false if it is being unloaded.
        """
        with self._idle:
            if self._closing:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """
        Take back one `acquire`.
        """
        with self._idle:
            self._users -= 1
            if not self._users:
                self._idle.notify_all()

    def close(self) -> None:
        """
        Unload, once no request uses the version.
        """
        with self._idle:
            self._closing = True
            self._idle.wait_for(lambda: not self._users)
        self._session.close()

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
            inputs: a tensor for each of its inputs.
            output_filter: the outputs to give; all if empty.
            timeout_seconds: after this the run ends with DEADLINE_EXCEEDED.
        """
        _check_inputs(signature, inputs)
        _check_filter(signature, output_filter)
        feeds = {signature.inputs[alias].name: array for alias, array in inputs.items()}
        # One set of fetches for each signature: TensorFlow keeps a compiled graph for every set it has seen.
        fetches = {alias: info.name for alias, info in signature.outputs.items()}
        outputs = self._run(fetches, feeds, timeout_seconds)
        return {alias: outputs[alias] for alias in output_filter or sorted(outputs)}

    def _run(
        self, fetches: dict[str, str], feeds: dict[str, Array], timeout_seconds: float | None
    ) -> dict[str, Array]:
        options = None
        if timeout_seconds is not None:
            if timeout_seconds <= 0:
                raise ServingError(Code.DEADLINE_EXCEEDED, "the deadline passed before the model ran")
            options = protos.RunOptions(timeout_in_ms=max(1, int(timeout_seconds * 1000)))
        try:
            results = self._session.run(fetches, feeds, options=options)
        except self._runtime.errors.OpError as error:
            raise ServingError(Code(error.error_code), error.message) from error
        except (TypeError, ValueError) as error:
            raise invalid(str(error)) from error
        return {alias: np.asarray(result) for alias, result in results.items()}

    def _warm_up(self, path: Path, iterations: int) -> None:
        """
        Replay the recorded requests. A record that fails, fails the load, as in the original.
        """
        if not path.is_file():
            return
        count = 0
        try:
            for count, record in enumerate(self._runtime.records.tf_record_iterator(str(path)), start=1):
                if count > _MAX_WARMUP_RECORDS:
                    raise invalid(
                        f"Number of warmup records exceeds the maximum ({_MAX_WARMUP_RECORDS}) at {path}"
                    )
                for _ in range(iterations):
                    self._replay(record, path)
        except self._runtime.errors.OpError as error:
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
        if kind in {"classify_log", "regress_log"}:
            request = getattr(entry, kind).request
            method = examples.CLASSIFY if kind == "classify_log" else examples.REGRESS
            examples.ask(self, request.model_spec.signature_name or DEFAULT_SIGNATURE, method, request.input)
            return
        if kind != "predict_log":
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}, in {path}")
        request = entry.predict_log.request
        signature = self.signature(request.model_spec.signature_name)
        self.predict(
            signature,
            {
                alias: from_proto(proto, alias, _WARMUP_TENSOR_BYTES)
                for alias, proto in request.inputs.items()
            },
        )

    def signature(self, name: str) -> Any:
        """
        Find a signature; the empty name is the default one.
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


def _load_error(error: Exception) -> ServingError:
    code = getattr(error, "error_code", None)
    if code is not None:
        return ServingError(Code(code), str(getattr(error, "message", error)))
    kind = Code.NOT_FOUND if isinstance(error, OSError) else Code.INTERNAL
    return ServingError(kind, f"{type(error).__name__}: {error}")


def _check_inputs(signature: Any, inputs: Mapping[str, Array]) -> None:
    wanted, sent = set(signature.inputs), set(inputs)
    if len(sent) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({{{_joined(sent)}}}) != len({{{_joined(wanted)}}}). Sent extra: {{{_joined(sent - wanted)}}}. "
            f"Missing but required: {{{_joined(wanted - sent)}}}."
        )
    for alias, array in inputs.items():
        if alias not in wanted:
            raise invalid(
                f"input tensor alias not found in signature: {alias}. "
                f"Inputs expected to be in the set {{{_joined(wanted)}}}."
            )
        expected = signature.inputs[alias].dtype
        if array.dtype != numpy_type(expected):
            # The session would convert it; TensorFlow Serving does not.
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
    Write the answers to a metadata request, as a message and as the REST API's JSON.
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
    Write a message as the original's JSON writer is set to: all fields, one blank of indentation.
    """
    return json_format.MessageToJson(
        message,
        indent=1,
        preserving_proto_field_name=preserving_proto_field_name,
        always_print_fields_with_no_presence=True,
    )
