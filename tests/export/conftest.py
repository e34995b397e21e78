import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "export_resnet.py"

Export = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def export() -> Export:
    """
    Run the export script; it is a process of its own, because TensorFlow warns while it is imported.
    """

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPT), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture(scope="session")
def exported(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    One real ResNet50 with random weights.
    """
    base = tmp_path_factory.mktemp("resnet")
    result = export(
        *["--arch", "resnet50", "--weights", "random", "--seed", "5"],
        *["--output", str(base), "--version", "3", "--model-name", "pictures", "--json"],
    )
    assert result.returncode == 0, result.stderr
    assert "AutoGraph" not in result.stderr
    answer = json.loads(result.stdout)
    assert answer["path"] == str(base / "3")
    return base / "3"


@pytest.fixture(scope="session")
def manifest(exported: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((exported / "manifest.json").read_text())
    return result
