"""
Reading live objects, through the real client, from a server that answers what the test says.
"""

import contextlib
import socket
import threading

import pytest
from kubernetes.stream.ws_client import PortForward
from websocket import WebSocket

from tfcanary.contract import HOST_ADDRESS_ANNOTATION, REVISION_HEADER
from tfcanary.errors import ForbiddenError, NoEvidenceError, UnreachableError, UsageError
from tfcanary.kube import portforward
from tfcanary.kube.gateway import gateway_address, gateway_pods
from tfcanary.kube.objects import LiveObjects, Pod
from tfcanary.kube.portforward import PodPort, _end, _join, forwarded
from tfcanary.kube.virtualservice import route_revision
from tfcanary.target import Target
from tfcanary.wait import NotYet, wait_until

GATEWAYS = "/apis/networking.istio.io/v1/namespaces/models/gateways/resnet"
SERVICES = "/api/v1/services"
NODES = "/api/v1/nodes"
SELECTOR = {"istio": "ingressgateway"}
GATEWAY = {
    "metadata": {"name": "resnet"},
    "spec": {"selector": SELECTOR, "servers": [{"port": {"number": 80}}]},
}


def live_in(cluster, answers):
    return LiveObjects(Target(namespace="models", kubeconfig=cluster(answers)))


def service(selector=None, annotations=None, ingress=(), node_port=None, port=80):
    return {
        "metadata": {
            "name": "istio-ingressgateway",
            "namespace": "istio-system",
            "annotations": annotations or {},
        },
        "spec": {
            "selector": selector or {"app": "istio-ingressgateway", **SELECTOR},
            "ports": [{"name": "http2", "port": port, **({"nodePort": node_port} if node_port else {})}],
        },
        "status": {"loadBalancer": {"ingress": list(ingress)}},
    }


def node(**addresses):
    return {
        "metadata": {"name": "node"},
        "status": {"addresses": [{"type": kind, "address": address} for kind, address in addresses.items()]},
    }


@pytest.mark.parametrize(
    ("found", "nodes", "address"),
    [
        pytest.param(
            service(
                annotations={HOST_ADDRESS_ANNOTATION: "127.0.0.1:18080"},
                ingress=[{"ip": "10.0.0.1"}],
                node_port=30080,
            ),
            [],
            "127.0.0.1:18080",
            id="annotation-first",
        ),
        pytest.param(
            service(ingress=[{"ip": "203.0.113.7"}], node_port=30080), [], "203.0.113.7:80", id="balancer-ip"
        ),
        pytest.param(
            service(ingress=[{"hostname": "lb.example.com"}]), [], "lb.example.com:80", id="balancer-name"
        ),
        pytest.param(service(ingress=[{"ip": "2001:db8::7"}]), [], "[2001:db8::7]:80", id="ipv6"),
        pytest.param(
            service(node_port=30080),
            [node(InternalIP="10.1.0.1"), node(ExternalIP="198.51.100.2", InternalIP="10.1.0.2")],
            "198.51.100.2:30080",
            id="node-port-external",
        ),
        pytest.param(
            service(node_port=30080), [node(InternalIP="10.1.0.1")], "10.1.0.1:30080", id="node-port"
        ),
    ],
)
def test_the_gateways_address_is_found(cluster, found, nodes, address):
    live = live_in(cluster, {GATEWAYS: GATEWAY, SERVICES: {"items": [found]}, NODES: {"items": nodes}})

    assert address == gateway_address(live, "resnet")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        pytest.param([], "no Service selects pods labelled 'istio=ingressgateway'", id="no-service"),
        pytest.param([service(selector={"app": "other"})], "no Service selects pods", id="other-selector"),
        pytest.param(
            [service()], "istio-system/istio-ingressgateway has no address for port 80", id="no-address"
        ),
        pytest.param(
            [service(port=8080, ingress=[{"ip": "10.0.0.1"}])], "has no address for port 80", id="other-port"
        ),
    ],
)
def test_an_address_that_is_not_found_says_what_to_do(cluster, items, message):
    live = live_in(cluster, {GATEWAYS: GATEWAY, SERVICES: {"items": items}, NODES: {"items": []}})

    with pytest.raises(UnreachableError, match=f"{message}.*--gateway HOST:PORT"):
        gateway_address(live, "resnet")


REDIRECTING = {"port": {"number": 80, "protocol": "HTTP"}, "tls": {"httpsRedirect": True}}
BY_TLS = {"port": {"number": 443, "protocol": "HTTPS"}, "tls": {"mode": "SIMPLE"}}


def test_over_tls_it_is_the_port_that_speaks_it(cluster):
    """
    The address that a local cluster publishes is that of the port without.
    """
    found = service(
        annotations={HOST_ADDRESS_ANNOTATION: "127.0.0.1:18080"},
        ingress=[{"ip": "203.0.113.7"}],
        port=443,
    )
    gateway = {**GATEWAY, "spec": {"selector": SELECTOR, "servers": [REDIRECTING, BY_TLS]}}
    live = live_in(cluster, {GATEWAYS: gateway, SERVICES: {"items": [found]}, NODES: {"items": []}})

    assert "203.0.113.7:443" == gateway_address(live, "resnet", tls=True)


