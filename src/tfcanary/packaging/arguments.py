"""
Arguments that commands with a registry share.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from tfcanary.errors import UsageError
from tfcanary.packaging import registry
from tfcanary.packaging.registry import Access, Reference


def add_access(command: argparse.ArgumentParser) -> None:
    """
    Add the options that say how a registry is reached.
    """
    command.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="authorities to trust beside the system's, as PEM"
    )
    command.add_argument(
        "--registry-config",
        type=Path,
        metavar="FILE",
        help="a config.json with the registry's password, as `helm registry login` writes it (default: the user's own)",
    )


def place(text: str) -> Reference:
    """
    Read an argument that names a place in a registry.
    """
    return _read(registry.reference, text)


def pinned(text: str) -> Reference:
    """
    Read an argument that names a digest.
    """
    return _read(registry.pinned, text)


def image(text: str) -> Reference:
    """
    Read an argument that names a digest, with or without `oci://` before it: images are written without.
    """
    return _read(registry.pinned, text if text.startswith(registry.SCHEME) else registry.SCHEME + text)


def _read(form: Callable[[str], Reference], text: str) -> Reference:
    try:
        return form(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def access_of(arguments: argparse.Namespace) -> Access:
    """
    How the registry is reached, as these options say.
    """
    return Access(arguments.ca_file, arguments.registry_config)
