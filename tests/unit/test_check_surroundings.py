"""
What is around a release is looked at until it is as it should be; what cannot be looked at is said.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from checking import QUICK, subject
from double import serve

from tfcanary.check import surroundings
from tfcanary.check.reasons import Reasons, identity_problem
from tfcanary.check.run import check_gateway
from tfcanary.check.subject import Around
from tfcanary.check.surroundings import LiveNeighbours, Surroundings
from tfcanary.client.answer import Answer
from tfcanary.contract import Api
from tfcanary.errors import UnreachableError
from tfcanary.judge.verdict import Outcome
from tfcanary.kube import envoy
from tfcanary.kube.envoy import gateway_config, parsed, sidecar_config
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.portforward import PodPort
from tfcanary.report.as_json import as_json
from tfcanary.report.table import findings_table
from tfcanary.target import Target

SUPPORT = Path(__file__).parent / "support"
RECORDED = json.loads((SUPPORT / "gateway_dump.json").read_text())
SIDECAR = json.loads((SUPPORT / "sidecar_dump.json").read_text())
ISTIO = "/apis/networking.istio.io/v1"
POLICY = "/apis/security.istio.io/v1/namespaces/models/authorizationpolicies/resnet"
GATEWAY = PodPort("gateway-a", "istio-system", 80)


def virtual_service(namespace, name, *, revision="old", made="2026-01-01T00:00:00Z", release=None, **spec):
    annotations = {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}
    headers = {"response": {"set": {"x-route-revision": revision}}}
    http = [
        {"name": f"everyone-{api}", "headers": headers, "retries": {"attempts": 0}}
        for api in ("rest", "grpc")
    ]
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "creationTimestamp": made,
            "annotations": annotations if release else {},
        },
        "spec": {"hosts": ["models.test"], "http": http, **spec},
    }


OWN = virtual_service(
    "models", "resnet", revision="new", made="2026-01-02T00:00:00Z", release="resnet", gateways=["resnet"]
)


def pod(name, address):
    return {
        "metadata": {"name": f"resnet-{name}-0", "labels": {"app": "resnet", "track": name}},
        "spec": {"containers": [{"name": "istio-proxy"}]},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }


@pytest.fixture
def live(cluster):
    """
    A cluster with the release, its pods, and more.
    """

    def make(**more):
        answers = {
            f"{ISTIO}/namespaces/models/virtualservices/resnet": OWN,
            f"{ISTIO}/namespaces/models/destinationrules": {
                "items": [{"metadata": {"name": "resnet", "namespace": "models"}, "spec": {"host": "resnet"}}]
            },
            f"{ISTIO}/namespaces/istio-system/destinationrules": {"items": []},
            "/api/v1/namespaces/models/services/resnet": {"spec": {"selector": {"app": "resnet"}}},
            "/api/v1/namespaces/models/pods": {
                "items": [pod("stable", "10.244.0.11"), pod("canary", "10.244.0.10")]
            },
            "/apis/security.istio.io/v1": {
                "resources": [
                    {"name": "authorizationpolicies", "kind": "AuthorizationPolicy", "namespaced": True}
                ]
            },
            **more,
        }
        return LiveObjects(Target(namespace="models", kubeconfig=cluster(answers)))

    return make


@pytest.fixture
def around(live, tenth, monkeypatch):
    """
    The surroundings of the release, with recorded configurations.
    """
    gateway = parsed(*(RECORDED[name] for name in ("listeners", "routes", "clusters", "endpoints")))
    monkeypatch.setattr(surroundings, "gateway_config", lambda *_: gateway)
    monkeypatch.setattr(surroundings, "sidecar_config", lambda *_: parsed(SIDECAR))

    def make(*, gateways=(GATEWAY,), **more):
        return Surroundings(live(**more), "resnet", {}, tenth, gateways, "models.test")

    return make


def test_all_of_it_is_looked_at(around):
    seen = around().look(0)

    assert () == seen.lost
    assert {Outcome.HELD} == {row.outcome for row in seen.findings}, [row.observed for row in seen.findings]
    assert [
        "destination rules",
        "routes at the gateway",
        "live retries",
        "live timeouts",
        "live mirrors",
        "filters at the gateway",
        "endpoints stable",
        "endpoints canary",
        "filters at the models",
    ] == [row.title for row in seen.findings]


def test_without_gateway_pods_the_virtual_service_says_the_retries(around):
    """
    What only the gateway itself can say is lost, and said to be.
    """
    seen = around(gateways=()).look(0)

    assert ["destination rules", "live retries"] == [row.title for row in seen.findings]
    assert any(line.startswith("the gateway pods' own configuration") for line in seen.lost)
    assert any(line.startswith("the filters in front of the model servers") for line in seen.lost)


def test_without_rights_nothing_is_made_up(around, monkeypatch):
    def refused(*_):
        raise UnreachableError("pod gateway-a: no right")

    monkeypatch.setattr(surroundings, "gateway_config", refused)
    monkeypatch.setattr(surroundings, "sidecar_config", refused)

    seen = around(**{f"{ISTIO}/namespaces/models/destinationrules": 403}).look(0)

    assert ["live retries"] == [row.title for row in seen.findings]
    assert 3 == len(seen.lost)
    assert "answered 403" in seen.lost[0]


def test_a_push_that_is_late_is_waited_for(around, monkeypatch):
    """
    A cluster's endpoints may reach the gateway after the pods are Ready: it is looked at again.
    """
    names = ("listeners", "routes", "clusters", "endpoints")
    late = parsed(*(RECORDED[name] if name != "endpoints" else {"configs": []} for name in names))
    configs = itertools.chain([late, late], itertools.repeat(parsed(*(RECORDED[name] for name in names))))
    monkeypatch.setattr(surroundings, "gateway_config", lambda *_: next(configs))
    monkeypatch.setattr(
        surroundings,
        "wait_until",
        functools.partial(_without_pause, surroundings.wait_until),
    )

    assert {Outcome.HELD} == {row.outcome for row in around().look(60).findings}


def _without_pause(wait, *arguments, **options):
    return wait(*arguments, **{**options, "interval_seconds": 0})


def test_what_stays_wrong_is_reported(around, monkeypatch):
    names = ("listeners", "routes", "clusters", "endpoints")
    late = parsed(*(RECORDED[name] if name != "endpoints" else {"configs": []} for name in names))
    monkeypatch.setattr(surroundings, "gateway_config", lambda *_: late)

    failed = [row.title for row in around().look(0).findings if row.outcome is Outcome.FAILED]

    assert ["endpoints stable", "endpoints canary"] == failed


def test_every_exact_host_of_the_gateway_is_looked_up(around):
    """
    A second host that no route takes is named.
    """
    made = around()
    expected = dataclasses.replace(made.expected, hosts=("models.test", "second.test"))
    seen = dataclasses.replace(made, expected=expected).look(0)

    (row,) = (one for one in seen.findings if one.outcome is Outcome.FAILED)
    assert "no route takes host second.test" == row.observed


def test_others_are_named_with_their_release_and_age(live):
    other = virtual_service("shop", "web", release="web", gateways=["models/resnet"])
    cluster = live(**{f"{ISTIO}/namespaces/shop/virtualservices/web": other})
    neighbours = LiveNeighbours(cluster, OWN)

    assert "VirtualService shop/web of release web in namespace shop, older," == neighbours.virtual_service(
        ("shop", "web")
    )
    assert "VirtualService shop/none" == neighbours.virtual_service(("shop", "none"))
    assert neighbours.uses_gateway(("shop", "web"))
    assert not neighbours.uses_gateway(("shop", "none"))
    assert "pod resnet-canary-0" == neighbours.pod("10.244.0.10")
    assert "10.9.9.9" == neighbours.pod("10.9.9.9")


def answer(*, ok=True, revision=None, error=""):
    status = "200" if ok else "403"
    return Answer(
        Api.REST, status, ok, reached=True, track=None, revision=revision, latency_seconds=0, error=error
    )


def test_a_revision_of_another_release_names_it(live):
    """
    Two releases with one host: the older one's routes answer, and the newer one's revision never comes.
    """
    other = virtual_service("prod", "first", release="first")
    reasons = Reasons(live(**{f"{ISTIO}/virtualservices": {"items": [OWN, other]}}), "resnet", tuple)

    said = reasons.of(answer(revision="old"), "new")

    assert (
        "revision old is that of VirtualService prod/first of release first in namespace prod, older" in said
    )
    assert "with the hosts models.test" in said
    assert "the older one wins" in said
    assert "" == reasons.of(answer(revision="nobodys"), "new")
    assert "" == reasons.of(answer(revision="new"), "new")
    assert "" == reasons.of(answer(ok=False, error="no healthy upstream"), "new")


def test_without_the_right_to_list_all_its_own_namespace_is_looked_in(live):
    other = virtual_service("models", "second")
    listed = {
        f"{ISTIO}/virtualservices": 403,
        f"{ISTIO}/namespaces/models/virtualservices": {"items": [other]},
    }

    assert "models/second" in Reasons(live(**listed), "resnet", tuple).of(answer(revision="old"), "new")


PRINCIPAL = "cluster.local/ns/istio-system/sa/ingress"
DENIED = "RBAC: access denied"


def policy(*principals):
    return {"spec": {"rules": [{"from": [{"source": {"principals": list(principals)}}]}]}}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        pytest.param(
            {POLICY: policy("cluster.local/ns/istio-system/sa/other")},
            "lets in cluster.local/ns/istio-system/sa/other, and the gateway's pods are ns/istio-system/sa/ingress: "
            "set gateway.serviceAccount=ingress",
            id="another-account",
        ),
        pytest.param(
            {POLICY: policy("cluster.local/ns/gateways/sa/other")},
            "set gateway.serviceAccount=ingress and gateway.namespace=istio-system",
            id="another-namespace",
        ),
        pytest.param({POLICY: policy(PRINCIPAL)}, "another policy of the mesh refuses it", id="lets-it-in"),
        pytest.param(
            {POLICY: policy("other.domain/ns/istio-system/sa/*")}, "another policy of the mesh", id="wildcard"
        ),
        pytest.param({}, "AuthorizationPolicy resnet, which lets it in, is gone", id="gone"),
        pytest.param({POLICY: 403}, "the reason cannot be looked up: .*answered 403", id="no-right"),
    ],
)
def test_a_refusal_by_the_mesh_says_the_value_to_set(live, answers, said):
    reasons = Reasons(live(**answers), "resnet", lambda: [("istio-system", "ingress")])

    found = reasons.of(answer(ok=False, error=DENIED), "new")

    assert re.search(said, found)


def test_one_of_several_gateway_pods_may_be_the_odd_one():
    said = identity_problem("resnet", [PRINCIPAL], [("istio-system", "ingress"), ("istio-system", "second")])

    assert "set gateway.serviceAccount=second" in said


def test_a_report_has_what_is_around_and_why_routes_do_not_arrive(gateway, tenth, pictures):
    """
    Findings and losses of the surroundings are part of the report; the reason stands beside the timeout.
    """
    finding = next(row for row in check_gateway(subject(gateway(tenth), tenth), QUICK, pictures).findings)
    made = Around((finding,), ("the filters",))
    asked = subject(
        gateway(tenth, revision="rev-1"),
        tenth,
        around=lambda seconds: made if seconds == QUICK.timeout_seconds else None,
        reason=lambda answer, revision: f"{answer.revision} is not {revision}",
        lost=("before",),
    )

    report = check_gateway(asked, QUICK, pictures)

    assert ("before", "the filters") == report.lost[:2]
    assert finding in report.findings
    propagation = [row for row in report.findings if row.name == "propagation" and row.n]
    assert any("not within 0.5 s; rev-1 is not rev-2" == row.detail for row in propagation)


def test_a_report_says_which_hosts_were_asked(gateway, tenth, pictures):
    double = gateway(tenth)

    report = check_gateway(subject(double, tenth, host="a.test"), QUICK, pictures)

    assert "asked for host a.test, of the gateway's hosts *" in str(findings_table(report))
    assert ("a.test", ["*"]) == tuple(as_json(report)[key] for key in ("host", "hosts"))


@pytest.fixture
def admin(monkeypatch):
    """
    An Envoy's admin port that answers so, by part; gives what was asked.
    """
    asked = []
    with contextlib.ExitStack() as stack:

        def start(parts):
            class Handler(BaseHTTPRequestHandler):
                def log_message(self, *_: object) -> None:
                    pass

                def do_GET(self) -> None:
                    query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
                    asked.append(query)
                    body = parts[query["resource"][0]]
                    content = body if isinstance(body, bytes) else json.dumps(body).encode()
                    self.send_response(200)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            port = serve(stack, Handler)
            ports = []

            def forwarded(_live, pod):
                ports.append((pod.name, pod.namespace, pod.port))
                return contextlib.nullcontext(f"127.0.0.1:{port}")

            monkeypatch.setattr(envoy, "forwarded", forwarded)
            return asked, ports

        yield start


def test_a_gateways_configuration_is_read_part_by_part(admin, live):
    """
    Clusters and endpoints are those of one Service: a gateway knows every Service of the mesh.
    """
    asked, ports = admin(
        {
            "dynamic_listeners": RECORDED["listeners"],
            "dynamic_route_configs": RECORDED["routes"],
            "dynamic_active_clusters": RECORDED["clusters"],
            "dynamic_endpoint_configs": RECORDED["endpoints"],
        }
    )

    found = gateway_config(live(), GATEWAY, "resnet.models")

    assert [("gateway-a", "istio-system", 15000)] == ports
    assert (1, 1, 4, 4) == tuple(map(len, (found.listeners, found.routes, found.clusters, found.endpoints)))
    assert [None, None, r"outbound\|.*\|resnet(-[^.]+)?\.models\..*"] == [
        (query.get("name_regex") or [None])[0] for query in asked[:3]
    ]
    assert all("include_eds" in query for query in asked)


def test_a_sidecars_inbound_listener_is_read(admin, live):
    asked, ports = admin({"dynamic_listeners": SIDECAR})

    assert 1 == len(sidecar_config(live(), "resnet-canary-0").listeners)
    assert [("resnet-canary-0", "models", 15000)] == ports
    assert ["virtualInbound"] == asked[0]["name_regex"]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"x" * 2000], ids=["no-json", "no-object", "too-much"])
def test_what_is_no_configuration_is_an_error(admin, live, monkeypatch, body):
    monkeypatch.setattr(envoy, "MOST_BYTES", 1000)
    admin({"dynamic_listeners": body})

    with pytest.raises(UnreachableError, match="pod a: Envoy's configuration at port 15000 cannot be read"):
        sidecar_config(live(), "a")
