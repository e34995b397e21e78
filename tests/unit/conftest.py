"""
What more than one unit test file uses: values, routes, and a gateway that can be told what to do wrong.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from anymodel import HALF, AnyModel
from checking import QUICK, subject
from double import Double, serve, start

from tfcanary.check.run import check_gateway
from tfcanary.client.pictures import Picture, default_pictures
from tfcanary.paths import CHART
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Routing


def resources(**kinds: str) -> dict[str, Any]:
    """
    What an apiserver says of a version of an API: its kinds by the names of their resources.
    """
    found = [{"name": name, "kind": kind, "namespaced": True} for name, kind in kinds.items()]
    return {"resources": [*found, {"name": "services/status", "kind": "Service", "namespaced": True}]}


DISCOVERY = {
    "/api/v1": resources(services="Service", configmaps="ConfigMap", serviceaccounts="ServiceAccount"),
    "/apis/apps/v1": resources(deployments="Deployment"),
    "/apis/networking.istio.io/v1": resources(
        virtualservices="VirtualService", destinationrules="DestinationRule", gateways="Gateway"
    ),
}


@pytest.fixture
def values() -> Callable[..., dict[str, Any]]:
    """
    Make merged values with these routes.
    """
    everyone = {"name": "everyone", "weights": {"stable": 90, "canary": 10}}

    def make(*routes: object, **others: Any) -> dict[str, Any]:
        return {
            "model": {"name": "resnet"},
            "tracks": {"stable": {"version": 1}, "canary": {"version": 2}},
            "routing": {"routes": list(routes or [everyone]), "attribution": True},
            "gateway": {"hosts": ["*"], "port": 80},
            **others,
        }

    return make


@pytest.fixture(scope="session")
def pictures() -> list[Picture]:
    """
    The two photographs that a check asks about by default.
    """
    return default_pictures()


@pytest.fixture
def tenth(values) -> Routing:
    """
    The routes of values/canary-10.yaml: a tenth of all requests to the canary.
    """
    return from_values(values())


@pytest.fixture
def user_group(values) -> Routing:
    """
    The routes of values/canary-user-group.yaml: a header's users to the canary, everyone else to stable.
    """
    group = {
        "name": "canary-users",
        "match": {"headers": {"user-group": {"exact": "canary"}}},
        "weights": {"canary": 100},
    }
    return from_values(values(group, {"name": "everyone", "weights": {"stable": 100}}))


@pytest.fixture
def gateway() -> Iterator[Callable[..., Double]]:
    """
    Start a gateway double on a port of its own.
    """
    with contextlib.ExitStack() as stack:

        def make(actual: Routing, *, kind: type[Double] = Double, **faults: Any) -> Double:
            return start(stack, kind(actual, **faults))

        yield make


@pytest.fixture
def checked(gateway, user_group):
    """
    Check a model whose canary answers the users of a group.
    """

    def check(model=None, signatures=HALF, *, options=QUICK, given=None, **faults):
        signatures_of = signatures if callable(signatures) else lambda _track: signatures
        models = {"run_model": model} if model else {}
        double = gateway(user_group, kind=AnyModel, signatures_of=signatures_of, **models, **faults)
        return check_gateway(subject(double, user_group), options, given=given)

    return check


@pytest.fixture
def fake_helm(tmp_path: Path) -> Callable[..., Path]:
    """
    Put a helm in place that answers so (a command of its own by name, `get_manifest` before `get`); its `asked` says with which arguments and input it was run.
    """
    log = tmp_path / "helm.jsonl"
    script = tmp_path / "helm"
    chart = {"apiVersion": "v2", "name": "tfserving-canary", "version": "0.1.0"}

    def make(
        stdout: str = "", stderr: str = "", code: int = 0, version: str = "v3.22.0", **commands: str
    ) -> Path:
        answer = json.dumps([stdout, stderr, code, version, json.dumps(chart), commands])
        script.write_text(
            f"#!{sys.executable} -I\n"
            "import json, sys\n"
            f"stdout, stderr, code, version, chart, commands = json.loads({answer!r})\n"
            "arguments = sys.argv[1:]\n"
            "if arguments[0] == 'version':\n"
            "    sys.exit(print(version, end=''))\n"
            "if arguments[:2] == ['show', 'chart']:\n"
            "    sys.exit(print(chart))\n"
            "given = sys.stdin.read() if '-' in arguments else ''\n"
            f"with open({str(log)!r}, 'a') as log:\n"
            "    print(json.dumps([arguments, given]), file=log)\n"
            "found = commands.get('_'.join(arguments[:2]), commands.get(arguments[0], stdout))\n"
            "sys.stdout.write(found)\n"
            "sys.stderr.write(stderr)\n"
            "sys.exit(code)\n"
        )
        script.chmod(0o755)
        return script

    make.asked = lambda: [json.loads(line) for line in log.read_text().splitlines()]  # type: ignore[attr-defined]
    return make


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Callable[[int], Path]:
    """
    Write a kubeconfig for an apiserver on this port.
    """

    def write(port: int) -> Path:
        file = tmp_path / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        file.write_text(json.dumps(content))
        return file

    return write


@pytest.fixture
def cluster(kubeconfig: Callable[[int], Path]) -> Iterator[Callable[[dict[str, Any]], Path]]:
    """
    Start an apiserver that answers these paths, by an object, bytes or a status, and give a kubeconfig for it.
    """
    with contextlib.ExitStack() as stack:

        def start(answers: dict[str, Any]) -> Path:
            class Handler(BaseHTTPRequestHandler):
                def log_message(self, *_: object) -> None:
                    pass

                def do_GET(self) -> None:
                    path = self.path.split("?")[0]
                    answer = answers.get(path, DISCOVERY.get(path, 404))
                    status, body = (answer, {"message": "no"}) if isinstance(answer, int) else (200, answer)
                    content = body if isinstance(body, bytes) else json.dumps(body).encode()
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

                def do_POST(self) -> None:
                    self.rfile.read(int(self.headers["content-length"]))
                    self.do_GET()

            return kubeconfig(serve(stack, Handler))

        yield start


@pytest.fixture
def later_chart(tmp_path: Path) -> Path:
    """
    The chart as a later version may have it: a route may say who owns it.
    """
    folder = tmp_path / "later"
    shutil.copytree(CHART, folder)
    path = folder / "values.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    route = schema["properties"]["routing"]["properties"]["routes"]["items"]
    if "$ref" in route:
        route = schema["definitions"][route["$ref"].rsplit("/", 1)[-1]]
    route["properties"]["owner"] = {"type": "string"}
    path.write_text(json.dumps(schema), encoding="utf-8")
    return folder
