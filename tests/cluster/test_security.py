"""
Who gets in and who does not, on a real gateway: paths, forged headers, direct connections; and the trap.
"""

import base64
import itertools
import json
import logging
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tfcanary.chart.values import merge
from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release
from tfcanary.client.grpc_client import GrpcClient
from tfcanary.client.rest import RestClient
from tfcanary.client.tensors import protos
from tfcanary.commands import explain
from tfcanary.helm.releases import Releases
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.virtualservice import route_revision
from tfcanary.paths import CHART
from tfcanary.routing.route import Request
from tfcanary.routing.tokens import read_token
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

VALUES = CHART.parents[1] / "values"
RELEASE = "resnet"
ISSUER = "https://issuer.example"
AUDIENCE = "resnet"
SPOOFED = 200
GET_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
LOG = logging.getLogger(__name__)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """
    Someone who signs tokens.
    """

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def jwks(self) -> str:
        """
        The public key.
        """
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "alg": "RS256", "kid": "one", "use": "sig"}
        for name, value in (("n", numbers.n), ("e", numbers.e)):
            key[name] = encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))
        return json.dumps({"keys": [key]})

    def token(self, **claims: Any) -> str:
        """
        A token that holds for a day, longer than any run of these tests, unless the claims say otherwise.
        """
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "someone", "exp": int(time.time()) + 86_400, **claims}
        head = {"alg": "RS256", "kid": "one", "typ": "JWT"}
        signed = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(said).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{encoded(signature)}"


ISSUED = Issuer()
FORGED = Issuer()


@pytest.fixture(scope="module")
def address(
    releases: Releases, kubeconfig: Path, environment: Path, namespace: str, host: str
) -> Iterator[str]:
    """
    The gateway of a release with both tracks, where tokens are verified.
    """
    values = {
        "gateway": {"hosts": [host]},
        "server": {"drainSeconds": 1},
        "security": {"jwt": {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": ISSUED.jwks}},
    }
    files = [environment, VALUES / "models/resnet.yaml", VALUES / "stable.yaml"]
    releases.apply(RELEASE, files=files, values=values)
    yield gateway_address(LiveObjects(Target(namespace=namespace, kubeconfig=kubeconfig)), RELEASE)
    # What lies in the gateway's namespace would verify other modules' tokens.
    subprocess.run(
        ["helm", "uninstall", RELEASE, f"--namespace={namespace}", f"--kubeconfig={kubeconfig}"], check=True
    )


@pytest.fixture(scope="module")
def rest(address: str, host: str) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"http://{address}", headers={"host": host}, trust_env=False, timeout=30
    ) as client:
        yield client


@pytest.fixture(scope="module")
def channel(address: str, host: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address, options=[("grpc.default_authority", host)]) as made:
        yield made


def strategy(releases: Releases, kubeconfig: Path, namespace: str, client: httpx.Client, name: str) -> None:
    """
    Apply a strategy, and wait until the gateway has it.
    """
    releases.apply(RELEASE, files=[VALUES / f"{name}.yaml"])
    live = LiveObjects(Target(namespace=namespace, kubeconfig=kubeconfig)).virtual_service(RELEASE)
    revision = route_revision(live)

    def arrived() -> None:
        for _ in range(20):
            seen = client.get("/v1/models/resnet/metadata").headers.get("x-route-revision")
            if seen != revision:
                raise NotYet(f"revision {seen}")

    wait_until(f"routes {revision} at the gateway", arrived, timeout_seconds=60)


def raw(address: str, host: str, target: str) -> int:
    """
    The status of a request whose path nobody normalizes on the way out.
    """
    done = subprocess.run(
        ["curl", "--silent", "--output", "/dev/null", "--path-as-is", "--write-out", "%{http_code}",
         "--header", f"Host: {host}", f"http://{address}{target}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.parametrize(
    "path",
    [
        "/V1/Models/resnet",
        "/V1/models/resnet/metadata",
        "/v1/Models/resnet/metadata",
        "/v1/models/Resnet/metadata",
        "//v1/models/resnet/metadata",
        "/v1//models/resnet/metadata",
        "/v1/models//resnet/metadata",
        "/v1/models/resnet%2Fmetadata",
        "/v1/models%2Fresnet/metadata",
        "/v1%2Fmodels/resnet/metadata",
        "/v1/models/resnet/./../other/metadata",
        "/v1/models/other",
        "/v1/models/other/metadata",
        "/v1/models/resnet/versions/99/metadata",
        "/v1/models/resnet/labels/x/metadata",
        "/v1/models/resnet/metadata/",
        "/v1/models/resnet;x/metadata",
        "/monitoring/prometheus/metrics",
        "/v1/../monitoring/prometheus/metrics",
        "/v1/%2e%2e/monitoring/prometheus/metrics",
        "/stats/prometheus",
        "/",
    ],
)
def test_other_paths_are_refused(address, host, path):
    """
    B3: whatever is not the named model's is refused, however it is written.
    """
    assert raw(address, host, path) in {400, 403, 404}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST"])
def test_other_methods_are_refused(rest, method):
    assert 403 == rest.request(method, "/v1/models/resnet/metadata").status_code


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/resnet",
        "/v1/models/resnet/metadata",
        "/v1/models/resnet/versions/1",
        "/v1/models/resnet/versions/1/metadata",
        "/v1/models/resnet/metadata?pretty",
    ],
)
def test_well_formed_paths_are_answered(rest, path):
    assert 200 == rest.get(path).status_code


