"""
Manifests as in Google's lab "Implementing Canary releases of TensorFlow model deployments with Kubernetes and Istio": a
Deployment for each version, with arguments alone, and weights at the gateway. The local image starts from them as
`tensorflow/serving` does.

What differs is what the lab leaves to its reader and what this node has not: the place of the models, the image, the
requests for processors and memory, and the host, of which the gateway of the tests has many.
"""

import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import half
import httpx
import pytest
import yaml
from planting import Kubectl, istio
from pytest_kubernetes.providers.base import AClusterManager

from tfcanary.cluster.layout import Layout
from tfcanary.judge import split
from tfcanary.judge.verdict import Outcome
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

APP, MODEL, GATEWAY = "image-classifier", "image_classifier", "image-classifier-gateway"
# By version, what its model divides by.
DIVISORS = {"resnet50": 2, "resnet101": 4}
SEVENTY = {"resnet50": 70, "resnet101": 30}
ASKED = 8.0


def deployment(version: str, image: str, models: Path) -> list[dict[str, Any]]:
    """
    A version's configuration and its pods, which name no port and no command.
    """
    labels = {"app": APP, "version": version}
    container = {
        "name": "tf-serving",
        "image": image,
        "args": ["--model_name=$(MODEL_NAME)", "--model_base_path=$(MODEL_PATH)"],
        "envFrom": [{"configMapRef": {"name": f"{version}-configs"}}],
        "imagePullPolicy": "IfNotPresent",
        "readinessProbe": {
            "tcpSocket": {"port": 8500},
            "initialDelaySeconds": 10,
            "periodSeconds": 5,
            "failureThreshold": 10,
        },
        "ports": [{"name": "http", "containerPort": 8501}, {"name": "grpc", "containerPort": 8500}],
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    }
    pod = {"containers": [container], "volumes": [{"name": "models", "hostPath": {"path": str(models)}}]}
    settings = {"MODEL_NAME": MODEL, "MODEL_PATH": f"/models/{version}"}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{version}-configs"},
            "data": settings,
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": f"{APP}-{version}", "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    ]


def routes(namespace: str, host: str, weights: dict[str, int]) -> dict[str, Any]:
    """
    REST by weight.
    """
    parts = [
        {
            "destination": {"host": APP, "subset": version, "port": {"number": 8501}},
            "weight": weight,
        }
        for version, weight in weights.items()
    ]
    return istio(
        "VirtualService", APP, namespace, {"hosts": [host], "gateways": [GATEWAY], "http": [{"route": parts}]}
    )


def networking(namespace: str, host: str) -> list[dict[str, Any]]:
    """
    The Service, the gateway's hosts and the subsets.
    """
    ports = [{"name": "tf-serving-grpc", "port": 8500}, {"name": "tf-serving-http", "port": 8501}]
    servers = [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [host]}]
    subsets = [{"name": version, "labels": {"version": version}} for version in DIVISORS]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": APP, "labels": {"app": APP}},
            "spec": {"type": "ClusterIP", "ports": ports, "selector": {"app": APP}},
        },
        istio("Gateway", GATEWAY, namespace, {"selector": {"istio": "ingressgateway"}, "servers": servers}),
        istio("DestinationRule", APP, namespace, {"host": APP, "subsets": subsets}),
    ]


class Lab:
    """
    The lab's model behind the gateway.
    """

    def __init__(self, address: str, host: str, kubectl: Kubectl) -> None:
        self.host, self._kubectl = host, kubectl
        self._client = httpx.Client(base_url=f"http://{address}", headers={"host": host}, trust_env=False)

    def predicted(self) -> str:
        """
        The version that one prediction came from.
        """
        answer = self._client.post(f"/v1/models/{MODEL}:predict", json={"instances": [ASKED]})
        answer.raise_for_status()
        (found,) = answer.json()["predictions"]
        return next(version for version, divisor in DIVISORS.items() if ASKED / divisor == found)

    def route(self, weights: dict[str, int]) -> None:
        """
        Send requests by these weights, and wait until the gateway answers.
        """
        file = self._kubectl.file(routes(self._kubectl.namespace, self.host, weights))
        self._kubectl("apply", "-f", file)

    def close(self) -> None:
        """
        Close the connections.
        """
        self._client.close()


@pytest.fixture
def lab(
    manager: AClusterManager, layout: Layout | None, environment: Path, kubeconfig: Path, tmp_path: Path
) -> Iterator[Lab]:
    """
    Its objects in a namespace of their own, with all requests to the first version.
    """
    if layout is None:
        pytest.skip("its pods have the local cluster's image, and models on the local cluster's node")
    namespace = f"lab-{uuid.uuid4().hex[:6]}"
    host, models = f"{namespace}.test", layout.models / namespace
    image = yaml.safe_load(environment.read_text())["image"]
    for version, divisor in DIVISORS.items():
        half.save(models / version / "1", divisor=divisor)
    manager.kubectl(["create", "namespace", namespace], as_dict=False)
    manager.kubectl(["label", "namespace", namespace, "istio-injection=enabled"], as_dict=False)
    kubectl = Kubectl(manager, namespace, tmp_path)
    for one in networking(namespace, host):
        kubectl("apply", "-f", kubectl.file(one))
    for version in DIVISORS:
        for one in deployment(version, f"{image['repository']}:{image['tag']}", models):
            kubectl("apply", "-f", kubectl.file(one))
    for version in DIVISORS:
        kubectl("rollout", "status", f"deployment/{APP}-{version}", "--timeout=180s")
    live = LiveObjects(Target(namespace=namespace, kubeconfig=kubeconfig))
    found = Lab(gateway_address(live, GATEWAY), host, kubectl)
    yield found
    found.close()
    manager.kubectl(["delete", "namespace", namespace, "--wait=false"], as_dict=False)
    shutil.rmtree(models)


def settled(lab: Lab, versions: set[str]) -> None:
    """
    Wait until the latest predictions come from these versions.
    """

    def probe() -> None:
        try:
            seen = {lab.predicted() for _ in range(20)}
        except httpx.HTTPStatusError as error:
            raise NotYet(str(error)) from None
        if seen != versions:
            raise NotYet(f"{seen}")

    wait_until(f"predictions from {', '.join(sorted(versions))}", probe, timeout_seconds=60)


def test_the_labs_pods_start_and_predict_by_weight(lab: Lab) -> None:
    """
    F20. Arguments alone are enough: REST is on, both versions predict, and 70 of 100 predictions come from the first.
    """
    lab.route({"resnet50": 100})
    settled(lab, {"resnet50"})
    lab.route(SEVENTY)
    settled(lab, set(SEVENTY))
    others = [{"resnet50": 100}, {"resnet50": 50, "resnet101": 50}, {"resnet50": 30, "resnet101": 70}]
    planned = split.plan(SEVENTY, detect=None, alternatives=others)

    counts = Counter(lab.predicted() for _ in range(planned.n))

    verdict = split.judge(planned, counts)
    assert Outcome.HELD is verdict.decision, verdict.reason
