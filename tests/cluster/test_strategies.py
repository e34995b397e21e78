"""
Every strategy on a real gateway: each request is answered as `explain` says, over REST and over gRPC.
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

import pytest

from tfcanary.commands import explain
from tfcanary.judge import split
from tfcanary.judge.verdict import Outcome
from tfcanary.paths import CHART, VALUES
from tfcanary.routing.route import Request
from tfcanary.wait import NotYet, wait_until

RELEASE = "resnet"
APIS = ("REST", "gRPC")
REQUESTS = 60
IN_A_ROW = 20
SEED = 5
LOG = logging.getLogger(__name__)


def shuffled() -> list[str]:
    """
    Every strategy, in an order that the seed decides.
    """
    names = sorted(path.stem for path in VALUES.glob("*.yaml"))
    random.Random(SEED).shuffle(names)  # noqa: S311 - nothing secret
    return names


HEADERS: dict[str, list[str | None]] = {
    "user-group": [None, None, "canary", "staff", "stable", "b", "c", "Canary", "canary,b", "canary-x"],
    "user-id": [None, "alice", "bob@example.com", "bob@exampleXcom", *(f"user-{n}" for n in range(20))],
    "x-client-region": [None, None, "europe-west1", "europe-west4", "asia-east1", "us-east1"],
    "cookie": [
        None,
        None,
        "model-track=canary",
        "a=b; model-track=stable",
        "model-track=canary; c=d",
        "model-track=nobody",
        "x-model-track=canary",
        "model-track=canaryx",
    ],
    "x-preview": [None, None, "stable", "canary"],
    # What a client must not be able to say.
    "x-bucket-resnet": [None, None, "00", "99"],
}
PATHS = {
    "REST": [
        "/v1/models/resnet/metadata",
        "/v1/models/resnet/metadata",
        "/v1/models/resnet/metadata?x=1",
        "/canary/v1/models/resnet/metadata",
        "/v1/models/resnet/versions/1/metadata",
        "/v1/models/resnet/versions/2/metadata",
        "/v1/models/resnet/versions/20/metadata",
        "/canaryx/v1/models/resnet/metadata",
        "/v2/models/resnet",
    ],
    "gRPC": [
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        "/canary/tensorflow.serving.PredictionService/GetModelMetadata",
        "/canaryx/tensorflow.serving.PredictionService/GetModelMetadata",
    ],
}


@pytest.fixture(scope="module")
def models() -> Path:
    """
    Three tracks; the third serves a copy of the first model.
    """
    return VALUES / "models/resnet-abn.yaml"


@pytest.fixture(scope="module")
def more_values(namespace: str) -> dict[str, Any]:
    """
    Pods of the release's own namespace may call the model.
    """
    return {"security": {"callers": [{"namespace": namespace, "serviceAccount": "default"}]}}


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


def assert_answered_as_explained(stage, strategy):
    """
    Apply a strategy, and hold the track of each answer against what `explain` says of the request.
    """
    declared = stage.play(strategy)

    wrong = []
    answered = Counter[str | None]()
    for api in APIS:
        for request in requests(api, strategy):
            said = explain.explain(declared, request)
            seen = stage.gateway.ask(api, request.path, request.headers)
            answered[seen.track] += 1
            if seen.track not in (said["weights"] or {None}):
                wrong.append((api, request, said["route"], said["weights"], seen))
    assert [] == wrong
    assert 2 * REQUESTS == answered.total()
    assert answered[None] < REQUESTS


# All tests of one strategy run one after the other, so that it is applied once.
@pytest.mark.parametrize("strategy", shuffled(), scope="module")
def test_the_gateway_does_what_explain_says(stage, strategy):
    """
    Each generated request is answered by a track that `explain` gives it, and by none where `explain` finds no route.
    """
    assert_answered_as_explained(stage, strategy)


@pytest.mark.parametrize("strategy", shuffled(), scope="module")
def test_nothing_of_a_strategy_before_survives(stage, environment, strategy):
    """
    After each of a chain of `helm upgrade --reset-then-reuse-values` the release is, byte for byte, what a first release by
    the last strategy alone would be.
    """
    stage.play(strategy)
    given = json.dumps(stage.releases.values(RELEASE) | {"routing": {}})

    is_now = stage.helm("get", "manifest", RELEASE)
    first = stage.helm(
        "template",
        RELEASE,
        str(CHART),
        "--no-hooks",
        f"--values={environment}",
        f"--values={stage.models}",
        "--values=-",
        f"--values={VALUES / strategy}.yaml",
        stdin=given,
    )

    different = difflib.unified_diff(documents(first), documents(is_now), "first", strategy, n=0, lineterm="")
    assert [] == list(different)


def documents(manifest: str) -> list[str]:
    """
    The lines of a manifest's objects.
    """
    found = [part.strip() for part in manifest.split("---\n") if part.strip()]
    assert len(found) > 10
    return "\n".join(found).splitlines()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "strategy",
    ["stable", "promoted", "canary-10", "canary-30", "canary-50", "canary-region", "shadow"],
    scope="module",
)
def test_the_share_is_the_weight(stage, strategy, api):
    """
    Chance decides by the weights: the counts differ from those of a change that was not applied, and from those of all of it.
    """
    declared = stage.play(strategy)
    headers = {"x-client-region": "europe-west1"}
    weights = declared.decide(headers).weights
    planned = split.plan(
        weights, detect=None, alternatives=[{"stable": 100}, {"canary": 100}, {"stable": 50, "canary": 50}]
    )

    counts = Counter(stage.gateway.ask(api, headers=headers).track for _ in range(planned.n))

    assert Outcome.HELD is split.judge(planned, {str(track): n for track, n in counts.items()}).decision


@pytest.mark.parametrize("strategy", ["canary-sticky-users"], scope="module")
def test_ten_thousand_users_are_shared_out_and_stay(stage, strategy):
    """
    The canary's part of 10,000 users is within a point of its weight, and each user gets what its bucket says, twice.
    """
    declared = stage.play(strategy)
    users = [f"user-{number}" for number in range(10_000)]

    def track(user: str, api: str = "REST") -> str | None:
        return stage.gateway.ask(api, headers={"user-id": user}).track

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


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("strategy", ["canary-cookie"], scope="module")
def test_a_cookie_keeps_a_client_on_its_track(stage, strategy, api):
    """
    The first answer sets a cookie that names its track. With it every later answer is that track's, with no new cookie.
    """
    stage.play(strategy)

    firsts = [stage.gateway.ask(api) for _ in range(150)]

    assert {"stable", "canary"} == {first.track for first in firsts}
    kept = {first.track: str(first.cookie).partition(";")[0] for first in firsts}
    assert {track: f"model-track={track}" for track in kept} == kept
    for track, cookie in kept.items():
        later = [stage.gateway.ask(api, headers={"cookie": cookie}) for _ in range(30)]
        assert {(track, None)} == {(answer.track, answer.cookie) for answer in later}


@pytest.mark.parametrize("strategy", ["stable"], scope="module")
def test_helm_test_predicts_through_the_gateway(stage, strategy):
    """
    `helm test` holds on a release that answers by REST and by gRPC, and names both. Where it does not reach the gateway it
    fails.
    """
    stage.play(strategy)

    said = stage.helm("test", RELEASE, "--logs")

    assert "Succeeded" in said
    assert "REST: serving_default predicted" in said
    assert "gRPC: serving_default predicted" in said
    stage.releases.apply(RELEASE, values={"helmTest": {"gatewayHost": "nowhere.invalid"}})
    try:
        with pytest.raises(subprocess.CalledProcessError):
            stage.helm("test", RELEASE)
    finally:
        stage.releases.apply(RELEASE, values={"helmTest": {"gatewayHost": ""}})


# Asks what it reads, each request with its API, path and headers, and prints which track answered under which routes.
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
    A pod inside the mesh that sends requests for the tests.
    """

    name: str
    labels: Mapping[str, str]
    stage: Any

    def ask(self, asked: list[tuple[str, Request]]) -> list[list[str | None]]:
        """
        The track and the revision of each answer.
        """
        given = json.dumps([(api, request.path, dict(request.headers)) for api, request in asked])
        script = ["python3", "-c", CALLER, RELEASE, self.stage.gateway.message.hex()]
        out = kubectl(self.stage, "exec", "-i", self.name, "--container=caller", "--", *script, stdin=given)
        answers: list[list[str | None]] = json.loads(out)
        return answers


