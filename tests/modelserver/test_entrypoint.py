"""
The image's entry point: what a container with arguments alone, as TensorFlow Serving's own examples have it, starts.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tfcanary.wait import NotYet, wait_until

IMAGE = Path(__file__).parents[2] / "images" / "modelserver"
SERVER = IMAGE / "tensorflow_model_server"
ENTRYPOINT = IMAGE / "tf_serving_entrypoint.sh"
TELL = "import json, sys; print(json.dumps(sys.argv[1:]))"


def image_environment() -> dict[str, str]:
    """
    The environment that the image sets.
    """
    (line,) = re.findall(r"^ENV (.+)$", (IMAGE / "Containerfile").read_text(), re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())


def with_program(folder: Path, content: str) -> str:
    """
    PATH with a program of this name in front.
    """
    program = folder / "tensorflow_model_server"
    program.write_text(f"#!{sys.executable}\n{content}\n")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def words(folder: Path, *arguments: str, **environment: str) -> list[str]:
    """
    What the server is started with.
    """
    made = {"PATH": with_program(folder, TELL), **image_environment(), **environment}
    done = subprocess.run([ENTRYPOINT, *arguments], env=made, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_the_image_starts_by_it() -> None:
    """
    It is the entry point, and lies where the image of TensorFlow Serving has it.
    """
    assert 'ENTRYPOINT ["/usr/bin/tf_serving_entrypoint.sh"]' in (IMAGE / "Containerfile").read_text()
    assert os.access(ENTRYPOINT, os.X_OK)


def test_without_anything_the_ports_and_the_model_are_those_of_the_original(tmp_path: Path) -> None:
    """
    REST is on.
    """
    started = ["--port=8500", "--rest_api_port=8501", "--model_name=model", "--model_base_path=/models/model"]

    assert started == words(tmp_path)


def test_arguments_follow_the_environment(tmp_path: Path) -> None:
    """
    The model comes from the environment, and each argument is one word at the end, spaces and all.
    """
    found = words(tmp_path, "--model_name=b c", "--port=1", MODEL_NAME="a", MODEL_BASE_PATH="/x y")

    assert ["--model_name=a", "--model_base_path=/x y/a", "--model_name=b c", "--port=1"] == found[2:]


@pytest.fixture
def started(models: Path, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """
    The entry point with the real server, whose ports come from arguments, and its REST port.
    """
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        grpc_port, rest_port = (found.getsockname()[1] for found in (one, two))
    run = f"import runpy, sys; sys.argv[0] = {str(SERVER)!r}; runpy.run_path({str(SERVER)!r}, run_name='__main__')"
    made = {
        **os.environ,
        "PATH": with_program(tmp_path, run),
        "MODEL_NAME": "half",
        "MODEL_BASE_PATH": str(models),
    }
    command = [str(ENTRYPOINT), f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=made, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        yield process, rest_port
        os.killpg(process.pid, signal.SIGKILL)


def test_of_a_flag_that_comes_twice_the_last_counts(started: tuple["subprocess.Popen[bytes]", int]) -> None:
    """
    The server answers at the ports of the arguments, and the shell before it leaves SIGTERM as the kernel has it.
    """
    process, port = started

    def answer() -> httpx.Response:
        assert process.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/v1/models/half", trust_env=False)
        except httpx.TransportError as error:
            raise NotYet(str(error)) from None

    seen = wait_until("the model server", answer, timeout_seconds=90)

    assert httpx.codes.OK == seen.status_code
    masks = re.findall(
        r"^Sig(?:Cgt|Ign|Blk):\s+(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE
    )
    assert [0, 0, 0] == [int(mask, 16) & (1 << (signal.SIGTERM - 1)) for mask in masks]
