"""
The command behind `nox -s package`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tfcanary import cli
from tfcanary.errors import UsageError
from tfcanary.packaging import dist, source
from tfcanary.packaging.charts import Signer
from tfcanary.paths import ROOT


def parser(prog: str) -> cli.Parser:
    """
    Describe the command line.
    """
    result = cli.Parser(prog=prog, description=__doc__)
    commands = result.add_subparsers(dest="command", required=True)
    packaging = commands.add_parser(
        "package", help="make a release of this checkout", epilog=cli.EXIT_CODES, prog="nox -s package --"
    )
    packaging.set_defaults(action=_package)
    packaging.add_argument(
        "--output", type=Path, default=Path("dist"), metavar="DIR", help="its folder (default: %(default)s)"
    )
    packaging.add_argument(
        "--unreleased",
        action="store_true",
        help="rehearse: the changes are still under [Unreleased], and files may be uncommitted",
    )
    packaging.add_argument(
        "--keyring",
        type=Path,
        metavar="FILE",
        help="secret PGP keys, as `gpg --export-secret-keys` writes them, for Helm's provenance",
    )
    packaging.add_argument(
        "--key-name", metavar="NAME", help="with --keyring: the key's user ID, or a part of it"
    )
    packaging.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="with --keyring: a file with the key's passphrase",
    )
    return result


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m tfcanary.packaging") -> int:
    """
    Make a release.
    """
    return cli.run(parser(prog), lambda arguments: arguments.action(arguments), argv)


def _package(arguments: argparse.Namespace) -> int:
    signer = _signer(arguments)
    made_of = source.read(ROOT, unreleased=arguments.unreleased)
    files = dist.build(made_of, arguments.output, signer)
    for line in files[-1].read_text(encoding="utf-8").splitlines():
        sys.stdout.write(f"{line}\n")
    return 0


def _signer(arguments: argparse.Namespace) -> Signer | None:
    if arguments.keyring is None and arguments.key_name is None:
        return None
    if arguments.keyring is None or arguments.key_name is None:
        raise UsageError("provenance: expected --keyring and --key-name, got one of them")
    if not arguments.keyring.is_file():
        raise UsageError(f"--keyring {arguments.keyring}: expected a file, got none")
    return Signer(arguments.keyring, arguments.key_name, arguments.passphrase_file)
