"""
Every object of a manifest is compared with the live one, by the rules of its kind.
"""

import copy

import pytest
import yaml

from tfcanary.check.live import live_objects
from tfcanary.errors import ForbiddenError
from tfcanary.helm.compare import object_differences
from tfcanary.helm.drift import DriftError, drift
from tfcanary.judge.verdict import Outcome


def made(kind, version="v1", name="resnet", **body):
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "labels": {"app": "resnet"}},
        **body,
    }


CONTAINER = {
    "name": "model-server",
    "image": "tensorflow/serving:2.19.1",
    "args": ["--port=8500", "--enable_batching=false"],
    "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"cpu": 2}},
    "securityContext": {"readOnlyRootFilesystem": True},
}
DEPLOYMENT = made(
    "Deployment",
    "apps/v1",
    spec={
        "replicas": 1,
        "template": {
            "metadata": {"labels": {"track": "stable"}, "annotations": {"checksum/config": "abc"}},
            "spec": {
                "containers": [CONTAINER],
                "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
            },
        },
    },
)
SERVICE = made(
    "Service",
    spec={
        "selector": {"app": "resnet"},
        "ports": [{"name": "http-rest", "port": 8501, "targetPort": "http-rest"}],
    },
)
CONFIG = made("ConfigMap", data={"models.config": "versions: 1"})
POLICY = made(
    "AuthorizationPolicy",
    "security.istio.io/v1",
    spec={"action": "ALLOW", "rules": [{"from": [{"source": {"principals": ["gateway"]}}]}]},
)
NETWORK = made(
    "NetworkPolicy",
    "networking.k8s.io/v1",
    spec={"podSelector": {"matchLabels": {"app": "resnet"}}, "ingress": [{"ports": [{"port": 8501}]}]},
)
SCALER = made(
    "HorizontalPodAutoscaler",
    "autoscaling/v2",
    spec={"scaleTargetRef": {"kind": "Deployment", "name": "resnet"}, "minReplicas": 2, "maxReplicas": 5},
)
ACCOUNT = made("ServiceAccount", automountServiceAccountToken=False)
ROLE = made("Role", "rbac.authorization.k8s.io/v1", rules=[{"resources": ["pods"], "verbs": ["get"]}])
ALL = (DEPLOYMENT, SERVICE, CONFIG, POLICY, NETWORK, SCALER, ACCOUNT, ROLE)


def completed():
    """
    The objects as an apiserver gives them: completed, with amounts of its own form.
    """
    deployment, service, *others = copy.deepcopy(ALL)
    deployment["metadata"] |= {"uid": "1", "annotations": {"deployment.kubernetes.io/revision": "3"}}
    deployment["spec"] |= {"revisionHistoryLimit": 10, "strategy": {"type": "RollingUpdate"}}
    template = deployment["spec"]["template"]["spec"]
    template |= {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "securityContext": {}}
    template["containers"][0] |= {
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}},
        "terminationMessagePath": "/dev/termination-log",
    }
    service["spec"] |= {"clusterIP": "10.0.0.1", "type": "ClusterIP", "sessionAffinity": "None"}
    service["spec"]["ports"][0] |= {"protocol": "TCP", "nodePort": 30000}
    for one in (deployment, service, *others):
        one["status"] = {"observedGeneration": 1}
    return {one["kind"]: one for one in (deployment, service, *others)}


def compared(live):
    return drift(yaml.safe_dump_all(ALL), lambda wanted: live.get(wanted["kind"]))


def test_what_the_apiserver_completes_is_no_drift():
    found = compared(completed())

    assert () == found.differences
    assert len(ALL) == found.objects
    row = live_objects(found)
    assert (Outcome.HELD, f"all {len(ALL)} the same") == (row.outcome, row.observed)


@pytest.mark.parametrize("kind", [one["kind"] for one in ALL])
def test_an_object_of_any_kind_that_is_gone_is_found(kind):
    live = completed()
    del live[kind]

    assert (f"{kind} resnet is gone",) == compared(live).differences
    assert Outcome.FAILED is live_objects(compared(live)).outcome


def at(path, value):
    """
    Set the value at a path of keys and numbers; a value of None takes it away.
    """

    def change(one):
        *steps, last = path
        for step in steps:
            one = one[step]
        if value is None:
            del one[last]
        else:
            one[last] = value

    return change


