"""
The local cluster's model store: a version of one's own goes in whole, and what is there is listed.
"""

import subprocess
from pathlib import Path

import pytest

from tfcanary.cluster import binaries, command
from tfcanary.cluster.layout import Layout

Print = pytest.CaptureFixture[str]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """
    A cluster that was brought up, whose kubectl takes everything.
    """
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(binaries, "program", lambda *_: Path("true"))
    made = Layout("demo")
    made.models.mkdir(parents=True)
    made.kubeconfig.write_text("")
    return made


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """
    What looks like a saved model, with the rights that a careful user gives.
    """
    made = tmp_path / "mine" / "00000123"
    (made / "variables").mkdir(parents=True)
    (made / "saved_model.pb").write_bytes(b"graph")
    (made / "variables" / "variables.index").write_bytes(b"index")
    (made / "saved_model.pb").chmod(0o600)
    made.chmod(0o700)
    return made


def test_a_version_is_copied_for_the_pods(layout: Layout, version: Path, capsys: Print) -> None:
    """
    Its folder is named as the chart asks, any user may read it, and it shares no file with the original.
    """
    assert 0 == command.main(["publish", str(version), "--model", "mine"])

    copy = layout.models / "mine" / "mine" / "123"
    assert b"graph" == (copy / "saved_model.pb").read_bytes()
    assert not (copy / "saved_model.pb").samefile(version / "saved_model.pb")
    assert [0o755, 0o644] == [path.stat().st_mode & 0o777 for path in (copy, copy / "saved_model.pb")]
    said = capsys.readouterr().out
    assert "mine 123: published in namespace mine, claim tfcanary-models" in said
    assert "note: it has no manifest.json" in said
    assert "modelStore.verifyManifest=false" in said


def test_a_published_version_is_never_replaced(layout: Layout, version: Path, capsys: Print) -> None:
    """
    The same files may be published again. Others need another number.
    """
    publish = ["publish", str(version), "--model", "mine", "--namespace", "other"]
    assert [0, 0] == [command.main(publish), command.main(publish)]
    assert "was published before" in capsys.readouterr().out

    (version / "saved_model.pb").write_bytes(b"changed")
    assert 2 == command.main(publish)
    assert "choose another with --version N" in capsys.readouterr().err
    assert 0 == command.main([*publish, "--version", "4"])

    assert b"graph" == (layout.models / "other/mine/123/saved_model.pb").read_bytes()
    assert b"changed" == (layout.models / "other/mine/4/saved_model.pb").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["{mine}", "--model", "m"], "got 'mine'; name the version with --version N", id="no-number"
        ),
        pytest.param(
            ["{mine}", "--model", "m", "--version", "1"], "expected a version's directory", id="no-model"
        ),
        pytest.param(["{mine}/00000123", "--model", "m/x"], "--model: expected letters", id="model-name"),
        pytest.param(
            ["{mine}/00000123", "--model", "My_Model"], "--namespace: expected lower-case", id="namespace"
        ),
        pytest.param(
            ["{mine}/00000123", "--model", "m", "--version", "0"], "--version: expected", id="version"
        ),
    ],
)
def test_what_cannot_be_published_is_named(
    layout: Layout, version: Path, capsys: Print, arguments: list[str], message: str
) -> None:
    given = [part.format(mine=version.parent) for part in arguments]

    assert 2 == command.main(["publish", *given])
    assert message in capsys.readouterr().err
    assert [] == [path for path in layout.models.rglob("*") if path.is_file()]


def test_a_copy_that_breaks_off_leaves_nothing(
    layout: Layout, version: Path, monkeypatch: pytest.MonkeyPatch, capsys: Print
) -> None:
    """
    A pod finds the whole version or none.
    """

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)

    assert 2 == command.main(["publish", str(version), "--model", "mine"])
    assert "No space left on device" in capsys.readouterr().err
    assert [] == list((layout.models / "mine" / "mine").iterdir())


def test_what_is_published_is_listed(layout: Layout, version: Path, capsys: Print) -> None:
    """
    In the order of namespaces, models and numbers, and without what a server passes over.
    """
    for number in ("10", "9"):
        command.main(["publish", str(version), "--model", "mine", "--version", number])
    (layout.models / "mine/mine/10/manifest.json").write_text("{}")
    (layout.models / "mine/mine/labelled").mkdir()
    capsys.readouterr()

    assert 0 == command.main(["models"])

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [["mine", "mine", "9"], ["mine", "mine", "10"]] == [line[:3] for line in lines]
    assert [["no", "manifest"], ["MiB", "manifest"]] == [line[-2:] for line in lines]


def test_nothing_is_listed_without_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Print
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    assert 2 == command.main(["models"])
    assert "expected one that was brought up, got none" in capsys.readouterr().err


def test_kubectl_says_why_a_namespace_cannot_be_made(
    layout: Layout, version: Path, monkeypatch: pytest.MonkeyPatch, capsys: Print
) -> None:
    def refused(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "connection refused")

    monkeypatch.setattr(subprocess, "run", refused)

    assert 3 == command.main(["publish", str(version), "--model", "mine"])
    assert "namespace mine: expected it to be made, got connection refused" in capsys.readouterr().err
    assert not (layout.models / "mine" / "mine").exists()