def code(channel: grpc.Channel, method: str, metadata: Sequence[tuple[str, str]] = ()) -> grpc.StatusCode:
    """
    How a call with the message of a GetModelMetadata ends.
    """
    request = protos().get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "resnet"
    request.metadata_field.append("signature_def")
    try:
        _, done = channel.unary_unary(method).with_call(
            request.SerializeToString(), timeout=30, metadata=metadata
        )
    except grpc.RpcError as exc:
        found: grpc.StatusCode = exc.code()
        return found
    return done.code()


@pytest.mark.parametrize(
    "method",
    [
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
        "/tensorflow.serving.ModelService/GetModelStatus",
        "/tensorflow.serving.PredictionService/predict",
        "/tensorflow.serving.SessionService/SessionRun",
        "/tensorflow.ProfilerService/Profile",
        "/tensorflow.ProfilerService/Monitor",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_other_grpc_methods_are_refused(channel, method):
    """
    B3: the reloading of configurations and the profiler share the port, and are out of reach.
    """
    assert code(channel, method) in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}


def test_prediction_methods_are_answered(channel):
    assert grpc.StatusCode.OK is code(channel, "/tensorflow.serving.PredictionService/GetModelMetadata")


def test_large_bodies_are_refused(rest):
    """
    A body of more than 32 MiB never reaches a server.
    """
    assert 413 == rest.post("/v1/models/resnet:predict", content=b"0" * (33 << 20)).status_code


def test_large_messages_are_refused(channel):
    """
    Nor does a gRPC message of that size, while one of half of it is let through to the server, which cannot read it.
    """
    call = channel.unary_unary("/tensorflow.serving.PredictionService/GetModelMetadata")
    codes = []
    for size in (33 << 20, 16 << 20):
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff" * size, timeout=60)
        codes.append((caught.value.code(), "Payload Too Large" in caught.value.details()))

    # gRPC has no code for 413, so that its mapping of HTTP makes UNKNOWN of it.
    assert (grpc.StatusCode.UNKNOWN, True) == codes[0]
    assert codes[1][1] is False


def test_headers_of_envoy_are_not_obeyed(rest):
    """
    A client cannot shorten the gateway's patience: a timeout of one millisecond would end in 504.
    """
    spoofed = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-max-retries": "9", "x-envoy-retry-on": "5xx"}

    assert [200] * 20 == [
        rest.get("/v1/models/resnet/metadata", headers=spoofed).status_code for _ in range(20)
    ]


UNSIGNED = ".".join(
    [
        encoded(b'{"alg":"none"}'),
        encoded(json.dumps({"iss": ISSUER, "aud": AUDIENCE, "group": "canary"}).encode()),
        "",
    ]
)
BAD_TOKENS = {
    "none": None,
    "not-a-token": "xxx",
    "forged": FORGED.token(group="canary"),
    "expired": ISSUED.token(group="canary", exp=int(time.time()) - 3600),
    "other-audience": ISSUED.token(group="canary", aud="another"),
    "other-issuer": ISSUED.token(group="canary", iss="https://other.example"),
    "unsigned": UNSIGNED,
    "other-group": ISSUED.token(group="staff"),
    "other-case": ISSUED.token(group="Canary"),
    "claim-elsewhere": ISSUED.token(groups="canary"),
}  # fmt: skip
# A token that does not hold is refused; one that holds and says something else, or none at all, is not.
REFUSED = {
    **dict.fromkeys(
        ("not-a-token", "forged", "expired", "other-issuer", "unsigned"), (401, "UNAUTHENTICATED")
    ),
    "other-audience": (403, "PERMISSION_DENIED"),
}
SPOOFS: dict[str, list[tuple[str, str]]] = {
    "plain": [("user-group", "canary")],
    "upper": [("USER-GROUP", "canary")],
    "mixed": [("User-Group", "canary")],
    "twice": [("user-group", "x"), ("user-group", "canary")],
    "comma": [("user-group", "x,canary")],
    "claim-header": [("@request.auth.claims[group]", "canary"), ("x-jwt-claim-group", "canary")],
    "bucket": [("x-bucket-resnet", "00"), ("user-group", "canary")],
    "user": [("user-id", "alice"), ("user-group", "canary")],
}


@pytest.fixture(scope="module", params=["canary-jwt", "canary-user-group"])
def guarded(request, releases, kubeconfig, namespace, rest):
    """
    A strategy by the token's claim, and one by a header, which with tokens is the claim's word as well.
    """
    strategy(releases, kubeconfig, namespace, rest, request.param)
    yield request.param
    strategy(releases, kubeconfig, namespace, rest, "stable")


def test_no_forgery_reaches_the_canary(guarded, address, host):
    """
    B5: forged headers and tokens that do not hold, each by REST and by gRPC, never reach the canary.
    """
    combinations = [
        (spoof, name, token)
        for spoof in [*SPOOFS.values(), []]
        for name, token in BAD_TOKENS.items()
        if name != "none" or spoof
    ]
    wrong, answered = [], Counter[tuple[int, str | None]]()
    with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=30) as client:
        while answered.total() < SPOOFED:
            for spoof, name, token in combinations:
                headers = [("host", host), *spoof, *([("authorization", f"Bearer {token}")] if token else [])]
                headers = [pair for pair in headers if not pair[0].startswith("@")]
                answer = client.get("/v1/models/resnet/metadata", headers=headers)
                seen = (answer.status_code, answer.headers.get("x-model-track"))
                answered[seen] += 1
                # The gateway's own refusal bears the mark of the route that it would have taken.
                if seen != (REFUSED.get(name, (200, "OK"))[0], "stable"):
                    wrong.append((guarded, spoof, name, seen))
    LOG.info("%s by REST: %s", guarded, dict(answered))
    assert [] == wrong
    assert SPOOFED <= answered.total()


