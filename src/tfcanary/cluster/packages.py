"""
The Python packages of images: collected from their locks for the Python of the images' root file system.
"""

import hashlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tfcanary.errors import UnreachableError
from tfcanary.paths import ROOT, cache_folder

LOG = logging.getLogger(__name__)
SOURCES = ROOT / "images"


def os_release() -> dict[str, str]:
    """
    What this machine's distribution says of itself.
    """
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def site_packages(image: str) -> Path:
    """
    The Python packages of an image's requirements.lock, for the Python of the root file system.
    """
    lock = SOURCES / image / "requirements.lock"
    version = python_version()
    key = hashlib.sha256(lock.read_bytes() + version.encode()).hexdigest()[:12]
    folder = cache_folder() / "site-packages" / key
    if folder.is_dir():
        return folder
    LOG.info("collecting the packages of image %s for Python %s (about 40 s, once)", image, version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
        target = Path(draft) / "packages"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--implementation=cp",
            f"--python-version={version}",
            *(f"--platform={name}" for name in _platforms()),
            f"--target={target}",
            f"--requirement={lock}",
        ]
        run(f"pip install {lock.name}: expected success", command)
        # Headers of TensorFlow's C++ API and libclang are a quarter of the image, and no server uses them.
        for unused in ("tensorflow/include", "clang"):
            shutil.rmtree(target / unused, ignore_errors=True)
        target.rename(folder)
    return folder


def metadata() -> Path:
    """
    Where this package's version is from, as the installed package has it.
    """
    found = importlib.metadata.distribution("tfserving-canary")
    return Path(str(found.locate_file(next(file for file in found.files or () if file.name == "METADATA"))))


def protos(packages: Path) -> Path:
    """
    Of these packages, TensorFlow's generated protos alone: a client needs no more of its 1.2 GB.
    """
    folder = packages.with_name(f"{packages.name}-protos")
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            for file in (packages / "tensorflow").rglob("*_pb2.py"):
                target = Path(draft) / "protos" / file.relative_to(packages / "tensorflow")
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(file, target)
            (Path(draft) / "protos").rename(folder)
    return folder


def _platforms() -> list[str]:
    return ["manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 37))]


def python_version() -> str:
    """
    The version of the root file system's Python.

    Raises:
        UnreachableError: the images cannot be built on this machine's distribution.
    """
    release = os_release()
    known = {"bookworm": "3.11", "trixie": "3.13", "noble": "3.12"}
    try:
        return known[release["VERSION_CODENAME"]]
    except KeyError:
        raise UnreachableError(
            f"images: expected one of {', '.join(known)} to build on, got {release.get('PRETTY_NAME', 'an unknown release')}; "
            "use --pull, or any cluster with Istio through --context"
        ) from None


def run(wanted: str, command: Sequence[str]) -> None:
    """
    Run a program to its end.

    Args:
        wanted: the subject of the error and what was expected of it.
        command: the program and its arguments.

    Raises:
        UnreachableError: it failed, with the end of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise UnreachableError(f"{wanted}, got {tail}")


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """
    Make a second name for a file where both lie on one file system, and a copy where they do not.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
