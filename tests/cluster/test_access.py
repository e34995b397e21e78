"""
What the gateway and the pods refuse: other paths and methods, large bodies, too many requests, direct connections.
"""

import json
import subprocess
import time
from collections import Counter

import grpc
import pytest

from tfcanary.wait import NotYet, wait_until

RELEASE = "resnet"
ELSEWHERE = "elsewhere.example"
METADATA = "/v1/models/resnet/metadata"


def raw(address: str, host: str, target: str) -> int:
    """
    The status of a request whose path no client normalizes.
    """
    done = subprocess.run(
        [
            "curl",
            "--silent",
            "--output",
            "/dev/null",
            "--path-as-is",
            "--write-out",
            "%{http_code}",
            "--header",
            f"Host: {host}",
            f"http://{address}{target}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
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
def test_other_paths_are_refused(gateway, path):
    """
    A path that is not the named model's is refused, however it is spelled.
    """
    assert raw(gateway.address, gateway.host, path) in {400, 403, 404}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST"])
def test_other_methods_are_refused(gateway, method):
    assert 403 == gateway.rest.request(method, "/v1/models/resnet/metadata").status_code


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/resnet",
        "/v1/models/resnet/metadata",
        "/v1/models/resnet/versions/1",
        "/v1/models/resnet/versions/1/metadata",
    ],
)
def test_well_formed_paths_are_answered(gateway, path):
    assert "200" == gateway.ask("REST", path).status


def test_a_query_is_left_to_the_model_server(gateway):
    """
    It is a part of the path for TensorFlow Serving, which answers 400 with its own words.
    """
    answer = gateway.ask("REST", "/v1/models/resnet/metadata?pretty")

    assert "400" == answer.status
    assert "stable" == answer.track


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
def test_other_grpc_methods_are_refused(gateway, method):
    """
    The methods that reload the configuration and the profiler's are on the same port, and out of reach.
    """
    assert gateway.ask("gRPC", method).status in {"PERMISSION_DENIED", "UNIMPLEMENTED"}


def test_prediction_methods_are_answered(gateway):
    assert "OK" == gateway.ask("gRPC").status


def test_large_bodies_are_refused(gateway):
    """
    A body of more than 32 MiB never reaches a server.
    """
    assert 413 == gateway.rest.post("/v1/models/resnet:predict", content=b"0" * (33 << 20)).status_code


def test_large_messages_are_refused(gateway):
    """
    Nor does a gRPC message of that size. One of half of it reaches the server, which cannot read it.
    """
    call = gateway.channel.unary_unary("/tensorflow.serving.PredictionService/GetModelMetadata")
    codes = []
    for size in (33 << 20, 16 << 20):
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff" * size, timeout=60)
        codes.append((caught.value.code(), "Payload Too Large" in caught.value.details()))

    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, True) == codes[0]
    assert codes[1][1] is False


def test_headers_of_envoy_are_not_obeyed(gateway):
    """
    A client cannot shorten the gateway's timeout: a timeout of one millisecond would end in 504.
    """
    spoofed = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-max-retries": "9", "x-envoy-retry-on": "5xx"}

    assert ["200"] * 20 == [gateway.ask("REST", headers=spoofed).status for _ in range(20)]


def test_too_many_requests_are_refused(releases, gateway):
    """
    Above the gateway's rate REST gets 429 and gRPC RESOURCE_EXHAUSTED. Requests within the rate are answered, and those
    for other hosts are not counted.
    """
    rate = 5
    releases.apply(RELEASE, values={"gateway": {"filters": {"requestsPerSecond": rate}}})

    def limited() -> None:
        seen = {gateway.ask("REST").status for _ in range(20 * rate)}
        if "429" not in seen:
            raise NotYet(f"statuses {seen}")

    try:
        wait_until("a gateway that limits the rate", limited, timeout_seconds=60)
        began = time.monotonic()
        seen = Counter(gateway.ask("REST").status for _ in range(100))
        calls = Counter(gateway.ask("gRPC").status for _ in range(100))
        seconds = time.monotonic() - began
        others = {raw(gateway.address, ELSEWHERE, "/v1/models/resnet") for _ in range(10 * rate)}
    finally:
        releases.apply(RELEASE, values={"gateway": {"filters": {"requestsPerSecond": 5000}}})

        def unlimited() -> None:
            again = {gateway.ask("REST").status for _ in range(20 * rate)}
            if again != {"200"}:
                raise NotYet(f"statuses {again}")

        wait_until("a gateway that answers all again", unlimited, timeout_seconds=60)
    assert {"200", "429"} >= set(seen) >= {"429"}
    assert {"OK", "RESOURCE_EXHAUSTED"} >= set(calls) >= {"RESOURCE_EXHAUSTED"}
    assert {404} == others
    # The bucket holds two seconds' worth, and is filled once a second.
    assert seen["200"] + calls["OK"] <= rate * (2 + seconds + 1)


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


@pytest.mark.usefixtures("installed")
def test_pods_take_connections_of_the_mesh_only(manager, namespace):
    """
    Under STRICT a connection without the mesh's certificate, straight to a pod, is cut.
    """
    labels = f"track=stable,app.kubernetes.io/instance={RELEASE}"
    pods = manager.kubectl(["get", "pods", "-n", namespace, "-l", labels, "-o", "json"])["items"]
    listed = manager.kubectl(["get", "deployment", f"{RELEASE}-stable", "-n", namespace, "-o", "json"])
    template = listed["spec"]["template"]["spec"]
    server = template["containers"][0]
    container = {
        "name": "ask",
        "image": server["image"],
        "imagePullPolicy": server["imagePullPolicy"],
        "command": ["python3", "-c", ASK, pods[0]["status"]["podIP"]],
        "securityContext": server["securityContext"],
    }
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
            check=True,
            capture_output=True,
        )
        said = subprocess.run(
            [*kubectl, "logs", "stranger"], capture_output=True, text=True, check=True
        ).stdout
    finally:
        subprocess.run(
            [*kubectl, "delete", "pod", "stranger", "--wait=false"], check=True, capture_output=True
        )

    assert "[0, 0]" == said.strip()
