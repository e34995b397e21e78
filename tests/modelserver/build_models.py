"""
Build the small models of the server's tests, exported by TensorFlow 2 unless they say otherwise.

Usage: python build_models.py DIR. It is a process of its own, because TensorFlow takes seconds to import and warns
meanwhile.

half/1 and half/2 differ in one variable; mixed/7 has many signatures; batch/7 says how its batches were made; old/1 is of
TensorFlow 1; lite/1 has a TensorFlow Lite model beside its graph; resnet/1 and resnet_jpg/1 take what the published
example clients send. original_models.py adds those on which the server is held against TensorFlow Serving.
"""

import sys
from pathlib import Path

import original_models
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


@signature(tf.TensorSpec([None, None], tf.float32, "x"))
def sizes(x):
    """For each row the number of rows in its batch, and the row's sum."""
    rows = tf.shape(x)[0]
    return {"rows": tf.fill([rows], rows), "sum": tf.reduce_sum(x, axis=1)}


@signature(tf.TensorSpec([], tf.float32, "x"))
def scalar(x):
    return {"y": x}


@signature(tf.TensorSpec([], tf.string, "text"))
def one_text(text):
    return {"text": tf.identity(text)}


@signature(tf.TensorSpec([None], tf.complex64, "c64"), tf.TensorSpec([None], tf.complex128, "c128"))
def complexes(c64, c128):
    return {"c64_out": tf.identity(c64), "c128_out": tf.identity(c128)}


@signature(tf.TensorSpec([None, None, None, 3], tf.float32, "input_1"))
def picture_floats(input_1):
    """The names and shapes of the published example's model; the class is the picture's main colour."""
    return {"activation_49": tf.nn.softmax(tf.reduce_mean(input_1, axis=[1, 2]))}


def colour(picture):
    image = tf.io.decode_jpeg(picture, channels=3)
    return tf.reduce_mean(tf.cast(image, tf.float32) / 255.0, axis=[0, 1])


@signature(tf.TensorSpec([None], tf.string, "image_bytes"))
def picture_bytes(image_bytes):
    probabilities = tf.nn.softmax(tf.map_fn(colour, image_bytes, fn_output_signature=tf.float32))
    return {"classes": tf.argmax(probabilities, axis=1), "probabilities": probabilities}


KINDS = ["float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64"]
KINDS += ["uint8", "uint16", "uint32", "uint64", "bool"]


@signature(*[tf.TensorSpec([None], kind, kind) for kind in KINDS])
def kinds(*values):
    return {f"{kind}_out": tf.identity(value) for kind, value in zip(KINDS, values, strict=True)}


JSON_KINDS = [kind for kind in KINDS if kind not in {"float16", "bfloat16", "uint16"}]


@signature(*[tf.TensorSpec([None], kind, kind) for kind in JSON_KINDS])
def json_kinds(*values):
    return {f"{kind}_out": tf.identity(value) for kind, value in zip(JSON_KINDS, values, strict=True)}


@signature(tf.TensorSpec([None], tf.float32, "x"))
def halves(x):
    return {"half": tf.cast(x, tf.float16)}


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


def save_tf1(path: Path) -> None:
    """
    Save a model as TensorFlow 1 does: a session's graph, a reference variable, and a table that an asset initialises.
    """
    v1 = tf.compat.v1
    vocabulary = path.parent / "vocabulary.txt"
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_text("cat\ndog\n")
    with v1.Graph().as_default(), v1.Session() as session:
        words = v1.placeholder(tf.string, [None], "words")
        lines = tf.lookup.TextFileIndex
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(vocabulary), tf.string, lines.WHOLE_LINE, tf.int64, lines.LINE_NUMBER
            ),
            default_value=-1,
        )
        factor = v1.get_variable("factor", initializer=tf.constant(10, tf.int64), use_resource=False)
        numbers = table.lookup(words) * factor
        initializer = v1.tables_initializer()
        session.run([v1.global_variables_initializer(), initializer])
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": v1.saved_model.predict_signature_def(
                    {"words": words}, {"numbers": numbers}
                )
            },
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=initializer,
        )
        builder.save()
    vocabulary.unlink()  # the model has its own copy


def save_lite(path: Path) -> None:
    """
    Save one version with a graph that adds 2 and a TensorFlow Lite model that adds 5.
    """
    save(half_plus(2.0), path)
    other = half_plus(5.0)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([other.call.get_concrete_function()], other)
    (path / "model.tflite").write_bytes(converter.convert())


def main(directory: Path) -> None:
    save_tf1(directory / "old" / "1")
    save_lite(directory / "lite" / "1")
    save(tf.Module(), directory / "resnet" / "1", serving_default=picture_floats)
    save(tf.Module(), directory / "resnet_jpg" / "1", serving_default=picture_bytes)
    save(half_plus(2.0), directory / "half" / "1")
    save(half_plus(3.0), directory / "half" / "2")
    save(tf.Module(), directory / "batch" / "7", serving_default=sizes, scalar=scalar)
    save(
        tf.Module(),
        directory / "mixed" / "7",
        serving_default=add,
        strings=strings,
        not_finite=not_finite,
        total=total,
        slow=slow,
        one_text=one_text,
        complexes=complexes,
        kinds=kinds,
        json_kinds=json_kinds,
        halves=halves,
        classify=classify,
        regress=regress,
    )
    original_models.save_all(directory)


main(Path(sys.argv[1]))
