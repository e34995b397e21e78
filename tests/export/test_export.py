import hashlib
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets
from sklearn.datasets import load_sample_images

from tfcanary.commands.export import main
from tfcanary.errors import DoesNotHoldError, UsageError
from tfcanary.export import resnet as module
from tfcanary.modelserver.protos import PredictionLog
from tfcanary.modelserver.servable import LoadOptions, Servable
from tfcanary.protos import runtime

PHOTOGRAPHS = Path(datasets.__file__).parent / "images"

Export = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def loaded(exported: Path) -> Servable:
    """
    The exported model as the model server has it; its warm-up records are replayed on the way.
    """
    return Servable("pictures", 3, exported, LoadOptions())


@pytest.fixture(scope="session")
def pictures() -> list[Any]:
    """
    Two photographs, noise, and one colour.
    """
    noise = np.random.default_rng(1).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    return [*load_sample_images().images, noise, np.full((64, 64, 3), 200, dtype=np.uint8)]


def encoded(picture: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def ask(loaded: Servable, pictures: list[bytes]) -> Any:
    inputs = np.empty(len(pictures), dtype=object)
    inputs[:] = pictures
    return loaded.predict(loaded.signature("serving_preprocess"), {"image_bytes": inputs})


def test_the_interface_is_the_models_contract(manifest: dict[str, Any]) -> None:
    outputs = {
        "class_probabilities": {"dtype": "DT_FLOAT", "shape": [-1, 1000]},
        "labels": {"dtype": "DT_STRING", "shape": [-1, 5]},
        "probabilities": {"dtype": "DT_FLOAT", "shape": [-1, 5]},
    }
    assert manifest["signatures"] == {
        "serving_default": {
            "inputs": {"images": {"dtype": "DT_FLOAT", "shape": [-1, 224, 224, 3]}},
            "outputs": outputs,
        },
        "serving_preprocess": {
            "inputs": {"image_bytes": {"dtype": "DT_STRING", "shape": [-1]}},
            "outputs": outputs,
        },
    }


def test_the_manifest_says_what_the_model_is(manifest: dict[str, Any]) -> None:
    facts = {name: manifest[name] for name in ("arch", "weights", "seed", "version", "model_name", "classes")}

    assert facts == {
        "arch": "resnet50",
        "weights": "random",
        "seed": 5,
        "version": 3,
        "model_name": "pictures",
        "classes": 1000,
    }
    assert "synthetic" in manifest["labels"]
    assert {"Conv2D", "DecodeImage", "Softmax"} <= set(manifest["ops"])


def test_the_manifest_has_the_hash_of_every_file(exported: Path, manifest: dict[str, Any]) -> None:
    found = {
        path.relative_to(exported).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in exported.rglob("*")
        if path.is_file() and path.name not in {"manifest.json", "manifest.sha256"}
    }

    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == found
    assert "saved_model.pb" in found


def test_nothing_is_left_beside_the_version(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["3"]


def test_everyone_may_read_it(exported: Path) -> None:
    """The server's user is another one than the exporter's."""
    assert [path for path in [exported, *exported.rglob("*")] if not path.stat().st_mode & 0o004] == []


def test_answers_are_probabilities_that_vary_by_picture(loaded: Servable, pictures: list[Any]) -> None:
    answer = ask(loaded, [encoded(picture, "JPEG") for picture in pictures])

    everything = answer["class_probabilities"]
    assert np.isfinite(everything).all()
    np.testing.assert_allclose(everything.sum(axis=1), 1, atol=1e-4)
    assert everything.max() < 0.999
    assert len({labels[0] for labels in answer["labels"].tolist()}) == len(pictures)


def test_the_top_five_agree_with_all_classes(loaded: Servable, pictures: list[Any]) -> None:
    answer = ask(loaded, [encoded(pictures[0], "PNG")])

    order = np.argsort(-answer["class_probabilities"][0])[:5]
    assert answer["labels"][0].tolist() == [b"class_%04d" % index for index in order]
    np.testing.assert_array_equal(answer["probabilities"][0], answer["class_probabilities"][0][order])


def test_both_signatures_answer_alike_for_the_same_picture(loaded: Servable) -> None:
    """A PNG of 224 by 224 needs no resizing and loses nothing."""
    picture = np.random.default_rng(2).integers(0, 256, (224, 224, 3), dtype=np.uint8)

    floats = loaded.predict(
        loaded.signature("serving_default"), {"images": picture[np.newaxis].astype(np.float32)}
    )
    encoded_ = ask(loaded, [encoded(picture, "PNG")])

    np.testing.assert_allclose(
        floats["class_probabilities"], encoded_["class_probabilities"], rtol=1e-3, atol=1e-6
    )


def test_a_warmup_record_for_each_signature_and_batch_size(exported: Path) -> None:
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    records = [PredictionLog.FromString(r) for r in runtime().records.tf_record_iterator(str(path))]

    requests = [record.predict_log.request for record in records]
    assert [
        (request.model_spec.name, request.model_spec.signature_name, tensor.tensor_shape.dim[0].size)
        for request in requests
        for tensor in request.inputs.values()
    ] == [
        ("pictures", "serving_default", 1),
        ("pictures", "serving_preprocess", 1),
        ("pictures", "serving_default", 8),
        ("pictures", "serving_preprocess", 8),
    ]


def test_the_warmup_pictures_are_photographs(exported: Path) -> None:
    """
    The two that scikit-learn ships, as they are.
    """
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    last = PredictionLog.FromString([*runtime().records.tf_record_iterator(str(path))][-1])
    photographs = sorted(file.read_bytes() for file in PHOTOGRAPHS.glob("*.jpg"))

    sent = last.predict_log.request.inputs["image_bytes"].string_val

    assert photographs == sorted(set(sent))


def test_an_existing_version_is_never_overwritten(export: Export, exported: Path) -> None:
    before = (exported / "manifest.json").stat().st_mtime_ns

    result = export(
        *["--arch", "resnet50", "--weights", "random", "--output", str(exported.parent), "--version", "3"]
    )

    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        f"error: {exported}: expected a new version, got one that exists; choose another --version"
    )
    assert (exported / "manifest.json").stat().st_mtime_ns == before


def test_published_weights_without_a_network_name_the_way_out(export: Export, tmp_path: Path) -> None:
    """The proxy is a port without a listener, and Keras' cache is empty."""
    nowhere = "http://127.0.0.1:9"

    result = export(
        *["--arch", "resnet50", "--weights", "imagenet", "--output", str(tmp_path), "--version", "1"],
        https_proxy=nowhere,
        HTTPS_PROXY=nowhere,
        KERAS_HOME=str(tmp_path / "keras"),
    )

    assert result.returncode == 3
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: the published weights of resnet50 cannot be fetched: ")
    assert last.endswith("--weights random needs no network")
    assert [path.name for path in tmp_path.iterdir()] == ["keras"]


@pytest.mark.parametrize("version", ["0", "-1", "01", "x", "1.5", str(2**63)])
def test_a_version_is_a_whole_number_from_1(
    version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--arch=resnet50", "--weights=random", f"--output={tmp_path}", f"--version={version}"])

    assert stopped.value.code == 2
    assert "expected a whole number from 1" in capsys.readouterr().err


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "models" / "1"

    def fail() -> None:
        with module.whole_or_nothing(target) as building:
            (building / "half").write_text("of it")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert list(target.parent.iterdir()) == []


def test_a_version_that_someone_else_wrote_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "1"

    def race() -> None:
        with module.whole_or_nothing(target):
            target.mkdir()
            (target / "theirs").write_text("first")

    with pytest.raises(UsageError, match="someone else wrote it"):
        race()

    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert (target / "theirs").read_text() == "first"


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")

    with pytest.raises(UsageError, match="cannot write there"), module.whole_or_nothing(file / "x" / "1"):
        pass


GOOD = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        pytest.param([[np.nan, 0.5, 0.5], [0.1, 0.2, 0.7]], "NaN", id="nan"),
        pytest.param([[0.5, 0.5, 0.5], [0.1, 0.2, 0.7]], "sum to 1", id="sum"),
        pytest.param([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "certainty", id="saturated"),
        pytest.param([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], "vary by picture", id="constant"),
    ],
)
def test_a_degenerate_model_is_refused(answers: list[list[float]], message: str) -> None:
    module.check_answers({"class_probabilities": GOOD})

    with pytest.raises(DoesNotHoldError, match=message):
        module.check_answers({"class_probabilities": np.array(answers)})
