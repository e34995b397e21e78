"""
Measure how much time the model server adds to a bare call of a ResNet50, what batches gain, and whether memory grows.

There are two ResNet50s: one with random weights for pictures of 224 by 224, and one of digits for 32 by 32.

    python benchmarks/modelserver.py [--model BASE/VERSION] [--small BASE/VERSION] [--json]

All measurements come from one run, and those that are compared alternate request by request: other work on the machine
slows all of them alike. Requests are encoded beforehand, which keeps the client's work out of every measurement.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from tfcanary.modelserver import protos
from tfcanary.modelserver.tensors import to_proto
from tfcanary.paths import ROOT
from tfcanary.wait import NotYet, wait_until

ENTRY = ROOT / "images/modelserver/tensorflow_model_server"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
CLIENTS = 8
BATCHING = """
max_batch_size { value: 8 }
batch_timeout_micros { value: 20000 }
num_batch_threads { value: 1 }
max_enqueued_batches { value: 100 }
"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """
    A measured value, and whether it is within its bound.
    """

    name: str
    value: float
    unit: str
    bound: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Server:
    """
    A running server of one model.
    """

    process: subprocess.Popen[bytes]
    name: str
    grpc_port: int
    rest_port: int

    def rest(self) -> Callable[[bytes], bytes]:
        """
        Open a connection; the function posts a body to ``:predict`` and returns the answer's body.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=120)

        def post(body: bytes) -> bytes:
            connection.request("POST", f"/v1/models/{self.name}:predict", body)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise SystemExit(f"HTTP {response.status}: {content[:300]!r}")
            return content

        return post

    def grpc(self) -> Callable[[bytes], bytes]:
        """
        Open a channel; the function sends a serialised PredictRequest and returns the serialised answer.
        """
        channel = grpc.insecure_channel(
            f"127.0.0.1:{self.grpc_port}",
            [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
        )
        call = channel.unary_unary(PREDICT)
        return lambda message: call(message, timeout=120)

    def resident_mib(self) -> float:
        """
        The process's resident memory, in MiB.
        """
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


@contextlib.contextmanager
def served(model: Path, *flags: str) -> Iterator[Server]:
    """
    Serve a version, given as BASE/VERSION, until the context ends.
    """
    ports = []
    for _ in range(2):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            ports.append(found.getsockname()[1])
    name = model.parent.name
    command = [
        sys.executable,
        str(ENTRY),
        f"--port={ports[0]}",
        f"--rest_api_port={ports[1]}",
        f"--model_name={name}",
        f"--model_base_path={model.parent}",
        "--file_system_poll_wait_seconds=0",
        "--max_num_load_retries=0",
        "--grpc_max_threads=32",
        *flags,
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def listening() -> None:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", ports[1])).close()
        except OSError as error:
            raise NotYet(str(error)) from None

    try:
        wait_until("the model server", listening, timeout_seconds=180)
        yield Server(process, name, ports[0], ports[1])
    finally:
        process.kill()
        process.wait()


def main() -> int:
    """
    Print every measurement.

    Returns:
        0 if all bounds hold, otherwise 1.
    """
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = (options.model or export(Path(folder) / "large", "random")).resolve()
        small = (options.small or export(Path(folder) / "small", "digits")).resolve()
        found = latencies(model, options.rounds)
        found.append(batched(small, options.seconds, Path(folder), 1.3))
        found.append(batched(model, options.seconds, Path(folder), None))
        found.append(memory(small, options.requests))
    return said(found, as_json=options.json)


def said(found: Sequence[Measurement], *, as_json: bool) -> int:
    """
    Print measurements, as JSON or a line each; return the exit code, which is 1 if a bound does not hold.
    """
    if as_json:
        print(json.dumps([{name: getattr(each, name) for name in Measurement.__slots__} for each in found]))
    else:
        for each in found:
            verdict = "holds" if each.holds else "DOES NOT HOLD"
            print(f"{each.name}: {each.value:.3f} {each.unit} (bound: {each.bound}): {verdict}")
    return 0 if all(each.holds for each in found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a ResNet50 as BASE/VERSION; exported if not given")
    parser.add_argument(
        "--small", type=Path, help="a ResNet50 of digits as BASE/VERSION; exported if not given"
    )
    parser.add_argument(
        "--rounds", type=int, default=40, help="times that each request is sent (default: %(default)d)"
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="seconds of load for each rate (default: %(default)g)"
    )
    parser.add_argument(
        "--requests", type=int, default=10_000, help="requests for the memory's slope (default: %(default)d)"
    )
    parser.add_argument("--json", action="store_true", help="print the measurements as JSON")
    return parser


def export(folder: Path, weights: str) -> Path:
    """
    Export a ResNet50. Weights that an earlier run trained are used again.
    """
    base = folder / "resnet50"
    command = [
        sys.executable,
        str(ROOT / "scripts/export_resnet.py"),
        "--arch=resnet50",
        f"--weights={weights}",
        f"--output={base}",
        "--version=1",
        "--model-name=resnet50",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return base / "1"


def requests(picture: bytes, floats: Any) -> dict[str, bytes]:
    """
    The same picture in every form of a request.

    Args:
        picture: a JPEG.
        floats: its pixels, of shape (rows, height, width, 3).
    """
    tensor = protos.PredictRequest()
    to_proto(floats, 1, tensor.inputs["images"], as_content=True)
    encoded = protos.PredictRequest(model_spec={"signature_name": "serving_preprocess"})
    to_proto(np.array([picture], object), 7, encoded.inputs["image_bytes"])
    b64 = {"b64": base64.b64encode(picture).decode()}
    return {
        "grpc": tensor,
        "grpc picture": encoded,
        "rest": json.dumps({"instances": floats.tolist()}).encode(),
        "rest picture": json.dumps({"signature_name": "serving_preprocess", "instances": [b64]}).encode(),
    }


def named(message: Any, name: str) -> bytes:
    """
    Serialise a message for the model of this name.
    """
    message.model_spec.name = name
    data: bytes = message.SerializeToString()
    return data


def latencies(model: Path, rounds: int) -> list[Measurement]:
    """
    Compare a client that sends one request at a time with bare calls of the same model.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf  # noqa: PLC0415 - seconds

    loaded = tf.saved_model.load(str(model))
    side = loaded.signatures["serving_default"].structured_input_signature[1]["images"].shape[1]
    random = np.random.default_rng(0)
    floats = np.round(random.uniform(0, 255, (1, side, side, 3)), 2).astype(np.float32)
    picture = tf.io.encode_jpeg(tf.cast(floats[0], tf.uint8)).numpy()
    images, encoded = tf.constant(floats), tf.constant([picture])
    default, preprocess = (loaded.signatures[name] for name in ("serving_default", "serving_preprocess"))
    with served(model) as server:
        sent = requests(picture, floats)
        over_grpc, over_rest = server.grpc(), server.rest()
        tensor, bytes_ = named(sent["grpc"], server.name), named(sent["grpc picture"], server.name)
        found = in_turn(
            rounds,
            {
                "bare": partial(bare, default, images=images),
                "grpc": lambda: over_grpc(tensor),
                "rest": lambda: over_rest(sent["rest"]),
                "bare picture": partial(bare, preprocess, image_bytes=encoded),
                "rest picture": lambda: over_rest(sent["rest picture"]),
                "grpc picture": lambda: over_grpc(bytes_),
            },
        )
    for name, seconds in found.items():
        print(f"{name}: {seconds * 1000:.2f} ms", file=sys.stderr)
    more = (found["rest"] - found["grpc"]) * 1000
    tensor_share = found["grpc"] / found["bare"]
    picture_share = found["rest picture"] / found["bare picture"]
    return [
        Measurement(
            "gRPC Predict, float tensor",
            tensor_share,
            "of the bare call",
            "at most 1.05",
            tensor_share <= 1.05,
        ),
        Measurement(
            "REST, b64 picture", picture_share, "of the bare call", "at most 1.10", picture_share <= 1.10
        ),
        Measurement("REST, JSON tensor", more, "ms more than gRPC", "at most 40", more <= 40),
    ]


def bare(signature: Any, **inputs: Any) -> Any:
    """
    Call a signature in this process, without a server, and wait for its answer.
    """
    return signature(**inputs)["class_probabilities"].numpy()


def in_turn(rounds: int, calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """
    Alternate between the calls, and return the shortest time of each, in seconds.

    Other work on the machine only ever adds to a time, which makes the shortest one the most exact.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 3):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if number >= 3:  # the first ones compile
                took[name].append(time.perf_counter() - began)
    return {name: min(seconds) for name, seconds in took.items()}


def batched(model: Path, seconds: float, folder: Path, bound: float | None) -> Measurement:
    """
    Compare the rates of two servers, with and without batches, that eight clients load in turn.

    A batch reads the weights once for all its pictures, and starts the graph once. For small pictures that is most of
    the work. At 224 by 224, nine tenths of the work are arithmetic that no batch saves. Bare calls measure how much a
    batch can gain on this processor.
    """
    file = folder / "batching.config"
    file.write_text(BATCHING)
    with (
        served(model) as one,
        served(model, "--enable_batching", f"--batching_parameters_file={file}") as many,
    ):
        side = picture_side(one)
        floats = np.random.default_rng(0).uniform(0, 255, (1, side, side, 3)).astype(np.float32)
        message = named(requests(b"", floats)["grpc"], one.name)
        shares = []
        for _ in range(4):
            single, batches = (rate(server, message, seconds / 8) for server in (one, many))
            shares.append(batches / single)
            print(
                f"8 clients, {side} px: {single:.1f} /s one by one, {batches:.1f} /s in batches",
                file=sys.stderr,
            )
    gain = bare_gain(model, floats)
    share = statistics.median(shares)
    return Measurement(
        f"8 clients with batching, pictures of {side} by {side}",
        share,
        f"of the rate without, bare calls {gain:.2f}",
        "shown only" if bound is None else f"at least {bound}",
        bound is None or share >= bound,
    )


def picture_side(server: Server) -> int:
    """
    Ask a server for the height of the pictures that its model takes, in pixels.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port)
    connection.request("GET", f"/v1/models/{server.name}/metadata")
    signatures = json.loads(connection.getresponse().read())["metadata"]["signature_def"]["signature_def"]
    return int(signatures["serving_default"]["inputs"]["images"]["tensor_shape"]["dim"][1]["size"])


def bare_gain(model: Path, floats: Any) -> float:
    """
    The time of eight bare calls at once, divided by that of one call with a batch of eight.
    """
    import tensorflow as tf  # noqa: PLC0415

    loaded = tf.saved_model.load(str(model))
    signature = loaded.signatures["serving_default"]
    one, eight = tf.constant(floats), tf.constant(np.repeat(floats, CLIENTS, axis=0))
    with ThreadPoolExecutor(CLIENTS) as pool:

        def at_once() -> None:
            list(pool.map(lambda _: bare(signature, images=one), range(CLIENTS)))

        found = in_turn(20, {"at once": at_once, "batch": partial(bare, signature, images=eight)})
    return found["at once"] / found["batch"]


def rate(server: Server, message: bytes, seconds: float) -> float:
    """
    Requests per second that eight clients get answered.
    """
    over = threading.Event()
    call = server.grpc()

    def client(_: int) -> int:
        answered = 0
        while not over.is_set():
            call(message)
            answered += 1
        return answered

    call(message)
    with ThreadPoolExecutor(CLIENTS) as pool:
        began = time.perf_counter()
        counts = [pool.submit(client, number) for number in range(CLIENTS)]
        over.wait(seconds)
        over.set()
        answered = sum(count.result() for count in counts)
        return answered / (time.perf_counter() - began)


def memory(model: Path, count: int) -> Measurement:
    """
    The slope of the server's memory over many requests, of both APIs and of changing sizes.
    """
    random = np.random.default_rng(0)
    with served(model) as server:
        over_grpc, over_rest = server.grpc(), server.rest()
        bodies: list[tuple[Callable[[bytes], bytes], bytes]] = []
        for rows in (1, 2, 3, 5, 8):
            floats = random.uniform(0, 255, (rows, 32, 32, 3)).astype(np.float32)
            sent = requests(b"", floats)
            bodies += [(over_grpc, named(sent["grpc"], server.name)), (over_rest, sent["rest"])]
        points = []
        for number in range(count):
            call, body = bodies[number % len(bodies)]
            call(body)
            # The first requests fill caches, arenas and thread pools, which grow only once.
            if number >= count // 5 and number % 100 == 0:
                points.append((number / 1000, server.resident_mib()))
    slope = float(np.polyfit(*zip(*points, strict=True), 1)[0])
    print(f"memory: {points[0][1]:.1f} MiB, after {count} requests {points[-1][1]:.1f} MiB", file=sys.stderr)
    return Measurement("memory", slope, f"MiB per 1,000 of {count} requests", "less than 1", slope < 1)


if __name__ == "__main__":
    raise SystemExit(main())
