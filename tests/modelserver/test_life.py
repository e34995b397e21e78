"""
Versions and models that are added and removed while a server runs.
"""

import shutil
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tfcanary.modelserver import protos
from tfcanary.modelserver.tensors import to_proto
from tfcanary.wait import NotYet, wait_until

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


@pytest.fixture
def base(models: Path, tmp_path: Path) -> Path:
    """
    A base path with version 1 only.
    """
    shutil.copytree(models / "half" / "1", tmp_path / "half" / "1")
    return tmp_path / "half"


@pytest.fixture
def living(base: Path, tmp_path: Path, open_server: Any) -> Any:
    """
    A server that reads its models and its configuration every second.
    """
    config = tmp_path / "models.config"
    config.write_text(written(base))
    return open_server(
        "/v1/models/half/metadata",
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        "--file_system_poll_wait_seconds=1",
    )


@pytest.fixture(scope="module")
def reloading(share_server: Any, models: Path) -> Any:
    """
    A server whose models change by request; each test begins with a request that names its models.
    """
    flags = ["--model_name=half", f"--model_base_path={models}/half"]
    return share_server("/v1/models/half/metadata", *flags)


def written(base: Path, name: str = "half", more: str = "") -> str:
    fields = f'name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more}'
    return f"model_config_list {{ config {{ {fields} }} }}"


def answer(server: Any, model: str = "half") -> float:
    got = server.rest.post(f"/v1/models/{model}:predict", json={"instances": [0.0]})
    assert got.status_code == 200, got.text
    value: float = got.json()["predictions"][0]
    return value


def test_versions_change_under_load_without_a_failed_request(
    living: Any, models: Path, base: Path, tmp_path: Path
) -> None:
    """Version 2 replaces version 1 while four clients send requests, which the one or the other answers."""
    answers: list[list[float]] = [[] for _ in range(4)]
    stop = threading.Event()

    def ask(seen: list[float]) -> None:
        while not stop.is_set():
            seen.append(answer(living))

    clients = [threading.Thread(target=ask, args=(seen,)) for seen in answers]
    for client in clients:
        client.start()
    shutil.copytree(models / "half" / "2", tmp_path / "2")
    (tmp_path / "2").rename(base / "2")

    def replaced() -> None:
        status = living.rest.get("/v1/models/half/versions/1").json()["model_version_status"][0]["state"]
        if status != "END":
            raise NotYet(f"version 1 is {status}")

    wait_until("version 2 to replace version 1", replaced, timeout_seconds=30)
    stop.set()
    for client in clients:
        client.join()

    assert [(seen[0], seen[-1]) for seen in answers] == [(2.0, 3.0)] * 4
    assert {value for seen in answers for value in seen} == {2.0, 3.0}


CHANGES = 10


def test_ten_changes_of_version_under_load_without_a_failed_request(reloading: Any, models: Path) -> None:
    """
    The versions replace each other by request, while four clients of each API send requests. Each client sees all changes.

    A change waits until every client has had an answer of the previous version. No client can miss one.
    """
    expected = {1: 2.0, 2: 3.0}
    seen: list[list[float]] = [[] for _ in range(8)]
    failures: list[str] = []
    stop = threading.Event()
    request = protos.PredictRequest(model_spec={"name": "half"})
    to_proto(np.zeros(1, np.float32), 1, request.inputs["x"])

    def over_grpc() -> float:
        answered: float = reloading.predict(request).outputs["y"].float_val[0]
        return answered

    def ask(answers: list[float], once: Callable[[], float]) -> None:
        while not stop.is_set():
            try:
                answers.append(once())
            except Exception as error:  # noqa: BLE001 - the test shows them
                failures.append(repr(error))

    def everyone_has(version: int) -> None:
        last = [answers[-1] if answers else None for answers in seen]
        if not failures and set(last) != {expected[version]}:
            raise NotYet(f"the last answers are {last}")

    serve(reloading, models / "half", 1)
    clients = [
        threading.Thread(target=ask, args=(answers, over_grpc if number % 2 else lambda: answer(reloading)))
        for number, answers in enumerate(seen)
    ]
    for client in clients:
        client.start()
    try:
        for change in range(CHANGES + 1):
            version = 1 + change % 2
            serve(reloading, models / "half", version)
            wait_until(f"version {version}", partial(everyone_has, version), timeout_seconds=60)
    finally:
        stop.set()
        for client in clients:
            client.join()

    assert failures == []
    changes = [sum(one != other for one, other in pairwise(answers)) for answers in seen]
    assert changes == [CHANGES] * len(seen)


