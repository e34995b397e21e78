"""
The options of `tfcanary rollout`.
"""

import argparse
import getpass
import math
from pathlib import Path

from tfcanary import cli
from tfcanary.paths import CHART


def add_target(parser: cli.Parser) -> None:
    """
    Which release.
    """
    cluster = parser.add_argument_group("which release")
    cluster.add_argument(
        "--release", metavar="NAME", help="the Helm release (default: resnet, or the plan's)"
    )
    cluster.add_argument(
        "--namespace", metavar="NAME", default="default", help="its namespace (default: default)"
    )
    cluster.add_argument("--kubeconfig", type=Path, metavar="FILE", help="(default: as kubectl finds it)")
    cluster.add_argument(
        "--context", metavar="NAME", help="the kubeconfig's context (default: its current one)"
    )
    cluster.add_argument("--helm", default="helm", metavar="FILE", help="the helm program (default: helm)")


def add_plan(parser: cli.Parser) -> None:
    """
    A plan, or the version for the default plan.
    """
    parser.add_argument("plan", type=Path, nargs="?", metavar="PLAN", help="the plan, a YAML file; or")
    parser.add_argument("--to", type=int, metavar="VERSION", help="release this version by the default plan")


def add_driving(parser: cli.Parser) -> None:
    """
    How the release is reached, and where the results go.
    """
    where = parser.add_argument_group("where")
    where.add_argument("--gateway", metavar="HOST:PORT", help="the gateway's address (default: it is found)")
    where.add_argument("--host", help="the host name to ask for (default: the first of gateway.hosts)")
    where.add_argument("--tls", action="store_true", help="speak TLS, and verify the gateway's certificate")
    where.add_argument(
        "--ca", type=Path, metavar="FILE", help="with --tls: PEM file of the authorities to trust"
    )
    where.add_argument(
        "--chart",
        type=Path,
        default=CHART,
        metavar="CHART",
        help="the release's chart, as a folder or a .tgz",
    )
    where.add_argument(
        "--prometheus-token",
        type=Path,
        metavar="FILE",
        help="a file with the bearer token for the plan's Prometheus",
    )
    where.add_argument(
        "--prometheus-ca", type=Path, metavar="FILE", help="PEM file of the authorities to trust for it"
    )
    asked = parser.add_argument_group("what the tracks are asked").add_mutually_exclusive_group()
    asked.add_argument("--requests", type=Path, metavar="FILE", help="JSON lines, each a REST predict body")
    asked.add_argument(
        "--saved-model", type=Path, metavar="DIR", help="the warm-up records of this version's folder"
    )
    outputs = parser.add_argument_group("results")
    outputs.add_argument("--record", type=Path, metavar="FILE", help="write the release record as JSON")
    outputs.add_argument(
        "--report", type=Path, metavar="FILE", help="write it as one HTML page that loads nothing else"
    )


def add_by(parser: cli.Parser) -> None:
    """
    Who asks.
    """
    parser.add_argument(
        "--by", metavar="NAME", default=_user(), help="who asks, for the record (default: %(default)s)"
    )


def add_start(parser: cli.Parser) -> None:
    """
    Those of `start`.
    """
    add_plan(parser)
    add_target(parser)
    add_driving(parser)
    add_by(parser)
    parser.add_argument(
        "--run",
        metavar="NAME",
        help="the rollout's name; if it was begun already it goes on, as a Job that is started again needs "
        "(default: RELEASE-VERSION-REVISION)",
    )


def add_going_on(parser: cli.Parser) -> None:
    """
    Those of `resume` and `abort`, which may have to drive.
    """
    add_target(parser)
    add_driving(parser)
    add_by(parser)


def add_wish(parser: cli.Parser) -> None:
    """
    Those of a wish that is written down for the driver.
    """
    add_target(parser)
    add_by(parser)


def add_promote(parser: cli.Parser) -> None:
    """
    Those of `promote`.
    """
    add_wish(parser)
    parser.add_argument(
        "--anyway", action="store_true", help="promote without a proof; the record says who did"
    )


def add_shown(parser: cli.Parser) -> None:
    """
    Those of what is only shown.
    """
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_watch(parser: cli.Parser) -> None:
    """
    Those of `watch`.
    """
    add_target(parser)
    parser.add_argument(
        "--every",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="between two looks (default: %(default)g)",
    )
    parser.add_argument(
        "--serve",
        metavar="HOST:PORT",
        help="show it as a page too, such as 127.0.0.1:8080, which refreshes itself",
    )


def add_explain(parser: cli.Parser) -> None:
    """
    Those of `explain`.
    """
    add_plan(parser)
    parser.add_argument("--release", metavar="NAME", help="the Helm release (default: resnet, or the plan's)")
    parser.add_argument(
        "--per-second",
        type=_seconds,
        metavar="RPS",
        help="requests a second to both tracks (default: the plan's own)",
    )
    parser.add_argument(
        "--base",
        type=_per_cent,
        default=0.1,
        metavar="PERCENT",
        help="stable's failure rate (default: %(default)g)",
    )
    parser.add_argument(
        "--runs", type=_runs, default=20, metavar="N", help="rollouts to try out (default: %(default)d)"
    )
    parser.add_argument(
        "--pods",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="until a pod is Ready (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _per_cent(text: str) -> float:
    return _between(text, 0, 50)


def _runs(text: str) -> int:
    return int(_between(text, 2, 1000))


def _seconds(text: str) -> float:
    return _between(text, 0.1, 1e6)


def _between(text: str, low: float, high: float) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not low <= found <= high:
        message = f"expected a number from {low:g} to {high:g}, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "nobody"
