import subprocess
import sys
from pathlib import Path

import pytest

from tfcanary.errors import DoesNotHoldError
from tfcanary.export import ops, savedmodel
from tfcanary.protos import runtime

LISTED = "is not on the list of allowed ops"


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A folder of models, see planted.py.
    """
    base = tmp_path_factory.mktemp("planted")
    program = Path(__file__).with_name("planted.py")
    done = subprocess.run(
        [sys.executable, str(program), str(base)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return base


@pytest.mark.parametrize("name", ["none", "first-style"])
def test_what_every_model_holds_is_allowed(planted: Path, name: str) -> None:
    """
    Also the ops that save and restore its variables, in the style of TensorFlow 2 and in that of 1.
    """
    assert "RestoreV2" in ops.used(savedmodel.read(planted / name))

    savedmodel.require_allowed(planted / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("PrintV2", f"PrintV2 {LISTED}", id="print"),
        pytest.param("WriteFile", f"WriteFile {LISTED}", id="write"),
        pytest.param("ReadFile", f"ReadFile {LISTED}", id="read"),
        pytest.param("WholeFileReaderV2", f"WholeFileReaderV2 {LISTED}", id="reader"),
        pytest.param("MatchingFiles", f"MatchingFiles {LISTED}", id="glob"),
        pytest.param("EagerPyFunc", f"EagerPyFunc {LISTED}", id="python"),
        pytest.param("looped-WriteFile", f"WriteFile {LISTED}", id="three functions down"),
        pytest.param(
            "InitializeTableFromTextFileV2", f"InitializeTableFromTextFileV2 {LISTED}", id="initializer"
        ),
        pytest.param("custom", f"SomebodysUpper {LISTED}", id="custom op"),
        pytest.param("RestoreV2", "RestoreV2 is allowed to the saver only, and a signature", id="restore"),
        pytest.param("SaveV2", "SaveV2 is allowed to the saver only, and a signature", id="save"),
        pytest.param("saves_at_load", "SaveV2 is run whenever the model is loaded", id="save at load"),
        pytest.param("restores_another", "RestoreV2 reads another file", id="restore a constant"),
        pytest.param(
            "restores_another_by_argument", "RestoreV2 reads another file", id="restore an argument"
        ),
        pytest.param(
            "restores_another_in_a_branch",
            "RestoreV2 reads another file",
            id="restore an argument of a branch",
        ),
        pytest.param(
            "restores_another_by_output", "RestoreV2 reads another file", id="restore another output"
        ),
        pytest.param(
            "restores_another_behind_a_list", "RestoreV2 reads another file", id="restore behind a list"
        ),
        pytest.param("restores_from_a_circle", "RestoreV2 reads another file", id="restore from a circle"),
        pytest.param("restores_nothing", "RestoreV2 reads another file", id="restore without a file"),
        pytest.param(
            "saves_in_anothers_place",
            "SaveV2 is allowed to the saver only, and a signature",
            id="save in another's place",
        ),
        pytest.param("unreached", "SaveV2 is allowed to the saver only, and something else", id="unreached"),
        pytest.param("text", "no text graph, got saved_model.pbtxt", id="pbtxt"),
    ],
)
def test_a_planted_model_is_refused_by_the_ops_name(planted: Path, name: str, message: str) -> None:
    with pytest.raises(DoesNotHoldError) as refused:
        savedmodel.require_allowed(planted / name)

    assert message in str(refused.value)


def test_batching_parameters_beside_a_model_are_no_text_graph(planted: Path) -> None:
    savedmodel.require_allowed(planted / "batched")


def test_inspect_refuses_with_exit_code_1_and_one_line(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = planted / "WriteFile"

    code = savedmodel.main(["inspect", str(model)])

    output = capsys.readouterr()
    assert (1, f"error: {model}: WriteFile {LISTED}\n") == (code, output.err)
    assert f"refused: WriteFile {LISTED}" in output.out


def test_every_op_on_the_list_is_one_of_tensorflows() -> None:
    """
    A misspelt name would allow what somebody registers under it.
    """
    runtime()
    from tensorflow.python.framework import op_def_registry  # noqa: PLC0415 - the ops are in by now

    unknown = [op for op in sorted(ops.ALLOWED | ops.SAVER) if op_def_registry.get(op) is None]

    assert unknown == []


@pytest.mark.parametrize(
    "word",
    [
        "File",
        "Read",
        "Write",
        "Save",
        "Restore",
        "Load",
        "Print",
        "Py",
        "Dataset",
        "Iterator",
        "Record",
        "Reader",
        "Send",
        "Recv",
        "Remote",
        "Summary",
        "Debug",
        "Queue",
        "Session",
        "ImmutableConst",
        "Vocab",
        "Sql",
        "LMDB",
    ],
)
def test_no_op_on_the_list_has_a_name_that_tells_of_effects(word: str) -> None:
    """
    But for those that read and write in memory.
    """
    memory = {"ReadVariableOp", "DisableCopyOnRead", "TensorArrayReadV3", "TensorArrayWriteV3"}

    assert [op for op in ops.ALLOWED - memory if word in op] == []
