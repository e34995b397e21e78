"""
A rollout that runs in the cluster: the chart's Job, with no right but those of its Role.
"""

import base64
import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from planting import SYSTEM, Kubectl
from pytest_kubernetes.providers.base import AClusterManager
from rolling import BETTER, GOOD, MODEL, QUICK, RELEASE, Rolling, digits_in_a_namespace

from tfcanary.cluster import lifecycle
from tfcanary.cluster.layout import Layout
from tfcanary.contract import SERVING_PREPROCESS, Api
from tfcanary.export.architectures import LABELLED
from tfcanary.export.cache import exported
from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.state import State, from_text
from tfcanary.target import Target
from tfcanary.traffic.calls import metadata_call
from tfcanary.traffic.driver import Traffic
from tfcanary.wait import NotYet, wait_until

LOG = logging.getLogger(__name__)
ROLE = f"{RELEASE}-rollout"
PLAN = {**{key: part for key, part in QUICK.items() if key != "release"}, "to": BETTER}


@pytest.fixture(scope="module")
def place(
    manager: AClusterManager, layout: Layout | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """
    A namespace with two versions of digits, in a cluster that has the Job's image.
    """
    with digits_in_a_namespace(manager, layout, tmp_path_factory.mktemp("none"), faults={}) as name:
        assert layout is not None
        lifecycle.add_rollout_image(layout)
        yield name


@pytest.fixture(scope="module")
def rolling(place: str, kubeconfig: Path, environment: Path) -> Rolling:
    return Rolling(Target(namespace=place, kubeconfig=kubeconfig), f"{place}.test", environment)


@pytest.fixture(scope="module")
def kubectl(manager: AClusterManager, place: str, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    return Kubectl(manager, place, tmp_path_factory.mktemp("objects"))


def pictures() -> str:
    """
    Five held-out digits as REST predictions, one a line.
    """
    model = exported(GOOD, arch="resnet20", weights="digits", seed=20, name=MODEL)
    files = sorted((model.parent / LABELLED).glob("*/*.png"))[::50][:5]
    assert len(files) == 5
    return "".join(
        json.dumps(
            {
                "signature_name": SERVING_PREPROCESS,
                "instances": [{"b64": base64.b64encode(file.read_bytes()).decode()}],
            }
        )
        + "\n"
        for file in files
    )


def state_of(rolling: Rolling) -> State:
    """
    The state of the rollout, once there is one.
    """
    stored = rolling.cluster().load()
    if stored is None:
        raise NotYet("no state")
    return from_text(stored.text)


def pods(kubectl: Kubectl, job: str) -> list[dict[str, Any]]:
    found = json.loads(kubectl("get", "pods", "-l", f"job-name={job}", "-o", "json"))["items"]
    return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])


def job_of(kubectl: Kubectl) -> str:
    (found,) = json.loads(kubectl("get", "jobs", "-o", "json"))["items"]
    return str(found["metadata"]["name"])


def test_the_job_carries_a_plan_out_though_its_pod_is_killed(rolling: Rolling, kubectl: Kubectl) -> None:
    """
    Its first pod goes away under the canary's first weight. The next one goes on, users' requests are all answered, and
    the release is as Helm released it.
    """
    rolling.reset()
    calls = [metadata_call(api, MODEL) for api in Api]
    with Traffic(
        gateway_address(LiveObjects(rolling.target), RELEASE), calls, rate=20.0, host=rolling.host
    ) as users:
        rolling.reset(rollout={"enabled": True, "plan": PLAN, "requests": pictures()})
        job = job_of(kubectl)

        def exposed() -> State:
            state = state_of(rolling)
            if not (state.exposed and state.phase is Phase.JUDGE):
                raise NotYet(state.phase.value)
            return state

        first = wait_until("the canary's first weight", exposed, timeout_seconds=120)
        (pod,) = pods(kubectl, job)
        kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")

        def ended() -> State:
            state = state_of(rolling)
            if not (state.ended and state.announced):
                raise NotYet(state.phase.value)
            return state

        end = wait_until("the rollout's end", ended, timeout_seconds=240)
        asked = users.stop()

    LOG.info("%s after %.0f s; %s", end.phase.value, end.now - end.started, asked.in_words())
    assert Phase.SUCCEEDED is end.phase, end.reason
    assert first.run == end.run
    assert first.driver != end.driver
    assert f"job of release {RELEASE}" == end.by
    asked.assert_none_failed(at_least=1000)
    values = rolling.releases.values(RELEASE)
    assert BETTER == values["tracks"]["stable"]["version"]
    assert {"stable": 100} == values["routing"]["routes"][-1]["weights"]
    kubectl("wait", "--for=condition=complete", f"job/{job}", "--timeout=60s")
    assert job == job_of(kubectl)
    assert () == rolling.releases.drift(RELEASE).differences


