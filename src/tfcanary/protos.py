"""
Import TensorFlow's generated protos without TensorFlow.

TensorFlow Serving's published protos import ``tensorflow.core…_pb2``: plain generated modules, whose parent
package would load Keras and the whole Python API, seconds and hundreds of MiB that a client has no use for.
"""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator

from tfcanary.errors import UnreachableError


@contextlib.contextmanager
def bare_tensorflow() -> Iterator[None]:
    """
    Let submodules of tensorflow be imported without the package's own ``__init__``.

    A stand-in with the package's path takes its place while the imports run. A full ``import tensorflow`` later
    still works, and finds those submodules done and the message classes the same.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.submodule_search_locations is None:
        raise UnreachableError(
            "tensorflow: its protos are not installed; pip install tensorflow-serving-api tensorflow-cpu"
        )
    stand_in = types.ModuleType("tensorflow")
    stand_in.__path__ = list(found.submodule_search_locations)
    sys.modules["tensorflow"] = stand_in
    try:
        yield
    finally:
        if sys.modules.get("tensorflow") is stand_in:
            del sys.modules["tensorflow"]
