"""
The server as a process: its command line, its messages, its exit codes, and its signals.
"""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfcanary.modelserver import main

Ended = Callable[..., tuple[int, str]]


def mask(server: Any, name: str) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith(name + ":"))


@pytest.mark.parametrize("what", ["SigCgt", "SigIgn", "SigBlk"])
def test_sigterm_is_left_as_the_kernel_has_it(server: Any, what: str) -> None:
    """A container's first process then goes on serving until SIGKILL: the grace period is the drain time."""
    assert not mask(server, what) & (1 << (signal.SIGTERM - 1))


def test_a_model_that_cannot_be_loaded_ends_the_server_with_the_reason(
    models: Path, tmp_path: Path, ended: Ended
) -> None:
    shutil.copytree(models / "half" / "1", tmp_path / "half" / "1")
    (tmp_path / "half" / "1" / "saved_model.pb").write_bytes(b"\xff no model")

    code, log = ended(f"--model_base_path={tmp_path}/half", "--model_name=half", "--max_num_load_retries=0")

    assert code == 3
    last = log.splitlines()[-1]
    assert last.startswith("error: Failed to start server. Error: ")
    assert "{name: half version: 1}" in last
    assert "Exporting HTTP" not in log


def test_a_warmup_record_that_cannot_be_answered_ends_the_server(
    models: Path, tmp_path: Path, ended: Ended
) -> None:
    shutil.copytree(models / "half" / "1", tmp_path / "half" / "1")
    (tmp_path / "half" / "1" / "assets.extra").mkdir()
    (tmp_path / "half" / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(
        b"no record at all, but longer than the header of one"
    )

    code, log = ended(f"--model_base_path={tmp_path}/half", "--max_num_load_retries=0")

    assert code == 3
    assert "Please verify your warmup data is in TFRecord format" in log.splitlines()[-1]


def test_a_load_is_tried_again_as_the_flags_say(models: Path, tmp_path: Path, ended: Ended) -> None:
    shutil.copytree(models / "half" / "1", tmp_path / "half" / "1")
    (tmp_path / "half" / "1" / "saved_model.pb").write_bytes(b"\xff no model")

    code, log = ended(
        f"--model_base_path={tmp_path}/half", "--max_num_load_retries=2", "--load_retry_interval_micros=-1"
    )

    assert code == 3
    assert [f"retry {number} of 2 in 0 s" in log for number in (1, 2, 3)] == [True, True, False]


def test_a_graph_without_the_tags_is_not_loaded(models: Path, ended: Ended) -> None:
    code, log = ended(
        f"--model_base_path={models}/half", "--saved_model_tags=serve,gpu", "--max_num_load_retries=0"
    )

    assert code == 3
    assert "MetaGraphDef associated with tags " in log
    assert "could not be found in SavedModel" in log


def test_a_port_that_is_taken_ends_the_server(models: Path, server: Any, ended: Ended) -> None:
    code, log = ended(
        f"--model_base_path={models}/half", f"--port={server.grpc_port}", "--max_num_load_retries=0"
    )

    assert code == 2
    assert f"--port: cannot listen on 0.0.0.0:{server.grpc_port}" in log.splitlines()[-1]


def test_a_rest_port_that_is_taken_ends_the_server(models: Path, server: Any, ended: Ended) -> None:
    code, log = ended(f"--model_base_path={models}/half", f"--rest_api_port={server.rest_port}")

    assert code == 2
    assert f"--rest_api_port: cannot listen on port {server.rest_port}" in log.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(["--nope=1"], "unrecognized arguments: --nope=1", id="unknown"),
        pytest.param(["--model=1"], "unrecognized arguments: --model=1", id="no-abbreviation"),
        pytest.param(["--port=x"], "argument --port: invalid int value: 'x'", id="no-number"),
        pytest.param(["--enable_batching=x"], "expected true or false, got 'x'", id="no-boolean"),
        pytest.param([], "expected --model_base_path or --model_config_file, got neither", id="no-model"),
        pytest.param(
            ["--port=0", "--model_base_path=/m"],
            "--port: expected a port, got 0, and no --grpc_socket_path",
            id="no-port",
        ),
        pytest.param(
            ["--batching_parameters_file=/x", "--model_base_path=/m"],
            "--batching_parameters_file: expected --enable_batching as well",
            id="batching",
        ),
        pytest.param(
            ["--num_tflite_interpreters_per_pool=0", "--model_base_path=/m"],
            "--num_tflite_interpreters_per_pool: expected 1 or more",
            id="interpreters",
        ),
        pytest.param(
            ["--grpc_max_threads=-1", "--model_base_path=/m"], "expected 0 or more, got -1", id="grpc-threads"
        ),
        pytest.param(
            ["--rest_api_num_threads=-1", "--model_base_path=/m"],
            "expected 0 or more, got -1",
            id="rest-threads",
        ),
        pytest.param(["--port=70000", "--model_base_path=/m"], "got 70000", id="port-too-large"),
        pytest.param(
            ["--port=1", "--rest_api_port=1", "--model_base_path=/m"],
            "another port than --port",
            id="same-port",
        ),
        pytest.param(["--model_config_file=/nope"], "/nope: cannot read it: No such file", id="no-file"),
        pytest.param(
            [
                "--tensorflow_session_parallelism=1",
                "--tensorflow_intra_op_parallelism=1",
                "--model_base_path=/m",
            ],
            "got both",
            id="parallelism",
        ),
        pytest.param(
            ["--grpc_channel_arguments=x", "--model_base_path=/m"],
            "expected key=value, got 'x'",
            id="channel",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(argv)
    except SystemExit as stopped:
        code = stopped.code

    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "nonsense", "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:1", id="no-proto"
        ),
        pytest.param(
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" }'
            ' config { name: "m" base_path: "/n" model_platform: "tensorflow" } }',
            "Illegal to list model m multiple times",
            id="twice",
        ),
        pytest.param(
            'model_config_list { config { name: "m" } }', "expected a name and a base_path", id="no-path"
        ),
        pytest.param(
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "caffe" } }',
            "expected model_platform 'tensorflow', got 'caffe'",
            id="platform",
        ),
        pytest.param(
            'model_config_list { config { name: "m" base_path: "/m\\000" model_platform: "tensorflow" } }',
            "model m: expected a base_path, got '/m\\x00'",
            id="no-path-of-any-file-system",
        ),
        pytest.param("custom_model_config { }", "custom_model_config is not supported", id="custom"),
    ],
)
def test_a_wrong_model_configuration_is_named(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "models.config"
    config.write_text(text)

    assert main([f"--model_config_file={config}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "x", "-1", str(2**31)])
def test_a_wrong_limit_is_named(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TFCANARY_MAX_REQUEST_BYTES", value)

    assert main(["--model_base_path=/m"]) == 2
    assert f"TFCANARY_MAX_REQUEST_BYTES: expected a number of bytes from 1 to {2**31 - 1}, got" in (
        capsys.readouterr().err
    )


def test_what_the_original_would_read_otherwise_is_a_warning(ended: Ended, models: Path, server: Any) -> None:
    """Known flags without effect, and values that are words of their own."""
    _, log = ended(
        "--use_alts_credentials", "--model_base_path", f"{models}/half", f"--port={server.grpc_port}"
    )

    assert "--use_alts_credentials: known, but not implemented" in log
    assert "--model_base_path: tensorflow_model_server reads --model_base_path=VALUE only" in log


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("TensorFlow ModelServer: ")
