"""
Exported models, kept for as long as the code that made them stays the same.
"""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

from tfcanary.errors import UnreachableError, UsageError
from tfcanary.locks import exclusive
from tfcanary.paths import cache_folder

MODEL = "resnet"
# Architecture and seed by version; values/models/resnet.yaml names the same versions.
RESNETS = {1: ("resnet50", 50), 2: ("resnet101", 101)}

_log = logging.getLogger(__name__)


def exported_resnet(version: int, *, weights: str = "random") -> Path:
    """
    The folder of an exported ResNet of the demo.
    """
    arch, seed = RESNETS[version]
    return exported(version, arch=arch, weights=weights, seed=seed, name=MODEL)


def exported(version: int, *, arch: str, weights: str, seed: int, name: str) -> Path:
    """
    The folder of an exported model, which is made once for each state of the export's code.

    Raises:
        UnreachableError: if the published weights cannot be downloaded.
        UsageError: if the export failed.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    folder = cache_folder() / "models" / f"{arch}-{weights}-{seed}-{key}"
    # Of two processes that want the same model, the second takes what the first has made.
    with exclusive(folder.with_suffix(".lock")):
        _export_once(folder, version, arch=arch, weights=weights, seed=seed, name=name)
    return folder / str(version)


def _export_once(folder: Path, version: int, *, arch: str, weights: str, seed: int, name: str) -> None:
    if not (folder / str(version)).is_dir():
        _log.info("exporting %s, version %d, with %s weights", arch, version, weights)
        command = [sys.executable, "-m", "tfcanary", "export", f"--arch={arch}", f"--weights={weights}"]
        command += [f"--seed={seed}", f"--output={folder}", f"--version={version}", f"--model-name={name}"]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:]
            kind = UnreachableError if done.returncode == UnreachableError.exit_code else UsageError
            raise kind(f"export of {arch}: expected success, got {last}")
