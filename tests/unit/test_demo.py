import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfcanary.chart.values import chart_defaults, coalesce, read_files
from tfcanary.commands import demo
from tfcanary.errors import UnreachableError
from tfcanary.export import architectures
from tfcanary.export.cache import MODEL, RESNETS
from tfcanary.paths import CHART


@pytest.mark.parametrize(
    ("right", "elsewhere", "pictures", "expected"),
    [
        pytest.param(350, 0, 355, True, id="as-exported"),
        pytest.param(349, 0, 355, False, id="one-fewer"),
        pytest.param(350, 1, 355, False, id="another-track"),
        pytest.param(0, 0, 0, False, id="no-pictures"),
    ],
)
def test_a_track_holds_if_it_is_right_as_often_as_its_manifest_says(
    right: int, elsewhere: int, pictures: int, *, expected: bool
) -> None:
    wanted = 350 if pictures else 0
    line = demo.Right("stable", right=right, wanted=wanted, pictures=pictures, elsewhere=elsewhere)

    assert expected == line.held
    assert ("NOT HELD" in str(line)) != expected


@pytest.mark.parametrize(
    ("name", "models"),
    [
        pytest.param(MODEL, RESNETS, id="resnet"),
        pytest.param(demo.DIGITS, demo.DIGITS_MODELS, id="digits"),
    ],
)
def test_the_models_values_name_what_is_published(name: str, models: dict[int, tuple[str, int]]) -> None:
    """
    The demo publishes folders of its own knowledge; the values files say which ones are served.
    """
    files = [demo.LOCAL, demo.VALUES / f"models/{name}.yaml", demo.VALUES / "canary-10.yaml"]
    values = coalesce(chart_defaults(CHART), read_files(files))

    assert name == values["model"]["name"]
    assert list(models) == [track["version"] for track in values["tracks"].values()]


@pytest.mark.parametrize("env", ["my-env.yaml", "/elsewhere/my-env.yaml"])
def test_a_values_file_of_ones_own_may_lie_anywhere(monkeypatch: pytest.MonkeyPatch, env: str) -> None:
    """
    What `--env` names reaches Helm as it was given, whether or not it lies in this repository.
    """
    applied: list[list[Path]] = []

    class Releases:
        def apply(self, _: str, *, files: list[Path]) -> None:
            applied.append(files)
            raise UnreachableError("far enough")

    monkeypatch.setattr(demo, "releases_in", lambda _: Releases())
    monkeypatch.setattr(demo.binaries, "program", lambda *_: Path("helm"))

    with pytest.raises(UnreachableError, match="far enough"):
        demo._move_traffic(demo.Cluster(None, None, "kind-kind", Path(env)), demo.Times())

    assert Path(env) == applied[0][0]


def test_the_next_lines_of_a_given_cluster_are_true_there(tmp_path: Path) -> None:
    """
    It has no digits, `down` has nothing of it to take away, and its context need not be the current one.
    """
    cluster = demo.Cluster(None, tmp_path / "config", "kind-kind", Path("my-env.yaml"))

    said = demo._next_lines(cluster, "192.0.2.1:80")

    assert "http://192.0.2.1:80/v1/models/resnet/metadata" in said
    assert demo.DIGITS not in said
    assert "-s down" not in said
    assert 1 == said.count(" --kube-context kind-kind")
    assert 1 == said.count(" --context kind-kind")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """
    The exports that the demo asks for; the published weights of version 2 break off.
    """
    seen: list[tuple[int, str]] = []

    def exported_resnet(version: int, *, weights: str = "random") -> Path:
        seen.append((version, weights))
        if (version, weights) == (2, "imagenet"):
            raise UnreachableError("the connection broke off")
        return Path(weights, str(version))

    monkeypatch.setattr(demo, "exported_resnet", exported_resnet)
    return seen


@pytest.mark.parametrize(
    ("at_hand", "tried"),
    [
        pytest.param(False, [], id="none"),
        pytest.param(True, [(1, "imagenet"), (2, "imagenet")], id="broken-off"),
    ],
)
def test_both_resnets_are_random_if_one_cannot_have_the_published_weights(
    asked: list[tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    tried: list[tuple[int, str]],
    *,
    at_hand: bool,
) -> None:
    monkeypatch.setattr(demo, "published_weights_at_hand", lambda: at_hand)

    found = demo._resnets()

    assert found == [Path("random", "1"), Path("random", "2")]
    assert asked == [*tried, (1, "random"), (2, "random")]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    A server where the published weights would be.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(architectures, "CLASS_INDEX", f"http://127.0.0.1:{server.server_port}/index")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("place")
def test_published_weights_are_at_hand_where_their_place_answers() -> None:
    assert architectures.published_weights_at_hand()


def test_published_weights_are_not_at_hand_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "CLASS_INDEX", "http://127.0.0.1:9/index")

    assert not architectures.published_weights_at_hand()
