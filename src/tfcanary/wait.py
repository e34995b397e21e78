"""
The one way this project waits: observe, on the monotonic clock, until a deadline.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from tfcanary.errors import UnreachableError

T = TypeVar("T")


class WaitTimeoutError(UnreachableError):
    """
    The condition was not met before the timeout.

    Attributes:
        observed: what the last probe saw.
    """

    def __init__(self, subject: str, timeout_seconds: float, observed: str) -> None:
        super().__init__(f"{subject}: not after {timeout_seconds:g} s; last seen: {observed}")
        self.observed = observed


class NotYet(Exception):  # noqa: N818 - it is an answer, not an error
    """
    Raised by a probe while the condition is not met; its text says what the probe saw.
    """


def wait_until(
    subject: str, probe: Callable[[], T], *, timeout_seconds: float, interval_seconds: float = 0.1
) -> T:
    """
    Call `probe` until it returns, and return what it returned.

    Args:
        subject: the subject of the timeout's message.
        probe: raises `NotYet` with what it saw, to be called again.
        timeout_seconds: the probe is called at least once, and not again after this.
        interval_seconds: the pause between two calls.

    Raises:
        WaitTimeoutError: with what the last probe saw.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return probe()
        except NotYet as seen:
            if time.monotonic() >= deadline:
                raise WaitTimeoutError(subject, timeout_seconds, str(seen)) from None
        time.sleep(interval_seconds)
