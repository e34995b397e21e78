"""
Releases made of copies of this checkout, by the programs that `nox -s packaging` puts on PATH.
"""

import shutil
import subprocess
from collections.abc import Callable

import pytest
from releasing import Checkout, Keyrings, made_keyrings

from tfcanary.paths import ROOT


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkout]:
    """
    Copy the files that git has or would take, as of now, to a folder of this name.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith("tests/")]

    def copied(name: str) -> Checkout:
        root = tmp_path_factory.mktemp("checkouts") / name
        for file in names:
            if (ROOT / file).is_file():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, root / file)
        return Checkout(root)

    return copied


@pytest.fixture(scope="session")
def keyrings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Keyrings]:
    """
    Make a PGP key.
    """
    return lambda: made_keyrings(tmp_path_factory.mktemp("pgp"))
