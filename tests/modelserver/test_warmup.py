"""
Warm-up records: which are replayed before a version is available, and which make its load fail.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfcanary.modelserver import protos
from tfcanary.modelserver.servable import LoadOptions, Servable
from tfcanary.modelserver.status import Code, ServingError
from tfcanary.modelserver.tensors import to_proto
from tfcanary.protos import runtime


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Path:
    """
    A copy of the model with many signatures.
    """
    shutil.copytree(models / "mixed" / "7", tmp_path / "mixed" / "7")
    (tmp_path / "mixed" / "7" / "assets.extra").mkdir()
    return tmp_path / "mixed" / "7"


def record(model: Path, *logs: bytes) -> None:
    with runtime().records.TFRecordWriter(
        str(model / "assets.extra" / "tf_serving_warmup_requests")
    ) as writer:
        for log in logs:
            writer.write(log)


def predicting(signature: str = "total", name: str = "x") -> bytes:
    log = protos.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    to_proto(np.array([1.0], np.float32), 1, request.inputs[name])
    data: bytes = log.SerializeToString()
    return data


def judging(kind: str) -> bytes:
    log = protos.PredictionLog()
    request = getattr(log, kind).request
    if kind == "multi_inference_log":
        for method in ("classify", "regress"):
            request.tasks.add(
                model_spec={"signature_name": method}, method_name=f"tensorflow/serving/{method}"
            )
    else:
        request.model_spec.signature_name = kind.removesuffix("_log")
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(1.0)
    data: bytes = log.SerializeToString()
    return data


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """
    The outputs of each run of the model.
    """
    seen: list[set[str]] = []
    predict = Servable.predict

    def spy(self: Servable, signature: Any, *arguments: Any) -> Any:
        seen.append(set(signature.outputs))
        return predict(self, signature, *arguments)

    monkeypatch.setattr(Servable, "predict", spy)
    return seen


def load(model: Path, **options: Any) -> None:
    Servable("mixed", 7, model, LoadOptions(**options)).close()


TOTAL, CLASSES, OUTPUTS = {"total", "each"}, {"classes", "scores"}, {"outputs"}


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param(predicting(), [TOTAL], id="predict"),
        pytest.param(judging("classify_log"), [CLASSES], id="classify"),
        pytest.param(judging("regress_log"), [OUTPUTS], id="regress"),
        pytest.param(judging("multi_inference_log"), [CLASSES, OUTPUTS], id="multi-inference"),
    ],
)
def test_every_kind_of_request_is_replayed(
    model: Path, runs: list[set[str]], log: bytes, expected: list[set[str]]
) -> None:
    record(model, log)

    load(model)

    assert expected == runs


def test_each_as_often_as_asked(model: Path, runs: list[set[str]]) -> None:
    record(model, predicting(), judging("regress_log"))

    load(model, warmup_iterations=3)

    assert [TOTAL] * 3 + [OUTPUTS] * 3 == runs


def test_none_if_asked(model: Path, runs: list[set[str]]) -> None:
    record(model, b"\xff")

    load(model, warmup=False)

    assert runs == []


@pytest.mark.parametrize(
    ("logs", "message", "code"),
    [
        pytest.param([b"\xff"], "Failed to parse warmup record", Code.INVALID_ARGUMENT, id="no-record"),
        pytest.param([predicting("nope")], '"nope" not found', Code.FAILED_PRECONDITION, id="signature"),
        pytest.param([predicting(name="z")], "Signature input alias: x", Code.INVALID_ARGUMENT, id="input"),
        pytest.param(
            [protos.PredictionLog(session_run_log={}).SerializeToString()],
            "Unsupported log_type for warmup: session_run_log",
            Code.UNIMPLEMENTED,
            id="session-run",
        ),
    ],
)
def test_a_record_that_fails_fails_the_load(model: Path, logs: list[bytes], message: str, code: Code) -> None:
    record(model, *logs)

    with pytest.raises(ServingError, match=message) as refused:
        load(model)

    assert code == refused.value.code


def test_more_than_a_thousand_records_fail_the_load(model: Path) -> None:
    record(model, *[predicting()] * 1001)

    with pytest.raises(ServingError, match="Number of warmup records exceeds the maximum \\(1000\\)"):
        load(model)
