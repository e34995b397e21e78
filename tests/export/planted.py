"""
Write SavedModels that hold what a served model must not, each in a folder named as the case.

It is a program of its own, as TensorFlow warns while it is imported.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

SPEC = [tf.TensorSpec((None,), tf.string, name="text")]


def through(effect: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def signature(text: Any) -> Any:
        with tf.control_dependencies([effect(text)]):
            return {"text": tf.identity(text)}

    return signature


def looped(effect: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Three functions down: signature, loop, branch."""

    def body(step: Any, text: Any) -> Any:
        with tf.control_dependencies([tf.cond(step < 1, lambda: effect(text), tf.no_op)]):
            return step + 1, tf.identity(text)

    return lambda text: {"text": tf.while_loop(lambda step, _: step < 2, body, (tf.constant(0), text))[1]}


def write(text: Any) -> Any:
    return tf.io.write_file("/nonexistent/planted", text[0])


def whole(_: Any) -> Any:
    reader = tf.raw_ops.WholeFileReaderV2()
    return tf.raw_ops.ReaderNumRecordsProducedV2(reader_handle=reader)


def restore(text: Any) -> Any:
    return tf.raw_ops.RestoreV2(
        prefix=text[0], tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
    )[0]


def save(text: Any) -> Any:
    return tf.raw_ops.SaveV2(prefix=text[0], tensor_names=["x"], shape_and_slices=[""], tensors=[1.0])


def python(text: Any) -> Any:
    return tf.py_function(lambda given: given, [text], tf.string)


SIGNATURES = {
    "none": lambda text: {"text": tf.strings.upper(text)},
    "PrintV2": through(tf.print),
    "WriteFile": through(write),
    "ReadFile": lambda text: {"text": tf.map_fn(tf.io.read_file, text)},
    "WholeFileReaderV2": through(whole),
    "EagerPyFunc": lambda text: {"text": python(text)},
    "RestoreV2": through(restore),
    "SaveV2": through(save),
    "looped-WriteFile": looped(write),
    "MatchingFiles": lambda _: {"text": tf.io.matching_files("/etc/*")},
}


class Table(tf.Module):
    """
    A vocabulary that an initializer reads from a file.
    """

    def __init__(self, vocabulary: Path) -> None:
        vocabulary.write_text("one\ntwo\n")
        words = tf.lookup.TextFileIndex.WHOLE_LINE
        initializer = tf.lookup.TextFileInitializer(
            str(vocabulary), tf.string, words, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        self.table = tf.lookup.StaticHashTable(initializer, -1)
        self.lookup = tf.function(lambda text: {"index": self.table.lookup(text)}, input_signature=SPEC)


def change(source: Path, target: Path, edit: Callable[[Any], None]) -> None:
    saved = saved_model_pb2.SavedModel.FromString((source / "saved_model.pb").read_bytes())
    edit(saved.meta_graphs[0])
    target.mkdir()
    (target / "saved_model.pb").write_bytes(saved.SerializeToString())


def function_with(meta_graph: Any, op: str) -> Any:
    return next(
        function
        for function in meta_graph.graph_def.library.function
        if any(node.op == op for node in function.node_def)
    )


def custom(meta_graph: Any) -> None:
    node = next(n for n in function_with(meta_graph, "StringUpper").node_def if n.op == "StringUpper")
    node.op = "SomebodysUpper"


def saves_at_load(meta_graph: Any) -> None:
    """The restore function, which runs when the model is loaded, gets the save's node."""
    restoring = function_with(meta_graph, "RestoreV2")
    node = next(n for n in function_with(meta_graph, "SaveV2").node_def if n.op == "SaveV2")
    restoring.node_def.add().CopyFrom(node)


def restores_another(meta_graph: Any) -> None:
    restoring = function_with(meta_graph, "RestoreV2")
    constant = restoring.node_def.add(name="elsewhere", op="Const")
    constant.attr["value"].tensor.string_val.append(b"/etc/elsewhere")
    next(n for n in restoring.node_def if n.op == "RestoreV2").input[0] = "elsewhere:output:0"


def restores_another_by_argument(meta_graph: Any) -> None:
    constant = meta_graph.graph_def.node.add(name="elsewhere", op="Const")
    constant.attr["value"].tensor.string_val.append(b"/etc/elsewhere")
    name = meta_graph.saver_def.restore_op_name
    call = next(node for node in meta_graph.graph_def.node if node.name == name)
    call.input[0] = "elsewhere"


def unreached(meta_graph: Any) -> None:
    function = meta_graph.graph_def.library.function.add()
    function.CopyFrom(function_with(meta_graph, "SaveV2"))
    function.signature.name = "called_by_nobody"


def first_style(target: Path) -> None:
    """As TensorFlow 1 saved: one graph, no functions, variables restored by nodes of it."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        given = tf.compat.v1.placeholder(tf.float32, (None,), name="x")
        scale = tf.compat.v1.get_variable("scale", initializer=2.0, use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, str(target), {"x": given}, {"y": given * scale})


def main(base: Path) -> None:
    for name, function in SIGNATURES.items():
        module = tf.Module()
        module.scale = tf.Variable(2.0)  # without a variable nothing is restored
        traced = tf.function(function, input_signature=SPEC).get_concrete_function()
        tf.saved_model.save(module, str(base / name), signatures=traced)
    table = Table(base / "vocabulary.txt")
    tf.saved_model.save(table, str(base / "InitializeTableFromTextFileV2"), signatures=table.lookup)
    first_style(base / "first-style")
    for edit in (custom, saves_at_load, restores_another, restores_another_by_argument, unreached):
        change(base / "none", base / edit.__name__, edit)
    change(base / "none", base / "text", lambda _: None)
    (base / "text" / "saved_model.pbtxt").write_text("saved_model_schema_version: 1\n")


main(Path(sys.argv[1]))
