"""
Every error that a user of the harness can meet, and the exit code it ends with.

::

    CanaryError
    ├── DoesNotHoldError      1  a check was made and did not hold
    ├── UsageError            2  wrong use, or values that cannot be right
    │   ├── MissingValueError 2  a value that has no default is not given
    │   └── NotFoundError     2  an object or a release of that name does not exist
    ├── UnreachableError      3  cluster, gateway or program cannot be reached
    │   └── ForbiddenError    3  the cluster does not give the right to read something
    └── NoEvidenceError       4  not enough evidence to say either way

A message is one line: subject, what was expected, what was got, what to do next.
"""

from collections.abc import Sequence
from typing import Self


class CanaryError(Exception):
    """
    The base of all errors above; only a command's ``main`` catches it.
    """

    exit_code = 1


class DoesNotHoldError(CanaryError):
    """
    A check was made and did not hold.
    """

    @classmethod
    def of(cls, problems: Sequence[str]) -> Self:
        """
        One error of at least one problem: the first is its message, and the others are its notes.
        """
        made = cls(problems[0])
        for problem in problems[1:]:
            made.add_note(problem)
        return made


class UsageError(CanaryError):
    """
    Wrong arguments, wrong values, or a file that is missing or malformed.
    """

    exit_code = 2


class MissingValueError(UsageError):
    """
    A value that has no default is not given.

    Attributes:
        path: where it belongs, as Helm writes it.
    """

    def __init__(self, path: str, expected: str) -> None:
        super().__init__(f"{path}: expected {expected}, got None")
        self.path = path


class NotFoundError(UsageError):
    """
    An object or a release of that name does not exist.
    """


class UnreachableError(CanaryError):
    """
    A cluster, a gateway or a program cannot be reached, or cannot be started.
    """

    exit_code = 3


class ForbiddenError(UnreachableError):
    """
    The cluster answers that the user of the kubeconfig has no right to do this.
    """


class NoEvidenceError(CanaryError):
    """
    Too little was observed to say that it holds or that it does not.
    """

    exit_code = 4
