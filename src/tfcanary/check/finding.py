"""
One finding of a check: what was expected and what was seen.
"""

from dataclasses import dataclass

from tfcanary.contract import Api
from tfcanary.judge.verdict import Outcome, Share

SHOWN_FAILURES = 5
OFF = "routing.attribution is off: answers name neither track nor revision"


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that was checked: what was expected, what was seen, and in how many answers.

    Attributes:
        name: the kind of check, the same word in every report.
        about: the route, header rule or signature that it is about.
        shares: the counts and bounds of a split.
        needed: how many answers the stated error rates ask for.
    """

    name: str
    about: str
    api: Api | None
    decision: Outcome
    expected: str
    observed: str
    n: int
    detail: str = ""
    shares: tuple[Share, ...] = ()
    needed: int = 0

    @property
    def title(self) -> str:
        """
        Name, subject and API in a few words.
        """
        api = f" ({self.api.value})" if self.api else ""
        return f"{self.name} {self.about}".strip() + api
