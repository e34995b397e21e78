"""
Measure what each API of the model server keeps of its rate while clients of the other are busy.

    python benchmarks/fairness.py [--seconds SECONDS] [--json]

The model is the smallest there is, so that all of the work is the server's. Clients are processes of their own, four
connections each. A share is measured in rounds: alone, then together, on one server.
"""

import argparse
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from modelserver import PREDICT, Measurement, Server, said, served

from tfcanary.modelserver import protos

CONNECTIONS = 4  # of one client process
GRPC_CLIENTS = 8
REST_CLIENTS = 16
BODY = b'{"instances": [1.0]}'
ROUNDS = 3
# What each API keeps, at least, of its rate alone.
GRPC_SHARE, REST_SHARE = 0.4, 0.25


def main() -> int:
    """
    Print the share that each API keeps.

    Returns:
        0 if all bounds hold, otherwise 1.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="seconds of load for each rate (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print the measurements as JSON")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        served(smallest(Path(folder)), "--grpc_max_threads=0") as server,
    ):
        found = shares(server, options.seconds)
    return said(found, as_json=options.json)


def smallest(folder: Path) -> Path:
    """
    Save a model that halves a number, in a process of its own because TensorFlow takes hundreds of MiB.
    """
    path = folder / "half" / "1"
    program = (
        "import sys, tensorflow as tf; module = tf.Module();"
        'x = tf.TensorSpec([None], tf.float32, "x");'
        "call = tf.function(lambda x: {'y': x / 2}, input_signature=[x]);"
        "tf.saved_model.save(module, sys.argv[1], signatures=call.get_concrete_function())"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True)
    return path


def shares(server: Server, seconds: float) -> list[Measurement]:
    """
    Measure both APIs alone and together, and print each rate as it comes.
    """
    kept: dict[str, list[float]] = {"gRPC": [], "REST": []}
    for _ in range(ROUNDS):
        alone = {
            "gRPC": rates(server, seconds, grpc_clients=GRPC_CLIENTS)["gRPC"],
            "REST": rates(server, seconds, rest_clients=REST_CLIENTS)["REST"],
        }
        together = rates(server, seconds, grpc_clients=GRPC_CLIENTS, rest_clients=REST_CLIENTS)
        for name, share in kept.items():
            share.append(together[name] / alone[name])
            print(f"{name}: {alone[name]:.0f} /s alone, {together[name]:.0f} /s together", file=sys.stderr)
    return [
        Measurement(
            f"{name} of {GRPC_CLIENTS} clients of gRPC and {REST_CLIENTS} of REST",
            statistics.median(kept[name]),
            "of its rate alone",
            f"at least {bound}",
            statistics.median(kept[name]) >= bound,
        )
        for name, bound in (("gRPC", GRPC_SHARE), ("REST", REST_SHARE))
    ]


def rates(
    server: Server, seconds: float, *, grpc_clients: int = 0, rest_clients: int = 0
) -> dict[str, float]:
    """
    Requests per second that clients of each API get answered.
    """
    context = multiprocessing.get_context("spawn")
    run = {name: Run(seconds, context) for name in ("gRPC", "REST")}
    clients = [("gRPC", ask_grpc, server.grpc_port)] * (grpc_clients // CONNECTIONS)
    clients += [("REST", ask_rest, server.rest_port)] * (rest_clients // CONNECTIONS)
    processes = [
        context.Process(target=load, args=(ask, port, run[name]), daemon=True) for name, ask, port in clients
    ]
    for process in processes:
        process.start()
    for name, _, _ in clients:
        run[name].ready.acquire()
    for each in run.values():
        each.begin.set()
    for process in processes:
        process.join()
    return {name: each.count.value / seconds for name, each in run.items()}


class Run:
    """
    What the clients of one API share.

    Attributes:
        seconds: how long they send requests.
        ready: released by each process once it is connected.
        begin: set when all are.
        count: the answers that they got.
    """

    def __init__(self, seconds: float, context: Any) -> None:
        self.seconds = seconds
        self.ready = context.Semaphore(0)
        self.begin = context.Event()
        self.count = context.Value("q", 0)


def load(connect: Callable[[int], Callable[[], None]], port: int, run: Run) -> None:
    """
    Send requests over several connections, each as soon as the last is answered; a process of its own runs this.
    """
    asks = [connect(port) for _ in range(CONNECTIONS)]
    for ask in asks:
        ask()
    run.ready.release()
    run.begin.wait()
    until = time.monotonic() + run.seconds
    answered = [0] * CONNECTIONS

    def client(number: int) -> None:
        while time.monotonic() < until:
            asks[number]()
            answered[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with run.count.get_lock():
        run.count.value += sum(answered)
    os._exit(0)  # gRPC's own end takes seconds


def ask_grpc(port: int) -> Callable[[], None]:
    """
    Open a channel; the function sends one request and waits for its answer.
    """
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
    request = protos.PredictRequest(model_spec={"name": "half"})
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.append(1.0)
    request.inputs["x"].tensor_shape.dim.add(size=1)
    message = request.SerializeToString()
    call = channel.unary_unary(PREDICT)
    return lambda: call(message, timeout=60) and None


def ask_rest(port: int) -> Callable[[], None]:
    """
    Open a connection; the function sends one request and waits for its answer.
    """
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST /v1/models/half:predict HTTP/1.1\r\nHost: h\r\nContent-Length: {len(BODY)}\r\n\r\n"
    request = head.encode() + BODY

    def ask() -> None:
        connection.sendall(request)
        received = b""
        while not received.endswith(b"}"):
            part = connection.recv(65536)
            if not part:
                raise SystemExit("the server closed a connection")
            received += part

    return ask


if __name__ == "__main__":
    raise SystemExit(main())
