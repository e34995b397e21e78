"""
Read SavedModels without running them: their interface, their ops, and whether one can take another's place.

Only `accuracy` runs one, after its ops were held against the list of what may be served.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcanary import cli, contract
from tfcanary.errors import DoesNotHoldError, NoEvidenceError, UsageError
from tfcanary.export import manifest, ops
from tfcanary.protos import bare_tensorflow, runtime

COMMANDS = ("inspect", "compare")
FILE = "saved_model.pb"
WARMUP = Path(contract.WARMUP)
# The only text file that TensorFlow Serving reads beside a model, and no graph.
BATCHING_FILE = "batching_params.pbtxt"
BATCH = 32
_INTERFACE = ("inputs", "outputs")
# What a manifest says that no file of the model does.
_FACTS = ("arch", "weights", "seed", "version", "model_name", "labels", "accuracy", "fault")


def parser(prog: str) -> cli.Parser:
    """
    Describe the two commands that read models.
    """
    result = cli.Parser(prog=prog, description=__doc__)
    commands = result.add_subparsers(dest="command", required=True)
    inspecting = commands.add_parser(
        "inspect", help="say what a SavedModel is, and whether it may be served", epilog=cli.EXIT_CODES
    )
    inspecting.add_argument("model", type=Path, metavar="DIR", help="a version's directory")
    inspecting.add_argument(
        "--labelled",
        type=Path,
        metavar="DIR",
        help="pictures to measure the accuracy on, in one folder for each label, named as the model names it",
    )
    comparing = commands.add_parser(
        "compare", help="say whether two versions are interchangeable", epilog=cli.EXIT_CODES
    )
    comparing.add_argument("one", type=Path, metavar="A", help="a version's directory")
    comparing.add_argument("other", type=Path, metavar="B", help="another's")
    for command in (inspecting, comparing):
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    return result


def main(argv: Sequence[str] | None = None, *, prog: str = "export_resnet.py") -> int:
    """
    Inspect or compare as the command line says.
    """
    return cli.run(parser(prog), _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    if arguments.command == "compare":
        differences, unknown = compare(arguments.one, arguments.other)
        result = {
            "interchangeable": not differences and not unknown,
            "differences": differences,
            "unknown": unknown,
        }
        lines = [*differences, *unknown] or [
            "interchangeable: inputs, outputs, dtypes, shapes, classes and labels"
        ]
        print(json.dumps(result, indent=2) if arguments.json else "\n".join(lines))  # noqa: T201 - the result
        if differences:
            raise DoesNotHoldError(
                f"{arguments.other}: expected the interface of {arguments.one}, got {len(differences)} "
                f"differences, the first: {differences[0]}"
            )
        if unknown:
            raise NoEvidenceError(f"{arguments.other}: {unknown[0]}")
        return 0
    found = inspect(arguments.model, labelled=arguments.labelled)
    print(json.dumps(found, indent=2) if arguments.json else _text(found))  # noqa: T201 - the result
    problems = [*found["refused"], *found["manifest"]["problems"]]
    if problems:
        raise DoesNotHoldError(f"{arguments.model}: {'; '.join(problems)}")
    return 0


def read(directory: Path) -> Any:
    """
    Parse a SavedModel's message.

    Raises:
        UsageError: there is none, or it is malformed.
        DoesNotHoldError: it is, or brings, a text graph.
    """
    with bare_tensorflow():
        from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415 - seconds, which --help has not

    textual = {path.relative_to(directory).as_posix() for path in directory.rglob("*.pbtxt")} - {
        BATCHING_FILE
    }
    if textual:
        raise DoesNotHoldError(f"{directory}: expected a binary {FILE} and no text graph, got {min(textual)}")
    path = directory / FILE
    if not path.is_file():
        raise UsageError(
            f"{path}: expected a SavedModel's version directory, got none; name it as BASE/VERSION"
        )
    try:
        saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError has moved between releases
        raise UsageError(f"{path}: expected a SavedModel, got {error}") from error
    if not saved.meta_graphs:  # as of a file without a byte
        raise UsageError(f"{path}: expected a SavedModel, got one without a graph")
    return saved


def require_allowed(directory: Path) -> None:
    """
    Refuse a model that may not be served.

    Raises:
        DoesNotHoldError: with every op that the list does not allow.
    """
    if lines := ops.refused(read(directory)):
        raise DoesNotHoldError(f"{directory}: {'; '.join(lines)}")


def interface(saved: Any) -> dict[str, Any]:
    """
    Describe the signatures of the graph that is served.
    """
    return {
        name: {"inputs": _tensors(signature.inputs), "outputs": _tensors(signature.outputs)}
        for name, signature in sorted(_signatures(saved))
    }


def class_names(saved: Any) -> list[str] | None:
    """
    Find the labels: the one text constant of the graph with as many entries as there are class probabilities.
    """
    classes = {
        shape[-1]
        for signature in interface(saved).values()
        for tensor in signature["outputs"].values()
        if tensor["dtype"] == "DT_FLOAT" and (shape := tensor["shape"]) and len(shape) == 2
    }
    graph = saved.meta_graphs[0].graph_def
    found = set()
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            values = node.attr["value"].tensor.string_val if node.op == "Const" else ()
            if len(values) > 1 and len(values) in classes:
                found.add(tuple(value.decode("utf-8", "replace") for value in values))
    return list(found.pop()) if len(found) == 1 else None


def inspect(directory: Path, *, labelled: Path | None = None) -> dict[str, Any]:
    """
    Say what a SavedModel is.
    """
    saved = read(directory)
    lines = ops.refused(saved)
    sizes = {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    written = (directory / manifest.NAME).is_file()
    problems = list(manifest.problems(directory)) if written else []
    facts = json.loads((directory / manifest.NAME).read_text(encoding="utf-8")) if written else {}
    measured = None
    if labelled is not None and not lines:
        measured = accuracy(directory, labelled)
    return {
        "path": str(directory),
        "tensorflow": saved.meta_graphs[0].meta_info_def.tensorflow_version,
        "signatures": interface(saved),
        "classes": class_names(saved),
        "bytes": sum(sizes.values()),
        "files": sizes,
        "ops": ops.used(saved),
        "refused": lines,
        "manifest": {"written": written, "problems": problems},
        "facts": {name: facts[name] for name in _FACTS if name in facts},
        "accuracy": measured,
    }


def accuracy(directory: Path, labelled: Path) -> dict[str, Any]:
    """
    Ask the model for the label of every picture in `labelled`, loaded as TensorFlow Serving loads it.

    Raises:
        UsageError: `labelled` holds no picture.
        DoesNotHoldError: the model does not load, has no signature for pictures, or fails on one of them.
    """
    pictures = [(path.parent.name, path.read_bytes()) for path in sorted(labelled.glob("*/*"))]
    if not pictures:
        raise UsageError(f"{labelled}: expected pictures in one folder for each label, got none")
    tensorflow = runtime()
    graph = tensorflow.graph.Graph()
    right: Counter[bool] = Counter()
    try:
        with tensorflow.session.Session(graph=graph) as session:
            loaded = tensorflow.loader.load(session, ["serve"], str(directory))
            source, target = _picture_tensors(directory, loaded.signature_def)
            for start in range(0, len(pictures), BATCH):
                names, encoded = zip(*pictures[start : start + BATCH], strict=True)
                answers = session.run(target, {source: np.array(encoded, dtype=object)})
                right.update(answer[0].decode() == name for answer, name in zip(answers, names, strict=True))
    except (tensorflow.errors.OpError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())  # TensorFlow's messages have several lines
        raise DoesNotHoldError(
            f"{directory}: expected a model that answers pictures, got {reason}"
        ) from error
    return {"pictures": len(pictures), "right": right[True], "accuracy": right[True] / len(pictures)}


def _picture_tensors(directory: Path, signatures: Any) -> tuple[str, str]:
    """
    Name the tensors that take encoded pictures and give their labels.
    """
    if "serving_preprocess" in signatures:
        signature = signatures["serving_preprocess"]
        if "image_bytes" in signature.inputs and "labels" in signature.outputs:
            return signature.inputs["image_bytes"].name, signature.outputs["labels"].name
    raise DoesNotHoldError(
        f"{directory}: expected a signature serving_preprocess from image_bytes to labels, got "
        f"{', '.join(sorted(signatures))}"
    )


def compare(one: Path, other: Path) -> tuple[list[str], list[str]]:
    """
    Say what differs between two versions' interfaces, and what cannot be told.
    """
    saved = read(one), read(other)
    differences = list(_differing(*map(_callable, saved)))
    names = [class_names(each) for each in saved]
    if None not in names:
        if names[0] != names[1]:
            differences.append(_labels(*(each or [] for each in names)))
        return differences, []
    labelled = any(
        tensor["dtype"] == "DT_STRING"
        for each in saved
        for signature in interface(each).values()
        for tensor in signature["outputs"].values()
    )
    missing = [str(path) for path, found in zip((one, other), names, strict=True) if found is None]
    unknown = (
        [f"labels: not found in the graph of {' or '.join(missing)}, so not compared"] if labelled else []
    )
    return differences, unknown


def _signatures(saved: Any) -> Iterator[tuple[str, Any]]:
    for name, signature in saved.meta_graphs[0].signature_def.items():
        if not name.startswith("__"):  # __saved_model_init_op is TensorFlow's own
            yield name, signature


def _tensors(infos: Any) -> dict[str, Any]:
    with bare_tensorflow():
        from tensorflow.core.framework import types_pb2  # noqa: PLC0415

    return {
        name: {
            "dtype": types_pb2.DataType.Name(info.dtype),
            "shape": None if info.tensor_shape.unknown_rank else [d.size for d in info.tensor_shape.dim],
        }
        for name, info in sorted(infos.items())
    }


def _callable(saved: Any) -> dict[str, dict[str, Any]]:
    """
    Flatten what a client depends on: signature to method, and to a form for each input and output.
    """
    methods = {name: signature.method_name for name, signature in _signatures(saved)}
    return {
        name: {
            "method": methods[name],
            **{
                f"{side[:-1]} {tensor}": f"{form['dtype']} {form['shape']}"
                for side in _INTERFACE
                for tensor, form in tensors[side].items()
            },
        }
        for name, tensors in interface(saved).items()
    }


def _differing(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            yield f"signature {name}: {'only the first has it' if name in one else 'only the second has it'}"
            continue
        left, right = one[name], other[name]
        for part in sorted(left.keys() | right.keys()):
            if left.get(part) != right.get(part):
                yield f"signature {name}: {part}: {left.get(part, 'absent')} and {right.get(part, 'absent')}"


def _labels(one: list[str], other: list[str]) -> str:
    if len(one) != len(other):
        return f"labels: {len(one)} and {len(other)} classes"
    apart = [number for number, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
    first = apart[0]
    return f"labels: {len(apart)} of {len(one)} differ, the first is class {first}: {one[first]!r} and {other[first]!r}"


def _text(found: dict[str, Any]) -> str:
    """
    Write what was found for people.
    """
    lines = [f"{found['path']}: {found['bytes'] / 2**20:.1f} MiB, TensorFlow {found['tensorflow']}"]
    for name, signature in found["signatures"].items():
        lines.append(f"signature {name}")
        for side in _INTERFACE:
            lines += [
                f"  {side[:-1]:6} {tensor}: {form['dtype']} {form['shape']}"
                for tensor, form in signature[side].items()
            ]
    lines.append(f"classes: {len(found['classes']) if found['classes'] else 'no labels found'}")
    lines += [f"{name}: {value}" for name, value in found["facts"].items()]
    if found["accuracy"]:
        lines.append("accuracy: {accuracy:.2%}, {right} of {pictures} pictures".format(**found["accuracy"]))
    lines.append(f"ops: {' '.join(found['ops'])}")
    problems = found["manifest"]["problems"] or ["every file is as it says"]
    lines += [f"manifest: {line}" for line in (problems if found["manifest"]["written"] else ["none"])]
    lines += [f"refused: {line}" for line in found["refused"]]
    return "\n".join(lines)
