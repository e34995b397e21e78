import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfcanary.commands.export import main
from tfcanary.export import manifest as manifests
from tfcanary.modelserver.protos import PredictionLog
from tfcanary.modelserver.servable import LoadOptions, Servable
from tfcanary.modelserver.status import ServingError
from tfcanary.protos import runtime


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A folder of digits models, see variants.py. The first run trains; later ones take its weights.
    """
    base = tmp_path_factory.mktemp("variants")
    program = Path(__file__).with_name("variants.py")
    done = subprocess.run(
        [sys.executable, str(program), str(base)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return base


def facts(model: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((model / manifests.NAME).read_text())
    return result


def load(model: Path, *, warmup: bool = False) -> Servable:
    return Servable("digits", 1, model, LoadOptions(warmup=warmup))


def ask(model: Path, pictures: Path) -> dict[str, Any]:
    """
    The answers for the first picture of each label.
    """
    encoded = [next(iter(sorted(folder.iterdir()))).read_bytes() for folder in sorted(pictures.iterdir())]
    inputs = np.empty(len(encoded), dtype=object)
    inputs[:] = encoded
    loaded = load(model)
    try:
        return loaded.predict(loaded.signature("serving_preprocess"), {"image_bytes": inputs})
    finally:
        loaded.close()


def test_a_trained_model_is_right_about_pictures_it_has_not_seen(variants: Path) -> None:
    accuracy = facts(variants / "sound" / "1")["accuracy"]

    assert 355 == accuracy["pictures"]
    assert accuracy["held_out"] >= 0.97


def test_the_held_out_pictures_lie_beside_the_model(
    variants: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    They measure what the manifest says, by the server's own way to load and ask a model.
    """
    labelled = variants / "sound" / "labelled"

    code = main(["inspect", str(variants / "sound" / "1"), f"--labelled={labelled}", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert [str(digit) for digit in range(10)] == sorted(path.name for path in labelled.iterdir())
    assert (0, 355) == (code, found["accuracy"]["pictures"])
    assert facts(variants / "sound" / "1")["accuracy"]["held_out"] == found["accuracy"]["accuracy"]


def test_warmup_records_for_both_signatures_and_two_batch_sizes(variants: Path) -> None:
    path = variants / "sound" / "1" / "assets.extra" / "tf_serving_warmup_requests"

    records = [
        PredictionLog.FromString(record).predict_log.request
        for record in runtime().records.tf_record_iterator(str(path))
    ]

    assert {
        ("serving_default", 1),
        ("serving_default", 8),
        ("serving_preprocess", 1),
        ("serving_preprocess", 8),
    } == {
        (record.model_spec.signature_name, tensor.tensor_shape.dim[0].size)
        for record in records
        for tensor in record.inputs.values()
    }
    assert {"digits"} == {record.model_spec.name for record in records}
    load(variants / "sound" / "1", warmup=True).close()


@pytest.mark.parametrize(
    "fault", ["nan", "permuted", "constant", "slow=400", "wrong-shape", "corrupt-file", "bad-warmup"]
)
def test_a_fault_is_marked_in_the_manifest(variants: Path, fault: str) -> None:
    assert fault == facts(variants / fault / "1")["fault"]


def test_a_sound_model_has_no_fault(variants: Path) -> None:
    assert facts(variants / "sound" / "1")["fault"] is None


@pytest.mark.parametrize("fault", ["nan", "permuted", "constant", "slow=400", "bad-warmup"])
def test_a_fault_in_the_answers_leaves_the_interface_and_the_manifest_whole(
    variants: Path, fault: str
) -> None:
    """Only the answers can give it away."""
    model = variants / fault / "1"

    assert 0 == main(["compare", str(variants / "sound" / "1"), str(model)])
    assert [] == list(manifests.problems(model))


def test_nan(variants: Path) -> None:
    answer = ask(variants / "nan" / "1", variants / "sound" / "labelled")

    assert np.isnan(answer["class_probabilities"]).all()


def test_permuted_answers_are_well_formed_and_wrong(variants: Path) -> None:
    answer = ask(variants / "permuted" / "1", variants / "sound" / "labelled")

    np.testing.assert_allclose(answer["class_probabilities"].sum(axis=1), 1, atol=1e-4)
    assert facts(variants / "permuted" / "1")["accuracy"]["held_out"] < 0.1


def test_constant(variants: Path) -> None:
    everything = ask(variants / "constant" / "1", variants / "sound" / "labelled")["class_probabilities"]

    np.testing.assert_allclose(everything.sum(axis=1), 1, atol=1e-4)
    assert 1 == len(np.unique(everything, axis=0))


def fastest(model: Path, picture: Path) -> float:
    """
    The seconds of the fastest of a few requests, after a first one that compiles.
    """
    loaded = load(model)
    inputs = np.full(1, picture.read_bytes(), dtype=object)
    took = []
    for _ in range(4):
        began = time.monotonic()
        loaded.predict(loaded.signature("serving_preprocess"), {"image_bytes": inputs})
        took.append(time.monotonic() - began)
    loaded.close()
    return min(took[1:])


def test_slow_answers_the_same_later(variants: Path) -> None:
    labelled = variants / "sound" / "labelled"
    picture = next((labelled / "3").iterdir())

    sound, slow = (ask(variants / name / "1", labelled) for name in ("sound", "slow=400"))

    np.testing.assert_allclose(slow["class_probabilities"], sound["class_probabilities"], atol=1e-5)
    assert fastest(variants / "sound" / "1", picture) < 0.4 <= fastest(variants / "slow=400" / "1", picture)


def test_wrong_shape_is_not_interchangeable(variants: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == main(["compare", str(variants / "sound" / "1"), str(variants / "wrong-shape" / "1")])
    assert "output class_probabilities: DT_FLOAT [-1, 10] and DT_FLOAT [-1, 9]" in capsys.readouterr().out


def test_a_corrupt_file_does_not_pass_the_manifest(
    variants: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == manifests.main(["verify", str(variants / "corrupt-file" / "1")])
    assert "variables/variables.data-00000-of-00001: expected sha256" in capsys.readouterr().err


def test_a_bad_warmup_record_keeps_the_model_from_loading(variants: Path) -> None:
    with pytest.raises(ServingError, match="Failed to parse warmup record"):
        load(variants / "bad-warmup" / "1", warmup=True)


@pytest.mark.parametrize("text", ["", "slow", "slow=0", "slow=-1", "slow=x", "nan=1", "NaN", "other"])
def test_an_unknown_fault_names_the_known_ones(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--arch=resnet20", "--weights=digits", "--output=x", "--version=1", f"--fault={text}"])

    assert 2 == stopped.value.code
    assert "expected one of nan, permuted, constant, slow=MS" in capsys.readouterr().err


def test_resnet20_has_no_published_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--arch=resnet20", "--weights=random", f"--output={tmp_path}", "--version=1"])

    assert (2, "error: --arch resnet20: expected --weights digits, got random\n") == (
        code,
        capsys.readouterr().err,
    )