def test_no_forgery_reaches_the_canary_by_grpc(guarded, channel):
    """
    B5: nor do they as metadata of gRPC calls.
    """
    wrong, answered = [], Counter[tuple[str, str | None]]()
    while answered.total() < SPOOFED:
        for spoof, (name, token) in itertools.product(SPOOFS.values(), BAD_TOKENS.items()):
            metadata = [(header.lower(), value) for header, value in spoof if not header.startswith("@")]
            sent = [*metadata, *([("authorization", f"Bearer {token}")] if token else [])]
            seen = (code(channel, GET_METADATA, sent).name, track_of(channel, metadata, token))
            answered[seen] += 1
            if seen != (REFUSED.get(name, (200, "OK"))[1], "stable"):
                wrong.append((spoof, name, seen))
    LOG.info("%s by gRPC: %s", guarded, dict(answered))
    assert [] == wrong
    assert SPOOFED <= answered.total()


def track_of(channel: grpc.Channel, metadata: Sequence[tuple[str, str]], token: str | None) -> str | None:
    """
    Who answers a gRPC call.
    """
    request = protos().get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "resnet"
    request.metadata_field.append("signature_def")
    sent = [*metadata, *([("authorization", f"Bearer {token}")] if token else [])]
    call = channel.unary_unary("/tensorflow.serving.PredictionService/GetModelMetadata")
    try:
        _, done = call.with_call(request.SerializeToString(), timeout=30, metadata=sent)
    except grpc.RpcError as exc:
        done = exc
    found: Mapping[str, str] = {**dict(done.trailing_metadata() or ()), **dict(done.initial_metadata() or ())}
    return found.get("x-model-track")


