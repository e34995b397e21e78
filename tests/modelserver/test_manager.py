"""
Which versions are served; a fake loads the models.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfcanary.modelserver import protos
from tfcanary.modelserver.manager import Manager, RetryPolicy, State
from tfcanary.modelserver.servable import LoadOptions
from tfcanary.modelserver.status import Code, ServingError
from tfcanary.modelserver.versions import listed
from tfcanary.wait import NotYet, wait_until


class Loaded:
    """
    A loaded version without a model.
    """

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self.users = 0
        self.closed = False
        self.free = threading.Event()
        self.free.set()

    def acquire(self) -> bool:
        """
        As Servable.
        """
        self.free.clear()
        return not self.closed

    def release(self) -> None:
        """
        As Servable.
        """
        self.free.set()

    def close(self) -> None:
        """
        As Servable.
        """
        assert self.free.wait(10)
        self.closed = True


class Loader:
    """
    Loads any version, except those in `failures`, which fail this many times.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.failures: dict[int, int] = {}

    def __call__(self, name: str, version: int, path: Path, options: LoadOptions) -> Any:
        """
        As Servable.
        """
        del path, options
        if self.failures.get(version, 0):
            self.failures[version] -= 1
            self.events.append(f"fail {version}")
            raise ServingError(Code.DATA_LOSS, "broken")
        self.events.append(f"load {version}")
        return Loaded(name, version)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("1", "2", "3", "007x", ".exporting-4-x"):
        (tmp_path / name).mkdir()
    return tmp_path


Started = Callable[..., Manager]


@pytest.fixture
def started(base: Path, loader: Loader) -> Started:
    def run(policy: dict[str, Any] | None = None, retries: int = 0) -> Manager:
        manager = Manager(LoadOptions(), RetryPolicy(retries=retries, interval_seconds=0), load=loader)
        model = protos.ModelConfig(name="m", base_path=str(base), model_version_policy=policy)
        manager.start([model], poll_seconds=0)
        return manager

    return run


def spec(version: int | None = None, name: str = "m") -> Any:
    return protos.ModelSpec(name=name, version=None if version is None else {"value": version})


def serving(manager: Manager) -> list[int]:
    available = State.AVAILABLE
    return [v for v, seen in manager.states(spec()).items() if seen.state == available]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(None, [3], id="default"),
        pytest.param({"latest": {}}, [3], id="latest"),
        pytest.param({"latest": {"num_versions": 2}}, [3, 2], id="latest-2"),
        pytest.param({"latest": {"num_versions": 9}}, [3, 2, 1], id="latest-9"),
        pytest.param({"all": {}}, [3, 2, 1], id="all"),
        pytest.param({"specific": {"versions": [1, 2]}}, [2, 1], id="specific"),
        pytest.param({"specific": {"versions": [1, 9]}}, [1], id="specific-with-a-missing-one"),
    ],
)
def test_the_policy_chooses_the_versions(
    started: Started, policy: dict[str, Any] | None, expected: list[int]
) -> None:
    assert serving(started(policy)) == expected


def test_a_new_version_replaces_the_old_one_once_it_is_loaded(started: Started, base: Path) -> None:
    manager = started()
    old = manager.find(spec())
    (base / "4").mkdir()

    manager.refresh()

    assert manager.find(spec()).version == 4
    assert old.closed  # type: ignore[attr-defined]
    assert {v: seen.state for v, seen in manager.states(spec()).items()} == {4: State.AVAILABLE, 3: State.END}


def test_a_pinned_version_stays_whatever_appears(started: Started, base: Path, loader: Loader) -> None:
    manager = started({"specific": {"versions": [2]}})
    (base / "4").mkdir()

    manager.refresh()

    assert loader.events == ["load 2"]


def test_a_version_that_is_taken_away_and_brought_back_is_loaded_again(
    started: Started, base: Path, loader: Loader
) -> None:
    manager = started({"all": {}})
    (base / "3").rmdir()
    manager.refresh()
    (base / "3").mkdir()
    manager.refresh()

    assert loader.events == ["load 3", "load 2", "load 1", "load 3"]
    assert serving(manager) == [3, 2, 1]


