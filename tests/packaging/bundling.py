"""
Versions of a model that are published as a signed image, by the command that people run.
"""

import os
import subprocess
import sys
from pathlib import Path

from releasing import KEY_PASSWORD, Said

from tfcanary.export import manifest


def saved(folder: Path) -> Path:
    """
    Two versions with files as a SavedModel has them. What is in them is nothing that packaging looks at.
    """
    for number in ("1", "2"):
        version = folder / "resnet" / number
        (version / "variables").mkdir(parents=True)
        (version / "saved_model.pb").write_bytes(b"graph " + number.encode())
        (version / "variables" / "variables.index").write_bytes(bytes(range(256)) * 40)
        manifest.write(version, {"arch": "resnet50"})
    return folder / "resnet"


def export(*arguments: str | Path) -> Said:
    """
    Run `tfcanary export`.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tfcanary", "export", *map(str, arguments)],
        env={**os.environ, "COSIGN_PASSWORD": KEY_PASSWORD},
        capture_output=True,
        text=True,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)
