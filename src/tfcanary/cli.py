"""
What every command of the harness does the same way: arguments, progress, errors, exit codes.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tfcanary.errors import CanaryError, UsageError

EXIT_CODES = (
    "exit codes: 0 held · 1 did not hold · 2 wrong use or values · 3 cannot reach · 4 not enough evidence"
)


class Parser(argparse.ArgumentParser):
    """
    An argument parser that answers a mistake in one line and names the exit codes in its help.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("epilog", EXIT_CODES)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """
        Leave with exit code 2 and one line.
        """
        sys.stderr.write(f"error: {message}; see {self.prog} --help\n")
        raise SystemExit(UsageError.exit_code)


def write_file(file: Path, text: str, what: str = "") -> None:
    """
    Write a result to a file, and make its folder if need be.

    Args:
        file: where to.
        text: the whole content.
        what: the subject of the error's message.

    Raises:
        UsageError: if it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{what} {str(file)!r}: cannot be written: {exc.strerror}".lstrip()) from exc


def run(
    parser: Parser, command: Callable[[argparse.Namespace], int], argv: Sequence[str] | None = None
) -> int:
    """
    Parse, run, and turn the project's errors into one line on stderr and an exit code.

    Below the line come the error's notes, one line each: what is known of each track, for example.

    Progress is logged to stderr, so that stdout holds nothing but the result.
    """
    arguments = parser.parse_args(argv)
    # Only our own progress is shown: at INFO, httpx logs a line for each of a thousand requests.
    logging.basicConfig(
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.WARNING,
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("tfcanary").setLevel(logging.INFO)
    try:
        return command(arguments)
    except CanaryError as error:
        for start, text in (
            ("error:", str(error)),
            *((" ", note) for note in getattr(error, "__notes__", ())),
        ):
            sys.stderr.write(f"{start} {' '.join(text.split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130
