"""
The warm-up records of a SavedModel: predictions that its author knew to work.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcanary.client.answer import Interface, TensorValue
from tfcanary.client.request import PredictRequest
from tfcanary.client.tensors import protos, value_of
from tfcanary.client.tfrecord import records
from tfcanary.contract import SERVING_DEFAULT, WARMUP
from tfcanary.errors import UsageError

FILE = Path(WARMUP)
_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "model.tflite")
# The first ones are read: each is asked of every track, and a checksum takes a second for 10 MB.
MOST_RECORDS = 16
MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class WarmupRecord:
    """
    One prediction of the warm-up records.

    Attributes:
        where: the file and the record, for errors.
    """

    where: str
    signature: str
    inputs: Mapping[str, TensorValue]

    def prepared(self, interface: Interface) -> PredictRequest:
        """
        The request for a model of this interface.

        Raises:
            UsageError: with the record, if the model has no such signature or takes other inputs.
        """
        declared = interface.get(self.signature)
        wanted = {name: tensor.dtype for name, tensor in declared.inputs.items()} if declared else {}
        got = {name: value.dtype for name, value in self.inputs.items()}
        if declared is None or wanted != got:
            raise UsageError(
                f"{self.where}: signature {self.signature}: expected inputs {_in_words(wanted)}, "
                f"got {_in_words(got)}; is it the model that is served?"
            )
        return PredictRequest(self.signature, self.inputs, declared)


def read_warmup(saved_model: Path) -> tuple[WarmupRecord, ...]:
    """
    Read the predictions among a model's first warm-up records; none if it has no such records.

    Raises:
        UsageError: if the folder is no version of a model, or its records cannot be read.
    """
    if not any((saved_model / name).is_file() for name in _MODEL_FILES):
        raise UsageError(
            f"--saved-model {str(saved_model)!r}: expected the folder of one version, with saved_model.pb, got none"
        )
    if not (saved_model / FILE).is_file():
        return ()
    try:
        return tuple(_predictions(saved_model / FILE))
    except OSError as exc:
        raise UsageError(f"{FILE.name}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise UsageError(f"{FILE.name}: {exc}") from exc


def _predictions(file: Path) -> Iterator[WarmupRecord]:
    with file.open("rb") as opened:
        found = records(opened, MOST_BYTES)
        for number, content in zip(range(1, MOST_RECORDS + 1), found, strict=False):
            request = _predict_request(number, content)
            if request is not None:
                yield WarmupRecord(
                    f"{FILE.name} record {number}",
                    request.model_spec.signature_name or SERVING_DEFAULT,
                    {name: value_of(tensor) for name, tensor in request.inputs.items()},
                )


def _predict_request(number: int, content: bytes) -> Any | None:
    """
    The PredictRequest of a record; None if it is of another API.
    """
    try:
        log = protos().prediction_log_pb2.PredictionLog.FromString(content)
    except Exception as exc:  # protobuf's DecodeError has moved between releases
        raise ValueError(f"record {number}: expected a PredictionLog: {exc}") from exc
    return log.predict_log.request if log.WhichOneof("log_type") == "predict_log" else None


def _in_words(dtypes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in sorted(dtypes.items())) or "none"
