"""
Classification and regression: tf.Examples to a signature's input, and its outputs to results.

Follows tensorflow_serving/servables/tensorflow/{classifier,regressor,util}.cc and, for JSON, util/json_tensor.cc.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tfcanary.modelserver import jsonanswer, jsonparse, jsontensor, protos
from tfcanary.modelserver.status import invalid
from tfcanary.modelserver.tensors import Array, check_bytes

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
_INPUTS = "inputs"
_CLASSES = "classes"
_SCORES = "scores"
_OUTPUTS = "outputs"


class Servable(Protocol):
    """
    The part of a loaded version that this module uses.
    """

    signatures: dict[str, Any]
    check_method_names: bool

    def predict(
        self,
        signature: Any,
        inputs: Mapping[str, Array],
        output_filter: Sequence[str] = (),
        timeout_seconds: float | None = None,
    ) -> dict[str, Array]:
        """
        Run one signature; `tfcanary.modelserver.servable.Servable` describes the arguments.
        """


def ask(
    servable: Servable,
    signature_name: str,
    method: str,
    source: Any,
    *,
    limit: int,
    timeout_seconds: float | None = None,
) -> Any:
    """
    Classify the examples of an Input, or run a regression on them.

    Args:
        servable: the loaded version.
        signature_name: one of its signatures.
        method: `CLASSIFY` or `REGRESS`.
        source: the Input.
        limit: bytes of the serialised examples, at most.
        timeout_seconds: the run ends with DEADLINE_EXCEEDED after this time; None for no limit.

    Returns:
        a ClassificationResult or a RegressionResult.

    Raises:
        ServingError: the signature cannot do this, the Input is empty or too large, or the run failed.
    """
    if signature_name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {signature_name}")
    signature = servable.signatures[signature_name]
    alias, wanted = tensors(signature, method, check_method_name=servable.check_method_names)
    inputs = serialized(source, limit)
    outputs = servable.predict(signature, {alias: inputs}, wanted, timeout_seconds)
    return (classification if method == CLASSIFY else regression)(outputs, len(inputs))


def serialized(source: Any, limit: int) -> Array:
    """
    Make the one tensor that such signatures take: serialised examples, each after the shared context.

    The size is checked first, because a small message can repeat one large context for many examples.

    Returns:
        an object array of bytes, of shape (examples,).

    Raises:
        ServingError: the Input is empty, or takes more than `limit` bytes.
    """
    kind = source.WhichOneof("kind")
    context = b""
    examples: Any = ()
    if kind == "example_list":
        examples = source.example_list.examples
    elif kind == "example_list_with_context":
        examples = source.example_list_with_context.examples
        # Concatenated messages are merged when they are parsed, and the later one's fields win.
        context = source.example_list_with_context.context.SerializeToString()
    if not examples:
        raise invalid("Input is empty.")
    check_bytes(len(context) * len(examples) + source.ByteSize(), limit)
    result = np.empty(len(examples), dtype=np.object_)
    result[:] = [context + example.SerializeToString() for example in examples]
    return result


def tensors(signature: Any, method: str, *, check_method_name: bool) -> tuple[str, list[str]]:
    """
    Check that a signature can classify or regress, and name its input and the outputs that make the answer.

    The types that it declares do not count: the graph itself takes the examples or refuses them. See
    PreProcessClassification() and PreProcessRegression() of the original.

    Args:
        signature: a SignatureDef.
        method: `CLASSIFY` or `REGRESS`.
        check_method_name: whether the signature must have this method. TensorFlow 2 exports all signatures as predict.

    Raises:
        ServingError: the signature has other inputs or outputs.
    """
    what = "classification" if method == CLASSIFY else "regression"
    if check_method_name and signature.method_name != method:
        raise invalid(f"Expected {what} signature method_name to be {method}. Was: {signature.method_name}")
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if method == REGRESS and len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if method == CLASSIFY and len(signature.outputs) not in {1, 2}:
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if _INPUTS not in signature.inputs:
        raise invalid(f"No {what} inputs found in SignatureDef: {signature}")
    wanted = sorted({_OUTPUTS} if method == REGRESS else {_CLASSES, _SCORES})
    found = [name for name in wanted if name in signature.outputs]
    if not found and method == REGRESS:
        raise invalid(f"No regression outputs found in SignatureDef: {signature}")
    if not found:
        raise invalid(
            "Expected classification signature outputs to contain at least one of "
            f'"{_CLASSES}" or "{_SCORES}". Signature was: {signature}'
        )
    return _INPUTS, found


def classification(outputs: Mapping[str, Array], count: int) -> Any:
    """
    Make a ClassificationResult of labels, scores, or both.

    Args:
        outputs: ``classes`` and ``scores``, each of shape (count, classes).
        count: how many examples were classified.

    Raises:
        ServingError: an output has another shape or dtype.
    """
    classes, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    _check_by_class(_CLASSES, classes, np.object_, count)
    _check_by_class(_SCORES, scores, np.float32, count)
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    result = protos.ClassificationResult()
    for row in range(count):
        entry = result.classifications.add()
        labels = [] if classes is None else classes[row].tolist()
        numbers = [] if scores is None else scores[row].tolist()
        for column in range(max(len(labels), len(numbers))):
            found = entry.classes.add()
            if labels:
                found.label = labels[column]
            if numbers:
                found.score = numbers[column]
    return result


def _check_by_class(name: str, array: Array | None, kind: Any, count: int) -> None:
    if array is None:
        return
    if array.ndim != 2:
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
    if array.dtype != kind:
        raise invalid(f"Expected {name} Tensor of {np.dtype(kind).name}. Got: {array.dtype}")
    if len(array) != count:
        raise invalid(f"Expected {name} output batch size of {count}. Got: {len(array)}")


def regression(outputs: Mapping[str, Array], count: int) -> Any:
    """
    Make a RegressionResult of one number for each example.

    Args:
        outputs: ``outputs``, of shape (count,) or (count, 1).
        count: how many examples there were.

    Raises:
        ServingError: the output has another shape or dtype.
    """
    array = outputs[_OUTPUTS]
    if array.ndim != 1 and array.shape[1:] != (1,):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(array)}"
        )
    if len(array) != count:
        raise invalid(f"Input batch size did not match output batch size: {count} vs. {len(array)}")
    if array.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {array.dtype}")
    result = protos.RegressionResult()
    for value in array.ravel().tolist():
        result.regressions.add(value=value)
    return result


def _shape(array: Array) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def parse(body: bytes) -> tuple[str, Any]:
    """
    Read the body of a ``:classify`` or ``:regress`` request: the signature's name, and an Input.

    Raises:
        ServingError: INVALID_ARGUMENT, because the body is malformed.
    """
    document = jsonparse.parse_object(body)
    signature_name = jsontensor.signature_name(document)
    jsonparse.require_text([signature_name])
    examples = document.get("examples")
    if "examples" not in document:
        raise invalid("When method is classify, key 'examples' is expected and was not found")
    if not isinstance(examples, list):
        raise invalid("Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid("'examples' value is an empty array")
    source = protos.Input()
    if "context" in document:
        target = source.example_list_with_context
        _fill(target.context, document["context"])
    else:
        target = source.example_list
    for item in examples:
        _fill(target.examples.add(), item)
    return signature_name, source


def _fill(example: Any, value: Any) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {jsontensor.kind_of(value)}")
    jsonparse.require_text(value)
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)


def _add(feature: Any, name: str, value: Any) -> None:
    """
    Add one value to a feature, whose values must all be of one kind.
    """
    kind, item = _feature_value(name, value)
    if feature.WhichOneof("kind") not in {None, kind}:
        wanted = kind.removesuffix("_list")
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {wanted}")
    getattr(feature, kind).value.append(item)


def _feature_value(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, str) or jsontensor.is_base64(value):
        return "bytes_list", jsontensor.string(value)
    if isinstance(value, int):
        if value >= 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64_list", int(value)
    if isinstance(value, float):
        return "float_list", value
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {jsontensor.kind_of(value)}")


def classification_json(result: Any) -> bytes:
    """
    Write a ClassificationResult as the REST API's JSON: for each example a list of label and score.
    """
    rows = [
        [[entry.label, jsonanswer.decimal(entry.score)] for entry in row.classes]
        for row in result.classifications
    ]
    written = [
        "[" + ", ".join(f"[{json.dumps(label, ensure_ascii=False)}, {score}]" for label, score in row) + "]"
        for row in rows
    ]
    return f'{{\n    "results": [{", ".join(written)}\n    ]\n}}'.encode()


def regression_json(result: Any) -> bytes:
    """
    Write a RegressionResult as the REST API's JSON: a number for each example.
    """
    written = [jsonanswer.decimal(entry.value) for entry in result.regressions]
    return f'{{\n    "results": [{", ".join(written)}]\n}}'.encode()