SPEC = ("spec", "template", "spec")


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        pytest.param(
            "Deployment",
            at((*SPEC, "containers", 0, "image"), "other"),
            "spec.template.spec.containers[model-server].image: expected 'tensorflow/serving:2.19.1', got 'other'",
            id="image",
        ),
        pytest.param(
            "Deployment", at((*SPEC, "containers", 0, "args", 1), "--x"), "args[1]: expected", id="args"
        ),
        pytest.param(
            "Deployment",
            at((*SPEC, "containers", 0, "env"), [{"name": "A", "value": "1"}]),
            "env: expected None, got [{'name': 'A', 'value': '1'}]",
            id="env-added",
        ),
        pytest.param(
            "Deployment",
            at((*SPEC, "containers", 0, "resources", "requests", "cpu"), "2"),
            "requests.cpu: expected '1000m', got '2'",
            id="amount",
        ),
        pytest.param(
            "Deployment",
            at((*SPEC, "containers"), [CONTAINER, {"name": "sidecar"}]),
            "containers[sidecar]: expected None, got {'name': 'sidecar'}",
            id="container-added",
        ),
        pytest.param(
            "Deployment",
            at((*SPEC, "volumes", 0, "emptyDir", "sizeLimit"), None),
            "sizeLimit: expected '1Gi', got None",
            id="field-removed",
        ),
        pytest.param(
            "Service",
            at(("spec", "selector"), {"app": "resnet", "track": "stable"}),
            "spec.selector.track: expected None, got 'stable'",
            id="selector-narrowed",
        ),
        pytest.param(
            "Service",
            at(("spec", "ports", 0, "targetPort"), 80),
            "targetPort: expected 'http-rest'",
            id="port",
        ),
        pytest.param("ConfigMap", at(("data", "more"), "x"), "data.more: expected None, got 'x'", id="data"),
        pytest.param(
            "AuthorizationPolicy", at(("spec", "rules"), [{}]), "from: expected [{'source'", id="rule-opened"
        ),
        pytest.param(
            "AuthorizationPolicy",
            at(("spec", "selector"), {}),
            "spec.selector: expected None, got {}",
            id="added",
        ),
        pytest.param(
            "NetworkPolicy",
            at(("spec", "ingress"), [{"ports": [{"port": 8501}]}, {}]),
            "spec.ingress: expected",
            id="policy-opened",
        ),
        pytest.param(
            "HorizontalPodAutoscaler", at(("spec", "maxReplicas"), 50), "maxReplicas: expected 5", id="scaler"
        ),
        pytest.param(
            "ServiceAccount",
            at(("automountServiceAccountToken",), value=True),
            "automountServiceAccountToken: expected False, got True",
            id="account",
        ),
        pytest.param(
            "Role",
            at(("rules", 0, "verbs"), ["get", "list"]),
            "rules[0].verbs: expected ['get']",
            id="right-added",
        ),
        pytest.param(
            "ConfigMap", at(("metadata", "labels"), {}), "metadata.labels.app: expected 'resnet'", id="label"
        ),
    ],
)
def test_an_edited_object_is_named_by_its_field(kind, change, said):
    live = completed()
    change(live[kind])

    found = compared(live).differences

    assert 1 == len(found)
    assert found[0].startswith(f"{kind} resnet: ")
    assert said in found[0]


def test_replicas_belong_to_the_autoscaler_that_there_is():
    live = completed()
    live["Deployment"]["spec"]["replicas"] = 4

    assert () == compared(live).differences
    assert ["spec.replicas: expected 1, got 4"] == list(object_differences(DEPLOYMENT, live["Deployment"]))


def test_kinds_that_may_not_be_read_are_said_and_do_not_fail():
    live = completed()

    def read(wanted):
        if wanted["kind"] in ("NetworkPolicy", "Role"):
            raise ForbiddenError("no")
        return live[wanted["kind"]]

    found = drift(yaml.safe_dump_all(ALL), read)

    assert ("NetworkPolicy", "Role") == found.unread
    row = live_objects(found)
    assert (Outcome.HELD, "all 6 the same; NetworkPolicy, Role may not be read") == (
        row.outcome,
        row.observed,
    )


def test_nothing_that_may_be_read_is_not_enough_evidence():
    def read(_):
        raise ForbiddenError("no")

    assert Outcome.NOT_ENOUGH is live_objects(drift(yaml.safe_dump_all(ALL), read)).outcome


def test_an_upgrade_is_compared_by_the_kinds_that_helm_leaves():
    rule = made("DestinationRule", "networking.istio.io/v1", spec={"host": "resnet"})

    found = drift(yaml.safe_dump_all([*ALL, rule]), lambda _: None, ("DestinationRule",))

    assert ("DestinationRule resnet is gone",) == found.differences


def test_the_repair_has_helms_own_field_manager():
    """
    Helm 4 would meet a conflict with kubectl's at its next upgrade.
    """
    said = str(DriftError("resnet", "models", ["x: spec.a: expected 1, got 2"]))

    assert (
        "helm get manifest resnet --namespace models | kubectl apply --server-side --force-conflicts "
        "--field-manager=helm -f -" in said
    )
    assert "kubectl edit" not in said
    assert "kubectl edit" in str(DriftError("resnet", "models", ["x: spec.a: expected None, got 2"]))
