"""
Which version each pod of a track serves, as the pod itself says.
"""

import contextlib
import json
from http.server import BaseHTTPRequestHandler

import pytest
from double import serve

from tfcanary.check import pods as module
from tfcanary.check.pods import as_declared, by_address, pod_versions, sidecars, tracks_pods
from tfcanary.errors import UnreachableError
from tfcanary.judge.verdict import Outcome
from tfcanary.kube.objects import LiveObjects
from tfcanary.metrics import tfserving
from tfcanary.metrics.tfserving import version_states
from tfcanary.routing.parse import from_values
from tfcanary.target import Target

SELECTOR = {"app": "resnet"}
RULE = "/apis/networking.istio.io/v1/namespaces/models/destinationrules/resnet"


def pod(
    name,
    *,
    track,
    ready=True,
    going=False,
    containers=("model-server", "istio-proxy"),
    init=(),
    **annotations,
):
    return {
        "metadata": {
            "name": name,
            "labels": {"app": "resnet", "track": track},
            "annotations": {key.replace("__", "/"): value for key, value in annotations.items()},
            **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {}),
        },
        "spec": {
            "containers": [{"name": one} for one in containers],
            "initContainers": [{"name": one} for one in init],
        },
        "status": {"podIP": f"10.0.0.{ord(name)}", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def names(tracks):
    return {track: [one.metadata.name for one in pods] for track, pods in tracks.items()}


@pytest.fixture
def live(cluster):
    """
    A release with these pods, selector and subsets.
    """

    def make(*pods, selector=SELECTOR, subsets=None):
        rule = {"spec": {"subsets": subsets or []}}
        answers = {
            "/api/v1/namespaces/models/services/resnet": {"spec": {"selector": selector}},
            RULE: rule,
            "/api/v1/namespaces/models/pods": {"items": list(pods)},
        }
        return LiveObjects(Target(namespace="models", kubeconfig=cluster(answers)))

    return make


def test_the_pods_of_a_track_are_those_that_get_its_requests(live, tenth):
    """
    Ready ones that stay, by the labels of the live subset: a subset that names other labels has other pods.
    """
    subsets = [
        {"name": "stable", "labels": {"track": "stable"}},
        {"name": "canary", "labels": {"track": "old"}},
    ]
    found = live(
        pod("a", track="stable"),
        pod("b", track="stable", ready=False),
        pod("c", track="stable", going=True),
        pod("d", track="canary"),
        pod("e", track="old"),
        subsets=subsets,
    )

    assert {"stable": ["a"], "canary": ["e"]} == names(tracks_pods(found, "resnet", tenth))
    assert {"10.0.0.97": "a"} == by_address(tracks_pods(found, "resnet", tenth))["stable"]


def test_a_service_that_selects_nothing_has_no_pods(live, tenth):
    assert {"stable": [], "canary": []} == names(
        tracks_pods(live(pod("a", track="stable"), selector={}), "resnet", tenth)
    )


@pytest.mark.parametrize(
    ("states", "observed"),
    [
        pytest.param({"a": {"2": "AVAILABLE"}, "b": {"2": "AVAILABLE"}}, None, id="the-same"),
        pytest.param({"a": {"1": "END", "2": "AVAILABLE"}}, None, id="an-old-one-has-ended"),
        pytest.param(
            {"a": {"2": "AVAILABLE"}, "b": {"1": "AVAILABLE"}}, "pod b: version 1 AVAILABLE", id="one-of-two"
        ),
        pytest.param(
            {"a": {"1": "AVAILABLE", "2": "AVAILABLE"}},
            "pod a: version 1 AVAILABLE, version 2 AVAILABLE",
            id="two-at-once",
        ),
        pytest.param({"a": {"2": "LOADING"}}, "pod a: version 2 LOADING", id="not-yet"),
        pytest.param({"a": {}}, "pod a: no version", id="none"),
        pytest.param({}, "no ready pod has the labels", id="no-pod"),
    ],
)
def test_a_pod_of_another_version_is_named(states, observed):
    found = as_declared("canary", "2", states, needed=True)

    assert (Outcome.FAILED if observed else Outcome.HELD) is found.outcome
    assert (observed or f"version 2 on each of {len(states)} pods") in found.observed


def test_a_track_without_requests_needs_no_pods():
    assert as_declared("canary", "2", {}, needed=False) is None


def test_a_pod_that_cannot_be_asked_is_lost_and_the_others_count(live, tenth, monkeypatch):
    def states(_live, name, _model):
        if name == "b":
            raise UnreachableError("pod b: cannot be read")
        return {"1": "AVAILABLE"}

    monkeypatch.setattr(module, "version_states", states)
    found = live(pod("a", track="stable"), pod("b", track="stable"), pod("c", track="canary"))

    findings, lost = pod_versions(found, tenth, tracks_pods(found, "resnet", tenth))

    assert [("stable", Outcome.HELD, 1), ("canary", Outcome.FAILED, 1)] == [
        (row.about, row.outcome, row.n) for row in findings
    ]
    assert ("pod b: cannot be read",) == lost


def test_without_the_right_to_forward_ports_all_is_lost(live, tenth):
    """
    The real port-forward, which this apiserver refuses: no finding is made up, and what opens a way is said.
    """
    found = live(pod("a", track="stable"), pod("c", track="canary"))

    findings, lost = pod_versions(found, tenth, tracks_pods(found, "resnet", tenth))

    assert () == findings
    assert all("pods/portforward" in line for line in lost)
    assert 2 == len(lost)


def test_mirrored_tracks_need_pods_too(live, values):
    mirror = {"track": "canary", "percent": 50}
    routing = from_values(values({"name": "everyone", "mirror": mirror, "weights": {"stable": 100}}))

    found = live()
    findings, _ = pod_versions(found, routing, tracks_pods(found, "resnet", routing))

    assert {"stable": Outcome.FAILED, "canary": Outcome.FAILED} == {
        row.about: row.outcome for row in findings
    }


@pytest.mark.parametrize(
    ("bare", "observed"),
    [
        pytest.param({}, "in each of 2 pods", id="injected"),
        pytest.param(
            {"containers": ("model-server",), "init": ("istio-proxy",)}, "in each of 2", id="native"
        ),
        pytest.param(
            {"containers": ("model-server",), "ambient.istio.io__redirection": "enabled"},
            "each",
            id="ambient",
        ),
        pytest.param({"containers": ("model-server",)}, "no istio-proxy in pod b", id="without"),
    ],
)
def test_a_pod_without_a_sidecar_is_named(live, tenth, bare, observed):
    """
    A namespace without injection answers all the same, and no policy holds in it.
    """
    found = live(pod("a", track="stable"), pod("b", track="canary", **bare))

    row = sidecars(tracks_pods(found, "resnet", tenth))

    assert (Outcome.FAILED if observed.startswith("no ") else Outcome.HELD) is row.outcome
    assert observed in row.observed


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        pytest.param(
            200,
            json.dumps({"model_version_status": [{"version": "2", "state": "AVAILABLE", "status": {}}]}),
            {"2": "AVAILABLE"},
            id="as-tensorflow-serving",
        ),
        pytest.param(200, "<html>", None, id="no-json"),
        pytest.param(200, "{}", None, id="no-status"),
        pytest.param(404, "{}", None, id="no-model"),
    ],
)
def test_the_status_is_read_as_the_server_writes_it(live, monkeypatch, status, body, found):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(status if self.path == "/v1/models/resnet" else 500)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    with contextlib.ExitStack() as stack:
        port = serve(stack, Handler)
        monkeypatch.setattr(tfserving, "forwarded", lambda *_: contextlib.nullcontext(f"127.0.0.1:{port}"))
        if found is not None:
            assert found == version_states(live(), "a", "resnet")
        else:
            with pytest.raises(UnreachableError, match="pod a: its version status at port 8501"):
                version_states(live(), "a", "resnet")
