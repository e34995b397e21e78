"""
Say without a cluster which route takes a request, and with what weights.

It reads the values as the chart does. Tests on the local cluster ask a real gateway the same questions.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcanary import cli
from tfcanary.chart.schema import require_known_keys, require_types
from tfcanary.chart.umbrella import given_to
from tfcanary.chart.values import chart_defaults, coalesce, merge, read_files, read_values
from tfcanary.contract import METHODS, PREFIXES, rest_path
from tfcanary.errors import UsageError
from tfcanary.paths import CHART
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Destination, Request, Routing, weights_in_words

SCHEMA = "tfserving-canary/explain/1"
MODELS = CHART.parents[1] / "values" / "models" / "resnet.yaml"


def main(argv: Sequence[str] | None = None, *, prog: str) -> int:
    """
    Explain one request.
    """
    parser = cli.Parser(prog=prog, description=__doc__)
    parser.add_argument(
        "-f",
        "--values",
        type=Path,
        action="append",
        metavar="FILE",
        required=True,
        help="a values file; give it again for more, later ones win. Without model.name the models are those of "
        "values/models/resnet.yaml",
    )
    parser.add_argument(
        "--subchart",
        metavar="NAME",
        help="the name or alias of the chart in an umbrella chart, whose values the files are",
    )
    parser.add_argument("--api", choices=("rest", "grpc"), help="(default: that of --path, or rest)")
    parser.add_argument("--path", help="the request's path (default: a prediction of the model)")
    for option, what in (
        ("--header", "a header that the client sends"),
        ("--claim", "a claim of the client's valid token"),
        ("--label", "a label of the calling pod; with one the caller is inside the mesh"),
    ):
        parser.add_argument(
            option, action="append", default=[], metavar="NAME=VALUE", help=f"{what}; again for more"
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return cli.run(parser, _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    declared = read(arguments.values, arguments.subchart)
    request = Request(
        path=arguments.path or default_path(declared.model, arguments.api or "rest"),
        headers=_pairs("--header", arguments.header),
        claims=_claims(_split("--claim", arguments.claim)),
        labels=_pairs("--label", arguments.label) if arguments.label else None,
    )
    if arguments.api and arguments.path and arguments.api != api_of(arguments.path):
        raise UsageError(f"--path: expected one of {arguments.api}, got {arguments.path!r}")
    explained = explain(declared, request)
    sys.stdout.write(
        f"{json.dumps(explained, indent=2) if arguments.json else explanation_in_words(explained)}\n"
    )
    return 0


def read(files: Sequence[Path], subchart: str | None = None) -> Routing:
    """
    The routes that values files declare over the chart's defaults; those of a copy in an umbrella chart, if it is named.
    """
    values = given_to(subchart, read_files(files))
    if "model" not in values:
        values = merge(read_values(MODELS), values)
    require_known_keys(values)
    values = coalesce(chart_defaults(), values)
    require_types(values)
    return from_values(values)


def default_path(model: str, api: str) -> str:
    """
    The path of a prediction.
    """
    return rest_path(model, "predict") if api == "rest" else METHODS["predict"]


def api_of(path: str) -> str:
    """
    The API that a path belongs to.
    """
    return "grpc" if PREFIXES["gRPC"] in path else "rest"


def explain(declared: Routing, request: Request) -> dict[str, Any]:
    """
    The route that takes a request, and the routes before it, each with the reason why it does not take the request.
    """
    decision = declared.decision(request)
    seen = declared.arriving(request)
    passed = []
    for index, route in enumerate(declared.routes):
        if decision is not None and route is decision.route:
            break
        passed.append(
            {"index": index, "name": route.name, "why": route.misses(seen) or "tokens are not verified"}
        )
    lost = sorted(request.headers.keys() - seen.headers.keys()) if seen is not request else []
    return {
        "schema": SCHEMA,
        "path": request.path,
        "passed": passed,
        "headersTakenAway": lost,
        "status": None if decision else 404,
        **_taken(declared, decision),
    }


def _taken(declared: Routing, decision: Destination | None) -> dict[str, Any]:
    if decision is None:
        why = "no route has this path"
        if header := declared.model_header:
            why += f" for {declared.model}, which REST names in the path and gRPC in the header {header}"
        return {"route": None, "index": None, "weights": {}, "why": why, "mirror": None}
    mirror = decision.route.mirror
    return {
        "route": decision.route.name,
        "index": declared.routes.index(decision.route),
        "weights": {track: weight for track, weight in decision.weights.items() if weight},
        "why": decision.why,
        "mirror": {"track": mirror.track, "percent": mirror.percent} if mirror else None,
    }


def explanation_in_words(explained: Mapping[str, Any]) -> str:
    """
    The explanation as lines of text.
    """
    lines = [
        f"{name} is taken away: the gateway believes tokens only" for name in explained["headersTakenAway"]
    ]
    lines += [
        f"routing.routes[{one['index']}] ({one['name']}) passes: {one['why']}" for one in explained["passed"]
    ]
    if explained["route"] is None:
        return "\n".join([*lines, f"{explained['path']}: {explained['status']}, {explained['why']}"])
    weights = weights_in_words(explained["weights"])
    lines.append(
        f"routing.routes[{explained['index']}] ({explained['route']}) takes it: {weights}; {explained['why']}"
    )
    if explained["mirror"]:
        lines.append(f"{explained['mirror']['percent']} % are mirrored to {explained['mirror']['track']}")
    return "\n".join(lines)


def _split(option: str, given: Iterable[str]) -> list[tuple[str, str]]:
    found = []
    for text in given:
        pair = re.fullmatch(r"([^=]+)=(.*)", text)
        if pair is None:
            raise UsageError(f"{option}: expected NAME=VALUE, got {text!r}")
        found.append((pair[1], pair[2]))
    return found


def _pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    pairs = _split(option, given)
    if len(dict(pairs)) != len(pairs):
        raise UsageError(f"{option}: every name once, got {', '.join(name for name, _ in pairs)}")
    return dict(pairs)


def _claims(pairs: Sequence[tuple[str, str]]) -> dict[str, str | tuple[str, ...]]:
    """
    A claim given once is a string; given several times, a list.
    """
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else tuple(values) for name, values in found.items()}
