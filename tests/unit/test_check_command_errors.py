"""
The command's errors: one line each, with the documented exit code.
"""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tfcanary.commands import check
from tfcanary.routing.parse import from_values


def weights(**shares):
    return {"model": {"name": "resnet"}, "routing": {"routes": [{"name": "everyone", "weights": shares}]}}


def file_with(folder, values, name="strategy.yaml"):
    file = folder / name
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return str(file)


LIVE = {
    "model": {"name": "resnet"},
    "tracks": {"stable": {"version": 1, "replicas": 1}, "canary": {"version": 2, "replicas": 1}},
    "routing": {
        "routes": [{"name": "everyone", "weights": {"stable": 90, "canary": 10}}],
        "attribution": True,
    },
    "gateway": {"hosts": ["*"], "port": 80, "selector": {"istio": "ingressgateway"}},
}


QUICK = ["--alpha", "1e-4", "--power", "0.99", "--detect", "40", "--timeout", "0.5"]


ROOT = Path(__file__).parents[2]


def test_the_script_prints_help():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "check_gateway.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "exit codes: 0 held" in done.stdout


def one_line(captured):
    """
    The error: the only one, and no traceback.
    """
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert 1 == len(errors), captured.err
    assert "Traceback" not in captured.err
    assert "" == captured.out
    return errors[0]


RULE = {"name": "group", "match": {"headers": {"user-group": {"exact": "a"}}}, "weights": {"beta": 100}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param(
            weights(stable=80, canary=10),
            "routing.routes[0] (everyone): weights must sum to 100, got 90 (stable=80, canary=10)",
            id="sum-of-90",
        ),
        pytest.param(
            {"routing": {"routes": [RULE, {"name": "everyone", "weights": {"stable": 100}}]}},
            "routing.routes[0] (group): weights name the unknown track 'beta', expected one of stable, canary",
            id="unknown-track-in-a-rule",
        ),
        pytest.param(
            {"routing": {"rotes": []}}, "routing: unknown key 'rotes'; expected one of", id="unknown-key"
        ),
        pytest.param(
            {"model": {"name": "m"}, "image": {"tag": 7}},
            "image.tag: expected a string that matches",
            id="what-the-check-does-not-read",
        ),
        pytest.param("routing: [", "not YAML", id="not-yaml"),
        pytest.param("", "empty; expected a map", id="empty"),
        pytest.param(
            {"routing": {}},
            "model.name: expected the model's public name, got None; name it with --model",
            id="no-model",
        ),
    ],
)
def test_values_that_cannot_be_right_exit_with_2(tmp_path, capsys, values, message):
    code = check.main(["--gateway", "127.0.0.1:9", "--values", file_with(tmp_path, values), *QUICK])

    assert 2 == code
    assert message in one_line(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(
            ["--values", "missing.yaml"], 2, "values file 'missing.yaml': cannot be read", id="no-file"
        ),
        pytest.param(
            ["--picture", "missing.jpg"], 2, "picture 'missing.jpg': cannot be read", id="no-picture"
        ),
        pytest.param(
            ["--requests", "missing.jsonl"], 2, "requests 'missing.jsonl': cannot be read", id="no-requests"
        ),
        pytest.param(
            ["--saved-model", "missing"],
            2,
            "--saved-model 'missing': expected the folder of one version",
            id="no-saved-model",
        ),
        pytest.param(["--agree", "2"], 2, "--agree: expected a fraction from 0 to 1, got 2", id="agree"),
        pytest.param(
            ["--agree", "nan"], 2, "--agree: expected a fraction from 0 to 1, got nan", id="agree-nan"
        ),
        pytest.param(["--token", "missing"], 2, "token 'missing': cannot be read", id="no-token"),
        pytest.param(["--timeout", "0"], 2, "--timeout: expected seconds above 0, got 0", id="timeout"),
        pytest.param(["--timeout", "nan"], 2, "--timeout: expected seconds above 0, got nan", id="no-number"),
        pytest.param(
            ["--concurrency", "0"], 2, "--concurrency: expected at least 1, got 0", id="concurrency"
        ),
        pytest.param(["--helm", "no-such-helm"], 3, "get it from https://helm.sh", id="no-helm"),
        pytest.param(["--kubeconfig", "missing"], 3, "kubeconfig 'missing'", id="no-kubeconfig"),
    ],
)
def test_wrong_use_is_one_line(fake_helm, capsys, arguments, code, message):
    helm = fake_helm(stdout=json.dumps(LIVE), history="[]")

    assert code == check.main(["--helm", str(helm), *arguments])
    assert message in one_line(capsys.readouterr())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(["--detect", "0"], "detect: expected percentage points", id="detect"),
        pytest.param(["--alpha", "2"], "alpha=2", id="alpha"),
        pytest.param(["--gateway", "http://localhost:80/x"], "gateway: expected HOST:PORT", id="url"),
        pytest.param(["--gateway", "localhost"], "gateway: expected HOST:PORT", id="no-port"),
        pytest.param(["--gateway", "a..b:80"], "gateway: expected HOST:PORT", id="no-name"),
    ],
)
def test_a_wrong_number_or_address_is_one_line(tmp_path, capsys, more, message):
    file = file_with(tmp_path, weights(stable=100))

    assert 2 == check.main(["--gateway", "127.0.0.1:9", "--values", file, *QUICK, *more])
    assert message in one_line(capsys.readouterr())


