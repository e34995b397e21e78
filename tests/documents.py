"""
The project's Markdown as data: its pages, code blocks, tables, links and anchors.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# What a reader types has no language or `sh`; `text` below it is what must be in the output.
TYPED, SEEN, SESSION = ("", "sh"), "text", "console"


@dataclass(frozen=True, slots=True)
class Page:
    """
    One Markdown file.
    """

    path: Path

    @property
    def name(self) -> str:
        """
        The path from the top of the repository.
        """
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        """
        All of it.
        """
        return self.path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """
        Language and content of each fenced block.
        """
        return re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    @property
    def prose(self) -> str:
        """
        The text without fenced blocks.
        """
        return re.sub(r"^```\w*\n.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    @property
    def commands(self) -> list[str]:
        """
        Every line that a reader types, with continued lines put together and comments left out.
        """
        typed = [body for language, body in self.blocks if language in TYPED]
        typed += [line.removeprefix("$ ") for line, _ in self.sessions]
        lines = "\n".join(typed).replace("\\\n", " ").splitlines()
        return [line.partition("  #")[0].strip() for line in lines]

    @property
    def sessions(self) -> list[tuple[str, str]]:
        """
        Each command of a console block with the output below it.
        """
        found = []
        for language, body in self.blocks:
            if language == SESSION:
                for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                    command, _, output = part.partition("\n")
                    found.append((command, output))
        return found

    @property
    def steps(self) -> list[tuple[str, list[str]]]:
        """
        What a reader types, block by block, each with the lines that the page shows below it.
        """
        found: list[tuple[str, list[str]]] = []
        for language, body in self.blocks:
            if language in TYPED:
                found.append((body, []))
            elif language == SEEN and found:
                found[-1][1].extend(body.splitlines())
        return found

    @property
    def headings(self) -> list[str]:
        """
        The text of each heading.
        """
        return re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)

    @property
    def anchors(self) -> set[str]:
        """
        What a link to this page may end with: GitHub's anchors of its headings, and those written out.
        """
        return {_slug(heading) for heading in self.headings} | set(re.findall(r'<a id="([^"]+)"', self.prose))

    @property
    def links(self) -> list[str]:
        """
        The target of every link that leads to a file or an anchor.
        """
        without_code = re.sub(r"`[^`]*`", "", self.prose)
        targets = re.findall(r"\]\(([^)\s]+)\)", without_code)
        return [target for target in targets if not re.match(r"\w+:", target)]

    def table(self, heading: str) -> list[list[str]]:
        """
        The rows of the first table below a heading, cell by cell, without the head.

        Raises:
            KeyError: there is no such heading, or no table before the next one.
        """
        below = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", self.text, re.MULTILINE | re.DOTALL)
        rows = re.findall(r"^\|(.+)\|$", below[1], re.MULTILINE) if below else []
        if not rows:
            raise KeyError(f"{self.name}: no table below the heading {heading!r}")
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows[2:]]


def _slug(heading: str) -> str:
    bare = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", bare.lower()).replace(" ", "-")


def pages() -> list[Page]:
    """
    The pages that people read, the chart's generated README included.
    """
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    chart = ROOT / "charts/tfserving-canary/README.md"
    return [Page(path) for path in [*top, chart, *sorted(DOCS.rglob("*.md"))]]


def page(name: str) -> Page:
    """
    The page of this path from the top of the repository.
    """
    return Page(ROOT / name)


def unseen(shown: list[str], output: str) -> list[str]:
    """
    The lines that a page shows and the output lacks; `…` stands for anything, and widths of columns do not count.
    """
    flat = " ".join(output.split())
    patterns = {line: ".*".join(map(re.escape, " ".join(line.split()).split("…"))) for line in shown}
    return [line for line, pattern in patterns.items() if not re.search(pattern, flat)]


def keys(value: Any, maps: frozenset[str] = frozenset(), path: str = "") -> Iterator[str]:
    """
    Every key of a JSON value as a path such as `checks[].shares[].track`.

    Args:
        value: what a command printed.
        maps: paths of objects whose keys are the user's.
        path: where `value` lies in the whole.
    """
    if isinstance(value, Mapping) and path not in maps:
        for key, inner in value.items():
            below = f"{path}.{key}" if path else key
            yield below
            yield from keys(inner, maps, below)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner, maps, f"{path}[]")


def documented(heading: str) -> tuple[set[str], frozenset[str]]:
    """
    The keys of a command's JSON as the reference has them, and those of them that are maps.
    """
    rows = page("docs/reference/exit-codes-and-json.md").table(heading)
    found = {row[0].strip("`"): row[1] for row in rows}
    return set(found), frozenset(key for key, kind in found.items() if kind.startswith("map"))


def differences(heading: str, *values: Any) -> tuple[set[str], set[str]]:
    """
    Keys that the reference lacks, and keys that it has and no value does.
    """
    written, maps = documented(heading)
    real = {key for value in values for key in keys(value, maps)}
    return real - written, written - real
