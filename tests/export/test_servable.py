"""
Models that other programs saved: what `manifest` and `warmup` write, what a server makes of it, and what they refuse.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tfcanary.commands.export import main
from tfcanary.export import manifest, savedmodel
from tfcanary.modelserver.servable import LoadOptions, Servable
from tfcanary.protos import bare_tensorflow

BUILD = Path(__file__).parents[1] / "modelserver" / "build_models.py"
SCRIPT = Path(__file__).parents[2] / "charts" / "tfserving-canary" / "files" / "verify-model.sh"
Print = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The model server's own test models: of every dtype, and one of TensorFlow Lite.
    """
    folder = tmp_path_factory.mktemp("saved")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(
        [sys.executable, str(BUILD), str(folder)], check=True, capture_output=True, env=environment
    )
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Callable[[str], Path]:
    """
    A copy of one of them that a test may change.
    """

    def copied(name: str) -> Path:
        target = tmp_path / name
        shutil.copytree(saved / name, target)
        return target

    return copied


@pytest.fixture
def requests(tmp_path: Path) -> Callable[..., Path]:
    """
    Write a file of requests, each an object or a line.
    """

    def write(*bodies: object) -> Path:
        file = tmp_path / "requests.jsonl"
        lines = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
        file.write_text("\n".join(lines) + "\n")
        return file

    return write


