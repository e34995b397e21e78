"""
The sample data that scikit-learn ships: two photographs and a table of handwritten digits.

Only the files are read. Importing scikit-learn would take a second.
"""

import importlib.util
from pathlib import Path

from tfcanary.errors import UsageError

INSTALL = "install tfserving-canary with the extra `models`"


def photographs() -> list[Path]:
    """
    The two JPEG photographs, or none if scikit-learn is not installed.
    """
    folder = _folder()
    return sorted((folder / "images").glob("*.jpg")) if folder else []


def digits() -> Path:
    """
    The table of digits: a row for each picture, its 64 pixels from 0 to 16 and then the digit.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    folder = _folder()
    if folder is None:
        raise UsageError(f"handwritten digits: expected those that scikit-learn ships, got none; {INSTALL}")
    return folder / "data" / "digits.csv.gz"


def _folder() -> Path | None:
    spec = importlib.util.find_spec("sklearn")
    places = spec.submodule_search_locations if spec is not None else None
    return Path(places[0], "datasets") if places else None
