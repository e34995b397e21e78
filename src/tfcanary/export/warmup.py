"""
Warm-up records: requests that TensorFlow Serving replays before it calls a version available.

They are real pictures, for every signature, at the smallest and at a usual batch size: what was not run before the
first request makes that request wait.
"""

from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tfcanary import samples
from tfcanary.errors import DoesNotHoldError
from tfcanary.export import savedmodel

FILE = savedmodel.WARMUP
BATCHES = (1, 8)
LARGEST = max(BATCHES)


@dataclass(frozen=True, slots=True)
class Example:
    """
    One picture in both of the forms that a model takes.
    """

    floats: Any
    encoded: bytes


def of_floats(image: Any) -> Example:
    """
    Encode a picture of floats, RGB 0 to 255.
    """
    return Example(image, tf.io.encode_jpeg(tf.cast(image, tf.uint8)).numpy())


def photographs(side: int) -> list[Example]:
    """
    Give the photographs that scikit-learn ships, or none if it is not installed.
    """
    return [
        Example(tf.image.resize(tf.io.decode_jpeg(content), (side, side)).numpy(), content)
        for content in (path.read_bytes() for path in samples.photographs())
    ]


def write(tf: Any, path: Path, pictures: list[Example], model_name: str) -> None:
    """
    Write a request for each signature and batch size.
    """
    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in BATCHES:
            batch = list(islice(cycle(pictures), size))
            inputs = {
                "serving_default": ("images", tf.stack([picture.floats for picture in batch])),
                "serving_preprocess": ("image_bytes", tf.constant([picture.encoded for picture in batch])),
            }
            for signature, (name, value) in inputs.items():
                record = prediction_log_pb2.PredictionLog()
                request = record.predict_log.request
                request.model_spec.name = model_name
                request.model_spec.signature_name = signature
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
                writer.write(record.SerializeToString())


def require_replayable(tf: Any, path: Path, interface: dict[str, Any]) -> None:
    """
    Read the records back, and hold them against the signatures: one that a server cannot replay fails its load.

    Raises:
        DoesNotHoldError: with the number of the record.
    """
    from tensorflow_serving.apis import prediction_log_pb2  # noqa: PLC0415

    seen = set()
    for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), start=1):
        try:
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        except Exception as error:  # protobuf's DecodeError has moved between releases
            raise DoesNotHoldError(f"{path.name}: record {number} does not parse: {error}") from error
        name = request.model_spec.signature_name
        expected = {
            alias: (form["dtype"], form["shape"][1:])
            for alias, form in interface.get(name, {}).get("inputs", {}).items()
        }
        got = {
            alias: (types_pb2.DataType.Name(tensor.dtype), [d.size for d in tensor.tensor_shape.dim][1:])
            for alias, tensor in request.inputs.items()
        }
        if not expected or got != expected:
            raise DoesNotHoldError(
                f"{path.name}: record {number}: expected inputs {expected} of {name!r}, got {got}"
            )
        seen.add(name)
    if missing := sorted(interface.keys() - seen):
        raise DoesNotHoldError(f"{path.name}: expected a record for each signature, got none for {missing}")


def spoil(tf: Any, path: Path) -> None:
    """
    Add a record that does not parse.
    """
    records = [*tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), b"\xff not a PredictionLog"]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
