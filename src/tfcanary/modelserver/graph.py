"""
A SavedModel in a TensorFlow session of its own, loaded as TensorFlow Serving loads models of TensorFlow 1 and 2.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcanary.modelserver import protos
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.tensors import Array
from tfcanary.protos import runtime


class Graph:
    """
    A session with the SavedModel's graph and variables.

    Attributes:
        signatures: the model's SignatureDefs, by name.

    Raises:
        ServingError: the model does not load.
    """

    def __init__(self, path: Path, tags: Sequence[str], config: Any) -> None:
        self._runtime = runtime()
        graph = self._runtime.graph.Graph()
        with graph.as_default():
            self._session: Any = self._runtime.session.Session(graph=graph, config=config)
            try:
                meta_graph = self._runtime.loader.load(self._session, list(tags), str(path))
            except Exception as error:
                self._session.close()
                raise _load_error(error) from error
        self.signatures: dict[str, Any] = dict(meta_graph.signature_def)

    def run(
        self, fetches: Mapping[str, str], feeds: Mapping[str, Array], timeout_seconds: float | None
    ) -> dict[str, Array]:
        """
        Run the graph, see `tfcanary.modelserver.servable.Model`.
        """
        options = None
        if timeout_seconds is not None:
            options = protos.RunOptions(timeout_in_ms=max(1, int(timeout_seconds * 1000)))
        try:
            results = self._session.run(fetches, feeds, options=options)
        except self._runtime.errors.OpError as error:
            raise ServingError(Code(error.error_code), error.message) from error
        except (TypeError, ValueError) as error:
            raise invalid(str(error)) from error
        return {alias: _array(result) for alias, result in results.items()}

    def close(self) -> None:
        """
        Close the session, which frees the variables.
        """
        self._session.close()


def session_config(base: Any | None, intra_op_threads: int, inter_op_threads: int) -> Any:
    """
    Make a session's ConfigProto.

    Args:
        base: the ConfigProto to start from, if any.
        intra_op_threads: threads within an operation; 0 keeps the base's number.
        inter_op_threads: operations at the same time; 0 keeps the base's number.
    """
    config = protos.ConfigProto()
    if base is not None:
        config.CopyFrom(base)
    if intra_op_threads:
        config.intra_op_parallelism_threads = intra_op_threads
    if inter_op_threads:
        config.inter_op_parallelism_threads = inter_op_threads
        # By default all sessions of a process share the threads that the first one asked for.
        config.use_per_session_threads = True
    return config


def _array(result: Any) -> Array:
    # A scalar string comes as bytes. numpy would make it a fixed-size string and drop its trailing zeros.
    return np.array(result, dtype=np.object_) if isinstance(result, bytes) else np.asarray(result)


def _load_error(error: Exception) -> ServingError:
    code = getattr(error, "error_code", None)
    if code is not None:
        return ServingError(Code(code), str(getattr(error, "message", error)))
    kind = Code.NOT_FOUND if isinstance(error, OSError) else Code.INTERNAL
    return ServingError(kind, f"{type(error).__name__}: {error}")
