"""
The console command `tfcanary`: one subcommand for each job.
"""

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from tfcanary import cli
from tfcanary.errors import UsageError

# By subcommand, the module whose `main` runs it, and what `tfcanary --help` says of it. A module is imported only when
# its subcommand runs: the export alone needs TensorFlow.
COMMANDS = {
    "check": ("tfcanary.commands.check", "prove at the gateway what a release's routes do"),
    "explain": ("tfcanary.commands.explain", "say which route takes a request, without a cluster"),
    "rollout": (
        "tfcanary.commands.rollout",
        "release a version step by step, on evidence, or go back",
    ),
    "judge": (
        "tfcanary.commands.judge",
        "judge a canary's requests, with stated error rates, without a cluster",
    ),
    "export": (
        "tfcanary.commands.export",
        "make any SavedModel servable, inspect and compare; export a ResNet",
    ),
    "cluster": ("tfcanary.cluster.command", "run a real Kubernetes with Istio on this machine"),
    "demo": ("tfcanary.commands.demo", "move traffic between two ResNets, and check every move"),
}
# By subcommand, the extras of the distribution that it needs.
EXTRAS = {"export": "models", "cluster": "cluster", "demo": "models,cluster"}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the subcommand that the first argument names.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    lines = "\n".join(f"  {name:<9}{summary}" for name, (_, summary) in COMMANDS.items())
    parser = cli.Parser(
        prog="tfcanary",
        usage="tfcanary COMMAND [ARGUMENTS]",
        description=f"Release TensorFlow models behind one Istio gateway, on evidence.\n\ncommands:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = importlib.metadata.version("tfserving-canary")
    parser.add_argument("--version", action="version", version=f"tfserving-canary {version}")
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="`tfcanary COMMAND --help` says more"
    )
    arguments = parser.parse_args(given[:1])
    try:
        module = importlib.import_module(COMMANDS[arguments.command][0])
        code: int = module.main(given[1:], prog=f"tfcanary {arguments.command}")
    except ModuleNotFoundError as exc:
        if arguments.command not in EXTRAS or (exc.name or "tfcanary").startswith("tfcanary"):
            raise
        sys.stderr.write(
            f"error: tfcanary {arguments.command}: expected the package {exc.name}, got none; "
            f"pip install 'tfserving-canary[{EXTRAS[arguments.command]}]'\n"
        )
        code = UsageError.exit_code
    return code