@pytest.mark.parametrize(
    ("servers", "tls", "message"),
    [
        pytest.param([REDIRECTING, BY_TLS], False, "on port 80, got redirections.*add --tls", id="redirects"),
        pytest.param([BY_TLS], False, "without TLS, got HTTPS on 443; add --tls", id="only-tls"),
        pytest.param(
            GATEWAY["spec"]["servers"], True, "with TLS, got .* on 80; leave --tls out", id="no-tls"
        ),
    ],
)
def test_a_gateway_that_speaks_otherwise_is_wrong_use(cluster, servers, tls, message):
    gateway = {**GATEWAY, "spec": {"selector": SELECTOR, "servers": servers}}
    live = live_in(cluster, {GATEWAYS: gateway, SERVICES: {"items": [service()]}, NODES: {"items": []}})

    with pytest.raises(UsageError, match=message):
        gateway_address(live, "resnet", tls=tls)


def test_a_virtual_service_that_is_not_there_is_wrong_use(cluster):
    with pytest.raises(UsageError, match="VirtualService 'other': not found in namespace 'models'"):
        live_in(cluster, {}).virtual_service("other")


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_cluster_that_refuses_cannot_be_reached(cluster, status):
    live = live_in(cluster, {GATEWAYS: status})

    with pytest.raises(UnreachableError, match=f"Gateway 'resnet': the cluster at .* answered {status}"):
        live.istio("Gateway", "resnet")


def test_a_cluster_that_is_gone_cannot_be_reached(kubeconfig):
    live = LiveObjects(Target(kubeconfig=kubeconfig(9)))

    with pytest.raises(
        UnreachableError, match=r"http://127\.0\.0\.1:9 cannot be reached.*--kubeconfig and --context"
    ):
        live.virtual_service("resnet")


def test_a_kubeconfig_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(UnreachableError, match=r"kubeconfig .*missing.*--gateway HOST:PORT --values FILE"):
        LiveObjects(Target(kubeconfig=tmp_path / "missing"))


def test_a_context_that_is_not_there_is_named(kubeconfig):
    with pytest.raises(UnreachableError, match="nowhere"):
        LiveObjects(Target(kubeconfig=kubeconfig(9), context="nowhere"))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param({"apiVersion": "v1", "kind": "Service"}, "here", id="core"),
        pytest.param({"apiVersion": "apps/v1", "kind": "Deployment"}, "here", id="group"),
        pytest.param({"apiVersion": "rbac/v1", "kind": "ClusterRole"}, "of the cluster", id="of-the-cluster"),
        pytest.param({"apiVersion": "v1", "kind": "Nothing"}, None, id="no-such-kind"),
        pytest.param({"apiVersion": "none/v1", "kind": "Service"}, None, id="no-such-api"),
    ],
)
def test_an_object_of_any_kind_is_read(cluster, wanted, found):
    """
    The apiserver itself says where its kinds are, and which belong to no namespace.
    """
    role = {"name": "clusterroles", "kind": "ClusterRole", "namespaced": False}
    live = live_in(
        cluster,
        {
            "/api/v1/namespaces/models/services/resnet": {"is": "here"},
            "/apis/apps/v1/namespaces/models/deployments/resnet": {"is": "here"},
            "/apis/rbac/v1": {"resources": [role]},
            "/apis/rbac/v1/clusterroles/resnet": {"is": "of the cluster"},
        },
    )

    assert (found and {"is": found}) == live.read({**wanted, "metadata": {"name": "resnet"}})


def test_an_object_of_another_namespace_is_read_there(cluster):
    live = live_in(cluster, {"/api/v1/namespaces/istio-system/services/resnet": {"is": "there"}})
    wanted = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "resnet", "namespace": "istio-system"},
    }

    assert {"is": "there"} == live.read(wanted)


def test_an_object_that_may_not_be_read_is_not_gone(cluster):
    live = live_in(cluster, {"/api/v1/namespaces/models/services/resnet": 403})

    with pytest.raises(ForbiddenError, match=r"Service 'resnet': the cluster at .* answered 403"):
        live.read({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "resnet"}})


def test_pods_say_their_track_and_whether_they_are_ready(cluster):
    def pod(name, track, status):
        return {
            "metadata": {"name": name, "labels": {"track": track}},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }

    pods = {"items": [pod("a", "stable", "True"), pod("b", "canary", "False")]}
    live = live_in(cluster, {"/api/v1/namespaces/models/pods": pods})

    assert (Pod("a", "stable", ready=True), Pod("b", "canary", ready=False)) == live.pods("resnet")


PODS = "/api/v1/namespaces/istio-system/pods"


def gateway_pod(name, *, ready=True, going=False, ports=()):
    return {
        "metadata": {
            "name": name,
            "namespace": "istio-system",
            **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {}),
        },
        "spec": {"containers": [{"name": "istio-proxy", "ports": list(ports)}]},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


