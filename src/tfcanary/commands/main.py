"""
The console command `tfcanary`: one subcommand for each job.
"""

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from tfcanary import cli

# By subcommand, the module whose `main` runs it, and what `tfcanary --help` says of it. A module is imported only when
# its subcommand runs: the export alone needs TensorFlow.
COMMANDS = {
    "check": ("tfcanary.commands.check", "prove at the gateway what a release's routes do"),
    "explain": ("tfcanary.commands.explain", "say which route takes a request, without a cluster"),
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
    module = importlib.import_module(COMMANDS[arguments.command][0])
    code: int = module.main(given[1:], prog=f"tfcanary {arguments.command}")
    return code