def test_a_valid_claim_always_reaches_the_canary(guarded, rest, channel):
    """
    B5: 200 of 200 with a valid claim, whatever headers say besides.
    """
    del guarded
    token = ISSUED.token(group="canary")
    headers = {"authorization": f"Bearer {token}", "user-group": "stable"}

    seen = [
        rest.get("/v1/models/resnet/metadata", headers=headers).headers["x-model-track"] for _ in range(150)
    ]
    seen += [str(track_of(channel, [("user-group", "stable")], token)) for _ in range(50)]

    assert ["canary"] * 200 == seen


def test_the_check_proves_a_claim_with_a_token(releases, kubeconfig, namespace, rest, tmp_path):
    """
    `check_gateway.py --token FILE`: with it the canary, without it stable, and a forged one is refused, over both APIs.
    """
    strategy(releases, kubeconfig, namespace, rest, "canary-jwt")
    file = tmp_path / "token"
    file.write_text(ISSUED.token(group="canary"))

    found = check_gateway(
        from_release(RELEASE, Target(namespace=namespace, kubeconfig=kubeconfig), tokens=[read_token(file)])
    )

    assert found.held, found.table()
    titles = {one.title for one in found.findings}
    for api in ("REST", "gRPC"):
        assert {
            f"split canary-group ({api})",
            f"header rule canary-group: no token ({api})",
            f"header rule canary-group: plain headers instead of a token ({api})",
            f"forged token 1 of 1 ({api})",
        } <= titles


TOLD: dict[str, list[str | None]] = {
    "group": [None, "canary", "staff", "stable", "b", "Canary"],
    "sub": ["alice", "bob@example.com", "bob@exampleXcom", *(f"user-{number}" for number in range(10))],
}
SAID: dict[str, list[str | None]] = {
    "user-group": [None, "canary", "staff", "stable"],
    "user-id": [None, "alice", "user-1"],
    "x-client-region": [None, "europe-west1", "asia-east1"],
    "x-bucket-resnet": [None, "00", "99"],
}


@pytest.mark.parametrize("api", ["REST", "gRPC"])
@pytest.mark.parametrize(
    "name", ["canary-jwt", "canary-user-group", "canary-users", "canary-sticky-users", "composed"]
)
def test_the_gateway_does_what_explain_says_of_tokens(  # noqa: PLR0917 - fixtures
    releases, kubeconfig, namespace, rest, channel, tmp_path, name, api
):
    """
    Of sixty generated requests, with tokens and headers that say one thing and the other, each is answered by a track that
    explain gives it.
    """
    strategy(releases, kubeconfig, namespace, rest, name)
    file = tmp_path / "tokens.yaml"
    file.write_text(json.dumps({"security": {"jwt": {"issuer": ISSUER, "jwks": ISSUED.jwks}}}))
    declared = explain.read([VALUES / "models/resnet.yaml", VALUES / f"{name}.yaml", file])
    draw = random.Random(f"{name} {api}")  # noqa: S311 - nothing secret

    wrong, answered = [], Counter[str | None]()
    for _ in range(60):
        headers = {key: value for key, values in SAID.items() if (value := draw.choice(values))}
        claims = {key: value for key, values in TOLD.items() if (value := draw.choice(values))}
        claims = claims if draw.random() < 0.7 else {}
        token = ISSUED.token(**claims) if claims else None
        said = explain.explain(
            declared, Request(explain.default_path("resnet", api.lower()), headers, claims)
        )
        if api == "REST":
            sent = headers | ({"authorization": f"Bearer {token}"} if token else {})
            seen = rest.get("/v1/models/resnet/metadata", headers=sent).headers.get("x-model-track")
        else:
            seen = track_of(channel, list(headers.items()), token)
        answered[seen] += 1
        if seen not in said["weights"]:
            wrong.append((headers, claims, said["route"], said["weights"], seen))
    assert [] == wrong
    assert {"stable", "canary"} == set(answered)


