"""
A SavedModel in a TensorFlow session of its own, loaded as TensorFlow Serving loads models of TensorFlow 1 and 2.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
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
                raise _load_error(error, path) from error
        self._graph: Any = graph
        # Tensors are looked up once: requests name the same few again and again.
        self._found: dict[str, Any] = {}
        # Session.run() hands the graph to the runtime before its first step. A model without variables has had none.
        self._session._extend_graph()  # noqa: SLF001 - there is no public way
        self.signatures: dict[str, Any] = dict(meta_graph.signature_def)

    def run(
        self, fetches: Sequence[str], feeds: Mapping[str, Array], timeout_seconds: float | None
    ) -> dict[str, Array]:
        """
        Run the graph, see `tfcanary.modelserver.servable.Model`.

        The C++ session is called directly, as TensorFlow Serving calls it. It compares types and leaves shapes to the
        graph's operations. Python's Session.run() would refuse a shape other than the one that the graph declares.
        """
        try:
            fed = {self._tensor(name): array for name, array in feeds.items()}
            fetched = [self._tensor(name) for name in fetches]
            with self._options(timeout_seconds) as options:
                results = self._session._call_tf_sessionrun(  # noqa: SLF001 - see above
                    options, fed, fetched, [], None
                )
        except self._runtime.errors.OpError as error:
            raise ServingError(Code(error.error_code), error.message) from error
        except (TypeError, ValueError) as error:  # a value has no type of TensorFlow's
            raise invalid(str(error)) from error
        return {name: _array(result) for name, result in zip(fetches, results, strict=True)}

    def _tensor(self, name: str) -> Any:
        """
        Find a tensor; one that the graph lacks is refused by the C++ session, in its words.
        """
        found = self._found.get(name)
        if found is None:
            try:
                # As ParseTensorName() of tensorflow/core/graph/tensor_id.cc: an operation stands for its first output.
                tensor = self._graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
            except (KeyError, ValueError):
                asked = protos.CallableOptions(fetch=[name])
                self._session._make_callable_from_options(asked)  # noqa: SLF001 - it raises
                raise
            found = self._found[name] = tensor._as_tf_output()  # noqa: SLF001 - what the C++ session takes
        return found

    @contextlib.contextmanager
    def _options(self, timeout_seconds: float | None) -> Iterator[Any]:
        """
        Make the RunOptions of a run with a time limit, in memory that the C++ session reads.
        """
        if timeout_seconds is None:
            yield None
            return
        options = protos.RunOptions(timeout_in_ms=max(1, int(timeout_seconds * 1000)))
        session = self._runtime.session.tf_session
        buffer = session.TF_NewBufferFromString(options.SerializeToString())
        try:
            yield buffer
        finally:
            session.TF_DeleteBuffer(buffer)

    def close(self) -> None:
        """
        Close the session, which frees the variables, and let go of the graph's objects.
        """
        self._session.close()
        self._session = self._graph = None
        self._found.clear()


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


def _load_error(error: Exception, path: Path) -> ServingError:
    code = getattr(error, "error_code", None)
    if code is not None:
        return ServingError(Code(code), str(getattr(error, "message", error)) + _half_copied(path))
    kind = Code.NOT_FOUND if isinstance(error, OSError) else Code.INTERNAL
    return ServingError(kind, f"{type(error).__name__}: {error}{_half_copied(path)}")


def _half_copied(path: Path) -> str:
    """
    Say what TensorFlow Serving would do with a graph that lacks its variables: RunRestore() of tensorflow/cc/saved_model/loader.cc.
    """
    if not (path / "saved_model.pb").is_file() or (path / "variables" / "variables.index").is_file():
        return ""
    return (
        f". {path} has a saved_model.pb but no variables/variables.index: tensorflow_model_server would load it, and "
        "answer every request with FAILED_PRECONDITION; copy a version under another name, then rename it"
    )
