"""
What the tracks of a release lack while Helm waits for them: afterwards the rollback has removed the pods that knew.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, Self, TypeVar

from tfcanary.helm.failures import HelmError, PendingError

T = TypeVar("T")
_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0


class NotUp(Protocol):
    """
    The tracks of a release whose pods are not up.
    """

    @property
    def reasons(self) -> Mapping[str, str]:
        """By the name of a track, why not."""

    @property
    def generations(self) -> Mapping[str, int]:
        """By the name of a track, the generation of its Deployment, which each change of it counts up."""

    @property
    def fleeting(self) -> Collection[str]:
        """The tracks of which a pod or its log went away between two questions; a reason of before says more."""


def lines(reasons: Mapping[str, str]) -> tuple[str, ...]:
    """
    A line for each track; without a track's name, the reason alone.
    """
    return tuple(f"track {track}: {reason}" if track else reason for track, reason in sorted(reasons.items()))


class Watch:
    """
    Asks again and again, inside a with block, why the tracks are not up; keeps the last reason of each.
    """

    def __init__(self, ask: Callable[[], NotUp], *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._ask = ask
        self._interval = interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._before: Mapping[str, int] = {}
        # The reason of each track, and the generation of its Deployment then.
        self._kept: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        self._before = self._ask().generations
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def lines(self) -> tuple[str, ...]:
        """
        A line for each track that was not up when it was last asked about.
        """
        return lines({track: reason for track, (reason, _) in self._kept.items()})

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            self.note(self._ask())

    def note(self, seen: NotUp) -> None:
        """
        Keep the reasons of an answer, and drop those that hold no longer.

        A track that is up again may owe it to the rollback. Its Deployment then has a newer generation than that of the
        reason, which was not yet that of before the upgrade.
        """
        for track, (_, generation) in list(self._kept.items()):
            now = seen.generations.get(track)
            rolled_back = now != generation and generation != self._before.get(track)
            if track not in seen.reasons and not rolled_back:
                del self._kept[track]
        for track, reason in seen.reasons.items():
            if track in seen.fleeting and track in self._kept:
                continue
            self._kept[track] = (reason, seen.generations.get(track, 0))


def watched(name: str, not_up: Callable[[str], NotUp] | None, upgrade: Callable[[], T]) -> T:
    """
    Upgrade a release, and add to a failure why its tracks did not come up.

    Pods outside the mesh are Ready, and Helm is content with them: of these there is a warning.

    Args:
        name: the release.
        not_up: says why the tracks of a release are not up; None leaves it out.
        upgrade: runs Helm.
    """
    if not_up is None:
        return upgrade()
    with Watch(lambda: not_up(name)) as watch:
        try:
            found = upgrade()
        except PendingError:
            raise
        except HelmError as failure:
            for line in watch.lines:
                failure.add_note(line)
            raise
    for line in lines({track: why for track, why in not_up(name).reasons.items() if track}):
        _log.warning("release %s: %s", name, line)
    return found