def test_an_emptied_base_path_takes_its_model_out_of_service(
    started: Started, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    PollFileSystemAndInvokeCallback() of file_system_storage_path_source.cc; its test LastVersionNotRemoved sets
    servable_versions_always_present, for which tensorflow_model_server has no flag.
    """
    manager = started()
    for child in base.iterdir():
        child.rmdir()

    manager.refresh()

    assert {3: State.END} == {version: seen.state for version, seen in manager.states(spec()).items()}
    with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(m\)"):
        manager.find(spec())
    assert f"No versions of servable m found under base path {base}." in caplog.text


def test_an_emptied_base_path_that_fills_again_is_served_again(started: Started, base: Path) -> None:
    manager = started()
    for child in base.iterdir():
        child.rmdir()
    manager.refresh()
    (base / "3").mkdir()

    manager.refresh()

    assert [3] == serving(manager)


def test_a_base_path_that_is_gone_takes_nothing_out_of_service(
    started: Started, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """PollFileSystemForServable() ends with an error before it hands on an empty list."""
    manager = started()
    base.rename(base.with_name("elsewhere"))

    manager.refresh()

    assert [3] == serving(manager)
    assert "tensorflow_model_server would then change no version of any model" in caplog.text


@pytest.mark.parametrize("order", [["1", "001", "01"], ["001", "01", "1"], ["01", "1", "001"]])
def test_of_two_names_for_a_version_the_last_in_order_counts(
    order: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """IndexChildrenByVersion(): in whatever order a file system lists them."""
    base = Path("/models/m")
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([base / name for name in order]))

    assert {1: base / "1"} == listed(base, "m")
    assert "Version 1 will be loaded from 1, 01 will be ignored." in caplog.text


def test_a_new_version_that_fails_leaves_the_old_one_in_service(
    started: Started, base: Path, loader: Loader
) -> None:
    """The failed version is not tried again while its directory stays."""
    manager = started()
    loader.failures = {4: 9}
    (base / "4").mkdir()

    manager.refresh()
    manager.refresh()

    assert manager.find(spec()).version == 3
    failed = manager.states(spec(4))[4]
    assert (failed.state, failed.error and failed.error.message) == (State.END, "broken")
    assert loader.events == ["load 3", "fail 4"]


def test_a_version_that_failed_is_tried_again_once_it_was_taken_away(
    started: Started, base: Path, loader: Loader
) -> None:
    """A broken export is repaired under its own number."""
    manager = started()
    loader.failures = {4: 1}
    for change in (Path.mkdir, Path.rmdir, Path.mkdir):
        change(base / "4")
        manager.refresh()

    assert loader.events == ["load 3", "fail 4", "load 4"]
    assert serving(manager) == [4]


def test_a_load_is_tried_again_as_often_as_asked(started: Started, loader: Loader) -> None:
    loader.failures = {3: 2}

    started(retries=2)

    assert loader.events == ["fail 3", "fail 3", "load 3"]


def test_a_first_load_that_fails_for_good_is_an_error(started: Started, loader: Loader) -> None:
    loader.failures = {3: 3}

    with pytest.raises(ServingError, match=r"name: m version: 3.* due to error: DATA_LOSS: broken"):
        started(retries=2)


def test_a_version_in_use_is_unloaded_when_the_request_is_done(started: Started, base: Path) -> None:
    manager = started()
    (base / "4").mkdir()
    with manager.using(spec()) as in_use:
        thread = threading.Thread(target=manager.refresh)
        thread.start()

        def unloading() -> None:
            state = manager.states(spec(3))[3].state
            if state != State.UNLOADING:
                raise NotYet(State.Name(state))

        wait_until("version 3 to be unloading", unloading, timeout_seconds=10, interval_seconds=0.01)
        assert not in_use.closed  # type: ignore[attr-defined]
    thread.join(10)

    assert in_use.closed  # type: ignore[attr-defined]


@pytest.mark.parametrize(("seconds", "looks"), [(0, False), (3600, True)], ids=["once", "again"])
def test_with_an_interval_of_0_the_file_system_is_looked_at_once(
    base: Path, loader: Loader, seconds: float, *, looks: bool
) -> None:
    manager = Manager(LoadOptions(), RetryPolicy(), load=loader)
    before = {thread for thread in threading.enumerate() if thread.name == "poll"}
    manager.start([protos.ModelConfig(name="m", base_path=str(base))], poll_seconds=seconds)

    polling = {thread for thread in threading.enumerate() if thread.name == "poll"} - before
    manager.stop()

    assert bool(polling) == looks


def test_the_server_waits_for_a_first_version(base: Path, loader: Loader) -> None:
    for child in base.iterdir():
        child.rmdir()
    manager = Manager(LoadOptions(), RetryPolicy(retries=0), load=loader)
    model = protos.ModelConfig(name="m", base_path=str(base))
    thread = threading.Thread(target=manager.start, args=([model],), kwargs={"poll_seconds": 0.01})
    thread.start()
    thread.join(0.1)
    waiting = thread.is_alive()
    (base / "1").mkdir()
    thread.join(10)
    manager.stop()

    assert waiting
    assert serving(manager) == [1]


def config(base: Path, name: str = "m", **fields: Any) -> Any:
    return protos.ModelConfig(name=name, base_path=str(base), **fields)


def test_a_reload_loads_new_models_and_unloads_those_not_named(started: Started, base: Path) -> None:
    manager = started()
    old = manager.find(spec())

    manager.reload([config(base, "n")])

    assert manager.find(spec(name="n")).version == 3
    assert old.closed  # type: ignore[attr-defined]
    assert manager.states(spec(3))[3].state == State.END
    assert (manager.is_served("m"), manager.is_served("n")) == (False, True)


def test_a_reload_may_change_the_version_policy(started: Started, base: Path) -> None:
    manager = started()

    manager.reload([config(base, model_version_policy={"specific": {"versions": [1, 2]}})])

    assert serving(manager) == [2, 1]


def test_a_reload_of_a_model_without_versions_says_so_and_keeps_the_others(
    started: Started, base: Path, tmp_path: Path
) -> None:
    manager = started()

    with pytest.raises(ServingError, match="Some models did not become available"):
        manager.reload([config(base), config(tmp_path / "nowhere", "n")])

    assert serving(manager) == [3]


def test_a_label_is_moved_by_a_reload(started: Started, base: Path) -> None:
    manager = started({"all": {}})
    policy = {"all": {}}
    found = []
    for version in (1, 2):
        manager.reload([config(base, model_version_policy=policy, version_labels={"stable": version})])
        found.append(manager.find(protos.ModelSpec(name="m", version_label="stable")).version)

    assert found == [1, 2]


def test_a_label_on_a_version_that_is_not_available_is_refused(started: Started, base: Path) -> None:
    """The configuration stays as it was."""
    manager = started()

    with pytest.raises(
        ServingError, match="version 1 of model m, which is not currently available"
    ) as caught:
        manager.reload([config(base, version_labels={"stable": 1})])

    assert caught.value.code == Code.FAILED_PRECONDITION
    assert serving(manager) == [3]


def test_a_label_at_the_start_needs_the_flag(base: Path, loader: Loader) -> None:
    models = [config(base, version_labels={"stable": 3})]

    with pytest.raises(ServingError, match="not currently available"):
        Manager(LoadOptions(), RetryPolicy(), load=loader).start(models, poll_seconds=0)

    manager = Manager(LoadOptions(), RetryPolicy(), allow_unavailable_labels=True, load=loader)
    manager.start(models, poll_seconds=0)
    assert manager.find(protos.ModelSpec(name="m", version_label="stable")).version == 3


def test_the_flag_does_not_let_a_label_move_to_a_version_that_is_not_available(
    base: Path, loader: Loader
) -> None:
    manager = Manager(LoadOptions(), RetryPolicy(), allow_unavailable_labels=True, load=loader)
    manager.start([config(base, version_labels={"stable": 3})], poll_seconds=0)

    with pytest.raises(ServingError, match="not currently available"):
        manager.reload([config(base, version_labels={"stable": 1})])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param(spec(name="nope"), "Servable not found for request: Latest(nope)", id="model"),
        pytest.param(spec(9), "Servable not found for request: Specific(m, 9)", id="version"),
    ],
)
def test_what_is_not_served_is_not_found(started: Started, asked: Any, message: str) -> None:
    with pytest.raises(ServingError) as caught:
        started().find(asked)

    assert caught.value.code == Code.NOT_FOUND
    assert message in caught.value.message
