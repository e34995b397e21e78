"""
How long a check of a live release takes, beside the same number of bare requests over the same protocols.

    python benchmarks/check.py --release resnet --namespace resnet [--values values/canary-10.yaml] [--rounds 5]

The release must be at the strategy that --values names. Traffic goes to its gateway only, a few thousand requests.
"""

import argparse
import statistics
import time
from pathlib import Path

from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release
from tfcanary.client.endpoint import CONCURRENCY, burst
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.rest import RestClient
from tfcanary.paths import CHART
from tfcanary.report.table import findings_table
from tfcanary.target import Target

VALUES = CHART.parents[1] / "values"


def main() -> None:
    """
    Measure, and print.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--release", default="resnet")
    parser.add_argument("--namespace", default="resnet")
    parser.add_argument("--values", type=Path, default=VALUES / "canary-10.yaml")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)d)")
    options = parser.parse_args()
    rounds = [one(options) for _ in range(options.rounds)]
    for requests, whole, bare in rounds:
        print(
            f"{requests} requests: {whole:.1f} s with all checks, {bare:.1f} s bare, ratio {whole / bare:.2f}"
        )
    print(
        f"median {statistics.median(whole for _, whole, _ in rounds):.1f} s, most {max(whole for _, whole, _ in rounds):.1f} s, "
        f"median ratio {statistics.median(whole / bare for _, whole, bare in rounds):.2f}"
    )


def one(options: argparse.Namespace) -> tuple[int, float, float]:
    """
    A check, reading the release included, and as many bare requests: their number and the seconds of both.
    """
    began = time.perf_counter()
    subject = from_release(options.release, Target(namespace=options.namespace), files=[options.values])
    report = check_gateway(subject)
    whole = time.perf_counter() - began
    assert report.held, str(findings_table(report))
    model = subject.routing.model
    with (
        RestClient(subject.gateway, model, host=subject.host) as rest,
        GrpcClient(subject.gateway, model, host=subject.host) as grpc,
    ):
        began = time.perf_counter()
        for client in (rest, grpc):
            n = len(report.records) // 2
            answers = list(burst(client.metadata, [{}] * n, CONCURRENCY))
            assert all(answer.ok for answer in answers), answers
        bare = time.perf_counter() - began
    return len(report.records), whole, bare


if __name__ == "__main__":
    main()
