"""
One command at a time changes one thing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tfcanary.errors import UsageError


@contextmanager
def exclusive(lock: Path, *, busy: str | None = None) -> Iterator[None]:
    """
    Hold a lock file while the body runs.

    Args:
        lock: the file; its folder is made if need be.
        busy: the message if another holds it; without one, wait until the other lets go.

    Raises:
        UsageError: another holds it, and `busy` says what to do.
    """
    import fcntl  # noqa: PLC0415 - Windows has none, and the preflight must be reached there to say so

    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError as error:
                raise UsageError(str(busy)) from error
            # Who held it may have removed the file: what is locked now is no longer what others will open.
            if _is_at(file, lock):
                yield
                return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
