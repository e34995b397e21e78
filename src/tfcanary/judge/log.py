"""
The log of a judgement: its plan, then each look with the ruling after it. It replays to the same bytes.

A line carries the SHA-256 of the line before and of its own content. To change, remove or reorder a line, one has to
write all later ones again, and the last digest is then another one.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Self

from tfcanary.errors import UsageError
from tfcanary.judge.judge import Judge
from tfcanary.judge.look import Look
from tfcanary.judge.plan import Plan, compact
from tfcanary.judge.ruling import Ruling

SCHEMA = "tfserving-canary/judge-log/3"

Entry = tuple[Look, Ruling]


class Log:
    """
    A judge whose looks and rulings are written down.

    Attributes:
        judge: the evidence so far.
        chain: the digest of the last line.
        entries: each look so far, and the ruling after it.
    """

    def __init__(self, plan: Plan) -> None:
        self.judge = Judge(plan)
        self.entries: list[Entry] = []
        content = {"schema": SCHEMA, "plan": plan.as_json()}
        self.chain = _digest("", content)
        self.first_line = compact({**content, "chain": self.chain})

    def look(self, look: Look) -> str:
        """
        Judge one more look, and return its line.
        """
        self.judge.look(look)
        ruling = self.judge.ruling()
        self.entries.append((look, ruling))
        content = {"look": look.as_json(), "ruling": ruling.as_json()}
        self.chain = _digest(self.chain, content)
        return compact({**content, "chain": self.chain})

    @classmethod
    def replayed(cls, lines: Iterable[str]) -> Self:
        """
        Judge all looks of a log again, and hold each line against what it must be.

        Raises:
            UsageError: for the first line that is not what this judge writes.
        """
        given = iter(lines)
        first = _parsed(1, next(given, ""))
        if first.get("schema") != SCHEMA:
            raise UsageError(
                f"log, line 1: expected schema {SCHEMA}, got {first.get('schema')!r}; a log is replayed by the version that "
                "wrote it"
            )
        log = cls(Plan.from_json(first.get("plan", {})))
        line = compact(first)
        if line != log.first_line:
            raise UsageError(
                "log, line 1: expected the digest of its plan, got another; the plan was changed"
            )
        for number, text in enumerate(given, 2):
            look = Look.from_json(_parsed(number, text).get("look", {}))
            if log.look(look) != text.rstrip("\n"):
                raise UsageError(
                    f"log, line {number}: expected {log.chain[:12]}… as its digest and the ruling that the looks before it "
                    "give, got another line; a line up to here was changed, or another version wrote the log"
                )
        return log


def _digest(before: str, content: dict[str, Any]) -> str:
    return hashlib.sha256((before + compact(content)).encode()).hexdigest()


def _parsed(number: int, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"log, line {number}: expected JSON, got {text[:40]!r}") from exc
    if not isinstance(found, dict):
        raise UsageError(f"log, line {number}: expected an object, got {type(found).__name__}")
    return found
