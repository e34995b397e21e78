"""
Every strategy on a real gateway: what `explain` says of a request is what becomes of it, over REST and over gRPC.
"""

import difflib
import json
import logging
import random
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.pictures import picture_tensor
from tfcanary.client.rest import RestClient
from tfcanary.client.tensors import protos
from tfcanary.commands import explain
from tfcanary.contract import SERVING_DEFAULT
from tfcanary.judge import split
from tfcanary.judge.verdict import Outcome
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.paths import CHART
from tfcanary.routing.route import Request, Routing
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

VALUES = CHART.parents[1] / "values"
STRATEGIES = sorted(path.stem for path in VALUES.glob("*.yaml"))
MODELS = VALUES / "models" / "resnet-abn.yaml"
RELEASE = "resnet"
REQUESTS = 60
IN_A_ROW = 20
SEED = 5
LOG = logging.getLogger(__name__)

HEADERS: dict[str, list[str | None]] = {
    "user-group": [None, None, "canary", "staff", "stable", "b", "c", "Canary", "canary,b", "canary-x"],
    "user-id": [None, "alice", "bob@example.com", "bob@exampleXcom", *(f"user-{n}" for n in range(20))],
    "x-client-region": [None, None, "europe-west1", "europe-west4", "asia-east1", "us-east1"],
    "cookie": [
        None, None, "model-track=canary", "a=b; model-track=stable", "model-track=canary; c=d", "model-track=nobody",
        "x-model-track=canary", "model-track=canaryx",
    ],
    "x-preview": [None, None, "stable", "canary"],
    # What a client must not be able to say.
    "x-bucket-resnet": [None, None, "00", "99"],
}  # fmt: skip
PATHS = {
    "REST": [
        "/v1/models/resnet/metadata", "/v1/models/resnet/metadata", "/v1/models/resnet/metadata?x=1",
        "/canary/v1/models/resnet/metadata", "/v1/models/resnet/versions/1/metadata",
        "/v1/models/resnet/versions/2/metadata", "/v1/models/resnet/versions/20/metadata",
        "/canaryx/v1/models/resnet/metadata", "/v2/models/resnet",
    ],
    "gRPC": [
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        "/canary/tensorflow.serving.PredictionService/GetModelMetadata",
        "/canaryx/tensorflow.serving.PredictionService/GetModelMetadata",
    ],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """
    Who answered, under which routes, and the cookie that came along.
    """

    track: str | None
    revision: str | None
    cookie: str | None


class Gateway:
    """
    The gateway, asked for any path with any headers.
    """

    def __init__(self, address: str, host: str) -> None:
        limits = httpx.Limits(max_connections=8)
        self._rest = httpx.Client(
            base_url=f"http://{address}", headers={"host": host}, limits=limits, trust_env=False, timeout=30
        )
        self._channel = grpc.insecure_channel(address, options=[("grpc.default_authority", host)])
        request = protos().get_model_metadata_pb2.GetModelMetadataRequest()
        request.model_spec.name = "resnet"
        request.metadata_field.append("signature_def")
        self._message = request.SerializeToString()

    def ask(self, api: str, path: str, headers: Mapping[str, str]) -> Seen:
        """
        Ask for a path, whatever the answer is.
        """
        if api == "REST":
            found = dict(self._rest.get(path, headers=dict(headers)).headers)
            # Every request is a client of its own: httpx would send the cookie along.
            self._rest.cookies.clear()
        else:
            found = self._call(path, headers)
        return Seen(found.get("x-model-track"), found.get("x-route-revision"), found.get("set-cookie"))

    def _call(self, path: str, headers: Mapping[str, str]) -> dict[str, str]:
        call = self._channel.unary_unary(path)
        try:
            _, done = call.with_call(self._message, metadata=tuple(headers.items()), timeout=30)
        except grpc.RpcError as exc:
            done = exc
        return {**dict(done.trailing_metadata() or ()), **dict(done.initial_metadata() or ())}

    def close(self) -> None:
        """
        Close the connections.
        """
        self._rest.close()
        self._channel.close()


@dataclass(frozen=True, slots=True)
class Stage:
    """
    One release on the cluster, whose strategy changes.
    """

    releases: Any
    cluster: LiveObjects
    gateway: Gateway
    manager: Any
    namespace: str

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """
        What helm says of the release.
        """
        where = (f"--namespace={self.namespace}", f"--kubeconfig={self.manager.kubeconfig}")
        command = ["helm", *arguments, *where]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def play(self, strategy: str, **values: Any) -> Routing:
        """
        Apply a strategy and wait until the gateway has it; what it declares.
        """
        self.releases.apply(RELEASE, files=[VALUES / f"{strategy}.yaml"], values=values)
        live = self.cluster.virtual_service(RELEASE)
        revision = live["metadata"]["annotations"]["tfserving-canary/route-revision"]

        def arrived() -> None:
            for api in PATHS:
                for _ in range(IN_A_ROW):
                    seen = self.gateway.ask(api, PATHS[api][0], {})
                    if seen.revision != revision:
                        raise NotYet(f"{api}: revision {seen.revision}")

        wait_until(f"routes {revision} at the gateway", arrived, timeout_seconds=60)
        return explain.read([MODELS, VALUES / f"{strategy}.yaml"])


@pytest.fixture(scope="module")
def stage(  # noqa: PLR0917 - fixtures
    releases: Any,
    manager: Any,
    kubeconfig: Path,
    environment: Path,
    namespace: str,
    host: str,
    third_version: None,
) -> Iterator[Stage]:
    """
    Three tracks; the third serves a copy of the first model.
    """
    del third_version
    values = {
        "gateway": {"hosts": [host]},
        "server": {"drainSeconds": 1},
        "security": {"callers": [{"namespace": namespace, "serviceAccount": "default"}]},
    }
    releases.apply(RELEASE, files=[environment, MODELS, VALUES / "stable.yaml"], values=values)
    cluster = LiveObjects(Target(namespace=namespace, kubeconfig=kubeconfig))
    gateway = Gateway(gateway_address(cluster, RELEASE), host)
    yield Stage(releases, cluster, gateway, manager, namespace)
    gateway.close()
    # What lies in the gateway's namespace does not go with the release's own.
    subprocess.run(
        ["helm", "uninstall", RELEASE, f"--namespace={namespace}", f"--kubeconfig={kubeconfig}"], check=True
    )


def requests(api: str, seed: str) -> list[Request]:
    """
    Requests of every kind, the same ones each time.
    """
    draw = random.Random(f"{SEED} {seed} {api}")  # noqa: S311 - nothing secret
    made = []
    for _ in range(REQUESTS):
        chosen = {name: draw.choice(values) for name, values in HEADERS.items() if draw.random() < 0.5}
        headers = {name: value for name, value in chosen.items() if value is not None}
        made.append(Request(draw.choice(PATHS[api]), headers))
    return made


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_gateway_does_what_explain_says(stage, strategy):
    """
    Each generated request is answered by a track that explain gives it, and by none where explain finds no route.
    """
    declared = stage.play(strategy)

    wrong = []
    answered = Counter[str | None]()
    for api in PATHS:
        for request in requests(api, strategy):
            said = explain.explain(declared, request)
            seen = stage.gateway.ask(api, request.path, request.headers)
            answered[seen.track] += 1
            if seen.track not in (said["weights"] or {None}):
                wrong.append((api, request, said["route"], said["weights"], seen))
    assert [] == wrong
    assert 2 * REQUESTS == answered.total()
    assert answered[None] < REQUESTS


@pytest.mark.parametrize("api", list(PATHS))
@pytest.mark.parametrize(
    "strategy", ["stable", "promoted", "canary-10", "canary-30", "canary-50", "canary-region", "shadow"]
)
def test_the_share_is_the_weight(stage, strategy, api):
    """
    Where chance decides, it does so by the weights: told apart from a change that was not applied, and from all of it.
    """
    declared = stage.play(strategy)
    headers = {"x-client-region": "europe-west1"}
    weights = declared.decide(headers).weights
    planned = split.plan(
        weights, detect=None, alternatives=[{"stable": 100}, {"canary": 100}, {"stable": 50, "canary": 50}]
    )

    counts = Counter(stage.gateway.ask(api, PATHS[api][0], headers).track for _ in range(planned.n))

    assert Outcome.HELD is split.judge(planned, {str(track): n for track, n in counts.items()}).decision


def test_ten_thousand_users_are_shared_out_and_stay(stage):
    """
    The canary's part of 10,000 users is within a point of its weight, each user gets what its bucket says, and again.
    """
    declared = stage.play("canary-sticky-users")
    users = [f"user-{number}" for number in range(10_000)]

    def track(user: str, api: str = "REST") -> str | None:
        return stage.gateway.ask(api, PATHS[api][0], {"user-id": user}).track

    with ThreadPoolExecutor(8) as pool:
        seen = dict(zip(users, pool.map(track, users), strict=True))
        again = dict(zip(users[::20], pool.map(lambda user: track(user, "gRPC"), users[::20]), strict=True))

    LOG.info("of 10,000 users: %s", dict(Counter(seen.values())))
    share = 100 * sum(answered == "canary" for answered in seen.values()) / len(users)
    assert 9 <= share <= 11
    assert {user: f"{seen[user]}" for user in users} == {
        user: next(track for track, weight in declared.decide({"user-id": user}).weights.items() if weight)
        for user in users
    }
    assert again == {user: seen[user] for user in users[::20]}


@pytest.mark.parametrize("api", list(PATHS))
def test_a_cookie_keeps_a_client_on_its_track(stage, api):
    """
    The first answer sets a cookie that names its track; with it every later answer is that track's, with no new cookie.
    """
    stage.play("canary-cookie")

    firsts = [stage.gateway.ask(api, PATHS[api][0], {}) for _ in range(150)]

    assert {"stable", "canary"} == {first.track for first in firsts}
    kept = {first.track: str(first.cookie).partition(";")[0] for first in firsts}
    assert {track: f"model-track={track}" for track in kept} == kept
    for track, cookie in kept.items():
        later = [stage.gateway.ask(api, PATHS[api][0], {"cookie": cookie}) for _ in range(30)]
        assert {(track, None)} == {(answer.track, answer.cookie) for answer in later}


# Asks what it reads, each request with its API, path and headers, and prints who answered under which routes.
CALLER = """
import http.client, json, sys, grpc
name, message = sys.argv[1], bytes.fromhex(sys.argv[2])
connection = http.client.HTTPConnection(name, 8501, timeout=30)
channel = grpc.insecure_channel(name + ":8500")
def rest(path, headers):
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    return dict(answer.getheaders())
def over_grpc(path, headers):
    try:
        _, done = channel.unary_unary(path).with_call(message, timeout=30, metadata=tuple(headers.items()))
    except grpc.RpcError as error:
        done = error
    return {**dict(done.trailing_metadata() or ()), **dict(done.initial_metadata() or ())}
seen = []
for api, path, headers in json.load(sys.stdin):
    found = (rest if api == "REST" else over_grpc)(path, headers)
    seen.append([found.get("x-model-track"), found.get("x-route-revision")])
print(json.dumps(seen))
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """
    A pod inside the mesh that asks for us.
    """

    name: str
    stage: Stage

    def ask(self, asked: list[tuple[str, Request]]) -> list[list[str | None]]:
        """
        The track and the revision of each answer.
        """
        kubectl = ["kubectl", f"--kubeconfig={self.stage.manager.kubeconfig}", "-n", self.stage.namespace]
        given = json.dumps([(api, request.path, dict(request.headers)) for api, request in asked])
        out = subprocess.run(
            [*kubectl, "exec", "-i", self.name, "-c", "caller", "--", "python3", "-c", CALLER, RELEASE,
             self.stage.gateway._message.hex()],
            input=given, text=True, check=True, capture_output=True,
        ).stdout  # fmt: skip
        answers: list[list[str | None]] = json.loads(out)
        return answers


CALLERS = {"canary": {"model-track": "canary"}, "other": {"model-track": "other"}}


@pytest.fixture(scope="module", params=list(CALLERS))
def caller(request, stage):
    """
    A pod with a sidecar and with these labels.
    """
    name = f"caller-{request.param}"
    kubectl = ["kubectl", f"--kubeconfig={stage.manager.kubeconfig}", "-n", stage.namespace]
    pod = json.dumps(caller_pod(name, CALLERS[request.param], stage))
    subprocess.run([*kubectl, "apply", "-f", "-"], input=pod, text=True, check=True, capture_output=True)
    subprocess.run(
        [*kubectl, "wait", "pod", name, "--for=condition=Ready", "--timeout=180s"],
        check=True,
        capture_output=True,
    )
    yield Caller(name, stage), CALLERS[request.param]
    subprocess.run([*kubectl, "delete", "pod", name, "--wait=false"], check=True, capture_output=True)


@pytest.mark.parametrize("strategy", ["canary-caller", "composed", "canary-path", "canary-cookie"])
def test_the_mesh_does_what_explain_says(stage, caller, strategy):
    """
    Each generated request of a pod inside the mesh is answered by a track that explain gives a caller with its labels.
    """
    asker, labels = caller
    declared = stage.play(strategy)
    live = stage.cluster.virtual_service(RELEASE)
    revision = live["metadata"]["annotations"]["tfserving-canary/route-revision"]

    def arrived() -> None:
        plain = [(api, Request(paths[0])) for api, paths in PATHS.items() for _ in range(IN_A_ROW)]
        revisions = Counter(seen for _, seen in asker.ask(plain))
        if set(revisions) != {revision}:
            raise NotYet(f"revisions {revisions}")

    wait_until(f"routes {revision} at the caller's sidecar", arrived, timeout_seconds=60)
    asked = [(api, request) for api in PATHS for request in requests(api, f"{strategy} in the mesh")]
    seen = asker.ask(asked)

    wrong = []
    for (api, request), (track, _) in zip(asked, seen, strict=True):
        said = explain.explain(declared, replace(request, labels=labels))
        if track not in (said["weights"] or {None}):
            wrong.append((api, request, said["route"], said["weights"], track))
    assert [] == wrong
    if strategy == "canary-caller":
        expected = "canary" if labels == CALLERS["canary"] else "stable"
        assert {expected, None} == {track for track, _ in seen}


@pytest.mark.parametrize("seed", range(2))
def test_nothing_of_a_real_chain_survives(stage, environment, seed):
    """
    A2: after each of a random chain of `helm upgrade --reset-then-reuse-values` the release is, byte for byte, what a first
    release by the last strategy alone would be.
    """
    draw = random.Random(f"{SEED} {seed}")  # noqa: S311 - nothing secret
    # The routes that tests before this one gave by values, and not by a file, are gone as well.
    chain = [*draw.choices(STRATEGIES, k=8), "stable"]
    given = json.dumps(stage.releases.values(RELEASE) | {"routing": {}})

    different = []
    for strategy in chain:
        stage.releases.apply(RELEASE, files=[VALUES / f"{strategy}.yaml"])
        is_now = stage.helm("get", "manifest", RELEASE)
        fresh = stage.helm(
            "template", RELEASE, str(CHART), "--no-hooks", f"--values={environment}", f"--values={MODELS}",
            "--values=-", f"--values={VALUES / strategy}.yaml", stdin=given,
        )  # fmt: skip
        lines = difflib.unified_diff(
            documents(fresh), documents(is_now), "a first release", strategy, n=0, lineterm=""
        )
        different += list(lines)

    assert [] == different


def documents(manifest: str) -> list[str]:
    """
    The lines of a manifest's objects.
    """
    found = [part.strip() for part in manifest.split("---\n") if part.strip()]
    assert len(found) > 10
    return "\n".join(found).splitlines()


def test_helm_test_predicts_through_the_gateway(stage):
    """
    `helm test` holds on a release that answers by REST and by gRPC, and says so of both; where it does not reach the gateway
    it fails.
    """
    said = stage.helm("test", RELEASE, "--logs")

    assert "Succeeded" in said
    assert "REST: serving_preprocess predicted" in said
    assert "gRPC: serving_preprocess predicted" in said
    stage.releases.apply(RELEASE, values={"helmTest": {"gatewayHost": "nowhere.invalid"}})
    try:
        with pytest.raises(subprocess.CalledProcessError):
            stage.helm("test", RELEASE)
    finally:
        stage.releases.apply(RELEASE, values={"helmTest": {"gatewayHost": ""}})


def caller_pod(name: str, labels: Mapping[str, str], stage: Stage) -> dict[str, Any]:
    """
    A pod with a sidecar, of the image that the model server has.
    """
    listed = stage.manager.kubectl(
        ["get", "deployment", f"{RELEASE}-stable", "-n", stage.namespace, "-o", "json"]
    )
    template = listed["spec"]["template"]["spec"]
    container = template["containers"][0]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": stage.namespace, "labels": dict(labels)},
        "spec": {
            "securityContext": template["securityContext"],
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "caller",
                    "image": container["image"],
                    "imagePullPolicy": container["imagePullPolicy"],
                    "command": ["python3", "-c", "import time; time.sleep(3600)"],
                    "securityContext": container["securityContext"],
                }
            ],
        },
    }


@pytest.mark.parametrize("api", list(PATHS))
def test_a_mirror_gets_every_copy_at_real_sizes(stage, api):
    """
    A15: of predictions with a picture of 588 KiB as floats (2 to 4 MiB as JSON) all are mirrored, and none is answered by
    the canary.
    """
    mirrored = [
        {"name": "everyone", "mirror": {"track": "canary", "percent": 100}, "weights": {"stable": 100}}
    ]
    stage.play("shadow", routing={"routes": mirrored})
    picture = picture_tensor(china(), 224, 224)
    address, host = gateway_address(stage.cluster, RELEASE), f"{stage.namespace}.test"
    kind = RestClient if api == "REST" else GrpcClient
    before = predictions(stage, "canary")

    with kind(address, "resnet", host=host) as client:
        interface = client.metadata(parse=True).interface
        (name,) = interface[SERVING_DEFAULT].inputs
        answers = [client.predict(SERVING_DEFAULT, name, picture) for _ in range(5)]

    assert ["stable"] * 5 == [answer.track for answer in answers if answer.ok]

    def all_there() -> None:
        if predictions(stage, "canary") - before != 5:
            raise NotYet(f"{predictions(stage, 'canary') - before} of 5 are mirrored")

    wait_until("5 mirrored predictions at the canary", all_there, timeout_seconds=60)


def china() -> bytes:
    import sklearn.datasets  # noqa: PLC0415 - only for its picture

    return (Path(sklearn.datasets.__file__).parent / "images" / "china.jpg").read_bytes()


def predictions(stage: Stage, track: str) -> int:
    """
    How many predictions a track's server ran; requests for metadata run no model.
    """
    script = (
        "import urllib.request;"
        "print(urllib.request.urlopen('http://127.0.0.1:8501/monitoring/prometheus/metrics').read().decode())"
    )
    out = subprocess.run(
        ["kubectl", f"--kubeconfig={stage.manager.kubeconfig}", "exec", f"deployment/{RELEASE}-{track}", "-n",
         stage.namespace, "-c", "model-server", "--", "python3", "-c", script],
        text=True, check=True, capture_output=True,
    ).stdout  # fmt: skip
    lines = [
        line for line in out.splitlines() if line.startswith(":tensorflow:serving:runtime_latency_count{")
    ]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)