RIGHTS = [
    pytest.param((None, "", "secrets", "update"), id="history"),
    pytest.param((None, "", "pods/portforward", "create"), id="pods"),
    pytest.param((None, "coordination.k8s.io", "leases", "create"), id="lease"),
    pytest.param((None, "networking.istio.io", "virtualservices", "patch"), id="routes"),
    pytest.param((SYSTEM, "", "services", "list"), id="gateway"),
    pytest.param((SYSTEM, "networking.istio.io", "envoyfilters", "patch"), id="filters"),
]


@pytest.fixture(scope="module")
def refused(rolling: Rolling, kubectl: Kubectl) -> Rolling:
    """
    A release whose Job has ended: stable has the plan's version already.
    """
    rolling.reset(rollout={"enabled": True, "plan": {"to": GOOD}})
    kubectl("wait", "--for=condition=failed", f"job/{job_of(kubectl)}", "--timeout=60s")
    return rolling


def test_what_is_refused_is_not_tried_again(refused: Rolling, kubectl: Kubectl) -> None:
    (pod,) = pods(kubectl, job_of(kubectl))

    lines = kubectl("logs", pod["metadata"]["name"]).splitlines()
    assert f"error: release '{RELEASE}': " in lines[-1]
    assert 2 == pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    assert GOOD == refused.releases.values(RELEASE)["tracks"]["stable"]["version"]


@pytest.mark.parametrize("right", RIGHTS)
def test_a_right_that_is_missing_is_named_and_nothing_is_changed(
    refused: Rolling, kubectl: Kubectl, right: tuple[str | None, str, str, str]
) -> None:
    namespace, group, resource, verb = right
    before = refused.releases.current(RELEASE).number
    role = ROLE if namespace is None else f"{refused.target.namespace}.{ROLE}"
    whole = kubectl.get("role", role, namespace)
    poor = without(whole, group, resource, verb)
    kubectl("replace", "-f", kubectl.file(poor), namespace=namespace)
    try:
        pod = alone(kubectl, f"poor-{verb}-{resource.partition('/')[0]}")
    finally:
        kubectl("replace", "-f", kubectl.file(whole), namespace=namespace)

    where = namespace or refused.target.namespace
    words = f"{verb} {resource}{group and f'.{group}'}"
    lines = kubectl("logs", pod["metadata"]["name"]).splitlines()
    assert f"error: rollout: expected the right to {words} in namespace '{where}', got none; " in lines[-1]
    assert 3 == pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    assert before == refused.releases.current(RELEASE).number


def without(role: dict[str, Any], group: str, resource: str, verb: str) -> dict[str, Any]:
    """
    A Role that lacks one verb.
    """
    poor = copy.deepcopy(role)
    (rule,) = [one for one in poor["rules"] if group in one["apiGroups"] and resource in one["resources"]]
    left = [name for name in rule["resources"] if name != resource]
    if left:
        poor["rules"].append({**rule, "resources": left})
    rule["resources"] = [resource]
    rule["verbs"] = [name for name in rule["verbs"] if name != verb]
    if not rule["verbs"]:
        poor["rules"].remove(rule)
    return poor


def alone(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """
    The pod of the Job, run once by itself for another rollout; how it ended.
    """
    template = kubectl.get("job", job_of(kubectl))["spec"]["template"]
    spec = template["spec"]
    (container,) = spec["containers"]
    container["args"] = [one for one in container["args"] if not one.startswith("--run=")]
    labels = {"sidecar.istio.io/inject": "false"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    kubectl("create", "-f", kubectl.file(pod))

    def ended() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(kubectl("get", "pod", name, "-o", "json"))
        if found["status"]["phase"] not in ("Failed", "Succeeded"):
            raise NotYet(found["status"]["phase"])
        return found

    return wait_until(f"the end of pod {name}", ended, timeout_seconds=90)
