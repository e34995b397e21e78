"""
The state of a rollout: all that another driver needs to go on, as text of bounded size.

It holds the plan and the baseline themselves, and not only their digests. The file that the plan came from may be on a
laptop that is switched off.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tfcanary.errors import UsageError
from tfcanary.judge.plan import compact
from tfcanary.rollout.phases import Phase, Stage, stage
from tfcanary.text import short

SCHEMA = "tfserving-canary/rollout-state/1"
# A ConfigMap holds 1 MiB. What the user gave the release is the only part that a rollout does not choose.
MOST_VALUES = 256 * 1024
_NOTES, _EARLIER, _STEPS = 30, 10, 60
# Characters of a text that somebody else wrote.
LONGEST = 400


@dataclass(frozen=True, slots=True)
class Baseline:
    """
    Where a rollout began: what it returns to.

    Attributes:
        revision: Helm's.
        values: what the user gave the release, without the chart's defaults.
        routes: `routing.routes`, with the defaults.
        versions: of the model, by track.
        replicas: pods by track.
    """

    revision: int
    values: Mapping[str, Any]
    routes: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, int]
    replicas: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """
        The baseline as JSON values.
        """
        return {**{field: getattr(self, field) for field in self.__slots__}, "routes": list(self.routes)}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """
        The baseline that `as_json` wrote.
        """
        return cls(
            int(given["revision"]),
            dict(given["values"]),
            tuple(given["routes"]),
            {str(track): int(version) for track, version in given["versions"].items()},
            {str(track): int(count) for track, count in given["replicas"].items()},
        )


@dataclass(frozen=True, slots=True)
class Step:
    """
    One weight of the canary.

    Attributes:
        weight: per cent.
        asked: when it was to be applied, in seconds since 1970.
        seen: when every gateway pod showed it; None if that was not seen.
        pods: how many gateway pods did.
        verdict: the judge's last sentence at it.
    """

    weight: float
    asked: float
    seen: float | None = None
    pods: int = 0
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """
    Who let a rollout pass a gate.
    """

    gate: str
    by: str
    at: float


@dataclass(frozen=True, slots=True)
class Note:
    """
    What happened, for a reader.
    """

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class State:
    """
    One rollout. Times are in seconds since 1970, on the clock of the machine that noted them; they never go back.

    Attributes:
        run: the name of the rollout.
        plan: the plan's document.
        digest: its SHA-256.
        by: who started it.
        started: when.
        baseline: what it returns to.
        driver: who drives it, by the name in the Lease.
        phase: what is done now, or has been done last.
        entered: since when.
        now: the time of the last event.
        serial: how many phases there were. What comes of an earlier one is no news.
        weight: the canary's weight that is asked for, in per cent.
        step: which of the plan's steps; -1 before the first.
        replicas: the canary's pods that are asked for.
        revision: the last Helm revision; 0 before the first.
        routes: the hash of the routes that the gateways must show; empty if none are known.
        exposed: whether the canary was ever to get traffic.
        baking: whether the weight is that of the bake.
        outage: since when the cluster cannot be reached; None if it can.
        since: when every gateway pod had the present weight.
        spent: seconds of this step in which nothing held it.
        reaction: seconds from a bad answer until the weight is 0, as measured.
        clean: clean probes of the canary at weight 0.
        facts: which model and image each track had when the canary was examined, by name.
        judge: the judge's state; empty before the first look.
        per_second: requests to both tracks, as seen last.
        verdict: the judge's last sentence.
        stuck: whether the judge cannot decide because stable fails too.
        hold: why the rollout does not go on; empty if it does.
        awaiting: the gate that needs an approval; empty if none does.
        paused: who paused it; empty if nobody did.
        anyway: who promotes it without a proof; empty if nobody does.
        abort: why it is to go back; empty if it is not.
        failed_in: where it failed.
        reason: why it ended or goes back.
        announced: whether its end was made known.
        approvals: all there were.
        steps: the last weights.
        notes: the last events.
        earlier: the ends of the rollouts before.
    """

    run: str
    plan: Mapping[str, Any]
    digest: str
    by: str
    started: float
    baseline: Baseline
    driver: str
    phase: Phase
    entered: float
    now: float
    serial: int = 1
    weight: float = 0.0
    step: int = -1
    replicas: int = 1
    revision: int = 0
    routes: str = ""
    exposed: bool = False
    baking: bool = False
    outage: float | None = None
    since: float = 0.0
    spent: float = 0.0
    reaction: float = 0.0
    clean: int = 0
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    judge: str = ""
    per_second: float = 0.0
    verdict: str = ""
    stuck: bool = False
    hold: str = ""
    awaiting: str = ""
    paused: str = ""
    anyway: str = ""
    abort: str = ""
    failed_in: Phase | None = None
    reason: str = ""
    announced: bool = False
    approvals: tuple[Approval, ...] = ()
    steps: tuple[Step, ...] = ()
    notes: tuple[Note, ...] = ()
    earlier: tuple[Note, ...] = ()

    @property
    def stage(self) -> Stage:
        """
        The stage of the phase.
        """
        return stage(self.phase, exposed=self.exposed, baking=self.baking)

    @property
    def ended(self) -> bool:
        """
        Whether nothing more is done.
        """
        return self.phase in (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED)

    def noted(self, text: str) -> "State":
        """
        The state with one more event, at its time.
        """
        kept = (*self.notes, Note(self.now, short(text, LONGEST)))[-_NOTES:]
        return dataclasses.replace(self, notes=kept)

    def weighed(self, weight: float) -> "State":
        """
        The state with another weight asked for, at its time.
        """
        steps = (*self.steps, Step(weight, self.now))[-_STEPS:]
        return dataclasses.replace(self, weight=weight, steps=steps)

    def shown(self, pods: int) -> "State":
        """
        The state after every gateway pod has shown the last weight.
        """
        if not self.steps:
            return self
        last = dataclasses.replace(self.steps[-1], seen=self.now, pods=pods)
        return dataclasses.replace(self, since=self.now, steps=(*self.steps[:-1], last))

    def judged(self, verdict: str) -> "State":
        """
        The state with the judge's last sentence, which belongs to the last weight as well.
        """
        said = short(verdict, LONGEST)
        steps = self.steps
        if steps:
            steps = (*steps[:-1], dataclasses.replace(steps[-1], verdict=said))
        return dataclasses.replace(self, verdict=said, steps=steps)

    def as_earlier(self) -> tuple[Note, ...]:
        """
        The ends of the rollouts so far, for the state of the next.
        """
        told = f"{self.run}: {self.phase.value}: {self.reason}"
        return (*self.earlier, Note(self.now, short(told, LONGEST)))[-_EARLIER:]

    def as_text(self) -> str:
        """
        The state as one line.
        """
        made: dict[str, Any] = {field: getattr(self, field) for field in self.__slots__}
        made |= {
            "schema": SCHEMA,
            "phase": self.phase.name,
            "failed_in": self.failed_in.name if self.failed_in else None,
            "baseline": self.baseline.as_json(),
        }
        for name, kind in _LISTS.items():
            made[name] = [[getattr(one, field) for field in kind.__slots__] for one in made[name]]
        return compact(made)


_LISTS: Mapping[str, Any] = {"approvals": Approval, "steps": Step, "notes": Note, "earlier": Note}


def from_text(text: str) -> State:
    """
    The state that `as_text` wrote.

    Raises:
        UsageError: if it is none, or another version wrote it.
    """
    try:
        given = json.loads(text)
        schema = given.pop("schema")
        if schema != SCHEMA:
            raise UsageError(
                f"rollout's state: expected schema {SCHEMA}, got {schema!r}; go on with the version that wrote it"
            )
        for name, kind in _LISTS.items():
            given[name] = tuple(kind(*one) for one in given[name])
        given["phase"] = Phase[given["phase"]]
        given["failed_in"] = Phase[given["failed_in"]] if given["failed_in"] else None
        given["baseline"] = Baseline.from_json(given["baseline"])
        return State(**given)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise UsageError(
            f"rollout's state: expected what a rollout saved, got {type(exc).__name__}: {exc}"
        ) from exc