def test_too_many_requests_are_refused(releases, rest, channel):
    """
    Over the gateway's rate REST is told 429 and gRPC RESOURCE_EXHAUSTED, and what is within it is answered.
    """
    rate = 5
    releases.apply(RELEASE, values={"gateway": {"filters": {"requestsPerSecond": rate}}})
    path = "/v1/models/resnet/metadata"

    def limited() -> None:
        seen = {rest.get(path).status_code for _ in range(20 * rate)}
        if 429 not in seen:
            raise NotYet(f"statuses {seen}")

    try:
        wait_until("a gateway that limits the rate", limited, timeout_seconds=60)
        began = time.monotonic()
        seen = Counter(rest.get(path).status_code for _ in range(100))
        calls = Counter(
            code(channel, "/tensorflow.serving.PredictionService/GetModelMetadata") for _ in range(100)
        )
        seconds = time.monotonic() - began
    finally:
        releases.apply(RELEASE, values={"gateway": {"filters": {"requestsPerSecond": 5000}}})

        def unlimited() -> None:
            again = {rest.get(path).status_code for _ in range(20 * rate)}
            if again != {200}:
                raise NotYet(f"statuses {again}")

        wait_until("a gateway that answers all again", unlimited, timeout_seconds=60)
    assert {200, 429} >= set(seen) >= {429}
    assert {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED} >= set(calls)
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in calls
    # The bucket holds two seconds' worth, and is filled once a second.
    assert seen[200] + calls[grpc.StatusCode.OK] <= rate * (2 + seconds + 1)


ASK = """
import socket, sys
status = []
for port, request in ((8501, b"GET /v1/models/resnet/metadata HTTP/1.1\\r\\nHost: resnet\\r\\nConnection: close\\r\\n\\r\\n"),
                      (8500, b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\\0\\0\\0\\4\\0\\0\\0\\0\\0")):
    try:
        with socket.create_connection((sys.argv[1], port), timeout=5) as connection:
            connection.sendall(request)
            status.append(len(connection.recv(100)))
    except ConnectionResetError:
        status.append(0)
print(status)
"""


def test_pods_take_no_connections_but_the_meshs(address, manager, namespace):
    """
    B4: under STRICT a connection without the mesh's certificate, straight to a pod, is cut.
    """
    del address
    pods = manager.kubectl(["get", "pods", "-n", namespace, "-l", "track=stable", "-o", "json"])["items"]
    listed = manager.kubectl(["get", "deployment", f"{RELEASE}-stable", "-n", namespace, "-o", "json"])
    template = listed["spec"]["template"]["spec"]
    server = template["containers"][0]
    container = {
        "name": "ask", "image": server["image"], "imagePullPolicy": server["imagePullPolicy"],
        "command": ["python3", "-c", ASK, pods[0]["status"]["podIP"]], "securityContext": server["securityContext"],
    }  # fmt: skip
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "stranger",
            "namespace": namespace,
            "labels": {"sidecar.istio.io/inject": "false"},
        },
        "spec": {
            "restartPolicy": "Never",
            "securityContext": template["securityContext"],
            "containers": [container],
        },
    }
    kubectl = ["kubectl", f"--kubeconfig={manager.kubeconfig}", "-n", namespace]
    subprocess.run(
        [*kubectl, "apply", "-f", "-"], input=json.dumps(pod), text=True, check=True, capture_output=True
    )
    try:
        subprocess.run(
            [*kubectl, "wait", "pod/stranger", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"],
            check=True, capture_output=True,
        )  # fmt: skip
        said = subprocess.run(
            [*kubectl, "logs", "stranger"], capture_output=True, text=True, check=True
        ).stdout
    finally:
        subprocess.run(
            [*kubectl, "delete", "pod", "stranger", "--wait=false"], check=True, capture_output=True
        )

    assert "[0, 0]" == said.strip()


TOGETHER = {
    "new-track": (
        {}, {"tracks": {"challenger": {"version": 2, "replicas": 1}}}, "challenger", "it has no pods yet",
    ),
    "from-no-pods": (
        {"tracks": {"canary": {"replicas": 0}}},
        {"tracks": {"canary": {"replicas": 1}}},
        "canary",
        "0 of its 0 pods are Ready",
    ),
    "another-version": (
        {},
        {"tracks": {"canary": {"version": 1}}},
        "canary",
        "it serves version 2 and this upgrade would change it to 1",
    ),
}  # fmt: skip


class Load:
    """
    Two REST clients and two gRPC clients that ask without a pause, and what became of each request.
    """

    def __init__(self, address: str, host: str) -> None:
        self.seen = Counter[object]()
        self._stop = threading.Event()
        clients = (RestClient, RestClient, GrpcClient, GrpcClient)
        self._threads = [threading.Thread(target=self._ask, args=(kind, address, host)) for kind in clients]
        self._lock = threading.Lock()

    def _ask(self, kind: Any, address: str, host: str) -> None:
        with kind(address, "resnet", host=host) as client:
            while not self._stop.is_set():
                status = client.metadata().status
                with self._lock:
                    self.seen[status] += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, requests: int) -> None:
        """
        Wait until so many more were answered.
        """
        least = self.seen.total() + requests

        def enough() -> None:
            if self.seen.total() < least:
                raise NotYet(f"{self.seen.total()} of {least} requests")

        wait_until(f"{requests} more requests", enough, timeout_seconds=300)


