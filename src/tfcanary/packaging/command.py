"""
The command behind `nox -s package`, `publish`, `verify` and `kit`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfcanary import cli
from tfcanary.errors import DoesNotHoldError, UsageError
from tfcanary.packaging import dist, kit, source
from tfcanary.packaging.arguments import access_of, add_access, image, pinned, place
from tfcanary.packaging.charts import Signer
from tfcanary.packaging.publish import publish
from tfcanary.packaging.signatures import Signing, Trust
from tfcanary.packaging.verify import verify
from tfcanary.paths import ROOT, VALUES


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
    _add_publish(commands)
    _add_verify(commands)
    _add_kit(commands)
    return result


def _add_publish(commands: "argparse._SubParsersAction[cli.Parser]") -> None:
    publishing = commands.add_parser(
        "publish",
        help="bring a release to an OCI registry, signed",
        epilog=f"{cli.EXIT_CODES}. The key's password is read from COSIGN_PASSWORD.",
        prog="nox -s publish --",
    )
    publishing.set_defaults(action=_publish)
    publishing.add_argument(
        "target", type=place, metavar="oci://REGISTRY/PATH", help="where the charts' names are added to"
    )
    _add_dist(publishing)
    signer = publishing.add_mutually_exclusive_group(required=True)
    signer.add_argument(
        "--key", metavar="KEY", help="cosign's private key: a file, or the address of a key service"
    )
    signer.add_argument(
        "--keyless",
        action="store_true",
        help="sign as the identity that Sigstore vouches for; needs the internet",
    )
    add_access(publishing)


def _add_dist(command: cli.Parser) -> None:
    command.add_argument(
        "--dist",
        type=Path,
        default=Path("dist"),
        metavar="DIR",
        help="what `package` made (default: %(default)s)",
    )


def _add_verify(commands: "argparse._SubParsersAction[cli.Parser]") -> None:
    verifying = commands.add_parser(
        "verify",
        help="verify a published chart",
        epilog=cli.EXIT_CODES,
        prog="nox -s verify --",
    )
    verifying.set_defaults(action=_verify)
    verifying.add_argument(
        "chart", type=pinned, metavar="oci://REGISTRY/NAME@sha256:DIGEST", help="the chart"
    )
    signer = verifying.add_mutually_exclusive_group(required=True)
    signer.add_argument(
        "--key", metavar="KEY", help="cosign's public key: a file, or the address of a key service"
    )
    signer.add_argument(
        "--identity", metavar="NAME", help="for a keyless signature: whom its certificate must name"
    )
    verifying.add_argument("--issuer", metavar="URL", help="with --identity: who vouched for it")
    verifying.add_argument(
        "--keyring",
        type=Path,
        required=True,
        metavar="FILE",
        help="public PGP keys, as `gpg --export` writes them, for Helm's provenance",
    )
    verifying.add_argument(
        "--values",
        type=Path,
        default=VALUES,
        metavar="DIR",
        help="the values files to hold against the release, and to render (default: those that come with the command)",
    )
    add_access(verifying)


def _add_kit(commands: "argparse._SubParsersAction[cli.Parser]") -> None:
    making = commands.add_parser(
        "kit",
        help="make one archive that installs a release without internet access",
        epilog=f"{cli.EXIT_CODES}. The password of --signing-key is read from COSIGN_PASSWORD.",
        prog="nox -s kit --",
    )
    making.set_defaults(action=_kit)
    making.add_argument("--output", type=Path, required=True, metavar="FILE.tar", help="the archive")
    _add_dist(making)
    digest: dict[str, Any] = {"type": image, "metavar": "REGISTRY/NAME@sha256:DIGEST"}
    making.add_argument("--server-image", required=True, help="the model server's image", **digest)
    making.add_argument("--test-image", required=True, help="the image of `helm test`", **digest)
    making.add_argument("--rollout-image", help="the image of the rollout Job (default: none)", **digest)
    making.add_argument(
        "--more-image",
        action="append",
        default=[],
        help="an image that the chart does not name, Istio's for example; may be repeated",
        **digest,
    )
    making.add_argument(
        "--models",
        action="append",
        default=[],
        type=pinned,
        metavar="oci://REGISTRY/NAME@sha256:DIGEST",
        help="what `tfcanary export bundle` printed; may be repeated",
    )
    making.add_argument("--key", metavar="KEY", help="with --models: cosign's public key that verifies them")
    making.add_argument(
        "--signing-key", metavar="KEY", help="cosign's private key that signs the kit's sha256"
    )
    add_access(making)


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m tfcanary.packaging") -> int:
    """
    Make a release, publish it, verify it, or make a kit of it.
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


def _publish(arguments: argparse.Namespace) -> int:
    for chart in publish(arguments.dist, arguments.target, Signing(arguments.key), access_of(arguments)):
        sys.stdout.write(f"{chart}\n")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    if (arguments.identity is None) != (arguments.issuer is None):
        raise UsageError("keyless signature: expected --identity and --issuer, got one of them")
    if not arguments.keyring.is_file():
        raise UsageError(f"--keyring {arguments.keyring}: expected a file, got none")
    trust = Trust(arguments.key, arguments.identity, arguments.issuer)
    failed = []
    for outcome in verify(
        arguments.chart,
        values=arguments.values,
        keyring=arguments.keyring,
        trust=trust,
        access=access_of(arguments),
    ):
        sys.stdout.write(f"{'failed' if outcome.problem else 'held':<8}{outcome.name}\n")
        failed += [f"{outcome.name}: {outcome.problem}"] if outcome.problem else []
    if failed:
        raise DoesNotHoldError.of([f"{arguments.chart}: {failed[0]}", *failed[1:]])
    return 0


def _kit(arguments: argparse.Namespace) -> int:
    if arguments.models and arguments.key is None:
        raise UsageError("models: expected --key, which verifies them, got none")
    images = [
        kit.Image(arguments.server_image, "image"),
        kit.Image(arguments.test_image, "helmTest.image"),
        *([kit.Image(arguments.rollout_image, "rollout.image")] if arguments.rollout_image else []),
        *map(kit.Image, arguments.more_image),
    ]
    parts = kit.Parts(arguments.dist, VALUES, images, arguments.models, Trust(arguments.key))
    line = kit.build(parts, arguments.output, access_of(arguments))
    if arguments.signing_key:
        kit.sign(arguments.output, Signing(arguments.signing_key))
    sys.stdout.write(line)
    return 0
