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


def elsewhere(meta_graph: Any) -> Any:
    """Give the node that calls the restore function, and the graph a constant to take the file name's place."""
    constant = meta_graph.graph_def.node.add(name="elsewhere", op="Const")
    constant.attr["value"].tensor.string_val.append(b"/etc/elsewhere")
    name = meta_graph.saver_def.restore_op_name
    return next(node for node in meta_graph.graph_def.node if node.name == name)


def restores_another_by_argument(meta_graph: Any) -> None:
    elsewhere(meta_graph).input[0] = "elsewhere"


def restores_another_in_a_branch(meta_graph: Any) -> None:
    """The file name is the condition, which may be text; what the function gets stands behind it."""
    call = elsewhere(meta_graph)
    call.op = "If"
    call.input.insert(1, "elsewhere")
    for branch in ("then_branch", "else_branch"):
        call.attr[branch].CopyFrom(call.attr["f"])
    del call.attr["f"]


def restores_another_by_output(meta_graph: Any) -> None:
    """The loader gives a value to the first output of a node only."""
    call = elsewhere(meta_graph)
    meta_graph.graph_def.node.add(name="both", op="IdentityN", input=[call.input[0], "elsewhere"])
    meta_graph.saver_def.filename_tensor_name = "both:0"
    call.input[0] = "both:1"


def restores_another_behind_a_list(meta_graph: Any) -> None:
    """One argument that stands for two moves the next one."""
    call = elsewhere(meta_graph)
    arguments = function_with(meta_graph, "RestoreV2").signature.input_arg
    arguments.insert(0, type(arguments[0])(name="two", number_attr="N"))
    name = call.input[0]
    call.input[:1] = [name, name, "elsewhere"]


def restores_from_a_circle(meta_graph: Any) -> None:
    restoring = function_with(meta_graph, "RestoreV2")
    for name, other in (("one", "other"), ("other", "one")):
        restoring.node_def.add(name=name, op="Identity", input=[f"{other}:output:0"])
    next(n for n in restoring.node_def if n.op == "RestoreV2").input[0] = "one:output:0"


def restores_nothing(meta_graph: Any) -> None:
    restoring = function_with(meta_graph, "RestoreV2")
    del next(n for n in restoring.node_def if n.op == "RestoreV2").input[:]


def saves_in_anothers_place(meta_graph: Any) -> None:
    """TensorFlow runs the function that is for this device, whichever of the two is called."""
    saving = function_with(meta_graph, "SaveV2")
    other = meta_graph.graph_def.library.function.add()
    other.signature.name = "for_another_device"
    for function, device in ((saving, b"CPU"), (other, b"GPU")):
        function.attr["api_implements"].s = b"the same"
        function.attr["api_preferred_device"].s = device


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
    for edit in (
        custom,
        saves_at_load,
        restores_another,
        restores_another_by_argument,
        restores_another_in_a_branch,
        restores_another_by_output,
        restores_another_behind_a_list,
        restores_from_a_circle,
        restores_nothing,
        saves_in_anothers_place,
        unreached,
    ):
        change(base / "none", base / edit.__name__, edit)
    change(base / "none", base / "text", lambda _: None)
    change(base / "none", base / "batched", lambda _: None)
    (base / "batched" / "batching_params.pbtxt").write_text("max_batch_size { value: 8 }\n")
    (base / "text" / "saved_model.pbtxt").write_text("saved_model_schema_version: 1\n")


main(Path(sys.argv[1]))
