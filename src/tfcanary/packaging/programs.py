"""
The programs that a release is made with: found on PATH, run to their end, and their failure said in one line.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tfcanary.errors import CanaryError, DoesNotHoldError, UnreachableError
from tfcanary.text import short

# What to do where one is missing, by program.
SOURCES = {
    "helm": "Helm 4 is built by `python3 -m nox -s package`",
    "cosign": "it is built by `python3 -m nox -s verify`",
    "crane": "it is built by `python3 -m nox -s verify`",
    "helm-docs": "it is built by `python3 -m nox -s package`",
}


def run(
    command: Sequence[str | Path],
    *,
    wanted: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    output: IO[bytes] | None = None,
    failure: type[CanaryError] = DoesNotHoldError,
) -> str:
    """
    Run a program to its end.

    Args:
        command: the program and its arguments. No secret may be among them: every user of the machine can list them.
        wanted: the subject of the error's message, and what was expected of it.
        environment: variables beyond those of this process.
        folder: where it runs.
        output: a file for what it prints; None returns it.
        failure: the error that a program's refusal is.

    Returns:
        What it printed.

    Raises:
        UnreachableError: there is no such program.
        CanaryError: it refused, with the end of what it said; of the type `failure`.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError as error:
        more = f"; {SOURCES[name]}" if name in SOURCES else ""
        raise UnreachableError(f"{name}: expected it on PATH, got none{more}") from error
    printed = (done.stdout or b"").decode(errors="replace")
    if done.returncode != 0:
        raise failure(f"{wanted}, got {said(done.stderr.decode(errors='replace') or printed)}")
    return printed


def said(text: str) -> str:
    """
    The end of what a program said, on one line: the lines before it are progress and warnings.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return short(" | ".join(lines[-3:]).removeprefix("Error: "), 400) or "no message"
