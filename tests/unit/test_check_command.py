"""
The command: what it reads, what it prints, and how it ends.

Everything around it is a double (helm, the apiserver, the gateway); the arguments, the files and the clients
are real.
"""

import copy
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tfcanary.commands import check
from tfcanary.helm.releases import Releases
from tfcanary.routing.parse import from_values

ROOT = Path(__file__).parents[2]
QUICK = ["--alpha", "1e-4", "--power", "0.99", "--detect", "40", "--timeout", "0.5"]
LIVE = {
    "model": {"name": "resnet"},
    "tracks": {"stable": {"version": 1, "replicas": 1}, "canary": {"version": 2, "replicas": 1}},
    "routing": {
        "routes": [{"name": "everyone", "weights": {"stable": 90, "canary": 10}}],
        "attribution": True,
    },
    "gateway": {"hosts": ["*"], "port": 80, "selector": {"istio": "ingressgateway"}},
}
OBJECTS = "/apis/networking.istio.io/v1/namespaces/default"


def virtual_service(revision="rev-2", retries=0, **weights):
    """
    What the chart renders for routes that split all traffic.
    """
    return {
        "metadata": {"name": "resnet"},
        "spec": {
            "http": [
                {
                    "match": [{"uri": {"prefix": prefix}}],
                    "route": [
                        {"destination": {"host": "resnet", "subset": track}, "weight": weight}
                        for track, weight in weights.items()
                    ],
                    "retries": {"attempts": retries},
                    "headers": {"response": {"set": {"x-route-revision": revision}}},
                }
                for prefix in ("/v1/models/resnet", "/tensorflow.serving.")
            ]
        },
    }


def service(address):
    return {
        "metadata": {
            "name": "istio-ingressgateway",
            "namespace": "istio-system",
            "annotations": {"tfserving-canary/host-address": address},
        },
        "spec": {"selector": {"istio": "ingressgateway"}, "ports": [{"port": 80}]},
        "status": {},
    }


GATEWAY = {"spec": {"selector": {"istio": "ingressgateway"}, "servers": [{"port": {"number": 80}}]}}


RELEASED = [{"kind": "VirtualService", **virtual_service(stable=90, canary=10)}]


@pytest.fixture
def live(gateway, cluster, fake_helm):
    """
    A release as it is live: Helm's values, the mesh's objects, and a gateway; gives the command's arguments.
    """

    def start(values=LIVE, objects=None, *, actual=LIVE, history=(), pods=None, released=RELEASED):
        double = gateway(from_values(actual))
        answers = {
            f"{OBJECTS}/virtualservices/resnet": objects or virtual_service(stable=90, canary=10),
            f"{OBJECTS}/gateways/resnet": GATEWAY,
            "/api/v1/services": {"items": [service(double.address)]},
            "/api/v1/namespaces/istio-system/pods": {"items": pods or []},
            "/api/v1/namespaces/default/pods": {"items": []},
        }
        helm = fake_helm(
            stdout=json.dumps(values), history=json.dumps(history), get_manifest=yaml.safe_dump_all(released)
        )
        return [
            *("--helm", str(helm), "--kubeconfig", str(cluster(answers)), *QUICK),
            *([] if pods else ["--no-gateway-pods"]),
        ]

    return start


def test_a_release_without_routes_is_no_evidence_about_the_live_ones(live, capsys):
    """
    Nothing to compare is not the same as nothing that differs.
    """
    code = check.main(live(released=[{"kind": "Service", "metadata": {"name": "resnet"}}]))

    assert 4 == code
    assert re.search(r"live objects.*no routes in the release's manifest", capsys.readouterr().out)


def file_with(folder, values, name="strategy.yaml"):
    file = folder / name
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return str(file)


def test_a_live_release_is_checked_without_an_argument_about_it(live, capsys):
    """
    Values from Helm, the revision from the mesh, the address from the gateway's Service.
    """
    code = check.main(live())

    output = capsys.readouterr().out
    assert 0 == code
    assert "everyone: everyone else → stable 90 %, canary 10 %" in output
    assert "checks held" in output.splitlines()[-1]


