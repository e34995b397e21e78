"""
Processes that outlive the command that starts them, inside the node's namespaces.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tfcanary.errors import UnreachableError
from tfcanary.wait import NotYet, WaitTimeoutError, wait_until

# From sched.h; os.setns and os.unshare come only with Python 3.12.
NEW_MOUNT, NEW_UTS, NEW_PID, NEW_NET = 0x00020000, 0x04000000, 0x20000000, 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

# A component finds the machine's tools (runc, nft, mount) here and inherits nothing else.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Process:
    """
    One process for certain: a PID alone may have been given to another since.

    Attributes:
        pid: as the host counts.
        started: clock ticks between boot and its start, from /proc/PID/stat.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """
        The process that has `pid` now; none if it is gone or a zombie.

        One whose first thread has ended while others still do is there: so are its open ports.
        """
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # proc(5): the state is field 3, the number of threads field 20, the start time field 22.
        ended = fields[0] in "ZX" and int(fields[17]) <= 1
        return None if ended else cls(pid, int(fields[19]))

    @classmethod
    def read(cls, record: Path) -> "Process | None":
        """
        The process that `record` names, if it still lives.
        """
        try:
            process = cls(**json.loads(record.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return process if process.alive else None

    def write(self, record: Path) -> None:
        """
        Record the process, whole or not at all.
        """
        draft = record.with_suffix(".draft")
        draft.write_text(json.dumps({"pid": self.pid, "started": self.started}))
        draft.replace(record)

    @property
    def alive(self) -> bool:
        """Whether this very process runs."""
        return Process.of(self.pid) == self

    def end(self, *, grace_seconds: float = 5) -> None:
        """
        Ask the process to stop; kill it if it has not after `grace_seconds`.
        """
        try:
            self._send(signal.SIGTERM, grace_seconds)
        except WaitTimeoutError:
            self.end_at_once()

    def end_at_once(self) -> None:
        """
        Kill the process and wait until it is gone.
        """
        self._send(signal.SIGKILL, 30)

    def _send(self, number: signal.Signals, patience_seconds: float) -> None:
        def gone() -> None:
            if self.alive:
                raise NotYet("running")

        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
        wait_until(
            f"end of process {self.pid}", gone, timeout_seconds=patience_seconds, interval_seconds=0.02
        )


def _checked(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _enter(pid: int, kinds: int) -> None:
    handle = os.pidfd_open(pid)
    try:
        _checked("setns", _LIBC.setns(handle, kinds))
    finally:
        os.close(handle)


@contextmanager
def network_of(pid: int) -> Iterator[None]:
    """
    Make this thread's new sockets belong to the network namespace of process `pid`.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(pid, NEW_NET)
        try:
            yield
        finally:
            _checked("setns", _LIBC.setns(own, NEW_NET))
    finally:
        os.close(own)


def spawn(
    arguments: Sequence[str],
    *,
    log: Path,
    inside: int | None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """
    Start a process that goes on when this one ends.

    Args:
        arguments: the program's full path and its arguments.
        log: where its output goes, after what is there.
        inside: the PID whose namespaces it joins; none makes new mount, PID and UTS namespaces, with
            itself as their first process.
        environment: beside PATH and HOME, all that it inherits.

    Raises:
        UnreachableError: the kernel refused.
    """
    reader, writer = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        _launch(arguments, log, inside, {"PATH": _PATH, "HOME": "/root", **(environment or {})}, writer)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(launcher, 0)
    process = Process.of(int(said)) if said.isdigit() else None
    if process is None:
        raise UnreachableError(
            f"{arguments[0]}: expected it to start, got {said or 'an early exit'}; see {log}"
        )
    return process


def _launch(
    arguments: Sequence[str], log: Path, inside: int | None, environment: Mapping[str, str], answer: int
) -> None:
    """
    Fork once more and run the program there: new PID namespaces hold only for children.
    """
    try:
        # All that can fail comes before the answer that says that the process started.
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        if inside is None:
            _checked("unshare", _LIBC.unshare(NEW_MOUNT | NEW_PID | NEW_UTS))
        else:
            _enter(inside, NEW_MOUNT | NEW_PID | NEW_UTS | NEW_NET)
        child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(nothing, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            answer = 1
            os.closerange(3, 4096)
            os.chdir("/")
            os.execve(arguments[0], list(arguments), dict(environment))  # noqa: S606 - no shell is wanted
        os.write(answer, str(child).encode())
    except BaseException as error:  # noqa: BLE001 - a forked copy must never go on as its parent
        os.write(answer, f"{error}\n".encode())
    finally:
        sys.stderr.flush()
        os._exit(0)
