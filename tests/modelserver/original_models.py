"""
Models on which the server is held against TensorFlow Serving, one set for each kind of model.

half_plus_two/123 and half_plus_three/123 are those of tensorflow_serving/servables/tensorflow/testdata, made here. plus/1 and
pair/1 have the same signatures as a model of TensorFlow 1, of TensorFlow 2, and of TensorFlow Lite. asks/1 has signatures that
a request can only use in part.
"""

from pathlib import Path

import tensorflow as tf

v1 = tf.compat.v1
signature_defs = v1.saved_model


def save_graph(path: Path, build) -> None:
    """
    Save what `build` makes, signatures by name, as TensorFlow 1 does.
    """
    with v1.Graph().as_default(), v1.Session() as session:
        signatures = build()
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


def half_plus(number: float):
    """
    The graph of saved_model_half_plus_two.py; the number is what is added.
    """

    def build() -> dict[str, object]:
        variable = v1.get_variable
        a, b, c = (
            variable(name, initializer=value, use_resource=False)
            for name, value in (("a", 0.5), ("b", number), ("c", 3.0))
        )
        example = v1.placeholder(tf.string, name="tf_example")
        features = {
            "x": tf.io.FixedLenFeature([1], tf.float32),
            "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        }
        parsed = tf.io.parse_example(example, features)
        x, x2 = tf.identity(parsed["x"], name="x"), tf.identity(parsed["x2"], name="x2")
        y, y2, y3 = (
            tf.add(tf.multiply(a, given), added, name=name)
            for given, added, name in ((x, b, "y"), (x, c, "y2"), (x2, c, "y3"))
        )
        info = signature_defs.build_tensor_info
        declared = info(example)
        # The published half_plus_three has this input as DT_FLOAT, although the tensor holds strings.
        declared.dtype = tf.float32.as_datatype_enum

        def regress(given, result):
            made = signature_defs.build_signature_def
            return made({"inputs": given}, {"outputs": info(result)}, "tensorflow/serving/regress")

        def classify(given, result):
            made = signature_defs.build_signature_def
            return made({"inputs": given}, {"scores": info(result)}, "tensorflow/serving/classify")

        return {
            "serving_default": signature_defs.predict_signature_def({"x": x}, {"y": y}),
            "tensorflow/serving/regress": regress(declared, y),
            "regress_x_to_y2": regress(info(example), y2),
            "regress_x2_to_y3": regress(info(x2), y3),
            "classify_x_to_y": classify(info(example), y),
        }

    return build


def plus_of_1() -> dict[str, object]:
    """The signature names its input by the operation alone, as a session may."""
    x = v1.placeholder(tf.float32, [None], "x")
    signature = signature_defs.predict_signature_def({"x": x}, {"y": x / 2 + 2})
    signature.inputs["x"].name = "x"
    return {"serving_default": signature}


def picky_of_1() -> dict[str, object]:
    """One output is always there, the other only for two numbers. A function of TensorFlow 2 runs as a whole."""
    x = v1.placeholder(tf.float32, [None], "x")
    outputs = {"plain": x + 1, "picky": tf.reshape(x, [2])}
    return {"serving_default": signature_defs.predict_signature_def({"x": x}, outputs)}


def pair_of_1() -> dict[str, object]:
    a, b = v1.placeholder(tf.float32, [None, 2], "a"), v1.placeholder(tf.int64, [None], "b")
    outputs = {"sum": tf.reduce_sum(a, axis=1), "twice": b * 2}
    return {"serving_default": signature_defs.predict_signature_def({"a": a, "b": b}, outputs)}


@tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
def plus(x):
    return {"y": x / 2 + 2}


@tf.function(
    input_signature=[tf.TensorSpec([None, 2], tf.float32, "a"), tf.TensorSpec([None], tf.int64, "b")]
)
def pair(a, b):
    return {"sum": tf.reduce_sum(a, axis=1), "twice": b * 2}


def save_function(path: Path, function) -> None:
    tf.saved_model.save(tf.Module(), str(path), signatures={"serving_default": function})


def save_lite(path: Path, function) -> None:
    """
    Save a TensorFlow Lite model, with its signature.
    """
    exported = path.parent / "exported"
    save_function(exported, function)
    path.mkdir(parents=True)
    (path / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(exported)).convert())


TWO = tf.constant(2.0)


@tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([], tf.float32, "scale")])
def scaled(x, scale=TWO):
    """A tensor as the default of an argument becomes a default of the signature."""
    return {"y": x * scale}


@tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
def ragged(x):
    return {"plain": x + 1, "rows": tf.RaggedTensor.from_row_lengths(x, [tf.size(x)])}


@tf.function(input_signature=[tf.TensorSpec([1, 3], tf.float32, "x")])
def one_row(x):
    return {"sum": tf.reduce_sum(x, axis=-1)}


@tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
def product(x):
    return {"y": tf.matmul(x, tf.ones([3, 1]))}


@tf.function(
    input_signature=[
        tf.TensorSpec([None], tf.string, "tag"),
        tf.TensorSpec([None, 5], tf.int32, "signal"),
        tf.TensorSpec([None, 2, 2], tf.float32, "sensor"),
    ]
)
def documented(tag, signal, sensor):
    """The inputs of the examples on TensorFlow Serving's page on REST."""
    return {"tags": tag, "total": tf.reduce_sum(signal, axis=1), "trace": tf.linalg.trace(sensor)}


@tf.function(input_signature=[tf.TensorSpec([None], tf.string, "words")])
def words(words):
    return {"lengths": tf.strings.length(words)}


@tf.function(input_signature=[tf.TensorSpec([None, 1, 2], tf.float32, "matrices")])
def matrices(matrices):
    return {"sums": tf.reduce_sum(matrices, axis=[1, 2])}


@tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
def classify_objects(inputs):
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "caption")}
    parsed = tf.io.parse_example(inputs, features)
    labels = tf.stack([parsed["image"], parsed["caption"]], axis=1)
    return {"classes": labels, "scores": tf.cast(tf.strings.length(labels), tf.float32)}


@tf.function(input_signature=[])
def nothing():
    """Takes nothing, and so cannot be asked over REST."""
    return {"y": tf.constant([1.0])}


def save_all(directory: Path) -> None:
    """
    Save every model below a directory.
    """
    save_graph(directory / "half_plus_two" / "123", half_plus(2.0))
    save_graph(directory / "half_plus_three" / "123", half_plus(3.0))
    save_graph(directory / "tf1" / "plus" / "1", plus_of_1)
    save_graph(directory / "tf1" / "pair" / "1", pair_of_1)
    save_graph(directory / "tf1" / "picky" / "1", picky_of_1)
    for name, function in (("plus", plus), ("pair", pair)):
        save_function(directory / "tf2" / name / "1", function)
        save_lite(directory / "tflite" / name / "1", function)
    asks = {"ragged": ragged, "one_row": one_row, "product": product, "scaled": scaled}
    asks |= {"documented": documented, "words": words, "matrices": matrices}
    asks |= {"classify_objects": classify_objects, "nothing": nothing}
    tf.saved_model.save(tf.Module(), str(directory / "asks" / "1"), signatures=asks)
