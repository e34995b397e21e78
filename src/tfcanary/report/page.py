"""
Pages of one file: templates, a style sheet, and nothing from elsewhere.

Every value is escaped, since much of it is what a gateway said; only what a template rendered is mark-up.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).parent / "templates"
# Cells of at most so many characters are not broken over lines: results, APIs, numbers.
_SHORT = 8


def rendered(template: str, *, folders: Sequence[Path] = (), **content: Any) -> str:
    """
    A template of ours, or of other folders, with its content filled in.
    """
    loader = FileSystemLoader([_TEMPLATES, *folders])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["kind"] = _kind
    return environment.get_template(template).render(content)


def _kind(cell: str) -> str:
    """
    The style sheet's class of a cell's text.
    """
    if cell.replace(".", "", 1).isdigit():
        return "number"
    return "short" if len(cell) <= _SHORT else ""