def serve(server: Any, base: Path, version: int) -> None:
    """
    Replace the configuration with one version of half, and wait until it serves.
    """
    request = protos.ReloadConfigRequest()
    request.config.model_config_list.config.add(
        name="half",
        base_path=str(base),
        model_platform="tensorflow",
        model_version_policy={"specific": {"versions": [version]}},
    )
    server.call(RELOAD, request, protos.ReloadConfigResponse)


def test_a_configuration_that_changes_is_taken_over_and_a_broken_one_is_not(
    living: Any, base: Path, tmp_path: Path
) -> None:
    config = tmp_path / "models.config"
    config.write_text("nonsense")

    def refused() -> None:
        if "not taken over" not in living.log.read_text():
            raise NotYet("nothing in the log")

    wait_until("the broken configuration to be refused", refused, timeout_seconds=30)
    assert answer(living) == 2.0
    config.write_text(written(base, "other"))

    def taken() -> None:
        status = living.rest.get("/v1/models/other/metadata").status_code
        if status != 200:
            raise NotYet(f"HTTP {status}")

    wait_until("the new configuration", taken, timeout_seconds=30)
    assert answer(living, "other") == 2.0


def test_a_configuration_whose_label_comes_before_its_version_is_taken_over_once_that_is_there(
    living: Any, models: Path, base: Path, tmp_path: Path
) -> None:
    label = 'version_labels { key: "canary" value: 2 }'
    (tmp_path / "models.config").write_text(written(base, more=label))

    def refused() -> None:
        if "version 2 of model half, which is not currently available" not in living.log.read_text():
            raise NotYet("nothing in the log")

    wait_until("the label to be refused", refused, timeout_seconds=30)
    shutil.copytree(models / "half" / "2", tmp_path / "2")
    (tmp_path / "2").rename(base / "2")

    def taken() -> None:
        status = living.rest.get("/v1/models/half/labels/canary/metadata").status_code
        if status != 200:
            raise NotYet(f"HTTP {status}")

    wait_until("the label", taken, timeout_seconds=30)


def test_models_can_be_changed_by_request(reloading: Any, base: Path) -> None:
    request = protos.ReloadConfigRequest()
    for name in ("half", "more"):
        request.config.model_config_list.config.add(
            name=name, base_path=str(base), model_platform="tensorflow"
        )

    reply = reloading.call(RELOAD, request, protos.ReloadConfigResponse)

    assert reply.status.error_code == 0
    assert (answer(reloading, "half"), answer(reloading, "more")) == (2.0, 2.0)


def refusal(server: Any, config: dict[str, Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        server.call(RELOAD, protos.ReloadConfigRequest(config=config), protos.ReloadConfigResponse)
    code: grpc.StatusCode = caught.value.code()
    return code


def test_a_wrong_request_for_a_change_gets_its_code(reloading: Any) -> None:
    nowhere = {"name": "x", "base_path": "/nope", "model_platform": "tensorflow"}

    assert [
        refusal(reloading, {}),
        refusal(reloading, {"model_config_list": {"config": [{"name": "x"}]}}),
        refusal(reloading, {"model_config_list": {"config": [nowhere]}}),
    ] == [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNKNOWN,
    ]
