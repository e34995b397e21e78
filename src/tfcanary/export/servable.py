"""
Make a model that other programs saved servable by the chart's defaults: its manifest, and its warm-up records.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcanary.errors import DoesNotHoldError, UsageError
from tfcanary.export import lite, manifest, ops, requests, savedmodel
from tfcanary.protos import bare_tensorflow, runtime

# TensorFlow Serving refuses a version with more of them.
MOST_RECORDS = 1000
# sha256sum writes these in a name as an escape, which the init container does not read.
_ESCAPED = ("\\", "\n", "\r")


def write_manifest(directory: Path) -> dict[str, Any]:
    """
    Write the manifest of a model and its sums, over those that are there.

    What an earlier manifest says of the model stays: its architecture, its accuracy, and that it was made faulty on
    purpose.

    Raises:
        UsageError: there is no model, or the manifest cannot be written.
        DoesNotHoldError: the model has an op that may not be served, or a file that the init container refuses.
    """
    facts = _earlier(directory)
    facts.update(described(directory))
    _require_plain_files(directory)
    try:
        return manifest.write(directory, facts)
    except OSError as error:
        raise UsageError(f"{directory}: cannot write the manifest: {error.strerror}") from error


def described(directory: Path) -> dict[str, Any]:
    """
    The signatures and the ops of a SavedModel, or of a folder with a TensorFlow Lite model alone.

    Raises:
        UsageError: there is neither.
        DoesNotHoldError: it has an op that may not be served.
    """
    if not (directory / savedmodel.FILE).exists() and (directory / lite.FILE).is_file():
        model = lite.read(directory / lite.FILE)
        lines, signatures, used = model.refused, model.signatures, model.ops
    else:
        saved = savedmodel.read(directory)
        lines, signatures, used = ops.refused(saved), savedmodel.interface(saved), ops.used(saved)
    if lines:
        raise DoesNotHoldError(f"{directory}: {'; '.join(lines)}; no manifest was written")
    if not signatures:
        raise DoesNotHoldError(
            f"{directory}: expected a signature, got none; name one when the model is saved "
            "(Keras: model.export; tf.saved_model.save: signatures=)"
        )
    return {"signatures": signatures, "ops": used}


def write_warmup(directory: Path, file: Path, *, model_name: str) -> Counter[str]:
    """
    Write the requests of a file as warm-up records, over those that are there, and give the number for each signature.

    Each request is run once. A record that a server cannot replay would keep the version from loading. A manifest that
    is there is written again.

    Raises:
        UsageError: the model or the file cannot be read, or the records cannot be written.
        DoesNotHoldError: a request does not fit, the model fails on it, or files were changed since the manifest was
            written.
    """
    written = (directory / manifest.NAME).is_file()
    changed = [line for line in manifest.problems(directory) if not _is_warmup(line)] if written else []
    if changed:
        raise DoesNotHoldError(
            f"{directory}: {changed[0]}; if you changed the model, write its manifest again (manifest DIR)"
        )
    interface = described(directory)["signatures"]
    given = requests.read(file, interface)
    if len(given) > MOST_RECORDS:
        raise UsageError(
            f"--requests {file}: expected at most {MOST_RECORDS} requests, got {len(given)}; the server refuses more"
        )
    if (directory / savedmodel.FILE).exists():
        _require_replayable(directory, given)
    try:
        _write_records(directory / savedmodel.WARMUP, given, model_name)
    except OSError as error:
        raise UsageError(f"{directory}: cannot write the warm-up records: {error.strerror}") from error
    if written:
        write_manifest(directory)
    return Counter(request.signature for request in given)


def _is_warmup(line: str) -> bool:
    # Without an earlier record the manifest is right, and after it the sums are written again.
    return line.startswith((f"{savedmodel.WARMUP.as_posix()}:", f"{manifest.SUMS}:"))


def _earlier(directory: Path) -> dict[str, Any]:
    """
    What an earlier manifest says, without what is read from the files.
    """
    path = directory / manifest.NAME
    if not path.is_file():
        return {}
    try:
        facts = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path}: expected a manifest, got {error}; it may say that the model is faulty on purpose: "
            "if it does not matter, remove the file and try again"
        ) from error
    facts.pop("files", None)
    return facts


def _require_plain_files(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DoesNotHoldError(
                f"{directory}: {name!r}: expected a file or a folder, got a link or a device; put the file itself there"
            )
        if any(part in name for part in _ESCAPED):
            raise DoesNotHoldError(
                f"{directory}: {name!r}: expected a name without backslash and line break; give it another"
            )


def _require_replayable(directory: Path, given: Sequence[requests.Request]) -> None:
    """
    Run each request once, on the model as TensorFlow Serving loads it.
    """
    tensorflow = runtime()
    with _failing_as(tensorflow, f"{directory}: expected a model that loads"):
        session = tensorflow.session.Session(graph=tensorflow.graph.Graph())
        with session.graph.as_default():
            loaded = tensorflow.loader.load(session, ["serve"], str(directory))
    with session:
        for request in given:
            signature = loaded.signature_def[request.signature]
            feeds = {signature.inputs[name].name: array for name, array in request.inputs.items()}
            fetches = {name: tensor.name for name, tensor in signature.outputs.items()}
            with _failing_as(tensorflow, f"{request.where}: expected an answer of {request.signature}"):
                session.run(fetches, feeds)


@contextlib.contextmanager
def _failing_as(tensorflow: Any, what: str) -> Iterator[None]:
    try:
        yield
    except (tensorflow.errors.OpError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())  # TensorFlow's messages have several lines
        raise DoesNotHoldError(f"{what}, got {reason}") from error


def _write_records(path: Path, given: Sequence[requests.Request], model_name: str) -> None:
    """
    Write the records beside the file, and put them in its place when they are whole.
    """
    with bare_tensorflow():
        from tensorflow_serving.apis import prediction_log_pb2  # noqa: PLC0415 - seconds, which --help has not

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    with runtime().records.TFRecordWriter(str(draft)) as writer:
        for request in given:
            record = prediction_log_pb2.PredictionLog()
            message = record.predict_log.request
            message.model_spec.name = model_name
            message.model_spec.signature_name = request.signature
            for name, array in request.inputs.items():
                _fill(message.inputs[name], array)
            writer.write(record.SerializeToString())
    # No umask of the writer's own shuts out the server's user.
    draft.chmod(path.stat().st_mode if path.exists() else 0o644)
    draft.replace(path)


_DTYPES: Mapping[Any, str] = {np.dtype(kind): name for name, kind in requests.KINDS.items()}


def _fill(tensor: Any, array: Any) -> None:
    """
    Write an array into a TensorProto.
    """
    with bare_tensorflow():
        from tensorflow.core.framework import types_pb2  # noqa: PLC0415

    tensor.dtype = types_pb2.DataType.Value(_DTYPES[array.dtype])
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype == np.object_:
        tensor.string_val.extend(array.ravel().tolist())
    else:
        tensor.tensor_content = np.ascontiguousarray(array).tobytes()
