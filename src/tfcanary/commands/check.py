"""
The command behind `scripts/check_gateway.py`.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from tfcanary import cli
from tfcanary.chart.source import opened
from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_files, from_release
from tfcanary.check.subject import TIMEOUT_SECONDS, Options, Subject
from tfcanary.client.endpoint import CONCURRENCY, Tls
from tfcanary.client.given import given_by
from tfcanary.client.pictures import read_pictures
from tfcanary.commands import explain
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.judge import split
from tfcanary.paths import CHART
from tfcanary.report.as_json import as_json
from tfcanary.report.html import html
from tfcanary.report.junit import junit
from tfcanary.report.table import findings_table, write
from tfcanary.routing.tokens import read_token
from tfcanary.target import Target


def parser(prog: str) -> cli.Parser:
    """
    The command's arguments.
    """
    made = cli.Parser(
        prog=prog,
        description="Prove over REST and gRPC what the gateway does with a release's routes. "
        f"`{prog} explain` says without a cluster which route takes a request.",
    )
    _add_cluster(made.add_argument_group("what is live"))
    what = made.add_argument_group("what should be")
    what.add_argument(
        "--values",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a values file whose routes the gateway must have; may be repeated (default: the live release's values)",
    )
    what.add_argument("--model", metavar="NAME", help="the model's public name (default: model.name)")
    what.add_argument(
        "--chart",
        type=Path,
        default=CHART,
        metavar="CHART",
        help="the chart of the release, as a folder or a .tgz, if it has another version than the one that comes "
        "with this command",
    )
    where = made.add_argument_group("where")
    where.add_argument("--gateway", metavar="HOST:PORT", help="the gateway's address (default: it is found)")
    where.add_argument("--host", help="the host name to ask for (default: the first of gateway.hosts)")
    where.add_argument("--tls", action="store_true", help="speak TLS, and verify the gateway's certificate")
    where.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="with --tls: PEM file of the authorities to trust (default: the system's)",
    )
    where.add_argument(
        "--no-gateway-pods",
        action="store_true",
        help="do not ask single pods (each gateway pod for its routes and its configuration, the model's pods for their "
        "versions and for mirrored predictions), which takes the right to pods/portforward",
    )
    _add_requests(made.add_argument_group("how"))
    _add_predictions(made.add_argument_group("which predictions"))
    _add_outputs(made.add_argument_group("reports"))
    return made


def _add_cluster(cluster: argparse._ArgumentGroup) -> None:
    cluster.add_argument("--release", metavar="NAME", help="the Helm release (default: resnet)")
    cluster.add_argument("--namespace", metavar="NAME", help="its namespace (default: default)")
    cluster.add_argument(
        "--subchart",
        metavar="NAME",
        help="the name or alias of the chart in an umbrella chart, whose release it is (default: the release is of the "
        "chart itself)",
    )
    cluster.add_argument("--kubeconfig", type=Path, metavar="FILE", help="(default: as kubectl finds it)")
    cluster.add_argument(
        "--context", metavar="NAME", help="the kubeconfig's context (default: its current one)"
    )
    cluster.add_argument("--helm", default="helm", metavar="FILE", help="the helm program (default: helm)")


def _add_requests(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--alpha",
        type=float,
        default=split.ALPHA,
        help="probability of a false alarm, for each split (default: %(default)g)",
    )
    how.add_argument(
        "--power",
        type=float,
        default=split.POWER,
        help="probability of finding a wrong split (default: %(default)g)",
    )
    how.add_argument(
        "--detect",
        type=float,
        default=split.DETECT,
        metavar="POINTS",
        help="the smallest difference to find, in percentage points (default: %(default)g)",
    )
    how.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long the routes may take to reach the gateway (default: %(default)g)",
    )
    how.add_argument(
        "--concurrency",
        type=int,
        default=CONCURRENCY,
        metavar="N",
        help="requests at a time (default: %(default)d)",
    )
    how.add_argument(
        "--token",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a file with a client's JWT, to check routes by claim; may be repeated (default: these routes are not checked)",
    )
    how.add_argument(
        "--probe",
        action="append",
        choices=["security"],
        default=[],
        help="also request what must be closed to clients; the gateway must refuse it",
    )
    how.add_argument(
        "--allow-filter",
        action="append",
        default=[],
        metavar="NAME",
        help="an HTTP filter of others that may be on the way, by the name that it has in Envoy; may be repeated",
    )


def _add_predictions(asked: argparse._ArgumentGroup) -> None:
    asked.add_argument(
        "--picture",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a JPEG for a model of pictures; may be repeated (default: two that scikit-learn ships)",
    )
    requests = asked.add_mutually_exclusive_group()
    requests.add_argument(
        "--requests",
        type=Path,
        metavar="FILE",
        help="predictions to ask for: JSON lines, each a REST predict body, with `signature_name`, `label` and "
        "`headers` where they are needed",
    )
    requests.add_argument(
        "--saved-model",
        type=Path,
        metavar="DIR",
        help="ask for the predictions of this version's own warm-up records (default: pictures for a model of "
        "pictures, and inputs made from the signature for any other)",
    )
    asked.add_argument(
        "--agree",
        type=float,
        metavar="FRACTION",
        help="how far two tracks must agree on every output, from 0 to 1: the part of the answers with the same "
        "first label, or 1 less the largest relative difference (default: it is only reported)",
    )


def _add_outputs(reports: argparse._ArgumentGroup) -> None:
    reports.add_argument("--junit", type=Path, metavar="FILE", help="write the checks as JUnit XML")
    reports.add_argument("--report", type=Path, metavar="FILE", help="write a page of one HTML file")
    reports.add_argument(
        "--json", action="store_true", help="write the report as JSON to stdout, and the table to stderr"
    )


def _command(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    pictures = read_pictures(arguments.picture) or None
    given = given_by(arguments.requests, arguments.saved_model)
    with opened(arguments.chart) as chart:
        subject = _subject(arguments, chart)
    made = check_gateway(subject, options, pictures, given)
    if arguments.json:
        sys.stdout.write(json.dumps(as_json(made), indent=2) + "\n")
    write(findings_table(made), sys.stderr if arguments.json else sys.stdout)
    # The table comes first: a file that cannot be written must not hide what was found.
    for file, render in ((arguments.junit, junit), (arguments.report, html)):
        if file is not None:
            cli.write_file(file, render(made), "report")
    if made.interrupted:
        raise UnreachableError(made.interrupted)
    return made.exit_code


def _options(arguments: argparse.Namespace) -> Options:
    if math.isnan(arguments.timeout) or arguments.timeout <= 0:
        raise UsageError(f"--timeout: expected seconds above 0, got {arguments.timeout:g}")
    if arguments.concurrency < 1:
        raise UsageError(f"--concurrency: expected at least 1, got {arguments.concurrency}")
    if arguments.ca and not arguments.tls:
        raise UsageError("--ca: expected --tls with it")
    if arguments.agree is not None and not 0 <= arguments.agree <= 1:
        raise UsageError(f"--agree: expected a fraction from 0 to 1, got {arguments.agree:g}")
    return Options(
        arguments.alpha,
        arguments.power,
        arguments.detect,
        arguments.timeout,
        arguments.concurrency,
        security="security" in arguments.probe,
        agree=arguments.agree,
    )


def _subject(arguments: argparse.Namespace, chart: Path) -> Subject:
    """
    What to check: from files alone if they and a gateway were given and no release, from the release otherwise.
    """
    tls = Tls(arguments.ca) if arguments.tls else None
    tokens = [read_token(file) for file in arguments.token]
    release = (arguments.release, arguments.namespace, arguments.kubeconfig, arguments.context)
    if arguments.gateway and arguments.values and not any(release):
        return from_files(
            arguments.values,
            gateway=arguments.gateway,
            host=arguments.host,
            model=arguments.model,
            chart=chart,
            subchart=arguments.subchart,
            tokens=tokens,
            tls=tls,
        )
    return from_release(
        arguments.release or "resnet",
        Target(
            namespace=arguments.namespace or "default",
            kubeconfig=arguments.kubeconfig,
            context=arguments.context,
            helm=arguments.helm,
        ),
        files=arguments.values,
        gateway=arguments.gateway,
        host=arguments.host,
        model=arguments.model,
        chart=chart,
        subchart=arguments.subchart,
        each_pod=not arguments.no_gateway_pods,
        allowed_filters=arguments.allow_filter,
        tokens=tokens,
        tls=tls,
    )


def main(argv: Sequence[str] | None = None, *, prog: str = "check_gateway.py") -> int:
    """
    Run the command.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    # A subparser would take the value of a misspelt option for the name of a command, and not name the option.
    if given[:1] == ["explain"]:
        return explain.main(given[1:], prog=f"{prog} explain")
    return cli.run(parser(prog), _command, given)
