"""
Batches of a server: requests of both APIs, padding, and parameters of one version.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tfcanary.modelserver import protos
from tfcanary.modelserver.tensors import to_proto


def served(folder: Path, parameters: str, *flags: str) -> list[str]:
    """
    The flags of a server that makes batches.
    """
    file = folder / "batching.config"
    file.write_text(parameters)
    monitoring = folder / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    return [
        "--file_system_poll_wait_seconds=0",
        "--grpc_max_threads=16",
        "--enable_batching",
        f"--batching_parameters_file={file}",
        f"--monitoring_config_file={monitoring}",
        *flags,
    ]


def only(models: Path) -> list[str]:
    return [f"--model_base_path={models}/batch", "--model_name=batch"]


def sizes(*rows: list[float], model: str = "batch") -> Any:
    request = protos.PredictRequest(model_spec={"name": model})
    to_proto(np.array(rows, dtype=np.float32), 1, request.inputs["x"])
    return request


def test_requests_of_both_apis_run_as_one_batch(open_server: Any, models: Path, tmp_path: Path) -> None:
    """The eighth request fills the batch, which would otherwise wait for longer than the test."""
    parameters = """
        max_batch_size { value: 8 } batch_timeout_micros { value: 600000000 }
        thread_pool_name { value: "pool" }
    """
    server = open_server("/v1/models/batch/metadata", *served(tmp_path, parameters, *only(models)))

    def over_grpc(number: int) -> list[Any]:
        answer = server.predict(sizes([float(number), 1.0]))
        return [list(answer.outputs["rows"].int_val), list(answer.outputs["sum"].float_val)]

    def over_rest(number: int) -> list[Any]:
        answer = server.rest.post("/v1/models/batch:predict", json={"inputs": [[float(number), 1.0]]})
        assert answer.status_code == 200, answer.text
        return [answer.json()["outputs"]["rows"], answer.json()["outputs"]["sum"]]

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for ask in (over_grpc, over_rest) for number in range(4)]
        got = [future.result(60) for future in asked]

    assert got == [[[8], [number + 1.0]] for _ in range(2) for number in range(4)]
    page = server.rest.get("/monitoring/prometheus/metrics").text
    assert ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name="pool"} 8' in page


@pytest.fixture(scope="module")
def padding(share_server: Any, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """
    A server that pads batches to 4 or 8 rows.
    """
    parameters = "max_batch_size { value: 8 } allowed_batch_sizes: [4, 8]"
    flags = served(tmp_path_factory.mktemp("padding"), parameters, *only(models))
    return share_server("/v1/models/batch/metadata", *flags)


def test_the_model_sees_the_padding_and_the_client_does_not(padding: Any) -> None:
    answer = padding.predict(sizes([1.0], [2.0]))

    assert list(answer.outputs["rows"].int_val) == [4, 4]
    assert list(answer.outputs["sum"].float_val) == [1.0, 2.0]


def test_what_cannot_be_a_batch_is_invalid_over_grpc(padding: Any) -> None:
    request = protos.PredictRequest(model_spec={"name": "batch", "signature_name": "scalar"})
    to_proto(np.float32(1), 1, request.inputs["x"])

    with pytest.raises(grpc.RpcError) as caught:
        padding.predict(request)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "must have at least one dimension" in caught.value.details()


@pytest.fixture(scope="module")
def per_model(share_server: Any, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """
    A server whose own parameters pad to 2 rows, with a model `own` that has parameters and a model `batch` that has none.
    """
    folder = tmp_path_factory.mktemp("per_model")
    shutil.copytree(models / "batch", folder / "own")
    (folder / "own" / "7" / "batching_params.pbtxt").write_text(
        "max_batch_size { value: 4 } allowed_batch_sizes: 4"
    )
    config = folder / "models.config"
    config.write_text(
        f"""
        model_config_list: {{
          config: {{ name: "own", base_path: "{folder}/own", model_platform: "tensorflow" }},
          config: {{ name: "batch", base_path: "{models}/batch", model_platform: "tensorflow" }}
        }}
        """
    )
    parameters = "max_batch_size { value: 2 } allowed_batch_sizes: 2"
    flags = [f"--model_config_file={config}", "--enable_per_model_batching_parameters"]
    return share_server("/v1/models/batch/metadata", *served(folder, parameters, *flags))


def test_a_versions_own_parameters_go_before_the_servers(per_model: Any) -> None:
    answer = per_model.predict(sizes([1.0], [2.0], [3.0], model="own"))

    assert list(answer.outputs["rows"].int_val) == [4] * 3


def test_without_parameters_of_its_own_a_version_then_runs_one_by_one(per_model: Any) -> None:
    assert list(per_model.predict(sizes([1.0])).outputs["rows"].int_val) == [1]
