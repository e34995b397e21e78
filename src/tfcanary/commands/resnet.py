"""
Export a ResNet as a SavedModel.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from tfcanary import cli
from tfcanary.export import faults, manifest
from tfcanary.export.architectures import ARCHITECTURES, RECIPES

_log = logging.getLogger(__name__)


def parser(prog: str) -> cli.Parser:
    """
    Describe the command line.
    """
    result = cli.Parser(
        prog=prog,
        description="Export a ResNet as OUTPUT/VERSION, for TensorFlow Serving. "
        f"For any SavedModel: `{prog} manifest DIR` and `warmup DIR --requests FILE` make it servable by the chart's "
        "defaults, `inspect DIR` says what it is, `compare A B` whether two are interchangeable, `bundle` and `verify` publish and verify models as OCI images.",
    )
    result.add_argument(
        "--arch",
        required=True,
        choices=sorted({*ARCHITECTURES, *RECIPES}),
        help="architecture; resnet20 has digits only",
    )
    result.add_argument(
        "--weights",
        required=True,
        choices=["imagenet", "digits", "random"],
        help="imagenet: the published weights, needs the network; digits: trained here on handwritten digits, "
        "answers are right; random: seeded, answers mean nothing",
    )
    result.add_argument(
        "--seed", type=int, default=0, help="seed of random weights, and of training (default: %(default)s)"
    )
    result.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the model's base path; versions lie in it"
    )
    result.add_argument(
        "--version", required=True, type=version_number, metavar="N", help="version, a whole number from 1"
    )
    result.add_argument(
        "--model-name",
        default="resnet",
        metavar="NAME",
        help="the name it will be served under; the warm-up records carry it (default: %(default)s)",
    )
    result.add_argument(
        "--fault",
        type=faults.fault,
        metavar="FAULT",
        help="break the model on purpose, for tests and drills: "
        + "; ".join(
            f"{'slow=MS' if name == 'slow' else name}: {what}" for name, what in faults.NAMES.items()
        ),
    )
    result.add_argument("--json", action="store_true", help="print the result as JSON")
    return result


def version_number(text: str) -> int:
    """
    Read a version as TensorFlow Serving does: a directory's name that is a whole number.
    """
    if not text.isascii() or not text.isdigit() or text.startswith("0") or int(text) >= 2**63:
        message = f"expected a whole number from 1, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def main(argv: Sequence[str] | None = None, *, prog: str = "export_resnet.py") -> int:
    """
    Export one model, as the command line says.
    """
    return cli.run(parser(prog), _command, argv)


def _command(arguments: argparse.Namespace) -> int:
    """
    Export, and print where the model lies.
    """
    from tfcanary.export.resnet import export  # noqa: PLC0415 - it starts TensorFlow, and --help need not wait for that

    started = time.monotonic()
    path = export(
        arch=arguments.arch,
        weights=arguments.weights,
        seed=arguments.seed,
        output=arguments.output,
        version=arguments.version,
        model_name=arguments.model_name,
        fault=arguments.fault,
    )
    _log.info("done in %.1f s", time.monotonic() - started)
    if arguments.json:
        facts = json.loads((path / manifest.NAME).read_text(encoding="utf-8"))
        print(json.dumps({"path": str(path), "manifest": facts}, indent=2))  # noqa: T201 - the result
    else:
        print(path)  # noqa: T201 - the result
    return 0
