"""
The requests that the gRPC API and the REST API share, and their answers.
"""

import time
from collections.abc import Sequence
from typing import Any

from tfcanary.errors import UsageError
from tfcanary.modelserver import examples, jsonanswer, jsonparse, jsontensor, protos
from tfcanary.modelserver.config import check_models
from tfcanary.modelserver.examples import CLASSIFY, REGRESS
from tfcanary.modelserver.limits import Limits
from tfcanary.modelserver.manager import Manager
from tfcanary.modelserver.metrics import Metrics
from tfcanary.modelserver.servable import DEFAULT_SIGNATURE, Servable
from tfcanary.modelserver.signatures import inputs_of
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import Array, dtype_of, to_proto

# The names of the methods in the metrics.
_APIS = {CLASSIFY: "Classify", REGRESS: "Regress"}


class Api:
    """
    Answers requests with the versions that are loaded.

    Every method takes the seconds that its caller waits, None for no limit, and raises ServingError with the code that
    the caller gets.

    Attributes:
        metrics: counts the runs.
    """

    def __init__(
        self, manager: Manager, metrics: Metrics, limits: Limits, *, as_content: bool = False
    ) -> None:
        self._manager = manager
        self._as_content = as_content
        self._limits = limits
        self.metrics = metrics

    def predict(self, request: Any, timeout_seconds: float | None) -> Any:
        """
        Answer a PredictRequest with a PredictResponse.
        """
        spec = request.model_spec
        with self._manager.using(spec) as servable:
            signature = servable.signature(spec.signature_name)
            inputs = inputs_of(signature, request.inputs, self._limits.tensor_bytes)
            outputs = self._run(servable, signature, inputs, list(request.output_filter), timeout_seconds)
        response = protos.PredictResponse()
        _fill_spec(response.model_spec, servable, spec.signature_name or DEFAULT_SIGNATURE)
        for alias, array in outputs.items():
            to_proto(array, dtype_of(array), response.outputs[alias], as_content=self._as_content)
        return response

    def predict_json(self, spec: Any, body: bytes, timeout_seconds: float | None) -> bytes:
        """
        Answer the body of a ``:predict`` request with the body of its response.
        """
        document = jsonparse.parse_object(body)
        asked = jsontensor.signature_name(document)
        with self._manager.using(spec) as servable:
            name = asked or DEFAULT_SIGNATURE
            if name not in servable.signatures:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            signature = servable.signature(name)
            if not signature.inputs:
                raise invalid(f"Failed to get input map for signature: {asked or 'DEFAULT'}")
            request = jsontensor.parse_predict(document)
            dtypes = {alias: info.dtype for alias, info in signature.inputs.items()}
            inputs = jsontensor.tensors(request, dtypes)
            outputs = self._run(servable, signature, inputs, (), timeout_seconds)
        return jsonanswer.answer(outputs, row=request.row)

    def classify(self, request: Any, timeout_seconds: float | None) -> Any:
        """
        Answer a ClassificationRequest with a ClassificationResponse.
        """
        response = protos.ClassificationResponse()
        self._fill_result(request, CLASSIFY, response, timeout_seconds)
        return response

    def regress(self, request: Any, timeout_seconds: float | None) -> Any:
        """
        Answer a RegressionRequest with a RegressionResponse.
        """
        response = protos.RegressionResponse()
        self._fill_result(request, REGRESS, response, timeout_seconds)
        return response

    def multi_inference(self, request: Any, timeout_seconds: float | None) -> Any:
        """
        Answer a MultiInferenceRequest, which asks several signatures of one model about one input.

        The version that the first task names answers all tasks.
        """
        names = [task.model_spec.name for task in request.tasks]
        signatures = [task.model_spec.signature_name or DEFAULT_SIGNATURE for task in request.tasks]
        if "" in names:
            raise invalid("Found ModelSpec with an empty model name.")
        if len(set(names)) != 1:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        for name in signatures:
            if signatures.count(name) > 1:
                raise invalid(f"Duplicate evaluation of signature: {name}")
        for task in request.tasks:
            if task.method_name not in _APIS:
                raise ServingError(
                    Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}"
                )
        response = protos.MultiInferenceResponse()
        with self._manager.using(request.tasks[0].model_spec) as servable:
            for task, name in zip(request.tasks, signatures, strict=True):
                result = response.results.add()
                answer = self._ask(servable, name, task.method_name, request.input, timeout_seconds)
                if task.method_name == CLASSIFY:
                    result.classification_result.CopyFrom(answer)
                else:
                    result.regression_result.CopyFrom(answer)
                _fill_spec(result.model_spec, servable, name)
        return response

    def classify_json(self, spec: Any, body: bytes, timeout_seconds: float | None) -> bytes:
        """
        Answer the body of a ``:classify`` request with the body of its response.
        """
        spec.signature_name, source = examples.parse(body)
        request = protos.ClassificationRequest(model_spec=spec, input=source)
        return examples.classification_json(self.classify(request, timeout_seconds).result)

    def regress_json(self, spec: Any, body: bytes, timeout_seconds: float | None) -> bytes:
        """
        Answer the body of a ``:regress`` request with the body of its response.
        """
        spec.signature_name, source = examples.parse(body)
        request = protos.RegressionRequest(model_spec=spec, input=source)
        return examples.regression_json(self.regress(request, timeout_seconds).result)

    def _fill_result(self, request: Any, method: str, response: Any, timeout_seconds: float | None) -> None:
        spec = request.model_spec
        signature_name = spec.signature_name or DEFAULT_SIGNATURE
        with self._manager.using(spec) as servable:
            result = self._ask(servable, signature_name, method, request.input, timeout_seconds)
        response.result.CopyFrom(result)
        _fill_spec(response.model_spec, servable, signature_name)

    def _ask(
        self,
        servable: Servable,
        signature_name: str,
        method: str,
        source: Any,
        timeout_seconds: float | None,
    ) -> Any:
        started = time.monotonic()
        result = examples.ask(
            servable,
            signature_name,
            method,
            source,
            limit=self._limits.tensor_bytes,
            timeout_seconds=timeout_seconds,
        )
        self.metrics.run(servable.name, _APIS[method], time.monotonic() - started)
        return result

    def reload(self, request: Any) -> Any:
        """
        Replace the configuration with that of a ReloadConfigRequest, and answer with a ReloadConfigResponse.

        Returns once each new model has a version that serves.
        """
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest."
                " Only ModelConfigList is currently supported"
            )
        models = list(request.config.model_config_list.config)
        try:
            check_models(models)
        except UsageError as error:
            raise invalid(str(error)) from error
        self._manager.reload(models)
        response = protos.ReloadConfigResponse()
        response.status.SetInParent()
        return response

    def _run(
        self,
        servable: Servable,
        signature: Any,
        inputs: dict[str, Array],
        output_filter: Sequence[str],
        timeout_seconds: float | None,
    ) -> dict[str, Array]:
        started = time.monotonic()
        outputs = servable.predict(signature, inputs, output_filter, timeout_seconds)
        self.metrics.run(servable.name, "Predict", time.monotonic() - started)
        return outputs

    def metadata(self, spec: Any) -> Servable:
        """
        Find the version that a ModelSpec names; it carries its metadata for both APIs.
        """
        return self._manager.find(spec)

    def metadata_message(self, request: Any) -> bytes:
        """
        Answer a GetModelMetadataRequest with a serialised GetModelMetadataResponse.
        """
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != "signature_def":
                raise invalid(f"Metadata field {name} is not supported")
        return self._manager.find(request.model_spec).metadata_message

    def status(self, spec: Any) -> Any:
        """
        Answer the ModelSpec of a status request with a GetModelStatusResponse.
        """
        response = protos.GetModelStatusResponse()
        for version, seen in self._manager.states(spec).items():
            entry = response.model_version_status.add(version=version, state=seen.state)
            entry.status.SetInParent()
            if seen.error is not None:
                entry.status.error_code = seen.error.code
                entry.status.error_message = seen.error.message
        return response


def _fill_spec(spec: Any, servable: Servable, signature_name: str) -> None:
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature_name
