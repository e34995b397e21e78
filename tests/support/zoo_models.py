"""
Build models of the zoo: `python zoo_models.py DIR NAME…`, with the names that zoo.py has.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from zoo import FAULTS, NEXT

Outputs = dict[str, Any]
FUNCTIONS: dict[str, tuple[list[tf.TypeSpec], Callable[..., Outputs]]] = {}


def model(*specs: tf.TypeSpec) -> Callable[[Callable[..., Outputs]], Callable[..., Outputs]]:
    """
    Put a function into the zoo, by its name; the first two outputs of one type and shape are those to be swapped.
    """

    def put(function: Callable[..., Outputs]) -> Callable[..., Outputs]:
        FUNCTIONS[function.__name__.replace("_", "-")] = (list(specs), function)
        return function

    return put


@model(tf.TensorSpec([None, None], tf.int32, "tokens"))
def ragged(tokens):
    rows = tf.RaggedTensor.from_tensor(tokens, padding=0)
    weights = tf.constant([[0.1], [0.5], [0.9], [0.2], [0.7], [0.3], [0.8], [0.4]])
    numbers = tf.ragged.map_flat_values(lambda ids: tf.gather(weights, ids % 8)[:, 0], rows)
    return {
        "total": tf.reduce_sum(numbers, axis=1),
        "most": tf.reduce_max(numbers, axis=1) + 1,
        "length": rows.row_lengths(),
    }


@model(tf.RaggedTensorSpec([None, None], tf.float32))
def ragged_parts(rows):
    return {"total": tf.reduce_sum(rows, axis=1), "most": tf.reduce_max(rows, axis=1) + 1}


@model(tf.TensorSpec([None], tf.string, "text"))
def string(text):
    length = tf.cast(tf.strings.length(text), tf.float32)
    words = tf.strings.split(text).row_lengths()
    return {
        "score": 1 / (1 + length),
        "weight": length + 10,
        "words": words,
        "upper": tf.strings.upper(text),
        "same_bytes": tf.identity(text),
    }


@model(tf.TensorSpec([None, 4], tf.float32, "features"))
def dictionary(features):
    rising = features[:, 3] > features[:, 0]
    return {
        "mean": tf.reduce_mean(features, axis=1),
        "spread": tf.reduce_max(features, axis=1) - tf.reduce_min(features, axis=1) + 5,
        "ranked": tf.sort(features, axis=1),
        "trend": tf.where(rising, tf.constant("up"), tf.constant("down")),
        "rising": rising,
    }


@model(tf.TensorSpec([], tf.float32, "x"))
def scalar(x):
    return {"double": x * 2, "square": x * x + 7}


@model(
    tf.TensorSpec([None, 1], tf.int64, "age"),
    tf.TensorSpec([None, 1], tf.float64, "price"),
    tf.TensorSpec([None, 1], tf.string, "city"),
)
def multi_input(age, price, city):
    bucket = tf.strings.to_hash_bucket_fast(city, 10)
    return {
        "score": price / 10 + tf.cast(age, tf.float64),
        "margin": price * 3 + 20,
        "bucket": bucket,
    }


@model(tf.TensorSpec([3, 3], tf.float32, "grid"))
def batch_free(grid):
    return {
        "rows": tf.reduce_sum(grid, axis=1),
        "columns": tf.reduce_sum(grid, axis=0) * 2 + 1,
        "trace": tf.linalg.trace(grid),
    }


@model(tf.TensorSpec([None, 2], tf.float32, "x"))
def tflite(x):
    return {"low": x @ tf.constant([[1.0, 2.0], [3.0, 4.0]]), "high": x * 100 + 50}


LSTM = tf.keras.layers.LSTM(
    4,
    return_sequences=True,
    return_state=True,
    kernel_initializer=tf.keras.initializers.GlorotUniform(seed=1),
    recurrent_initializer=tf.keras.initializers.Orthogonal(seed=2),
)


@model(tf.TensorSpec([None, None, 2], tf.float32, "sequence"))
def recurrent(sequence):
    every, state, cell = LSTM(sequence)
    return {"state": state, "cell": cell + 1, "every": every}


@model(tf.TensorSpec([None], tf.float32, "x"))
def half_plus_two(x):
    return {"y": x / 2 + 2}


@model(
    tf.TensorSpec([None], tf.int32, "age"),
    tf.TensorSpec([None], tf.float32, "income"),
    tf.TensorSpec([None], tf.bool, "married"),
)
def tabular(age, income, married):
    logit = tf.cast(age, tf.float32) / 20 - 1 + income / 1e4 + tf.where(married, 0.5, -0.5)
    logits = tf.stack([-logit, logit, logit * 0], axis=1)
    rows = tf.shape(logits)[0]
    return {
        "probabilities": tf.nn.softmax(logits),
        "logits": logits,
        "labels": tf.tile(tf.constant([["no", "yes", "unsure"]]), [rows, 1]),
    }


def spoilt(outputs: Outputs, fault: str) -> Outputs:
    """
    The outputs with a fault in the first of them.
    """
    first, *others = outputs
    value = outputs[first]
    if fault == "nan":
        return {**outputs, first: value * float("nan")}
    if fault == "dtype":
        other = tf.float32 if value.dtype == tf.float64 else tf.float64
        return {**outputs, first: tf.cast(value, other)}
    if fault == "shape":
        return {**outputs, first: tf.expand_dims(value, -1)}
    return {**outputs, first: outputs[others[0]], others[0]: value}


def with_examples(inputs: Any) -> Any:
    parsed = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})
    return parsed["x"] / 2 + 2


def examples() -> dict[str, Any]:
    """
    Signatures for classify and regress, which take serialised tf.Examples.
    """
    spec = [tf.TensorSpec([None], tf.string, "inputs")]
    regress = tf.function(lambda inputs: {"outputs": with_examples(inputs)}, input_signature=spec)
    classify = tf.function(lambda inputs: {"scores": with_examples(inputs)}, input_signature=spec)
    return {"regress_x_to_y": regress, "classify_x_to_y": classify}


def save(path: Path, kind: str, fault: str) -> None:
    """
    Save one model.
    """
    specs, function = FUNCTIONS[kind]
    module = tf.Module()
    if kind == "recurrent":
        LSTM.build([None, None, 2])
        # tf.Module saves the variables of TensorFlow, and does not look for them in a layer of Keras.
        module.kept = [variable._value for variable in LSTM.variables]

    def run(**inputs):
        outputs = function(**inputs)
        return spoilt(outputs, fault) if fault else outputs

    # The names of a signature's inputs are those of the arguments; a ragged one has no name of its own.
    named = {getattr(spec, "name", "rows"): spec for spec in specs}
    serve = tf.function(run).get_concrete_function(**named)
    signatures = {"serving_default": serve}
    if kind == "half-plus-two":
        signatures |= examples()
    tf.saved_model.save(module, str(path), signatures=signatures)
    if kind == "half-plus-two":
        name_methods(path / "saved_model.pb")
    if kind == "tflite":
        converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
        (path / "model.tflite").write_bytes(converter.convert())


def name_methods(file: Path) -> None:
    """
    Give signatures the methods of their names, as the exports of TensorFlow 1 do.
    """
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for graph in saved.meta_graphs:
        for name, signature in graph.signature_def.items():
            for method in ("classify", "regress"):
                if name.startswith(method):
                    signature.method_name = f"tensorflow/serving/{method}"
    file.write_bytes(saved.SerializeToString())


def main(folder: Path, wanted: list[str]) -> None:
    """
    Save each of these models.
    """
    tf.random.set_seed(0)
    for name in wanted:
        kind, _, which = name.rpartition("-")
        if which not in (NEXT, *FAULTS):
            save(folder / name / "1", name, "")
        else:
            save(folder / name / "2", kind, which if which in FAULTS else "")


main(Path(sys.argv[1]), sys.argv[2:])
