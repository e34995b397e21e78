"""
Hold a request's inputs and its output filter against a signature.

Follows VerifyRequestInputsSize() and PreProcessPrediction() in
tensorflow_serving/servables/tensorflow/predict_util.cc, and GetInputValues() in tensorflow/cc/saved_model/util.cc.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfcanary.modelserver.status import invalid
from tfcanary.modelserver.tensors import Array, from_proto


def inputs_of(signature: Any, sent: Mapping[str, Any], limit: int) -> dict[str, Array]:
    """
    Read the inputs of a request, and fill in those that have a default.

    Args:
        signature: the SignatureDef that names the inputs and holds the defaults.
        sent: TensorProtos by alias. Aliases that the signature lacks are refused before any tensor is made.
        limit: bytes in one tensor, at most.

    Returns:
        a tensor for each of the signature's inputs, by alias.

    Raises:
        ServingError: aliases are missing or unknown, or a tensor is malformed or too large.
    """
    _check_count(signature, sent)
    defaults = signature.defaults
    for alias in sorted(set(signature.inputs) - set(sent) - set(defaults)):
        raise invalid(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) "
            "not found in request and no default value provided. "
            f"Inputs expected to be in the request {{{_joined(sent)}}}, "
            f"or default input alias set: {_joined(defaults)}"
        )
    used = set(sent) & set(signature.inputs)
    if used != set(sent):
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {_joined(used)}, request input: {_joined(sent)}"
        )
    chosen = {alias: sent.get(alias, defaults.get(alias)) for alias in signature.inputs}
    return {alias: from_proto(proto, alias, limit) for alias, proto in chosen.items()}


def _check_count(signature: Any, names: Iterable[str]) -> None:
    wanted, sent = set(signature.inputs), set(names)
    if len(sent) > len(wanted) or (len(sent) < len(wanted) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({{{_joined(sent)}}}) != len({{{_joined(wanted)}}}). Sent extra: {{{_joined(sent - wanted)}}}. "
            f"Missing but required: {{{_joined(wanted - sent)}}}."
        )


def outputs_of(signature: Any, output_filter: Sequence[str]) -> dict[str, str]:
    """
    Choose the outputs of a request.

    Args:
        signature: the SignatureDef that names the outputs.
        output_filter: the aliases of the outputs that are asked for; all if empty.

    Returns:
        the name of each output's tensor, by alias.

    Raises:
        ServingError: the filter names an output twice, or one that the signature lacks.
    """
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_joined(signature.outputs)}}}."
            )
        if output_filter.count(alias) > 1:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return {alias: signature.outputs[alias].name for alias in output_filter or sorted(signature.outputs)}


def _joined(names: Iterable[str]) -> str:
    return ",".join(sorted(names))
