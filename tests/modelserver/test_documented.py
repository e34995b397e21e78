"""
The examples of TensorFlow Serving's pages, as they are printed there, are answered as they are printed there.

The pages: tensorflow_serving/g3doc/{api_rest,serving_config,docker}.md. What architecture.md promises of versions is held by
test_manager.py and test_life.py, and the published example clients by test_published_clients.py.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfcanary.wait import NotYet, wait_until

# What `curl -d` sends.
CURL = {"Content-Type": "application/x-www-form-urlencoded"}

STATUS = """{
 "model_version_status": [
  {
   "version": "123",
   "state": "AVAILABLE",
   "status": {
    "error_code": "OK",
    "error_message": ""
   }
  }
 ]
}"""


def curl(server: Any, path: str, data: str) -> tuple[int, Any]:
    answer = server.rest.post(path, content=data.encode(), headers=CURL)
    return answer.status_code, answer.json()


def test_the_status_call(originals: Any) -> None:
    answer = originals.rest.get("/v1/models/half_plus_three")

    assert (200, STATUS) == (answer.status_code, answer.text.rstrip("\n"))


@pytest.mark.parametrize(
    ("path", "data", "answer"),
    [
        pytest.param(
            "half_plus_three:predict",
            '{"instances": [1.0,2.0,5.0]}',
            {"predictions": [3.5, 4.0, 5.5]},
            id="predict",
        ),
        pytest.param(
            "half_plus_three:regress",
            '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}',
            {"results": [3.5, 4.0]},
            id="regress",
        ),
        pytest.param(
            "half_plus_two:predict",
            '{"instances": [1.0, 2.0, 5.0]}',
            {"predictions": [2.5, 3.0, 4.5]},
            id="docker",
        ),
        pytest.param(
            "half_plus_two/versions/123:predict",
            '{"instances": [1.0, 2.0, 5.0]}',
            {"predictions": [2.5, 3.0, 4.5]},
            id="version",
        ),
    ],
)
def test_the_calls_of_half_plus_two_and_three(originals: Any, path: str, data: str, answer: Any) -> None:
    assert (200, answer) == curl(originals, f"/v1/models/{path}", data)


def test_the_call_to_a_model_that_is_not_there(originals: Any) -> None:
    assert (404, {"error": "Servable not found for request: Latest(half)"}) == curl(
        originals, "/v1/models/half:predict", '{"instances": [1.0,5.0]}'
    )


def asked(server: Any, signature: str, data: str, method: str = "predict") -> tuple[int, Any]:
    """
    Send a body of the page with the name of the signature that takes it.
    """
    named = f'{{"signature_name": "{signature}", {data.strip().removeprefix("{")}'
    return curl(server, f"/v1/models/asks:{method}", named)


ROWS = """
{
 "instances": [
   {
     "tag": "foo",
     "signal": [1, 2, 3, 4, 5],
     "sensor": [[1, 2], [3, 4]]
   },
   {
     "tag": "bar",
     "signal": [3, 4, 1, 2, 5],
     "sensor": [[4, 5], [6, 8]]
   }
 ]
}
"""  # the page has one bracket too many after the second signal
COLUMNS = """
{
 "inputs": {
   "tag": ["foo", "bar"],
   "signal": [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]],
   "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]]
 }
}
"""


@pytest.mark.parametrize(
    ("signature", "data", "answer"),
    [
        pytest.param(
            "words", '{ "instances": [ "foo", "bar", "baz" ] }', {"predictions": [3, 3, 3]}, id="scalars"
        ),
        pytest.param(
            "matrices", '{ "instances": [ [[1, 2]], [[3, 4]] ] }', {"predictions": [3.0, 7.0]}, id="tensors"
        ),
        pytest.param(
            "documented",
            ROWS,
            {
                "predictions": [
                    {"tags": "foo", "total": 15, "trace": 5.0},
                    {"tags": "bar", "total": 15, "trace": 12.0},
                ]
            },
            id="rows",
        ),
        pytest.param(
            "documented",
            COLUMNS,
            {"outputs": {"tags": ["foo", "bar"], "total": [15, 15], "trace": [5.0, 12.0]}},
            id="columns",
        ),
    ],
)
def test_the_forms_of_tensors(originals: Any, signature: str, data: str, answer: Any) -> None:
    assert (200, answer) == asked(originals, signature, data)


def test_the_row_as_it_is_printed_is_no_json(originals: Any) -> None:
    printed = ROWS.replace('"signal": [3, 4, 1, 2, 5]', '"signal": [3, 4, 1, 2, 5]]')

    status, answer = asked(originals, "documented", printed)

    assert 400 == status
    assert answer["error"].startswith("JSON Parse error: Missing a comma or } after an object member.")


def test_the_classification_of_binary_values(originals: Any) -> None:
    data = """
    {
      "examples": [
        {
          "image": { "b64": "aW1hZ2UgYnl0ZXM=" },
          "caption": "seaside"
        },
        {
          "image": { "b64": "YXdlc29tZSBpbWFnZSBieXRlcw==" },
          "caption": "mountains"
        }
      ]
    }
    """

    assert (
        200,
        {
            "results": [
                [["image bytes", 11.0], ["seaside", 7.0]],
                [["awesome image bytes", 19.0], ["mountains", 9.0]],
            ]
        },
    ) == asked(originals, "classify_objects", data, "classify")


# The page has its models below /tmp.
MODELS = """
model_config_list {
  config {
    name: 'my_first_model'
    base_path: '/models/my_first_model/'
    model_platform: 'tensorflow'
  }
  config {
    name: 'my_second_model'
    base_path: '/models/my_second_model/'
    model_platform: 'tensorflow'
    model_version_policy {
      specific {
        versions: 42
        versions: 43
      }
    }
    version_labels {
      key: 'stable'
      value: 42
    }
    version_labels {
      key: 'canary'
      value: 43
    }
  }
}
"""
MONITORING = """
prometheus_config {
  enable: true,
  path: "/monitoring/prometheus/metrics"
}
"""
BATCHING = """
max_batch_size { value: 128 }
batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000000 }
num_batch_threads { value: 8 }
"""


@pytest.fixture(scope="module")
def configured(
    share_server: Callable[..., Any], models: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """
    A server with the files of serving_config.md; 42 adds 2, and 43 adds 3.
    """
    folder = tmp_path_factory.mktemp("configured")
    for name in ("my_first_model", "my_second_model"):
        for version, built in ((42, "1"), (43, "2")):
            shutil.copytree(models / "half" / built, folder / name / str(version))
    files = {"models": MODELS.replace("/models", str(folder)), "monitoring": MONITORING, "batching": BATCHING}
    for name, text in files.items():
        (folder / f"{name}.config").write_text(text)
    server = share_server(
        "/v1/models/my_second_model/metadata",
        f"--model_config_file={folder}/models.config",
        "--model_config_file_poll_wait_seconds=1",
        f"--monitoring_config_file={folder}/monitoring.config",
        "--enable_batching",
        f"--batching_parameters_file={folder}/batching.config",
        "--allow_version_labels_for_unavailable_models",
    )
    return server, folder / "models.config"


def by(server: Any, model: str) -> list[float]:
    _, answer = curl(server, f"/v1/models/{model}:predict", '{"instances": [0.0]}')
    values: list[float] = answer["predictions"]
    return values


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("my_first_model", 3.0),  # the largest version, by default
        ("my_second_model", 3.0),
        ("my_second_model/versions/42", 2.0),
        ("my_second_model/labels/stable", 2.0),
        ("my_second_model/labels/canary", 3.0),
    ],
)
def test_the_configuration_of_models_versions_and_labels(
    configured: tuple[Any, Path], model: str, expected: float
) -> None:
    assert [expected] == by(configured[0], model)


def test_the_monitoring_configuration(configured: tuple[Any, Path]) -> None:
    server, _ = configured
    by(server, "my_first_model")

    page = server.rest.get("/monitoring/prometheus/metrics").text

    assert ':tensorflow:serving:request_count{model_name="my_first_model",status="OK"}' in page


def test_the_canary_is_promoted_as_the_page_says(configured: tuple[Any, Path]) -> None:
    """The label moves to a version that is loaded, without a word to the clients."""
    server, file = configured
    text = file.read_text()
    file.write_text(text.replace("key: 'stable'\n      value: 42", "key: 'stable'\n      value: 43"))

    def promoted() -> None:
        if by(server, "my_second_model/labels/stable") != [3.0]:
            raise NotYet("stable is 42")

    wait_until("the label to move", promoted, timeout_seconds=30)
    file.write_text(text)

    def rolled_back() -> None:
        if by(server, "my_second_model/labels/stable") != [2.0]:
            raise NotYet("stable is 43")

    wait_until("the label to move back", rolled_back, timeout_seconds=30)


def test_the_page_of_json_has_words_for_numbers_that_are_none(originals: Any) -> None:
    """[ 1.0, -3.14, NaN, Infinity ]; the page writes "Nan", which its own parser refuses."""
    _, answer = curl(
        originals, "/v1/models/half_plus_two:predict", '{"instances": [ 1.0, -3.14, NaN, Infinity ]}'
    )
    status, refusal = curl(
        originals, "/v1/models/half_plus_two:predict", '{"instances": [ 1.0, -3.14, Nan, Infinity ]}'
    )

    assert "[2.5, 0.429999948, NaN, Infinity]" == json.dumps(answer["predictions"])
    assert (400, {"error": "JSON Parse error: Invalid value. at offset: 30"}) == (status, refusal)
