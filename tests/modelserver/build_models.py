"""
Build the small models that the server is tested with, as TF2 code exports them.

Usage: python build_models.py DIR. A process of its own, because the full TensorFlow takes seconds to import
and warns while it does.
"""

import sys
from pathlib import Path

import tensorflow as tf


def half_plus(number: float) -> tf.Module:
    module = tf.Module()
    module.offset = tf.Variable(number, name="offset")
    module.call = tf.function(
        lambda x: {"y": x / 2 + module.offset}, input_signature=[tf.TensorSpec([None], tf.float32, "x")]
    )
    return module


def save(module: tf.Module, path: Path, **signatures: object) -> None:
    tf.saved_model.save(module, str(path), signatures=signatures or {"serving_default": module.call})


def signature(*specs: tf.TensorSpec):
    return lambda function: tf.function(function, input_signature=specs).get_concrete_function()


@signature(tf.TensorSpec([None, 2], tf.float32, "a"), tf.TensorSpec([None], tf.int64, "b"))
def add(a, b):
    return {"sum": tf.reduce_sum(a, axis=1) + tf.cast(b, tf.float32), "twice": b * 2}


@signature(tf.TensorSpec([None], tf.string, "text_bytes"))
def strings(text_bytes):
    return {
        "length": tf.strings.length(text_bytes),
        "upper": tf.strings.upper(text_bytes),
        "same_bytes": tf.identity(text_bytes),
    }


@signature(tf.TensorSpec([None], tf.float32, "x"))
def not_finite(x):
    return {"y": tf.stack([x, x / 0.0, -x / 0.0, x * 0.0 / 0.0], axis=1)}


@signature(tf.TensorSpec([None], tf.float32, "x"))
def total(x):
    return {"total": tf.reduce_sum(x), "each": x}


@signature(tf.TensorSpec([], tf.int64, "count"))
def slow(count):
    square = tf.ones([64, 64])
    result = tf.while_loop(
        lambda i, _: i < count,
        lambda i, m: (i + 1, tf.matmul(m, m) / 64.0),
        [tf.constant(0, tf.int64), square],
    )[1]
    return {"y": tf.reshape(result[0, 0], [1])}


KINDS = ["float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64"]
KINDS += ["uint8", "uint16", "uint32", "uint64", "bool"]


@signature(*[tf.TensorSpec([None], kind, kind) for kind in KINDS])
def kinds(*values):
    return {f"{kind}_out": tf.identity(value) for kind, value in zip(KINDS, values, strict=True)}


FEATURES = {
    "x": tf.io.FixedLenFeature([], tf.float32),
    "offset": tf.io.FixedLenFeature([], tf.float32, default_value=0.0),
}


def value(inputs):
    parsed = tf.io.parse_example(inputs, FEATURES)
    return parsed["x"] + parsed["offset"]


@signature(tf.TensorSpec([None], tf.string, "inputs"))
def classify(inputs):
    scores = tf.stack([value(inputs), -value(inputs)], axis=1)
    return {"classes": tf.broadcast_to(tf.constant([["up", "down"]]), tf.shape(scores)), "scores": scores}


@signature(tf.TensorSpec([None], tf.string, "inputs"))
def regress(inputs):
    return {"outputs": value(inputs)[:, tf.newaxis] * 2}


def main(directory: Path) -> None:
    save(half_plus(2.0), directory / "half" / "1")
    save(half_plus(3.0), directory / "half" / "2")
    save(
        tf.Module(),
        directory / "mixed" / "7",
        serving_default=add,
        strings=strings,
        not_finite=not_finite,
        total=total,
        slow=slow,
        kinds=kinds,
        classify=classify,
        regress=regress,
    )


main(Path(sys.argv[1]))
