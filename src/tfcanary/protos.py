"""
Import parts of TensorFlow without the whole: its generated protos, and what loads and runs a SavedModel.

TensorFlow Serving's published protos import ``tensorflow.core…_pb2``. These are plain generated modules, but their
parent package would load Keras and the whole Python API: seconds and hundreds of MiB that a client does not need.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

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


class Runtime:
    """
    The modules of TensorFlow that load and run a SavedModel, untyped because TensorFlow publishes no types.

    Importing them takes more than a second and can fail. Use `runtime`, which does it once.

    Attributes:
        session: runs a graph.
        loader: reads a SavedModel of TensorFlow 1 or 2 into a session.
        graph: makes an empty graph.
        errors: what the others raise.
        records: reads and writes TFRecord files.
    """

    def __init__(self) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notes on CUDA and oneDNN are no news
        with bare_tensorflow():
            self.session: Any = importlib.import_module("tensorflow.python.client.session")
            self.loader: Any = importlib.import_module("tensorflow.python.saved_model.loader")
            self.graph: Any = importlib.import_module("tensorflow.python.framework.ops")
            self.errors: Any = importlib.import_module("tensorflow.python.framework.errors_impl")
            self.records: Any = importlib.import_module("tensorflow.python.lib.io.tf_record")
        # The loader warns that programs should not use it. TensorFlow Serving uses the same one, in C++.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)


@cache
def runtime() -> Runtime:
    """
    Import what runs a SavedModel, once.
    """
    return Runtime()