def test_gateway_pods_that_cannot_be_asked_are_not_passed_over(live, capsys):
    """
    No right to forward ports: that each pod has the routes is not known, exit code 4, and what to do.
    """
    pod = {
        "metadata": {"name": "gateway-a", "namespace": "istio-system"},
        "spec": {"containers": [{"name": "istio-proxy"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }

    code = check.main(live(pods=[pod]))

    output = capsys.readouterr().out
    assert 4 == code
    assert re.search(r"not enough evidence +propagation pod gateway-a +REST", output)
    assert "pods/portforward" in output
    assert "--no-gateway-pods" in output


def test_retries_that_hide_failures_are_a_finding(live, capsys):
    """
    The mesh tries again although the values say that it does not.
    """
    code = check.main(live(objects=virtual_service(stable=90, canary=10, retries=2)))

    assert 1 == code
    assert re.search(r"failed +live retries +0 on every route", capsys.readouterr().out)


def test_the_strategy_file_is_what_must_be(live, tmp_path, capsys):
    code = check.main([*live(), "--values", file_with(tmp_path, {"routing": LIVE["routing"]})])

    assert 0 == code
    assert re.search(r"held +live values +as in strategy\.yaml +the same", capsys.readouterr().out)


def test_a_file_that_was_never_applied_fails(live, tmp_path, capsys):
    """
    The release is at ten per cent, the file says thirty: a finding of its own, and the splits fail as well.
    """
    routes = [{"name": "everyone", "weights": {"stable": 30, "canary": 70}}]

    code = check.main([*live(), "--values", file_with(tmp_path, {"routing": {"routes": routes}})])

    output = capsys.readouterr().out
    assert 1 == code
    assert re.search(
        r"failed +live values +as in strategy\.yaml +everyone else → stable 90 %, canary 10 %", output
    )
    assert re.search(r"failed +split everyone +REST", output)


def test_a_virtual_service_changed_behind_helms_back_fails(live, capsys):
    """
    Requirement A19: the live object is read, never the values alone.
    """
    patched = copy.deepcopy(LIVE)
    patched["routing"]["routes"][0]["weights"] = {"stable": 50, "canary": 50}

    code = check.main(live(objects=virtual_service(stable=50, canary=50), actual=patched))

    output = capsys.readouterr().out
    assert 1 == code
    assert re.search(r"failed +live routes +REST .*everyone: match: stable 50 %, canary 50 %", output)


def test_the_routes_before_the_newest_revision_are_told_apart(live, fake_helm):
    """
    They are those of the last revision that worked; one that failed never moved any traffic.
    """
    statuses = {1: "superseded", 2: "superseded", 3: "failed", 4: "deployed"}
    history = [
        {"revision": number, "status": status, "updated": "2026-01-02T03:04:05Z"}
        for number, status in statuses.items()
    ]

    assert 0 == check.main(live(history=history))
    assert [["--revision", "2"]] == [
        arguments[arguments.index("--revision") :][:2]
        for arguments, _ in fake_helm.asked()
        if "--revision" in arguments
    ]


def test_a_revision_before_of_another_chart_is_not_checked_and_said_so(live, capsys, monkeypatch):
    read = Releases.values

    def values(releases, name, revision=None):
        return {"replicaCount": 1} if revision else read(releases, name)

    monkeypatch.setattr(Releases, "values", values)
    history = [
        {"revision": number, "status": status, "updated": "2026-01-02T03:04:05Z"}
        for number, status in ((1, "superseded"), (2, "deployed"))
    ]

    assert 0 == check.main(live(history=history))
    assert (
        "not checked: the routes before the newest revision, which cannot be read: tracks: expected"
        in capsys.readouterr().out
    )


def test_json_is_alone_on_stdout(live, capsys):
    code = check.main([*live(), "--json"])

    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (0, True, "resnet") == (code, report["held"], report["release"])
    assert "checks held" in captured.err


def test_files_and_an_address_are_enough(gateway, tmp_path, capsys):
    """
    With no cluster the check says what it loses, and makes the rest.
    """
    double = gateway(from_values(LIVE))
    file = file_with(tmp_path, {"model": LIVE["model"], "routing": LIVE["routing"]})

    code = check.main(["--values", file, "--gateway", double.address, *QUICK])

    output = capsys.readouterr().out
    assert 0 == code
    assert "not checked: the live release and VirtualService" in output
    assert "not checked: which revision the routes have" in output


def test_without_attribution_the_exit_code_is_4(live, capsys):
    unnamed = copy.deepcopy(LIVE)
    unnamed["routing"]["attribution"] = False

    code = check.main(live(values=unnamed))

    output = capsys.readouterr().out
    assert 4 == code
    assert "not checked: tracks and revisions: routing.attribution is off" in output
    assert re.search(r"not enough evidence +split everyone", output)


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


def weights(**shares):
    return {"model": {"name": "resnet"}, "routing": {"routes": [{"name": "everyone", "weights": shares}]}}


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
        pytest.param({"routing": {"rotes": []}}, "routing: unknown key 'rotes'; expected one of", id="unknown-key"),
        pytest.param("routing: [", "not YAML", id="not-yaml"),
        pytest.param("", "empty; expected a map", id="empty"),
        pytest.param({"routing": {}}, "model.name: expected the model's public name, got None; name it with --model",
                     id="no-model"),
    ],
)  # fmt: skip
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
