"""
What an unloaded version leaves behind, and what a version that was copied in part says.
"""

import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfcanary.modelserver import protos
from tfcanary.modelserver.graph import Graph, session_config
from tfcanary.modelserver.manager import Manager, RetryPolicy
from tfcanary.modelserver.servable import LoadOptions
from tfcanary.modelserver.status import ServingError


@pytest.fixture
def without_collections() -> Iterator[None]:
    """
    A process whose garbage collector comes late, as the server's does.
    """
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collections")
@pytest.mark.parametrize("model", ["half", "resnet"])
def test_an_unloaded_graph_is_gone_at_once(models: Path, tmp_path: Path, model: str) -> None:
    """A ResNet50's is 27 MiB of Python objects, and each change of version would leave one."""
    base = tmp_path / model
    shutil.copytree(models / model / "1", base / "1")
    manager = Manager(LoadOptions(), RetryPolicy(retries=0))
    manager.start([protos.ModelConfig(name="m", base_path=str(base))], poll_seconds=0)
    servable: Any = manager.find(protos.ModelSpec(name="m"))
    left = weakref.ref(servable._model._graph)
    del servable
    shutil.copytree(models / model / "1", base / "2")

    manager.refresh()

    assert 2 == manager.find(protos.ModelSpec(name="m")).version
    assert left() is None


@pytest.mark.parametrize("model", ["half", "old"], ids=["TensorFlow 2", "TensorFlow 1"])
def test_a_graph_without_its_variables_says_what_the_original_would_do(
    models: Path, tmp_path: Path, model: str
) -> None:
    """RunRestore() of tensorflow/cc/saved_model/loader.cc takes it for a model that has none."""
    path = tmp_path / "1"
    shutil.copytree(models / model / "1", path, ignore=shutil.ignore_patterns("variables.*"))

    with pytest.raises(ServingError, match=r"tensorflow_model_server would load it, .* FAILED_PRECONDITION"):
        Graph(path, ["serve"], session_config(None, 0, 0))


def test_a_graph_without_variables_loads(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "1"
    shutil.copytree(models / "tf1" / "plus" / "1", path, ignore=shutil.ignore_patterns("variables*"))

    graph = Graph(path, ["serve"], session_config(None, 0, 0))

    assert ["serving_default"] == list(graph.signatures)