def upgrade(kubeconfig: Path, namespace: str, *more: Mapping[str, Any]) -> str | None:
    """
    A plain `helm upgrade`, as one types it; what it says if it is refused.
    """
    command = ["helm", "upgrade", RELEASE, str(CHART), f"--namespace={namespace}", f"--kubeconfig={kubeconfig}",
               "--reset-then-reuse-values", "--wait", "--timeout=300s", "-f", "-"]  # fmt: skip
    values: dict[str, Any] = {}
    for one in more:
        values = merge(values, one)
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else None


def everyone(**weights: int) -> dict[str, Any]:
    """
    Values with one route.
    """
    return {"routing": {"routes": [{"name": "everyone", "weights": weights}]}}


@pytest.fixture
def plain(releases, kubeconfig, namespace, rest):
    """
    All traffic to stable, two tracks; and so it is left.
    """
    strategy(releases, kubeconfig, namespace, rest, "stable")
    yield
    assert upgrade(kubeconfig, namespace, everyone(stable=100)) is None
    tracks: dict[str, Any] = {"canary": {"version": 2, "replicas": 1}}
    if "challenger" in releases.values(RELEASE)["tracks"]:
        tracks["challenger"] = None
    left = {"tracks": tracks, "routing": {"requireReady": True}}
    assert upgrade(kubeconfig, namespace, left) is None


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("name", TOGETHER)
def test_pods_and_their_traffic_in_one_plain_upgrade_lose_nothing(address, host, kubeconfig, namespace, name):
    """
    The trap: under load, one `helm upgrade` that makes or changes a track's pods and gives it half of the traffic is refused
    in words, done in two steps it is not, and of all requests none fails.
    """
    before, change, track, reason = TOGETHER[name]
    half = everyone(**{"stable": 50, track: 50})
    assert upgrade(kubeconfig, namespace, before) is None

    with Load(address, host) as load:
        load.more(200)
        said = upgrade(kubeconfig, namespace, change, half)
        load.more(200)
        steps = [
            upgrade(kubeconfig, namespace, change),
            upgrade(kubeconfig, namespace, half),
            load.more(500),
            upgrade(kubeconfig, namespace, everyone(stable=100)),
        ]
        load.more(200)

    LOG.info("%s: %s", name, dict(load.seen))
    assert f"track {track} has no traffic yet and cannot take it: {reason}" in str(said)
    assert [None] * 4 == steps
    assert {"200", "OK"} == set(load.seen)


@pytest.mark.usefixtures("plain")
def test_the_trap_is_real(address, host, kubeconfig, namespace):
    """
    Where the chart is told to look away, the same upgrade fails requests, and this load sees it.
    """
    _, change, track, _ = TOGETHER["new-track"]
    look_away = {"routing": {"requireReady": False}}

    with Load(address, host) as load:
        load.more(200)
        assert (
            upgrade(kubeconfig, namespace, change, everyone(**{"stable": 50, track: 50}), look_away) is None
        )
        load.more(200)

    LOG.info("without the chart's refusal: %s", dict(load.seen))
    assert load.seen["503"] > 0
    assert load.seen["UNAVAILABLE"] > 0


@pytest.mark.usefixtures("plain")
def test_pods_leave_after_their_traffic(address, host, kubeconfig, namespace):
    """
    Under load, an upgrade that takes traffic and pods away together is refused in words; one after the other loses nothing.
    """
    asleep = {"tracks": {"canary": {"replicas": 0}}}
    assert upgrade(kubeconfig, namespace, everyone(stable=50, canary=50)) is None

    with Load(address, host) as load:
        load.more(200)
        said = upgrade(kubeconfig, namespace, everyone(stable=100), asleep)
        load.more(200)
        steps = [
            upgrade(kubeconfig, namespace, everyone(stable=100)),
            upgrade(kubeconfig, namespace, asleep),
        ]
        load.more(500)

    LOG.info("pods after traffic: %s", dict(load.seen))
    assert "tracks.canary.replicas: the track has traffic now and would lose its pods under it" in str(said)
    assert [None] * 2 == steps
    assert {"200", "OK"} == set(load.seen)
