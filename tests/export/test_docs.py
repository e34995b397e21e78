"""
The reference has every key of what export, inspect and compare print as JSON.
"""

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tfcanary.export import savedmodel

Print = pytest.CaptureFixture[str]


def printed(capsys: Print, *arguments: str) -> Any:
    """
    The JSON of one command.
    """
    savedmodel.main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_keys_of_export(documents: ModuleType, exported: Path, manifest: dict[str, Any]) -> None:
    """
    The fixture holds that the command prints the path; the manifest is that of the version.
    """
    written = {"path": str(exported), "manifest": manifest}

    assert (set(), set()) == documents.differences("tfcanary export", written)


def test_the_keys_of_inspect(documents: ModuleType, exported: Path, capsys: Print) -> None:
    found = printed(capsys, "inspect", str(exported))

    assert (set(), set()) == documents.differences("tfcanary export inspect", found)


def test_the_keys_of_compare(documents: ModuleType, exported: Path, capsys: Print, tmp_path: Path) -> None:
    copy = tmp_path / "1"
    shutil.copytree(exported, copy)

    found = printed(capsys, "compare", str(exported), str(copy))

    assert (set(), set()) == documents.differences("tfcanary export compare", found)
