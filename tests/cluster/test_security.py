"""
Who gets in and who does not, on a real gateway: paths, forged headers, direct connections; and the trap.
"""

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tfcanary import mesh, predict, release, routing
from tfcanary.wait import NotYet, wait_until

VALUES = routing.CHART.parents[1] / "values"
RELEASE = "resnet"
ISSUER = "https://issuer.example"
AUDIENCE = "resnet"
SPOOFED = 200


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
        A token that holds for ten minutes, unless the claims say otherwise.
        """
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "someone", "exp": int(time.time()) + 600, **claims}
        head = {"alg": "RS256", "kid": "one", "typ": "JWT"}
        signed = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(said).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{encoded(signature)}"


ISSUED = Issuer()
FORGED = Issuer()


@pytest.fixture(scope="module")
def address(
    releases: release.Releases, kubeconfig: Path, environment: Path, namespace: str, host: str
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
    yield mesh.Mesh(namespace=namespace, kubeconfig=kubeconfig).gateway_address(RELEASE)
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


def strategy(
    releases: release.Releases, kubeconfig: Path, namespace: str, client: httpx.Client, name: str
) -> None:
    """
    Apply a strategy, and wait until the gateway has it.
    """
    releases.apply(RELEASE, files=[VALUES / f"{name}.yaml"])
    live = mesh.Mesh(namespace=namespace, kubeconfig=kubeconfig).virtual_service(RELEASE)
    revision = mesh.route_revision(live)

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
    request = predict.protos().get_model_metadata_pb2.GetModelMetadataRequest()
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
        (spoof, token)
        for spoof in [*SPOOFS.values(), []]
        for name, token in BAD_TOKENS.items()
        if name != "none" or spoof
    ]
    reached, asked = [], 0
    with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=30) as client:
        while asked < SPOOFED:
            for spoof, token in combinations:
                headers = [("host", host), *spoof, *([("authorization", f"Bearer {token}")] if token else [])]
                headers = [pair for pair in headers if not pair[0].startswith("@")]
                answer = client.get("/v1/models/resnet/metadata", headers=headers)
                asked += 1
                if answer.headers.get("x-model-track") == "canary":
                    reached.append((guarded, spoof, token))
    assert [] == reached
    assert SPOOFED <= asked


def test_no_forgery_reaches_the_canary_by_grpc(guarded, channel):
    del guarded
    seen = [
        track_of(channel, [(name.lower(), value) for name, value in spoof if not name.startswith("@")], token)
        for spoof in SPOOFS.values()
        for token in BAD_TOKENS.values()
    ]

    assert "canary" not in seen
    assert "stable" in seen


def track_of(channel: grpc.Channel, metadata: Sequence[tuple[str, str]], token: str | None) -> str | None:
    """
    Who answers a gRPC call.
    """
    request = predict.protos().get_model_metadata_pb2.GetModelMetadataRequest()
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


def test_create_and_shift_in_one_upgrade_loses_nothing(  # noqa: PLR0917 - fixtures
    releases, address, host, kubeconfig, namespace, rest
):
    """
    The trap: under load, an upgrade that makes a track and gives it half of the traffic is refused, in words, and no
    request fails; done in two steps, none fails either.
    """
    strategy(releases, kubeconfig, namespace, rest, "stable")
    third = {"tracks": {"challenger": {"version": 2, "replicas": 1}}}
    half = {"routing": {"routes": [{"name": "everyone", "weights": {"stable": 50, "challenger": 50}}]}}
    none = {"routing": {"routes": [{"name": "everyone", "weights": {"stable": 100, "challenger": 0}}]}}
    stop = threading.Event()
    statuses: list[object] = []

    def load() -> None:
        with predict.RestClient(address, "resnet", host=host) as client:
            while not stop.is_set():
                statuses.append(client.metadata().status)

    def load_grpc() -> None:
        with predict.GrpcClient(address, "resnet", host=host) as client:
            while not stop.is_set():
                statuses.append(client.metadata().status)

    threads = [threading.Thread(target=target) for target in (load, load, load_grpc, load_grpc)]
    for thread in threads:
        thread.start()
    try:
        with pytest.raises(
            Exception, match="track challenger has no traffic yet and cannot take it: it has no pods yet"
        ):
            releases.apply(RELEASE, values={**third, **half})
        releases.apply(RELEASE, values={**third, **none})
        releases.apply(RELEASE, values=half)
        with pytest.raises(Exception, match="the track has traffic now and would lose its pods under it"):
            releases.apply(RELEASE, values={"tracks": {"challenger": {"replicas": 0}}, **none})
        releases.apply(RELEASE, files=[VALUES / "stable.yaml"])
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert {"200", "OK"} == set(statuses)
    assert len(statuses) > 1000
