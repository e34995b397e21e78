"""
What a rollout needs of a cluster. A driver uses nothing else.

Every method may raise UnreachableError: the cluster did not answer, answered 429, or did not answer in time. The call may
have had its effect all the same. ForbiddenError is no such answer: asking again does not help.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tfcanary.errors import UnreachableError, UsageError
from tfcanary.judge.look import Look
from tfcanary.rollout.state import Baseline


class OvertakenError(Exception):
    """
    The state was changed since it was read: read it again. No user meets it.
    """


class ActiveError(UsageError):
    """
    A rollout or its driver is active already.
    """


class LostLeaseError(UnreachableError):
    """
    Another driver has taken the rollout over.
    """


@dataclass(frozen=True, slots=True)
class Stored:
    """
    A state as it was read.

    Attributes:
        text: the state.
        version: the object's `resourceVersion`.
    """

    text: str
    version: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """
    A revision that is deployed.

    Attributes:
        revision: Helm's.
        routes: the hash of its routes, which answers carry in `x-route-revision`.
    """

    revision: int
    routes: str


@dataclass(frozen=True, slots=True)
class Track:
    """
    The pods of a track.

    Attributes:
        version: of the model that its Deployment asks for.
        wanted: how many pods it asks for.
        ready: how many pods of this version are Ready.
        endpoints: how many of them the gateway can send to.
    """

    version: int
    wanted: int
    ready: int
    endpoints: int


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What the gateway pods show.

    Attributes:
        showing: how many show the routes, each in so many answers in a row that no other route is left.
        pods: how many there are.
    """

    showing: int
    pods: int


@dataclass(frozen=True, slots=True)
class Probes:
    """
    Pairs of the same input to both tracks, by who failed.

    Attributes:
        both: neither failed.
        canary_failed: only the canary did.
        stable_failed: only stable did.
        neither: both failed.
        look: the pairs' answers and what is wrong with them, at weight 0; None if nothing was compared.
    """

    both: int
    canary_failed: int
    stable_failed: int
    neither: int
    look: Look | None = None


@dataclass(frozen=True, slots=True)
class Examination:
    """
    What was found when the canary was examined at weight 0.

    Attributes:
        problems: what is wrong with it, each in words.
        facts: digests of the models and the images of both tracks, by name, while the pods of both are there.
    """

    problems: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counted:
    """
    What was answered since the last look.

    Attributes:
        looks: of one weight each, in the order of their time.
        per_second: users' requests to both tracks.
    """

    looks: tuple[Look, ...]
    per_second: float


class Cluster(Protocol):
    """
    One release in a cluster.
    """

    def now(self) -> float:
        """
        Seconds since 1970, on the clock that the records are stamped by.
        """

    def wait(self, seconds: float) -> None:
        """
        Let time pass.
        """

    def load(self) -> Stored | None:
        """
        The state of the release's last rollout; None if there was none.
        """

    def save(self, text: str, version: str | None) -> None:
        """
        Write the state if nobody has written it since.

        Args:
            text: the state.
            version: what `load` gave; None if there was nothing.

        Raises:
            OvertakenError: if somebody has.
        """

    def hold(self, me: str) -> str:
        """
        Take the Lease, or renew it.

        Returns:
            Who has it now: `me`, or the holder whose time is not over.
        """

    def free(self, me: str) -> None:
        """
        Give the Lease back; nothing happens if another has it.
        """

    def baseline(self) -> Baseline:
        """
        The release as it is.
        """

    def apply(self, values: Mapping[str, Any], description: str) -> Deployed:
        """
        Upgrade the release and wait until its pods are Ready; a failed upgrade is rolled back.

        The Lease is renewed meanwhile. If the deployed revision has this description, nothing is done.

        Args:
            values: over what the release was given before.
            description: what Helm's history says of the revision.

        Raises:
            DoesNotHoldError: if it did not come up.
            UsageError: if it was refused.
        """

    def restore(self, baseline: Baseline, description: str) -> Deployed:
        """
        Give the release the baseline's values and no others, as `apply` does.
        """

    def track(self, name: str) -> Track:
        """
        The pods of a track.
        """

    def gateways(self, routes: str) -> Seen:
        """
        What each gateway pod shows.
        """

    def examine(self) -> Examination:
        """
        Compare the tracks' interfaces, ask the canary for first predictions, and read which model and image each track has.
        """

    def probe(self, count: int) -> Probes:
        """
        Send both tracks the same inputs, by the tracks' own addresses.
        """

    def counts(self, since: float | None) -> Counted:
        """
        What was answered since a time of the records; None for since the weight is 0.

        Raises:
            NoEvidenceError: if it cannot be known.
        """

    def facts(self) -> Mapping[str, str]:
        """
        What the record says of the release as a whole: the chart, the values and the model's name.
        """

    def announce(self, record: Mapping[str, Any]) -> None:
        """
        Keep the record of a rollout that has ended, and tell whom the plan names.
        """