def kubectl(stage: Any, *arguments: str, stdin: str = "") -> str:
    where = (f"--kubeconfig={stage.target.kubeconfig}", f"--namespace={stage.target.namespace}")
    command = ["kubectl", *where, *arguments]
    return subprocess.run(command, input=stdin, text=True, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def callers(stage: Any) -> Iterator[dict[str, Caller]]:
    """
    Two pods with sidecars, whose labels differ.
    """
    made = {track: Caller(f"caller-{track}", {"model-track": track}, stage) for track in ("canary", "other")}
    names = [f"pod/{caller.name}" for caller in made.values()]
    pods = [caller_pod(caller) for caller in made.values()]
    everything = {"apiVersion": "v1", "kind": "List", "items": pods}
    kubectl(stage, "apply", "--filename=-", stdin=json.dumps(everything))
    kubectl(stage, "wait", *names, "--for=condition=Ready", "--timeout=180s")
    yield made
    kubectl(stage, "delete", *names, "--wait=false")


def caller_pod(caller: Caller) -> dict[str, Any]:
    """
    A pod with a sidecar, of the image that the model server has.
    """
    deployment = json.loads(kubectl(caller.stage, "get", f"deployment/{RELEASE}-stable", "--output=json"))
    template = deployment["spec"]["template"]["spec"]
    server = template["containers"][0]
    container = {key: server[key] for key in ("image", "imagePullPolicy", "securityContext")}
    container |= {"name": "caller", "command": ["python3", "-c", "import time; time.sleep(3600)"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": caller.name, "labels": dict(caller.labels)},
        "spec": {
            "securityContext": template["securityContext"],
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
        },
    }


@pytest.mark.parametrize("track", ["canary", "other"])
@pytest.mark.parametrize(
    "strategy", ["canary-caller", "composed", "canary-path", "canary-cookie"], scope="module"
)
def test_the_mesh_does_what_explain_says(stage, callers, strategy, track):
    """
    Each generated request of a pod inside the mesh is answered by a track that `explain` gives a caller with its labels.
    """
    caller = callers[track]
    declared = stage.play(strategy)
    revision = stage.revision()

    def arrived() -> None:
        plain = [(api, Request(paths[0])) for api, paths in PATHS.items() for _ in range(IN_A_ROW)]
        revisions = Counter(seen for _, seen in caller.ask(plain))
        if set(revisions) != {revision}:
            raise NotYet(f"revisions {revisions}")

    wait_until(f"routes {revision} at the caller's sidecar", arrived, timeout_seconds=60)
    asked = [(api, request) for api in PATHS for request in requests(api, f"{strategy} in the mesh")]
    seen = caller.ask(asked)

    wrong = []
    for (api, request), (answering, _) in zip(asked, seen, strict=True):
        said = explain.explain(declared, replace(request, labels=caller.labels))
        if answering not in (said["weights"] or {None}):
            wrong.append((api, request, said["route"], said["weights"], answering))
    assert [] == wrong
    if strategy == "canary-caller":
        expected = "canary" if track == "canary" else "stable"
        assert {expected, None} == {answering for answering, _ in seen}
