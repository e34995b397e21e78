"""
What helm itself says of values that it refuses, of a chart that is not there and of an unreachable cluster.

The names in refused values are words that helm says of an unreachable cluster, and the other way round.
"""

import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tfcanary.errors import UnreachableError
from tfcanary.helm.failures import ValuesRefusedError, classified, is_not_found
from tfcanary.paths import CHART, VALUES

WORDS = (
    "unauthorized",
    "certificate",
    "x509",
    "tls",
    "etcdserver",
    "timeout",
    "unreachable",
    "invalid",
    "already-exists",
    "not-found",
)
# Only the value of a header may have spaces or colons.
PHRASES = (
    "Kubernetes cluster unreachable: ",
    "connection refused",
    "no such host",
    "i/o timeout",
    "etcdserver: request timed out",
    "x509: certificate signed by unknown authority",
    "query: failed: Unauthorized",
    "invalid configuration: ",
    "another operation (install/upgrade/rollback) is in progress",
    "release: not found",
)


@dataclass(frozen=True)
class Failed:
    """
    What helm left.
    """

    stderr: bytes
    returncode: int


def failure(program: str, *arguments: str, cwd: Path) -> Failed:
    done = subprocess.run([program, *arguments], check=False, capture_output=True, cwd=cwd)
    assert done.returncode != 0
    return Failed(done.stderr, done.returncode)


def named(place: str, word: str) -> dict[str, object]:
    """
    Values with one mistake, weights that sum to 90, and the word in one of their names.
    """
    track = word if place == "track" else "canary"
    route: dict[str, object] = {
        "name": f"{word}-users" if place == "route" else "everyone",
        "weights": {"stable": 80, track: 10},
    }
    if place == "header":
        match = {
            "name": "some",
            "match": {"headers": {"x-group": {"exact": f": {word}: "}}},
            "weights": {track: 90},
        }
        routes = [match, {"name": "everyone", "weights": {"stable": 100}}]
    else:
        routes = [route]
    return {
        "model": {"name": word if place == "model" else "resnet"},
        "tracks": {name: {"version": 1, "replicas": 1} for name in ("stable", "canary", track)},
        "gateway": {"hosts": [f"{word}.example" if place == "host" else "*"]},
        "routing": {"routes": routes},
    }


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("place", ["route", "track", "host", "model", "header"])
def test_a_refused_chart_is_wrong_values_whatever_its_names(tmp_path: Path, place: str, word: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(named(place, word)))
    base = VALUES / "env/local.yaml"

    failed = failure(
        "helm", "template", word, str(CHART), f"--values={base}", f"--values={file}", cwd=tmp_path
    )
    error = classified("helm upgrade", failed)

    assert b"must sum to 100" in failed.stderr
    assert ValuesRefusedError is type(error)
    assert 2 == error.exit_code


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_refused_value_may_be_helms_own_words(tmp_path: Path, phrase: str) -> None:
    """
    The schema quotes the value that it refuses.
    """
    route = {"name": "some", "match": {"userGroups": [phrase]}, "weights": {"canary": 100}}
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({"routing": {"routes": [route]}}))

    failed = failure("helm", "template", "resnet", str(CHART), f"--values={file}", cwd=tmp_path)

    assert phrase.encode() in failed.stderr
    assert ValuesRefusedError is type(classified("helm upgrade", failed))
    assert not is_not_found(failed)


@pytest.fixture(params=["helm", "helm4"])
def program(request: pytest.FixtureRequest) -> str:
    return "helm" if request.param == "helm" else str(request.getfixturevalue("helm_4"))


