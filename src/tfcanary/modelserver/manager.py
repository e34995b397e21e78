"""
Find versions in the file system, load and unload them, and hand them to requests.
"""

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfcanary.modelserver import protos
from tfcanary.modelserver.servable import LoadOptions, Servable
from tfcanary.modelserver.status import Code, ServingError, invalid
from tfcanary.modelserver.versions import aspired, listed

log = logging.getLogger(__name__)

State = protos.ModelVersionStatus.State
NO_VERSIONS = (
    "No versions of servable %s found under base path %s. "
    "Did you forget to name your leaf directory as a number (eg. '/1/')?"
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How failed loads are tried again.

    Attributes:
        retries: attempts after the first one.
        interval_seconds: the pause before each of them.
    """

    retries: int = 5
    interval_seconds: float = 60.0


@dataclass(slots=True)
class VersionState:
    """
    The state of a version, as the status API reports it.

    Attributes:
        state: a ModelVersionStatus.State.
        error: why its load failed, if it did.
    """

    state: int
    error: ServingError | None = None


@dataclass(slots=True)
class _Model:
    config: Any
    states: dict[int, VersionState] = field(default_factory=dict)
    # Requests read it without a lock. It is replaced, never modified.
    serving: dict[int, Servable] = field(default_factory=dict)
    latest: int | None = None
    # Versions that are not tried again until their directories disappear.
    failed: set[int] = field(default_factory=set)


class _Loader:
    """
    Loads versions, and tries again as the policy says until `stopping` is set.
    """

    def __init__(
        self,
        load: Callable[[str, int, Path, LoadOptions], Servable],
        options: LoadOptions,
        retry: RetryPolicy,
        stopping: threading.Event,
    ) -> None:
        self._load = load
        self._options = options
        self._retry = retry
        self._stopping = stopping

    def load_new(self, name: str, model: _Model, wanted: dict[int, Path]) -> list[ServingError]:
        """
        Load the wanted versions that are neither loaded nor known to fail, newest first.

        Returns:
            an error for each version that failed to load.
        """
        errors = []
        for version, path in sorted(wanted.items(), reverse=True):
            if version in model.serving or version in model.failed:
                continue
            state = model.states[version] = VersionState(State.LOADING)
            log.info("loading %s version %d from %s", name, version, path)
            started = time.monotonic()
            try:
                servable = self._try(name, version, path)
            except ServingError as error:
                log.error("%s version %d failed to load: %s", name, version, error)  # noqa: TRY400 - a traceback would add nothing
                state.error = error
                state.state = State.END
                model.failed.add(version)
                errors.append(_unavailable(name, version, error))
                continue
            model.serving = {**model.serving, version: servable}
            model.latest = max(model.serving)
            state.state = State.AVAILABLE
            log.info("%s version %d is AVAILABLE after %.1f s", name, version, time.monotonic() - started)
        return errors

    def _try(self, name: str, version: int, path: Path) -> Servable:
        retries, pause = self._retry.retries, max(0.0, self._retry.interval_seconds)
        for retry in range(1, retries + 1):
            try:
                return self._load(name, version, path, self._options)
            except ServingError as error:
                log.warning(
                    "%s version %d failed to load, retry %d of %d in %g s: %s",
                    *(name, version, retry, retries, pause, error),
                )
                self._stopping.wait(pause)
        return self._load(name, version, path, self._options)


def _unavailable(name: str, version: int, error: ServingError) -> ServingError:
    return ServingError(
        error.code,
        f"1 servable(s) did not become available: {{{{name: {name} version: {version}}} "
        f"due to error: {error.code.name}: {error.message}}}",
    )


class Manager:
    """
    Loads the versions that the configuration asks for, and follows changes of the file system.

    Requests only read; one thread at a time changes what is loaded.

    Args:
        options: how models are loaded.
        retry: how failed loads are tried again.
        allow_unavailable_labels: whether a new label may point to a version that is not available yet.
        load: makes a Servable.

    Attributes:
        stopping: set when polling and waiting must end.
    """

    def __init__(
        self,
        options: LoadOptions,
        retry: RetryPolicy,
        *,
        allow_unavailable_labels: bool = False,
        load: Callable[[str, int, Path, LoadOptions], Servable] = Servable,
    ) -> None:
        self.stopping = threading.Event()
        self._loader = _Loader(load, options, retry, self.stopping)
        self._allow_unavailable_labels = allow_unavailable_labels
        # Requests read it without a lock. It is replaced, never modified.
        self._labels: dict[tuple[str, str], int] = {}
        self._models: dict[str, _Model] = {}
        self._changing = threading.Lock()

    def start(self, models: list[Any], *, poll_seconds: float) -> None:
        """
        Load every model for the first time, and return once each has a version to serve.

        A model without any version is waited for, without a time limit, as in TensorFlow Serving.

        Args:
            models: ModelConfigs.
            poll_seconds: the pause between two searches for versions; with 0 there is only one search.

        Raises:
            ServingError: a version failed to load, or a label points to a version that is not available.
        """
        self._models = {model.name: _Model(model) for model in models}
        self._labels = self._checked_labels(models)
        warned: set[str] = set()
        while True:
            errors = self.refresh()
            if errors:
                raise errors[0]
            waiting = [name for name, model in self._models.items() if not model.serving]
            if not waiting:
                break
            for name in set(waiting) - warned:
                base = self._models[name].config.base_path
                log.warning(NO_VERSIONS, name, base)
                warned.add(name)
            self.stopping.wait(poll_seconds if poll_seconds > 0 else None)
        if poll_seconds > 0:
            thread = threading.Thread(target=self._poll, args=(poll_seconds,), name="poll", daemon=True)
            thread.start()

    def reload(self, models: list[Any]) -> None:
        """
        Serve these models: load new ones, and unload those that are not named.

        Raises:
            ServingError: a label points to a version that is not available, or a new model did not become available.
        """
        with self._changing:
            self._labels = self._checked_labels(models)
            named = {model.name: model for model in models}
            new = set(named) - {name for name, model in self._models.items() if model.config is not None}
            # Models that are no longer named stay known, because clients may still ask for the states of their versions.
            self._models = {**self._models, **{name: _Model(named[name]) for name in new}}
            for name, model in self._models.items():
                model.config = named.get(name)
            self._refresh()
            missing = sorted(name for name in new if not self._models[name].serving)
        if missing:
            raise ServingError(
                Code.UNKNOWN, f"Some models did not become available: {{{', '.join(missing)}}}"
            )

    def _checked_labels(self, models: list[Any]) -> dict[tuple[str, str], int]:
        """
        Read the models' labels, each of which must point to an available version.

        With `allow_unavailable_labels`, a label that is new or stays where it is may point to any version.
        """
        labels: dict[tuple[str, str], int] = {}
        for config in models:
            known = self._models.get(config.name)
            for label, version in config.version_labels.items():
                key = (config.name, label)
                moved = self._labels.get(key, version) != version
                if not (self._allow_unavailable_labels and not moved) and not (
                    known and version in known.serving
                ):
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {config.name}, "
                        "which is not currently available for inference",
                    )
                labels[key] = version
        return labels

    def stop(self) -> None:
        """
        End the polling, and every wait for a version or a retry.
        """
        self.stopping.set()

    def _poll(self, seconds: float) -> None:
        while not self.stopping.wait(seconds):
            try:
                self.refresh()
            except Exception:  # one failure must not end the polling
                log.exception("the search for versions failed")

    def refresh(self) -> list[ServingError]:
        """
        Search the file system once: load new versions, then unload those that are no longer wanted.

        Returns:
            an error for each version that failed to load.
        """
        with self._changing:
            return self._refresh()

    def _refresh(self) -> list[ServingError]:
        errors = []
        for name, model in self._models.items():
            if model.config is None:
                wanted: list[int] = []
            else:
                found = listed(Path(model.config.base_path), name)
                if found is None:
                    continue  # a base path that cannot be read may come back, and takes nothing out of service
                wanted = aspired(found, model.config, name)
                if not wanted and model.serving:
                    log.warning(NO_VERSIONS, name, model.config.base_path)
                model.failed &= set(wanted)
                errors += self._loader.load_new(name, model, {version: found[version] for version in wanted})
                if wanted and not set(wanted) & set(model.serving):
                    continue  # no replacement loaded, and the old version stays
            for version in sorted(set(model.serving) - set(wanted)):
                _unload(name, model, version)
        return errors

    @contextlib.contextmanager
    def using(self, spec: Any) -> Iterator[Servable]:
        """
        Find the version that a ModelSpec names, and keep it loaded until the context ends.

        Raises:
            ServingError: no such version is served.
        """
        servable = self.find(spec)
        while not servable.acquire():
            servable = self.find(
                spec
            )  # it was unloaded in between; now the spec means another version, or none
        try:
            yield servable
        finally:
            servable.release()

    def is_served(self, name: str) -> bool:
        """
        Whether the configuration has a model of this name.
        """
        model = self._models.get(name)
        return model is not None and model.config is not None

    def find(self, spec: Any) -> Servable:
        """
        Find the version that a ModelSpec names by number or label; without either, the latest.

        Raises:
            ServingError: no such version is served.
        """
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        model = self._models.get(spec.name)
        version = self._asked_version(spec)
        wanted = version if version is not None else model.latest if model else None
        servable = model.serving.get(wanted) if model and wanted is not None else None
        if servable is None:
            request = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {request}")
        return servable

    def _asked_version(self, spec: Any) -> int | None:
        """
        Read the version that a ModelSpec names by number or label; None if it names none.
        """
        if spec.version_label:
            version = self._labels.get((spec.name, spec.version_label))
            if version is None:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            return version
        return spec.version.value if spec.HasField("version") else None

    def states(self, spec: Any) -> dict[int, VersionState]:
        """
        List the states of the version that a ModelSpec names by number; without one, of all versions of its model,
        newest first. A label counts for nothing, see GetModelStatusWithModelSpec() of
        tensorflow_serving/model_servers/get_model_status_impl.cc.

        Raises:
            ServingError: NOT_FOUND, because no such version was ever loaded.
        """
        model = self._models.get(spec.name)
        states = dict(model.states) if model else {}
        if spec.HasField("version"):
            version = spec.version.value
            if version not in states:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {spec.name}")
            return {version: states[version]}
        if not states:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return dict(sorted(states.items(), reverse=True))


def _unload(name: str, model: _Model, version: int) -> None:
    state = model.states[version]
    state.state = State.UNLOADING
    servable = model.serving[version]
    model.serving = {number: kept for number, kept in model.serving.items() if number != version}
    model.latest = max(model.serving, default=None)
    servable.close()
    # A graph is megabytes of Python objects that refer to each other. Python's own full collection may come hours later.
    del servable
    gc.collect()
    state.state = State.END
    log.info("%s version %d is unloaded", name, version)