def test_an_unknown_flag_is_one_line(capsys):
    with pytest.raises(SystemExit) as left:
        check.main(["--gatewy", "x"])

    assert 2 == left.value.code
    assert "unrecognized arguments: --gatewy" in one_line(capsys.readouterr())


def test_a_gateway_that_cannot_be_reached_exits_with_3(tmp_path, capsys):
    file = file_with(tmp_path, weights(stable=100))

    code = check.main(["--gateway", "127.0.0.1:9", "--values", file, *QUICK])

    assert 3 == code
    assert "gateway 127.0.0.1:9: no answer within 0.5 s" in one_line(capsys.readouterr())


def test_a_release_that_is_not_there_exits_with_2(fake_helm, capsys):
    helm = fake_helm(stderr="Error: release: not found", code=1)

    code = check.main(["--helm", str(helm), "--release", "other", *QUICK])

    assert 2 == code
    assert "release 'other': not found in namespace 'default'" in one_line(capsys.readouterr())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(["--gateway", "nowhere.invalid:80"], "no answer within", id="dns"),
        pytest.param(["--tls"], "SSL", id="tls-spoken-to-plain"),
    ],
)
def test_a_gateway_that_is_not_understood_is_one_line(gateway, tmp_path, capsys, more, message):
    """
    No such name, or TLS where there is none: exit code 3, and the reason.
    """
    address = gateway(from_values(LIVE)).address
    file = file_with(tmp_path, {"model": {"name": "resnet"}, "routing": LIVE["routing"]})

    code = check.main(["--gateway", address, "--values", file, *QUICK, *more])

    assert 3 == code
    assert message in one_line(capsys.readouterr())


def test_a_proxy_that_answers_html_is_no_gateway(tmp_path, capsys):
    """
    A login page says 200 to everything; nothing of it is an answer of the model.
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """
            Say nothing.
            """

        def do_GET(self) -> None:
            """
            Always the same page.
            """
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>Sign in</html>")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        file = file_with(tmp_path, {"model": {"name": "resnet"}, "routing": LIVE["routing"]})
        code = check.main(["--gateway", f"127.0.0.1:{server.server_address[1]}", "--values", file, *QUICK])
        server.shutdown()
        thread.join()

    assert 3 == code
    assert "not the model server: text/html <html>Sign in" in one_line(capsys.readouterr())


def test_a_ca_without_tls_is_wrong_use(tmp_path, capsys):
    file = file_with(tmp_path, {"model": {"name": "resnet"}, "routing": LIVE["routing"]})

    assert 2 == check.main(["--gateway", "127.0.0.1:9", "--values", file, *QUICK, "--ca", file])
    assert "--ca: expected --tls" in one_line(capsys.readouterr())
