"""
The command behind `scripts/local_cluster.py`.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfcanary import cli
from tfcanary.cluster import layout as layouts
from tfcanary.cluster import lifecycle, store
from tfcanary.errors import UsageError


def main(argv: Sequence[str] | None = None, *, prog: str = "local_cluster.py") -> int:
    """
    Run `up`, `status`, `logs`, `publish`, `models`, `image` or `down`.
    """
    parser = cli.Parser(
        prog=prog, description="A real Kubernetes with Istio on this machine, without Docker."
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=cli.Parser)
    up = commands.add_parser("up", help="bring the cluster up, or repair it; what works is left alone")
    up.add_argument(
        "--api-port", type=int, help="127.0.0.1 port of the apiserver (default: the first free from 16443)"
    )
    up.add_argument(
        "--gateway-port", type=int, help="127.0.0.1 port of the gateway (default: the first free from 18080)"
    )
    up.add_argument(
        "--no-install", action="store_true", help="never install distribution packages, only name them"
    )
    up.add_argument(
        "--pull", action="store_true", help="take published images where a registry can be reached"
    )
    status = commands.add_parser("status", help="a line for each component; exit code 1 if any does not work")
    logs = commands.add_parser("logs", help="the end of a component's log")
    logs.add_argument("component", help="a name from `status`")
    logs.add_argument("--lines", type=int, default=50, help="how many (default: 50)")
    publish = _publishing(commands)
    models = commands.add_parser("models", help="list what is published")
    image = commands.add_parser("image", help="build and import an image that `up` does without")
    image.add_argument(
        "image",
        choices=["rollout"],
        help="rollout: drives a rollout in the cluster, with the code as it is here",
    )
    down = commands.add_parser("down", help="end every process and remove everything but the caches")
    down.add_argument("--all", action="store_true", help="every cluster of this user, and not only --name")
    actions = (
        (up, _up),
        (status, _status),
        (logs, _logs),
        (publish, _publish),
        (models, _models),
        (image, _image),
        (down, _down),
    )
    for command, action in actions:
        command.add_argument(
            "--name", default=layouts.DEFAULT_NAME, help=f"which cluster (default: {layouts.DEFAULT_NAME})"
        )
        command.set_defaults(action=action)
    for command in (up, status, models):
        command.add_argument("--json", action="store_true", help="print JSON")
    return cli.run(parser, lambda arguments: arguments.action(arguments), argv)


def _publishing(commands: Any) -> argparse.ArgumentParser:
    """
    The arguments of `publish`.
    """
    publish: argparse.ArgumentParser = commands.add_parser(
        "publish", help="copy one version of a model to where the cluster's pods find it"
    )
    publish.add_argument("model", type=Path, metavar="DIR", help="a version's directory")
    publish.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        dest="model_name",
        help="the model's public name: model.name",
    )
    publish.add_argument(
        "--namespace",
        metavar="NAME",
        help="of the release, made if there is none (default: the model's name)",
    )
    publish.add_argument(
        "--version", type=int, metavar="N", help="the version's number (default: the directory's name)"
    )
    return publish


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _up(arguments: argparse.Namespace) -> int:
    layout = layouts.Layout(arguments.name)
    began = time.monotonic()
    ports = lifecycle.up(
        layout,
        api_port=arguments.api_port,
        gateway_port=arguments.gateway_port,
        install=not arguments.no_install,
        pull=arguments.pull,
    )
    seconds = time.monotonic() - began
    if arguments.json:
        said = {"name": layout.name, "seconds": round(seconds, 1), "kubeconfig": str(layout.kubeconfig)}
        _print(json.dumps({**said, "apiPort": ports.api, "gatewayPort": ports.gateway}))
    else:
        _print(f"cluster {layout.name} is up after {seconds:.0f} s")
        _print(f"  gateway     http://127.0.0.1:{ports.gateway}")
        _print(f"  to use it   {lifecycle.export(layout)}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    lines = lifecycle.status(layouts.Layout(arguments.name))
    if arguments.json:
        _print(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        for line in lines:
            _print(f"{line.component:<24} {line.state:<10} {line.pid or '':<8} {line.detail}")
    return 0 if all(line.good for line in lines) else 1


def _logs(arguments: argparse.Namespace) -> int:
    layout = layouts.Layout(arguments.name)
    log = layout.logs / f"{arguments.component}.log"
    if not log.resolve().is_relative_to(layout.logs.resolve()) or not log.is_file():
        known = ", ".join(sorted(path.stem for path in layout.logs.glob("*.log"))) or "none: no such cluster"
        raise UsageError(f"logs: expected one of {known}, got {arguments.component!r}")
    for line in lifecycle.tail(log, arguments.lines):
        _print(line)
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    layout = layouts.Layout(arguments.name)
    model, namespace = arguments.model_name, arguments.namespace or arguments.model_name
    if not store.MODEL_NAME.fullmatch(model):
        raise UsageError(f"--model: expected letters, digits, dots, dashes and underscores, got {model!r}")
    if not store.NAMESPACE_NAME.fullmatch(namespace):
        raise UsageError(
            f"--namespace: expected lower-case letters, digits and dashes, got {namespace!r}; name one"
        )
    version = arguments.version if arguments.version is not None else _number(arguments.model)
    if not 1 <= version < 2**53:
        raise UsageError(f"--version: expected a whole number from 1, got {version}")
    folder = store.prepare_namespace(layout, namespace)
    copied = store.publish_own(arguments.model, folder, model, version)
    _print(
        f"{model} {version}: {'published' if copied else 'was published before'} in namespace {namespace}, "
        f"claim {store.CLAIM} (values/env/local.yaml names it)"
    )
    if not (folder / model / str(version) / store.MANIFEST).is_file():
        _print(
            f"note: it has no {store.MANIFEST}, and pods will not start; `tfcanary export manifest {arguments.model}` "
            "before publishing writes it, modelStore.verifyManifest=false does without"
        )
    return 0


def _number(directory: Path) -> int:
    name = directory.resolve().name
    # A folder such as 00000123 is version 123.
    if not name.isascii() or not name.isdigit():
        raise UsageError(
            f"{directory}: expected a directory that is named by the version's number, got {name!r}; "
            "name the version with --version N"
        )
    return int(name)


def _models(arguments: argparse.Namespace) -> int:
    found = list(store.published(layouts.Layout(arguments.name)))
    if arguments.json:
        _print(json.dumps([asdict(one) for one in found], indent=2))
        return 0
    for one in found:
        manifest = "manifest" if one.manifest else "no manifest"
        _print(
            f"{one.namespace:<24} {one.model:<24} {one.version:<10} {one.bytes / 2**20:8.1f} MiB  {manifest}"
        )
    if not found:
        _print("nothing is published; `publish DIR --model NAME` does it")
    return 0


def _image(arguments: argparse.Namespace) -> int:
    reference = lifecycle.add_rollout_image(layouts.Layout(arguments.name))
    _print(f"image {reference} is in cluster {arguments.name} (values/env/local.yaml names it)")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    found = layouts.existing() if arguments.all else [layouts.Layout(arguments.name)]
    for layout in found:
        there = lifecycle.down(layout)
        _print(f"cluster {layout.name} is down" if there else f"cluster {layout.name}: nothing to take down")
    if not found:
        _print("no cluster to take down")
    return 0