def taken(directory: Path, tmp_path: Path) -> str:
    """
    What the chart's init container says of a model; it must take it.
    """
    command = ["/bin/sh", "-ec", SCRIPT.read_text(), "verify-model", str(directory), str(tmp_path / "copy")]
    done = subprocess.run([*command, "refuse-faulty"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["half/1", "mixed/7", "lite/1", "batch/7"])
def test_a_manifest_makes_a_model_servable(
    model: Callable[[str], Path], tmp_path: Path, name: str, capsys: Print
) -> None:
    """
    The init container takes it, and `inspect` finds nothing wrong.
    """
    directory = model(name)

    assert 0 == main(["manifest", str(directory)])

    assert "files verified" in taken(directory, tmp_path)
    assert 0 == main(["inspect", str(directory)])
    assert "no warm-up records" in capsys.readouterr().out


def test_a_lite_model_alone_gets_a_manifest(
    model: Callable[[str], Path], tmp_path: Path, capsys: Print
) -> None:
    """
    Its signatures and ops are read from the file, and the value that serves it is named.
    """
    directory = model("lite/1")
    lite = tmp_path / "store" / "1"
    lite.mkdir(parents=True)
    shutil.copy(directory / "model.tflite", lite)

    assert 0 == main(["manifest", str(lite), "--json"])

    said = json.loads(capsys.readouterr().out)
    assert ["ADD", "MUL"] == said["manifest"]["ops"]
    (signature,) = said["manifest"]["signatures"].values()
    assert {"dtype": "DT_FLOAT", "shape": [-1]} == next(iter(signature["inputs"].values()))
    assert "server.preferTflite=true" in said["notes"][0]
    assert "files verified" in taken(lite, tmp_path)
    options = LoadOptions(prefer_tflite=True)
    served = Servable("lite", 1, lite, options).signatures
    assert set(said["manifest"]["signatures"]) == set(served)


NUMBERS = {
    "float16": [0.5],
    "float32": [1.25],
    "float64": [1e300],
    "bfloat16": [2.5],
    "int8": [-128],
    "int16": [-32768],
    "int32": [-(2**31)],
    "int64": [-(2**63)],
    "uint8": [255],
    "uint16": [65535],
    "uint32": [2**32 - 1],
    "uint64": [2**64 - 1],
    "bool": [True],
}


def test_records_of_every_dtype_are_replayed(
    model: Callable[[str], Path], requests: Callable[..., Path], tmp_path: Path
) -> None:
    """
    The model server loads the version with its records, whose tensors have the values of the file; the manifest is true
    again. What only a check reads is passed over.
    """
    directory = model("mixed/7")
    main(["manifest", str(directory)])
    file = requests(
        {"signature_name": "kinds", "inputs": NUMBERS, "label": "any", "headers": {"a": "b"}},
        {"signature_name": "kinds", "instances": [{name: value[0] for name, value in NUMBERS.items()}]},
        "",
        {"signature_name": "strings", "instances": ["a", {"b64": "AAE="}]},
        {"signature_name": "one_text", "inputs": "scalar"},
        {"instances": [{"a": [1, float("nan")], "b": 7}]},
    )

    assert 0 == main(["warmup", str(directory), "--requests", str(file)])

    assert [] == list(manifest.problems(directory))
    assert "files verified" in taken(directory, tmp_path)
    Servable("mixed", 7, directory, LoadOptions()).close()
    first, second, strings, scalar, default = records(directory)
    assert (
        first
        == second
        == {name: np.array(value).astype(kind(name)).tolist() for name, value in NUMBERS.items()}
    )
    assert {"text_bytes": [b"a", b"\x00\x01"]} == strings
    assert {"text": b"scalar"} == scalar
    assert [7] == default["b"]
    assert np.isnan(default["a"][0][1])


def kind(name: str) -> Any:
    import ml_dtypes  # noqa: PLC0415

    return getattr(ml_dtypes, name, None) or np.dtype(name)


def records(directory: Path) -> list[dict[str, Any]]:
    """
    The inputs of each record, as the model server reads them.
    """
    from tfcanary.modelserver import protos  # noqa: PLC0415
    from tfcanary.modelserver.tensors import from_proto  # noqa: PLC0415
    from tfcanary.protos import runtime  # noqa: PLC0415

    found = []
    for record in runtime().records.tf_record_iterator(str(directory / savedmodel.WARMUP)):
        request = protos.PredictionLog.FromString(record).predict_log.request
        found.append({name: from_proto(one, name, 1 << 20).tolist() for name, one in request.inputs.items()})
    return found


WRONG = {
    "no-json": ("{", 2, "line 1: expected JSON, got "),
    "no-object": ([1], 2, "line 1: expected an object with either instances or inputs, got [1]"),
    "both-forms": (
        {"instances": [1], "inputs": 1},
        2,
        "line 1: expected an object with either instances or inputs",
    ),
    "unknown-key": ({"instances": [1], "instance": 1}, 2, "got 'instance'"),
    "no-rows": ({"instances": []}, 2, "line 1: instances: expected a list of rows, got []"),
    "signature": (
        {"signature_name": "other", "instances": [1]},
        1,
        "expected a signature of the model (classify",
    ),
    "no-names": ({"instances": [1]}, 1, "expected an object with the inputs a, b, got values without a name"),
    "lacks-one": ({"inputs": {"a": [[1, 2]]}}, 1, "line 1: expected the inputs a, b, got a"),
    "row-lacks-one": (
        {"instances": [{"a": [1, 2], "b": 1}, {"a": [1, 2]}]},
        1,
        "instance 1: expected the inputs a, b",
    ),
    "shape": ({"inputs": {"a": [[1, 2, 3]], "b": [1]}}, 1, "input a: expected shape [?, 2], got [1, 3]"),
    "rank": ({"inputs": {"a": [1, 2], "b": [1]}}, 1, "input a: expected shape [?, 2], got [2]"),
    "ragged": (
        {"inputs": {"a": [[1, 2], [1]], "b": [1]}},
        1,
        "input a: expected lists of one length at each level",
    ),
    "dtype": ({"inputs": {"a": [[1, 2]], "b": [1.5]}}, 1, "input b: expected a value of DT_INT64, got 1.5"),
    "a-boolean": (
        {"inputs": {"a": [[1, True]], "b": [1]}},
        1,
        "input a: expected a value of DT_FLOAT, got true",
    ),
    "too-large": (
        {"inputs": {"a": [[1, 1e39]], "b": [1]}},
        1,
        "input a: expected a value of DT_FLOAT, got 1e+39",
    ),
    "range": (
        {"inputs": {"a": [[1, 2]], "b": [2**63]}},
        1,
        "input b: expected a value of DT_INT64, got 9223372036",
    ),
    "base64": (
        {"signature_name": "strings", "instances": [{"b64": "?"}]},
        1,
        "expected a value of DT_STRING",
    ),
    "complex": (
        {"signature_name": "complexes", "inputs": {"c64": [1], "c128": [1]}},
        1,
        "a form for, got DT_COMPLEX128",
    ),
    "fails": (
        {"signature_name": "classify", "instances": ["no example"]},
        1,
        "Could not parse example input",
    ),
    "scalar": ({"signature_name": "one_text", "instances": ["a"]}, 1, "text: expected shape [], got [1]"),
    "nothing": ("", 2, "expected a REST predict body on each line, got no line"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_request_that_a_server_could_not_replay_is_refused(
    model: Callable[[str], Path], requests: Callable[..., Path], capsys: Print, name: str
) -> None:
    """
    The line says which request, what the signature declares and what was given; nothing is written.
    """
    body, code, message = WRONG[name]
    directory = model("mixed/7")

    assert code == main(["warmup", str(directory), "--requests", str(requests(body))])

    said = capsys.readouterr().err
    assert message in said
    assert 1 == said.count("\n")
    assert not (directory / savedmodel.WARMUP).exists()


def test_warmup_does_not_bless_a_changed_file(
    model: Callable[[str], Path], requests: Callable[..., Path], capsys: Print
) -> None:
    """
    A file that differs from the manifest stays an error until its owner writes the manifest again.
    """
    directory = model("half/1")
    main(["manifest", str(directory)])
    (directory / "more").write_text("")

    assert 1 == main(["warmup", str(directory), "--requests", str(requests({"instances": [1.0]}))])
    assert "more: expected only the files of manifest.json" in capsys.readouterr().err
    assert 0 == main(["manifest", str(directory)])
    assert 0 == main(["warmup", str(directory), "--requests", str(requests({"instances": [1.0]}))])
    assert [] == list(manifest.problems(directory))


def test_a_faulty_model_stays_faulty(model: Callable[[str], Path]) -> None:
    """
    A new manifest keeps what an earlier one says of the model: it must not start where faulty models are refused.
    """
    directory = model("half/1")
    manifest.write(directory, {"fault": "nan", "accuracy": {"held_out": 0.5}})

    main(["manifest", str(directory)])

    written = json.loads((directory / manifest.NAME).read_text())
    assert ("nan", {"held_out": 0.5}) == (written["fault"], written["accuracy"])
    assert ["serving_default"] == list(written["signatures"])


def unreadable_manifest(directory: Path) -> None:
    (directory / manifest.NAME).write_text("{")


def op_of_files(directory: Path) -> None:
    """
    Add an op that writes a file.
    """
    with bare_tensorflow():
        from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    path = directory / savedmodel.FILE
    message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    message.meta_graphs[0].graph_def.node.add(name="x", op="WriteFile")
    path.write_bytes(message.SerializeToString())


def without_signatures(directory: Path) -> None:
    with bare_tensorflow():
        from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    path = directory / savedmodel.FILE
    message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    message.meta_graphs[0].signature_def.clear()
    path.write_bytes(message.SerializeToString())


REFUSED = {
    "nothing": (
        shutil.rmtree,
        2,
        "expected a SavedModel's version directory, got none",
    ),
    "op": (op_of_files, 1, "WriteFile is not on the list of allowed ops; no manifest was written"),
    "no-signature": (without_signatures, 1, "expected a signature, got none"),
    "manifest": (unreadable_manifest, 2, "it may say that the model is faulty on purpose"),
    "link": (
        lambda directory: (directory / "l").symlink_to("/etc/passwd"),
        1,
        "'l': expected a file or a folder, got a link",
    ),
    "name": (lambda directory: (directory / "a\\b").write_text(""), 1, "expected a name without backslash"),
    "lite": (
        lambda directory: (
            (directory / savedmodel.FILE).unlink(),
            (directory / "model.tflite").write_text("x" * 64),
        ),
        2,
        "expected a TensorFlow Lite model, got another file",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_may_not_be_served_gets_no_manifest(
    model: Callable[[str], Path], capsys: Print, name: str
) -> None:
    directory = model("half/1")
    change, code, message = REFUSED[name]
    change(directory)
    before = (directory / manifest.NAME).exists()

    assert code == main(["manifest", str(directory)])
    assert message in capsys.readouterr().err
    assert before == (directory / manifest.NAME).exists()


def test_a_folder_that_is_no_number_is_named(model: Callable[[str], Path], capsys: Print) -> None:
    """
    The chart looks for the version's number, and TensorFlow's own test model has zeros before it.
    """
    directory = model("half/1")
    zeros = directory.with_name("00000123")
    directory.rename(zeros)

    assert 0 == main(["manifest", str(zeros)])
    assert "this one is '00000123'; rename it, or publish it with --version N" in capsys.readouterr().out


def test_the_keys_that_are_printed(
    documents: ModuleType, model: Callable[[str], Path], requests: Callable[..., Path], capsys: Print
) -> None:
    """
    The reference has every key of what both commands print as JSON.
    """
    directory = model("half/1")
    printed = {}
    for command in (["manifest"], ["warmup", "--requests", str(requests({"instances": [1.0]}))]):
        assert 0 == main([command[0], str(directory), *command[1:], "--json"])
        printed[command[0]] = json.loads(capsys.readouterr().out)

    for name, said in printed.items():
        assert (set(), set()) == documents.differences(f"tfcanary export {name}", said)
