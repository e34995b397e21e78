"""
Measure what versions that replace each other cost: memory, and requests of clients that go on asking.

    python benchmarks/version_changes.py [--model BASE/VERSION] [--changes COUNT] [--json]
    python benchmarks/version_changes.py --clients 64 --seconds 60 --changes 13 [--json]

The first changes versions of a ResNet50. The second changes versions of the smallest model there is, spread over the time,
while clients ask without a pause, every second one over gRPC.

Each change is a new folder in the base path beside which the old one disappears, as when a volume is published again.
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from fairness import BODY, smallest
from modelserver import Measurement, Server, export, named, said, served

from tfcanary.modelserver import protos
from tfcanary.modelserver.tensors import to_proto
from tfcanary.wait import NotYet, wait_until

BOUND = 1.3
POLL = "--file_system_poll_wait_seconds=1"
SETTLED = 3  # changes after which allocators and thread pools have what they need


def main() -> int:
    """
    Print the growth.

    Returns:
        0 if the bound holds, otherwise 1.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a ResNet50 as BASE/VERSION; exported if not given")
    parser.add_argument(
        "--changes", type=int, default=52, help="changes of version (default: %(default)d); 5 s each"
    )
    parser.add_argument("--clients", type=int, default=0, help="measure requests of so many clients instead")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long they ask (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print the measurement as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.clients:
            found = asked(Path(folder), options.clients, options.seconds, options.changes)
            return said([found], as_json=options.json)
        model = (options.model or export(Path(folder) / "exported", "random")).resolve()
        found = growth(model, Path(folder) / "served" / "resnet50", options.changes)
    return said([found], as_json=options.json)


def growth(model: Path, base: Path, changes: int) -> Measurement:
    """
    Change the version again and again, and compare the memory at the end with that after the first changes.
    """
    base.mkdir(parents=True)
    (base / "1").symlink_to(model)
    sizes = []
    with served(base / "1", POLL) as server:
        for version in range(2, changes + 2):
            replace(server, base, model, version)
            sizes.append(server.resident_mib())
            print(f"change {version - 1}: {sizes[-1]:.0f} MiB", file=sys.stderr)
    value = sizes[-1] / sizes[min(SETTLED, len(sizes)) - 1]
    return Measurement(
        f"memory after {changes} changes of version",
        value,
        f"of that after {SETTLED}",
        f"at most {BOUND}",
        value <= BOUND,
    )


def asked(folder: Path, clients: int, seconds: float, changes: int) -> Measurement:
    """
    Count the requests that fail while versions are changed under clients that ask.
    """
    model, base = smallest(folder), folder / "served" / "half"
    base.mkdir(parents=True)
    (base / "1").symlink_to(model)
    ended = threading.Event()
    with served(base / "1", POLL, "--grpc_max_threads=0") as server, ThreadPoolExecutor(clients) as pool:
        counting = [
            pool.submit(ask, server.grpc if number % 2 else server.rest, message(server, number), ended)
            for number in range(clients)
        ]
        began = time.monotonic()
        for version in range(2, changes + 2):
            ended.wait(began + seconds * (version - 1) / (changes + 1) - time.monotonic())
            replace(server, base, model, version)
        ended.wait(began + seconds - time.monotonic())
        ended.set()
        counts = [one.result() for one in counting]
    answered, failed = (sum(column) for column in zip(*counts, strict=True))
    print(f"{answered} answered in {seconds:g} s", file=sys.stderr)
    return Measurement(
        f"{clients} clients through {changes} changes of version",
        failed,
        "requests failed",
        "none",
        not failed,
    )


def ask(
    opened: Callable[[], Callable[[bytes], bytes]], sent: bytes, ended: threading.Event
) -> tuple[int, int]:
    """
    Ask without a pause until the end.

    Returns:
        How many requests were answered, and how many failed.
    """
    call, counts = opened(), [0, 0]
    while not ended.is_set():
        try:
            call(sent)
            counts[0] += 1
        except (SystemExit, OSError, http.client.HTTPException, grpc.RpcError) as error:
            print(f"failed: {error}", file=sys.stderr)
            counts[1] += 1
            call = opened()
    return counts[0], counts[1]


def message(server: Server, number: int) -> bytes:
    """
    A prediction for every second client over gRPC, and for the others over REST.
    """
    if number % 2 == 0:
        return BODY
    request = protos.PredictRequest()
    to_proto(np.ones(1, np.float32), 1, request.inputs["x"], as_content=True)
    return named(request, server.name)


def replace(server: Server, base: Path, model: Path, version: int) -> None:
    """
    Publish a version and take away the one before; return when the server has done the same.
    """
    (base / str(version)).symlink_to(model)
    (base / str(version - 1)).unlink()
    wait_until(f"version {version}", partial(require_replaced, server, version), timeout_seconds=120)


def require_replaced(server: Server, version: int) -> None:
    """
    Require that a version is available, and that the one before it has ended.
    """
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    connection.request("GET", f"/v1/models/{server.name}")
    states = json.loads(connection.getresponse().read())["model_version_status"]
    connection.close()
    found = {int(each["version"]): each["state"] for each in states}
    if (found.get(version), found.get(version - 1)) != ("AVAILABLE", "END"):
        raise NotYet(str(found))


if __name__ == "__main__":
    raise SystemExit(main())
