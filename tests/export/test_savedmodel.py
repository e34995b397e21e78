import json
import shutil
from pathlib import Path

import pytest

from tfcanary.commands.export import main
from tfcanary.errors import UsageError
from tfcanary.export import manifest, savedmodel


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """
    A copy of the model that a test may change, without its variables, which are a hundred megabytes.
    """
    target = tmp_path / "4"
    shutil.copytree(exported, target, ignore=shutil.ignore_patterns("variables"))
    return target


def test_inspect_says_what_a_model_is(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["inspect", str(exported), "--json"])

    found = json.loads(capsys.readouterr().out)
    assert 0 == code
    assert [-1, 224, 224, 3] == found["signatures"]["serving_default"]["inputs"]["images"]["shape"]
    assert [f"class_{number:04d}" for number in range(1000)] == found["classes"]
    assert sum(path.stat().st_size for path in exported.rglob("*") if path.is_file()) == found["bytes"]
    assert ("resnet50", []) == (found["facts"]["arch"], found["refused"])
    assert {"written": True, "problems": []} == found["manifest"]


def test_inspect_needs_no_manifest(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / manifest.NAME).unlink()

    assert 0 == main(["inspect", str(copy)])
    assert "manifest: none\n" in capsys.readouterr().out


def test_inspect_of_a_damaged_model_ends_in_exit_code_1(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy has no variables."""
    assert 1 == main(["inspect", str(copy)])
    assert "variables/variables.index: expected by manifest.json, got none" in capsys.readouterr().err


def test_inspect_of_a_malformed_manifest_names_it(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / manifest.NAME).write_text("{")

    assert 2 == main(["inspect", str(copy)])
    assert "manifest.json: expected a list of files with their sha256" in capsys.readouterr().err


def test_inspect_of_something_else_names_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a SavedModel's version directory"):
        savedmodel.read(tmp_path)

    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(UsageError, match="expected a SavedModel, got"):
        savedmodel.read(tmp_path)

    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(UsageError, match="got one without a graph"):
        savedmodel.read(tmp_path)


def test_a_copy_is_interchangeable(exported: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["compare", str(exported), str(copy), "--json"])
    assert {"interchangeable": True, "differences": [], "unknown": []} == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda s: s["serving_default"].inputs["images"].tensor_shape.dim[1].__setattr__("size", 299),
            "signature serving_default: input images: DT_FLOAT [-1, 224, 224, 3] and DT_FLOAT [-1, 299, 224, 3]",
            id="shape",
        ),
        pytest.param(
            lambda s: s["serving_default"].outputs["probabilities"].__setattr__("dtype", 2),
            "signature serving_default: output probabilities: DT_FLOAT [-1, 5] and DT_DOUBLE [-1, 5]",
            id="dtype",
        ),
        pytest.param(
            lambda s: s["serving_preprocess"].outputs.pop("labels"),
            "signature serving_preprocess: output labels: DT_STRING [-1, 5] and absent",
            id="output",
        ),
        pytest.param(
            lambda s: s["serving_default"].__setattr__("method_name", "tensorflow/serving/classify"),
            "signature serving_default: method: tensorflow/serving/predict and tensorflow/serving/classify",
            id="method",
        ),
        pytest.param(
            lambda s: s.pop("serving_preprocess"),
            "signature serving_preprocess: only the first has it",
            id="signature",
        ),
    ],
)
def test_each_difference_is_named(
    exported: Path, copy: Path, capsys: pytest.CaptureFixture[str], change: object, message: str
) -> None:
    saved = savedmodel.read(copy)
    change(saved.meta_graphs[0].signature_def)  # type: ignore[operator]
    (copy / "saved_model.pb").write_bytes(saved.SerializeToString())

    code = main(["compare", str(exported), str(copy)])

    output = capsys.readouterr()
    assert (1, f"{message}\n") == (code, output.out)
    assert f"got 1 differences, the first: {message}\n" in output.err


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        pytest.param([b"seven"], (1, "labels: 1 of 1000 differ, the first is class 7: "), id="differ"),
        pytest.param([], (4, "labels: not found in the graph of "), id="not found"),
    ],
)
def test_labels_are_compared_or_said_not_to_be(
    exported: Path,
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    label: list[bytes],
    expected: tuple[int, str],
) -> None:
    saved = savedmodel.read(copy)
    graph = saved.meta_graphs[0].graph_def
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for values in (node.attr["value"].tensor.string_val for node in nodes if node.op == "Const"):
            if len(values) == 1000:
                values[7:8] = label
    (copy / "saved_model.pb").write_bytes(saved.SerializeToString())

    code = main(["compare", str(exported), str(copy)])

    assert expected == (code, capsys.readouterr().out[: len(expected[1])])
