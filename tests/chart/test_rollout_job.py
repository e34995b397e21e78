"""
The Job that drives a rollout in the cluster: its pod, its rights, its plan.
"""

import json

import pytest

from tfcanary.chart.source import version_of
from tfcanary.paths import CHART
from tfcanary.rollout import rights
from tfcanary.rollout.planfile import plan_from

ON = {"enabled": True, "plan": {"to": 2}}
JWT = {"security": {"jwt": {"issuer": "https://issuer.example", "jwks": '{"keys":[]}'}}}
JWKS_URI = {
    "security": {"jwt": {"issuer": "https://issuer.example", "jwksUri": "https://issuer.example/keys"}}
}


@pytest.fixture
def job(render):
    """
    A rendering with the Job, of values over those that turn it on.
    """

    def rendered(strategy="stable", values=None, release="resnet", **changes):
        given = {**(values or {}), "rollout": {**ON, **changes}}
        return render(strategy, values=given, release=release)

    return rendered


def of(rendered, kind, namespace="default"):
    (found,) = [
        item
        for item in rendered.objects.values()
        if item["kind"] == kind
        and item["metadata"]["namespace"] == namespace
        and "-rollout" in item["metadata"]["name"]
    ]
    return found


def arguments(rendered):
    (container,) = of(rendered, "Job")["spec"]["template"]["spec"]["containers"]
    return container["args"]


def granted(role):
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def needed(*tables):
    return {(verb, *key) for table in tables for key, verbs in table.items() for verb in verbs}


def read_only(groups):
    return {(verb, group, name) for group, names in groups.items() for name in names for verb in rights._READ}


def test_nothing_is_there_by_default(render):
    assert not {"Job", "Role", "RoleBinding"} & {item["kind"] for item in render("stable").objects.values()}


def test_the_role_is_what_the_driver_asks_for(job):
    """
    And reading the objects that give the Job its rights, which are a part of the release: none is given that could be
    raised.
    """
    rbac = {"rbac.authorization.k8s.io": ["roles", "rolebindings"]}

    assert needed(rights.IN_NAMESPACE) | read_only({**rbac, "batch": ["jobs"]}) == granted(of(job(), "Role"))
    for values in ({}, JWT):
        assert needed(rights.AT_GATEWAY, rights.FILTERS) | read_only(rbac) == granted(
            of(job(values=values), "Role", "istio-system")
        )
    assert needed(rights.AT_GATEWAY, rights.FILTERS, rights.TOKENS) | read_only(rbac) == granted(
        of(job(values=JWKS_URI), "Role", "istio-system")
    )
    assert needed(rights.AT_GATEWAY) | read_only(rbac) == granted(
        of(job(values={"gateway": {"filters": {"enabled": False}}}), "Role", "istio-system")
    )


@pytest.mark.parametrize("namespace", ["default", "istio-system"])
def test_only_the_jobs_account_has_the_rights(job, namespace):
    rendered = job()
    binding = of(rendered, "RoleBinding", namespace)

    assert [{"kind": "ServiceAccount", "name": "resnet-rollout", "namespace": "default"}] == binding[
        "subjects"
    ]
    assert of(rendered, "Role", namespace)["metadata"]["name"] == binding["roleRef"]["name"]
    assert "resnet-rollout" == of(rendered, "Job")["spec"]["template"]["spec"]["serviceAccountName"]
    assert not [item for item in rendered.objects.values() if item["kind"].startswith("Cluster")]


def test_the_plan_is_one_that_a_rollout_takes(job):
    plan = {"to": 3, "steps": [1, 50], "bake": {"time": "10m"}, "approvals": ["promotion"]}
    data = of(job(plan=plan, requests='{"instances": [1]}'), "ConfigMap")["data"]
    read = plan_from(json.loads(data["plan.yaml"]))

    assert ("resnet", 3) == (read.release, read.to)
    assert '{"instances": [1]}' == data["requests.jsonl"]


def test_what_the_job_is_told(job):
    tls = {"gateway": {"tls": {"enabled": True, "credentialName": "c", "port": 8443}, "namespace": "edge"}}
    certificate = "-----BEGIN CERTIFICATE-----\nMII\n"
    plain, secure = arguments(job()), arguments(job(values=tls, ca=certificate, requests="{}"))

    assert ["start", "/etc/rollout/plan.yaml", "--namespace=default"] == plain[:3]
    assert "--gateway=istio-ingressgateway.istio-system:80" in plain
    assert "--tls" not in plain
    assert {
        "--gateway=istio-ingressgateway.edge:8443",
        "--tls",
        "--ca=/etc/rollout/ca.pem",
        "--requests=/etc/rollout/requests.jsonl",
    } <= set(secure)


def test_no_step_of_the_rollout_changes_its_job(job):
    """
    Tracks and routes change with each step, and a Job cannot be changed.
    """
    tracks = {"tracks": {"canary": {"version": 9, "replicas": 4}, "stable": {"replicas": 3}}}

    assert of(job(), "Job") == of(job("canary-30", values=tracks), "Job")


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        pytest.param({"plan": {"to": 3}}, True, id="plan"),
        pytest.param({"attempt": 2}, True, id="attempt"),
        pytest.param({"image": {"tag": "other"}}, False, id="image"),
        pytest.param({"resources": {"limits": {"memory": "2Gi"}}}, False, id="resources"),
    ],
)
def test_what_differs_is_another_job_and_only_another_plan_is_another_rollout(job, changes, again):
    before, after = job(), job(**changes)
    runs = [next(one for one in arguments(it) if one.startswith("--run=")) for it in (before, after)]

    assert of(before, "Job")["metadata"]["name"] != of(after, "Job")["metadata"]["name"]
    assert again is (runs[0] != runs[1])


def test_names_have_room(job):
    name = of(job(release="r" * 53), "Job")["metadata"]["name"]

    # A pod's label has the name of its Job.
    assert len(name) <= 63


def test_the_outcome_ends_the_job_and_a_lost_pod_does_not(job):
    rules = of(job(), "Job")["spec"]["podFailurePolicy"]["rules"]

    assert {"FailJob": [1, 2, 4]} == {
        rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule
    }
    assert {"Ignore": ["DisruptionTarget"]} == {
        rule["action"]: [one["type"] for one in rule["onPodConditions"]]
        for rule in rules
        if "onPodConditions" in rule
    }


def test_secrets_come_by_reference(job):
    secret = {"name": "SLACK_WEBHOOK_URL", "secretName": "slack", "key": "url"}
    (container,) = of(job(secretEnv=[secret]), "Job")["spec"]["template"]["spec"]["containers"]

    assert {"secretKeyRef": {"name": "slack", "key": "url"}} == container["env"][-1]["valueFrom"]


def test_the_images_tag_is_the_charts_version(job):
    (container,) = of(job(image={"repository": "a/b", "tag": ""}), "Job")["spec"]["template"]["spec"][
        "containers"
    ]

    assert f"a/b:{version_of(CHART)[1]}" == container["image"]
