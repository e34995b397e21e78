"""
The chart of version 0.1.0 and its values files, which are packed beside this file: what a release has that is upgraded.
"""

import tarfile
from pathlib import Path

_FOLDER = Path(__file__).with_name("chart-0.1.0")
CHART = _FOLDER / "tfserving-canary-0.1.0.tgz"
_VALUES = _FOLDER / "values.tgz"


def strategies() -> list[str]:
    """
    The names of its strategies.
    """
    with tarfile.open(_VALUES) as archive:
        files = [Path(name) for name in archive.getnames()]
    return sorted(file.stem for file in files if file.suffix == ".yaml" and file.parent == Path("values"))


def unpack_values(folder: Path) -> Path:
    """
    Unpack the values files, and return the folder that they are in now.
    """
    with tarfile.open(_VALUES) as archive:
        archive.extractall(folder, filter="data")
    return folder / "values"