def kubeconfig(folder: Path, server: str = "http://127.0.0.1:9", **cluster: str) -> Path:
    file = folder / "config"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "current-context": "c",
        "users": [{"name": "c", "user": {}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("word", WORDS)
def test_a_cluster_that_is_not_there_is_unreachable_whatever_the_release_is_called(
    tmp_path: Path, word: str
) -> None:
    config = kubeconfig(tmp_path)

    failed = failure("helm", "status", word, f"--kubeconfig={config}", cwd=tmp_path)

    assert UnreachableError is type(classified("helm", failed))
    assert not is_not_found(failed)


@pytest.fixture
def stranger(tmp_path: Path, identity: Callable[..., Any]) -> Iterator[str]:
    """
    A TLS server whose authority the kubeconfig does not name.
    """
    pem = tmp_path / "stranger.pem"
    pem.write_text("".join(identity("127.0.0.1").pems))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_of_an_unknown_authority_is_unreachable(tmp_path: Path, program: str, stranger: str) -> None:
    failed = failure(
        program, "status", "resnet", f"--kubeconfig={kubeconfig(tmp_path, stranger)}", cwd=tmp_path
    )

    assert b"x509: " in failed.stderr
    assert UnreachableError is type(classified("helm", failed))


@pytest.mark.parametrize(
    ("said", "options"),
    [
        pytest.param(
            b"no such file or directory", {"certificate-authority": "/nowhere/ca.crt"}, id="authority"
        ),
        pytest.param(b"invalid port", {"server": "::"}, id="server"),
    ],
)
def test_a_wrong_kubeconfig_is_an_unreachable_cluster(
    tmp_path: Path, program: str, said: bytes, options: dict[str, str]
) -> None:
    config = kubeconfig(tmp_path, **options)

    failed = failure(program, "status", "resnet", f"--kubeconfig={config}", cwd=tmp_path)

    assert said in failed.stderr
    assert UnreachableError is type(classified("helm", failed))


@pytest.mark.parametrize(
    ("said", "content"),
    [
        pytest.param(b"no such file or directory", None, id="missing"),
        pytest.param(b"error loading config file", "{a: [", id="no-yaml"),
        pytest.param(
            b"context was not found", "{apiVersion: v1, kind: Config, current-context: gone}", id="context"
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_read_is_an_unreachable_cluster(
    tmp_path: Path, program: str, said: bytes, content: str | None
) -> None:
    config = tmp_path / "config"
    if content is not None:
        config.write_text(content)

    failed = failure(program, "status", "resnet", f"--kubeconfig={config}", cwd=tmp_path)

    assert said in failed.stderr
    assert UnreachableError is type(classified("helm", failed))


@pytest.mark.parametrize("arguments", [("template",), ("show", "chart")], ids=["template", "show"])
@pytest.mark.parametrize("chart", ["./nowhere", "/nowhere/at/all", "nowhere/chart", "./empty"])
def test_a_chart_that_is_not_there_is_wrong_use(
    tmp_path: Path, program: str, arguments: tuple[str, ...], chart: str
) -> None:
    (tmp_path / "empty").mkdir()
    release = ("resnet",) if arguments == ("template",) else ()

    failed = failure(program, *arguments, *release, chart, cwd=tmp_path)

    assert ValuesRefusedError is type(classified("helm", failed))


@pytest.mark.parametrize(
    ("template", "dependencies"),
    [
        pytest.param("{{ if }}", [], id="template-syntax"),
        pytest.param("a: [1\nb: c: d", [], id="yaml-syntax"),
        pytest.param("a: {{ .Values.certificate.unauthorized }}", [], id="nil-pointer"),
        pytest.param('{{ required "unauthorized" .Values.certificate }}', [], id="required"),
        pytest.param(
            "", [{"name": "other", "version": "1.0.0", "repository": "https://x.test"}], id="dependency"
        ),
    ],
)
def test_a_chart_that_cannot_be_rendered_is_wrong_use(
    tmp_path: Path, program: str, template: str, dependencies: list[dict[str, str]]
) -> None:
    metadata = {"apiVersion": "v2", "name": "tls", "version": "0.1.0", "dependencies": dependencies}
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(metadata))
    (tmp_path / "templates" / "x.yaml").write_text(template)

    failed = failure(program, "template", "resnet", ".", cwd=tmp_path)

    assert ValuesRefusedError is type(classified("helm", failed))


def test_a_release_name_that_helm_refuses_is_wrong_use(tmp_path: Path, program: str) -> None:
    failed = failure(program, "template", "Unauthorized", str(CHART), cwd=tmp_path)

    assert ValuesRefusedError is type(classified("helm", failed))