@pytest.mark.parametrize(
    ("target", "port"),
    [
        pytest.param(None, 80, id="the-same"),
        pytest.param(8080, 8080, id="number"),
        pytest.param("8080", 8080, id="number-as-text"),
        pytest.param("http2", 8081, id="name"),
    ],
)
def test_the_gateways_pods_are_found(cluster, target, port):
    """
    Those that are ready and stay, with the port behind the Service's.
    """
    found = service()
    found["spec"]["ports"][0]["targetPort"] = target
    pods = [
        gateway_pod("b", ports=[{"name": "http2", "containerPort": 8081}]),
        gateway_pod("a", ports=[{"name": "http2", "containerPort": 8081}]),
        gateway_pod("c", ready=False),
        gateway_pod("d", going=True),
    ]
    live = live_in(cluster, {GATEWAYS: GATEWAY, SERVICES: {"items": [found]}, PODS: {"items": pods}})

    assert [("a", "istio-system", port), ("b", "istio-system", port)] == [
        (pod.name, pod.namespace, pod.port) for pod in gateway_pods(live, "resnet")
    ]


@pytest.mark.parametrize(
    ("within", "found"),
    [pytest.param("istio-system", ["a"], id="named"), pytest.param(None, None, id="none")],
)
def test_who_may_not_look_into_all_namespaces_looks_into_the_gateways(cluster, within, found):
    own = "/api/v1/namespaces/istio-system/services"
    answers = {
        GATEWAYS: GATEWAY,
        SERVICES: 403,
        own: {"items": [service()]},
        PODS: {"items": [gateway_pod("a")]},
    }
    live = live_in(cluster, answers)

    with (
        contextlib.nullcontext()
        if found
        else pytest.raises(ForbiddenError, match=r"Services: .* answered 403")
    ):
        assert found == [pod.name for pod in gateway_pods(live, "resnet", within=within)]


def test_a_gateway_without_pods_cannot_be_reached(cluster):
    live = live_in(cluster, {GATEWAYS: GATEWAY, SERVICES: {"items": [service()]}, PODS: {"items": []}})

    with pytest.raises(UnreachableError, match="expected ready pods behind Gateway 'resnet', got none"):
        gateway_pods(live, "resnet")


def test_what_cannot_be_forwarded_is_a_connection_that_closes(cluster):
    live = live_in(cluster, {})

    with (
        forwarded(live, PodPort("a", "istio-system", 80)) as address,
        socket.create_connection(address.split(":"), timeout=5) as connection,
    ):
        assert b"" == connection.recv(1)


def route(revision):
    headers = {"response": {"set": {REVISION_HEADER: revision}}} if revision else {}
    return {"route": [], "headers": headers}


@pytest.mark.parametrize("ending", ["near", "far"])
def test_joined_sockets_end_together(ending):
    """
    Whichever side ends, bytes on their way arrive, the other side sees the end, and no thread is left waiting.
    """
    client, near = socket.socketpair()
    far, server = socket.socketpair()
    with client, near, far, server:
        thread = threading.Thread(target=_join, args=(near, far))
        before = threading.active_count()
        thread.start()
        first, other = (client, server) if ending == "near" else (server, client)
        other.settimeout(10)
        first.sendall(b"last words")
        first.close()

        with contextlib.suppress(ConnectionError):
            assert b"last words" == other.recv(100)
            assert b"" == other.recv(100)
        thread.join(timeout=10)

        assert not thread.is_alive()
        assert before == threading.active_count()


def test_a_port_forward_is_closed_after_its_last_reader(monkeypatch):
    """
    The library's thread still waits for the other side's goodbye. Closed under it, the socket's number would go to the next
    connection, whose first bytes the thread would take: `HTTP/` of an answer, as five bytes are a TLS record's header.
    """
    here, there = socket.socketpair()
    websocket = WebSocket()
    websocket.sock, websocket.connected = here, True
    forward = PortForward(websocket, [80])

    def watched(what, ended, **options):
        there.recv(100)  # the library's goodbye
        for _ in range(3):
            with pytest.raises(NotYet):
                ended()
        assert here.fileno() != -1
        there.sendall(b"\x88\x02\x03\xe8")
        return wait_until(what, ended, **options)

    monkeypatch.setattr(portforward, "wait_until", watched)
    with here, there:
        forward.close()
        _end(forward)

        assert -1 == here.fileno()


def test_the_revision_is_that_of_all_routes():
    live = {"metadata": {"name": "resnet"}, "spec": {"http": [route("abc"), route("abc")]}}

    assert "abc" == route_revision(live)


@pytest.mark.parametrize(
    ("http", "seen"),
    [
        pytest.param([route("abc"), route("def")], "got abc, def", id="two"),
        pytest.param([route("abc"), route(None)], "got None, abc", id="one-without"),
        pytest.param([], "got no routes", id="none"),
    ],
)
def test_a_revision_that_is_not_one_is_no_evidence(http, seen):
    with pytest.raises(NoEvidenceError, match=seen):
        route_revision({"metadata": {"name": "resnet"}, "spec": {"http": http}})
