"""
Compare the load driver with hey (REST) and ghz (gRPC), on the same endpoint with the same number of connections.

    python benchmarks/traffic.py 127.0.0.1:18080 resnet --host resnet.test [--hey FILE] [--ghz FILE]

The load is a fixed number of metadata requests to the named address. Without an address, only the memory of a million
records is measured.
"""

import argparse
import json
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tfcanary.contract import Api, rest_path
from tfcanary.protos import bare_tensorflow
from tfcanary.traffic.calls import metadata_call
from tfcanary.traffic.driver import Traffic
from tfcanary.traffic.records import Mark, Recorder

CONNECTIONS = 8


def main() -> None:
    """
    Measure, and print.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", nargs="?")
    parser.add_argument("model", nargs="?", default="resnet")
    parser.add_argument("--host", default=None)
    parser.add_argument("--hey", default="hey")
    parser.add_argument("--ghz", default="ghz")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument(
        "--rounds", type=int, default=3, help="ours and theirs in turn (default: %(default)d)"
    )
    options = parser.parse_args()
    if options.address:
        for api, other in ((Api.REST, hey), (Api.GRPC, ghz)):
            pairs = [(ours(api, options), other(options)) for _ in range(options.rounds)]
            shares = sorted(mine / theirs for mine, theirs in pairs)
            rounds = ", ".join(f"{mine:.0f} of {theirs:.0f} /s" for mine, theirs in pairs)
            print(f"{api.value}: {rounds}; median {shares[len(shares) // 2]:.2f} of {other.__name__}")
    memory()


def ours(api: Api, options: argparse.Namespace) -> float:
    """
    Requests a second of the driver, closed loop.
    """
    requests = [metadata_call(api, options.model)]
    began = time.perf_counter()
    with Traffic(
        options.address,
        requests,
        concurrency=CONNECTIONS,
        connections=CONNECTIONS,
        most=options.requests,
        host=options.host,
    ) as load:
        records = load.join()
    records.assert_none_failed(at_least=options.requests)
    return options.requests / (time.perf_counter() - began)


def hey(options: argparse.Namespace) -> float:
    """
    Requests a second of hey.
    """
    command = [options.hey, "-n", str(options.requests), "-c", str(CONNECTIONS), "-disable-redirects"]
    command += ["-host", options.host] if options.host else []
    command.append(f"http://{options.address}{rest_path(options.model, 'metadata')}")
    return figure(command, lambda text: float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]))  # type: ignore[index]


def ghz(options: argparse.Namespace) -> float:
    """
    Requests a second of ghz, on one connection as the driver's.
    """
    call = {"model_spec": {"name": options.model}, "metadata_field": ["signature_def"]}
    with tempfile.NamedTemporaryFile(suffix=".protoset") as file:
        Path(file.name).write_bytes(protoset())
        command = [
            options.ghz,
            "--insecure",
            f"--protoset={file.name}",
            "--connections=1",
            f"-c{CONNECTIONS}",
            f"-n{options.requests}",
            "--call=tensorflow.serving.PredictionService.GetModelMetadata",
            f"-d{json.dumps(call)}",
            "-Ojson",
        ]
        command += [f"--authority={options.host}"] if options.host else []
        return figure([*command, options.address], lambda text: float(json.loads(text)["rps"]))


def protoset() -> bytes:
    """
    The published protos as a descriptor set, each file after those it needs.
    """
    from google.protobuf import descriptor_pb2  # noqa: PLC0415

    made, known = descriptor_pb2.FileDescriptorSet(), set()
    with bare_tensorflow():
        from tensorflow_serving.apis import prediction_service_pb2  # noqa: PLC0415

    def add(file) -> None:
        if file.name not in known:
            known.add(file.name)
            for needed in file.dependencies:
                add(needed)
            file.CopyToProto(made.file.add())

    add(prediction_service_pb2.DESCRIPTOR)
    return made.SerializeToString()


def figure(command: list[str], read: Callable[[str], float]) -> float:
    """
    Run a program, and read a number from what it prints.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return read(done.stdout)


def memory() -> None:
    """
    A million records, written and handed out.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    columns = Recorder()
    began = time.perf_counter()
    for i in range(1_000_000):
        columns.add(
            due=i / 1000,
            latency=0.01,
            request="predict REST",
            user=i % 1000,
            status=200,
            track="stable",
            revision="stable",
            digest=i,
        )
    took = time.perf_counter() - began
    records = columns.records([Mark(0.0, "start")])
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{len(records)} records: {more:.0f} MiB at most, {took * 1000:.0f} ns each to write")


if __name__ == "__main__":
    main()
