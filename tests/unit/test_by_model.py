"""
Several models at one host, and Gateways that exist: what the check and `explain` make of them.
"""

from pathlib import Path
from typing import Any

import pytest

from tfcanary.chart.umbrella import require_plain
from tfcanary.check.envoy import names_another
from tfcanary.errors import NotFoundError, UsageError
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Request
from tfcanary.target import Target

PREDICT = "/tensorflow.serving.PredictionService/Predict"
VALUES: dict[str, Any] = {
    "model": {"name": "res.net"},
    "tracks": {"stable": {"version": 1}, "canary": {"version": 2}},
    "routing": {"routes": [{"name": "everyone", "weights": {"stable": 100}}]},
    "gateway": {"byModel": {"enabled": True, "grpcHeader": "x-which"}},
}


@pytest.mark.parametrize(
    ("path", "headers", "taken"),
    [
        ("/v1/models/res.net:predict", {}, True),
        ("/v1/models/res.net/versions/1?x=/", {}, True),
        ("/v1/models/res.net", {}, True),
        ("/v1/models/resxnet", {}, False),
        ("/v1/models/res.net-large", {}, False),
        (PREDICT, {"X-Which": "res.net"}, True),
        (PREDICT, {"x-which": "other"}, False),
        (PREDICT, {}, False),
    ],
)
def test_requests_that_name_the_model(path: str, headers: dict[str, str], *, taken: bool) -> None:
    """
    At a host of several models a request is taken if it names this one, and inside the mesh as ever.
    """
    declared = from_values(VALUES)

    assert taken == (declared.decision(Request(path, headers)) is not None)
    assert declared.decision(Request(path, headers, labels={})) is not None
    assert {"x-which": "res.net"} == declared.grpc_metadata
    alone = from_values({**VALUES, "gateway": {"byModel": {"enabled": False}}})
    assert alone.decision(Request(path, headers)) is not None
    assert {} == alone.grpc_metadata


@pytest.mark.parametrize(
    ("match", "another"),
    [
        ({"safe_regex": {"regex": r"/v1/models/res\.net([:/].*)?"}}, False),
        ({"safe_regex": {"regex": r"/v1/models/res\.net-large([:/].*)?"}}, True),
        ({"safe_regex": {"regex": r"/v1/models/other/versions/1([:/].*)?"}}, True),
        ({"safe_regex": {"regex": r"/v1/models/[^/]*"}}, False),
        ({"safe_regex": {"regex": ".*"}}, False),
        ({"prefix": "/v1/"}, False),
        ({"prefix": "/t", "headers": [{"name": "x-which", "string_match": {"exact": "other"}}]}, True),
        ({"prefix": "/t", "headers": [{"name": "x-which", "string_match": {"exact": "res.net"}}]}, False),
        ({"prefix": "/t", "headers": [{"name": "x-which", "string_match": {"prefix": "o"}}]}, False),
        ({"prefix": "/t", "headers": [{"name": "x-other", "string_match": {"exact": "other"}}]}, False),
    ],
)
def test_routes_of_another_model(match: dict[str, Any], *, another: bool) -> None:
    """
    Only a route that plainly asks for another model's name takes none of the release's requests.
    """
    assert another == names_another({"match": match}, "res.net", "x-which")


def test_rollouts_need_hosts_of_their_own() -> None:
    """
    A rollout's gRPC calls name no model.
    """
    with pytest.raises(UsageError, match=r"expected hosts of its own, got gateway\.byModel\.enabled"):
        require_plain("resnet", VALUES)


ISTIO = "/apis/networking.istio.io/v1/namespaces"


def service(namespace: str, name: str, label: str, port: int) -> dict[str, Any]:
    """
    A Service in front of gateway pods, with a load balancer.
    """
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"istio": label}, "ports": [{"port": port}]},
        "status": {"loadBalancer": {"ingress": [{"hostname": f"{name}.example"}]}},
    }


def gateway(name: str, label: str, *servers: dict[str, Any]) -> dict[str, Any]:
    """
    A Gateway for the pods with a label.
    """
    return {"metadata": {"name": name}, "spec": {"selector": {"istio": label}, "servers": servers}}


def test_gateways_that_exist_are_found(cluster: Any) -> None:
    """
    Without a Gateway of its own, a release is reached by those that its VirtualService names, and over TLS by one with it.
    """
    routes = {"spec": {"gateways": ["mesh", "edge/external", "internal"]}}
    secure = {"port": {"number": 443, "protocol": "HTTPS"}}
    plain = {"port": {"number": 80, "protocol": "HTTP"}}
    answers = {
        f"{ISTIO}/models/virtualservices/resnet": routes,
        f"{ISTIO}/edge/gateways/external": gateway("external", "outer", secure),
        f"{ISTIO}/models/gateways/internal": gateway("internal", "inner", plain),
        "/api/v1/services": {
            "items": [service("edge", "outer", "outer", 443), service("models", "inner", "inner", 80)]
        },
        "/api/v1/nodes": {"items": []},
    }
    live = LiveObjects(Target(namespace="models", kubeconfig=Path(cluster(answers))))

    assert "inner.example:80" == gateway_address(live, "resnet")
    assert "outer.example:443" == gateway_address(live, "resnet", tls=True)


def test_a_gateway_of_its_own_that_is_gone(cluster: Any) -> None:
    """
    A release whose routes are for its own Gateway has lost it: no other one is looked for.
    """
    routes = {"spec": {"gateways": ["resnet"]}}
    live = LiveObjects(
        Target(
            namespace="models", kubeconfig=Path(cluster({f"{ISTIO}/models/virtualservices/resnet": routes}))
        )
    )

    with pytest.raises(NotFoundError, match="Gateway 'resnet': not found in namespace 'models'"):
        gateway_address(live, "resnet")
