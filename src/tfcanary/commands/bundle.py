"""
Publish versions of a model as one signed OCI image, which pods mount as a volume, and verify one.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfcanary import cli
from tfcanary.errors import DoesNotHoldError, UsageError
from tfcanary.export import manifest
from tfcanary.packaging import bundle, registry
from tfcanary.packaging.arguments import access_of, add_access, pinned, place
from tfcanary.packaging.signatures import Signing, Trust

COMMANDS = ("bundle", "verify")


def parser(prog: str) -> cli.Parser:
    """
    Describe the two commands.
    """
    result = cli.Parser(prog=prog, description=__doc__)
    commands = result.add_subparsers(dest="command", required=True)
    bundling = commands.add_parser(
        "bundle",
        help="publish versions of a model as one OCI image, signed",
        epilog=f"{cli.EXIT_CODES}. Needs crane and cosign; the key's password is read from COSIGN_PASSWORD.",
    )
    bundling.set_defaults(action=_bundle)
    bundling.add_argument(
        "versions", nargs="+", type=Path, metavar="DIR", help="a version's directory, as BASE/VERSION"
    )
    bundling.add_argument(
        "--to", required=True, type=place, metavar="oci://REGISTRY/NAME:TAG", help="where it is published"
    )
    bundling.add_argument("--key", required=True, metavar="KEY", help="cosign's private key")
    verifying = commands.add_parser(
        "verify",
        help="verify a published image of a model, file by file",
        epilog=f"{cli.EXIT_CODES}. Needs crane and cosign.",
    )
    verifying.set_defaults(action=_verify)
    verifying.add_argument(
        "image", type=pinned, metavar="oci://REGISTRY/NAME@sha256:DIGEST", help="the image"
    )
    verifying.add_argument("--key", required=True, metavar="KEY", help="cosign's public key")
    verifying.add_argument("--output", type=Path, metavar="DIR", help="where the verified models are written")
    for command in (bundling, verifying):
        add_access(command)
    return result


def main(argv: Sequence[str] | None = None, *, prog: str = "export_resnet.py") -> int:
    """
    Publish or verify what the command line says.
    """
    return cli.run(parser(prog), lambda arguments: arguments.action(arguments), argv)


def _bundle(arguments: argparse.Namespace) -> int:
    if arguments.to.tag is None:
        raise UsageError(f"--to {arguments.to}: expected a tag, as in {arguments.to}:1, got none")
    access = access_of(arguments)
    versions = [version.resolve() for version in arguments.versions]
    model = _model(versions)
    statement = {"model": model, "versions": {version.name: _manifest(version) for version in versions}}
    with tempfile.TemporaryDirectory(prefix="tfcanary-bundle-") as folder:
        layout = Path(folder) / "layout"
        digest = bundle.write(versions, model, layout)
        published = bundle.publish(layout, digest, arguments.to, access)
    bundle.state(published, statement, Signing(arguments.key), access)
    sys.stdout.write(f"{published}\n")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    output = arguments.output
    if output is not None and output.exists():
        raise UsageError(f"--output {output}: expected a folder that is not there yet, got one")
    with bundle.fetched(arguments.image, Trust(arguments.key), access_of(arguments)) as (folder, statement):
        lines = _verified(arguments.image, folder, statement)
        if output is not None:
            shutil.copytree(folder, output)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _verified(image: registry.Reference, folder: Path, statement: Mapping[str, Any]) -> list[str]:
    """
    Hold each version against the manifest that was signed with the image.
    """
    model, wanted = str(statement.get("model")), dict(statement.get("versions", {}))
    there = {f"{path.parent.name}/{path.name}": path for path in folder.glob("*/*")}
    expected = {f"{model}/{number}" for number in wanted}
    if not expected or there.keys() != expected:
        raise DoesNotHoldError(
            f"{image}: versions: expected {', '.join(sorted(expected)) or 'at least one'} as signed, got "
            f"{', '.join(sorted(there)) or 'none'}"
        )
    lines = []
    for name, path in sorted(there.items()):
        if _manifest(path) != wanted[path.name]:
            raise DoesNotHoldError(f"{image}: {name}: expected the manifest that was signed, got another")
        lines.append(f"held    {name}: {len(wanted[path.name]['files'])} files")
    return lines


def _model(versions: Sequence[Path]) -> str:
    names = {version.parent.name for version in versions}
    numbers = [version.name for version in versions]
    if len(names) != 1:
        raise UsageError(f"versions: expected those of one model, got {', '.join(sorted(names))}")
    for number in numbers:
        if (
            not number.isascii()
            or not number.isdigit()
            or number.startswith("0")
            or numbers.count(number) > 1
        ):
            raise UsageError(
                f"version {number}: expected a folder that is named by a number from 1, once each"
            )
    return names.pop()


def _manifest(version: Path) -> Any:
    """
    The manifest of a version, whose files are what it says.
    """
    found = next(manifest.problems(version), None)
    if found:
        raise DoesNotHoldError(f"model {version}: {found}")
    return json.loads((version / manifest.NAME).read_text(encoding="utf-8"))
