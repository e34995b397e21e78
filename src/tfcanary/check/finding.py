"""
One finding of a check: what was expected and what was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tfcanary.contract import Api
from tfcanary.judge.verdict import Outcome, Share
from tfcanary.routing.route import Routing

SHOWN_FAILURES = 5
# What a track is called where answers do not name it.
UNNAMED = "(unnamed)"
OFF = "routing.attribution is off: answers name neither track nor revision"
# The same where the answers' versions still say the track.
BY_VERSION = "routing.attribution is off: versions tell the tracks, and nothing tells the revision"


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that was checked: what was expected, what was seen, and in how many answers.

    A finding that rests on no answer cannot hold: it lacks evidence, whatever else it says.

    Attributes:
        name: the kind of check, the same word in every report.
        about: the route, header rule or signature that it is about.
        n: how many answers it rests on.
        detail: why it does not hold, or what to do next.
        shares: the counts and bounds of a split.
        needed: how many answers the stated error rates ask for.
    """

    name: str
    about: str
    api: Api | None
    outcome: Outcome
    expected: str
    observed: str
    n: int
    detail: str = ""
    shares: tuple[Share, ...] = ()
    needed: int = 0

    def __post_init__(self) -> None:
        """
        Take back a result without answers.
        """
        if self.n == 0 and self.outcome is Outcome.HELD:
            object.__setattr__(self, "outcome", Outcome.NOT_ENOUGH)

    @property
    def title(self) -> str:
        """
        Name, subject and API in a few words.
        """
        api = f" ({self.api.value})" if self.api else ""
        return f"{self.name} {self.about}".strip() + api


def off(routing: Routing) -> str:
    """
    What answers do not say without attribution.
    """
    return BY_VERSION if routing.by_version else OFF


def outcome_of(problems: object, missing: object = ()) -> Outcome:
    """
    Failed if there are problems, not enough evidence if answers are missing, held otherwise.
    """
    return Outcome.FAILED if problems else Outcome.NOT_ENOUGH if missing else Outcome.HELD


def shown(problems: Sequence[str]) -> str:
    """
    The first problems, and how many more there are; empty if there is none.
    """
    more = len(problems) - SHOWN_FAILURES
    return "; ".join(problems[:SHOWN_FAILURES]) + (f"; and {more} more" if more > 0 else "")


def listed(words: Sequence[str], none: str) -> str:
    """
    The words in order, each once, or what to say instead of none.
    """
    return ", ".join(sorted(set(words))) or none
