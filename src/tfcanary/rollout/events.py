"""
What is due in a rollout, and what came of it.

Every event has a time, in seconds since 1970.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfcanary.judge.ruling import Action as Verdict


@dataclass(frozen=True, slots=True)
class Need:
    """
    What must be Ready before something is applied.

    Attributes:
        track: the track.
        version: the version that its pods serve.
        pods: how many must be Ready and among the endpoints; None for all that the track has, at least one.
    """

    track: str
    version: int
    pods: int | None = None


@dataclass(frozen=True, slots=True)
class Apply:
    """
    Make one Helm revision.

    Attributes:
        values: over what the release was given before.
        description: names the intention: a revision that has it already is not made again.
        need: what must be Ready at that moment.
    """

    values: Mapping[str, Any]
    description: str
    need: Need | None = None


@dataclass(frozen=True, slots=True)
class Restore:
    """
    Return the release to the baseline's values, and to nothing else.
    """

    description: str


@dataclass(frozen=True, slots=True)
class Sight:
    """
    Ask every gateway pod for the routes that it has.

    Attributes:
        routes: the hash of those that it must have.
    """

    routes: str


@dataclass(frozen=True, slots=True)
class Drain:
    """
    Let requests end that are under way; nothing is done.
    """


@dataclass(frozen=True, slots=True)
class Examine:
    """
    Compare the tracks' interfaces and ask the canary for first predictions, once it is Ready.
    """

    need: Need


@dataclass(frozen=True, slots=True)
class Probe:
    """
    Send both tracks the same inputs.

    Attributes:
        count: pairs.
    """

    count: int


@dataclass(frozen=True, slots=True)
class Judge:
    """
    Look at what was answered since the last look.

    Attributes:
        weight: the canary's weight that every gateway has, in per cent.
    """

    weight: float


@dataclass(frozen=True, slots=True)
class Announce:
    """
    Make the end known.
    """


Action = Apply | Restore | Sight | Drain | Examine | Probe | Judge | Announce


@dataclass(frozen=True, slots=True)
class Applied:
    """
    A revision is deployed.

    Attributes:
        revision: Helm's.
        routes: the hash of its routes.
    """

    at: float
    revision: int
    routes: str


@dataclass(frozen=True, slots=True)
class Refused:
    """
    A revision was refused or did not come up, and Helm went back to the one before.
    """

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class NotReady:
    """
    What an action needs is not Ready.
    """

    at: float
    seen: str


@dataclass(frozen=True, slots=True)
class Sighted:
    """
    What the gateway pods show.

    Attributes:
        showing: how many show the routes.
        pods: how many there are.
    """

    at: float
    showing: int
    pods: int


@dataclass(frozen=True, slots=True)
class Passed:
    """
    Nothing but time passed.
    """

    at: float


@dataclass(frozen=True, slots=True)
class Examined:
    """
    The canary was examined.

    Attributes:
        problems: what is wrong with it, each in words.
        facts: which model and image each track has, by name.
    """

    at: float
    problems: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probed:
    """
    The probes were answered.

    Attributes:
        problem: why the canary must not get traffic; empty if it may.
        clean: how many it answered as it should.
        judge: the judge's state after them.
    """

    at: float
    problem: str
    clean: int
    judge: str


@dataclass(frozen=True, slots=True)
class Judged:
    """
    The judge has looked.

    Attributes:
        verdict: what it says.
        sentence: why.
        sound: whether the data of this weight is complete and fresh.
        allowed: the largest weight that the evidence allows, in per cent; 0 if none.
        answers: the canary's in this step.
        stuck: whether it cannot decide because stable fails too.
        per_second: requests to both tracks.
        judge: its state.
    """

    at: float
    verdict: Verdict
    sentence: str
    sound: bool
    allowed: float
    answers: int
    stuck: bool
    per_second: float
    judge: str


@dataclass(frozen=True, slots=True)
class Outage:
    """
    The cluster could not be reached.
    """

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A person asked for something that the table of verbs allows.

    Attributes:
        verb: pause, resume, promote or abort.
        by: who.
        anyway: whether to promote without a proof.
    """

    at: float
    verb: str
    by: str
    anyway: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """
    Another driver took over.
    """

    at: float
    driver: str


@dataclass(frozen=True, slots=True)
class Announced:
    """
    The end was made known.
    """

    at: float


Event = (
    Applied
    | Refused
    | NotReady
    | Sighted
    | Passed
    | Examined
    | Probed
    | Judged
    | Outage
    | Asked
    | Taken
    | Announced
)
