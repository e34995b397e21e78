"""
Every object of a release is compared with the live one: deleted or edited, it is named; and the repair works.

Faults are planted with kubectl, past Helm, and taken back.
"""

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planting import SYSTEM, Kubectl

from tfcanary.check.sources import from_release
from tfcanary.check.subject import Subject
from tfcanary.errors import DoesNotHoldError
from tfcanary.helm.drift import repair
from tfcanary.helm.releases import Releases
from tfcanary.judge.verdict import Outcome
from tfcanary.paths import CHART, VALUES
from tfcanary.target import Target

RELEASE = "resnet"

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture
def subject(target: Target) -> Callable[..., Subject]:
    return functools.partial(from_release, RELEASE, target)


# Gateway by its full name: the Gateway API has a kind of that name, too.
DELETED = [
    ("authorizationpolicy", RELEASE, "AuthorizationPolicy"),
    ("peerauthentication", RELEASE, "PeerAuthentication"),
    ("envoyfilter", None, "EnvoyFilter"),
    ("destinationrule", RELEASE, "DestinationRule"),
    ("networkpolicy", RELEASE, "NetworkPolicy"),
    ("service", RELEASE, "Service"),
    ("configmap", f"{RELEASE}-stable", "ConfigMap"),
    ("serviceaccount", f"{RELEASE}-canary", "ServiceAccount"),
    ("virtualservice", f"{RELEASE}-mesh", "VirtualService"),
    ("virtualservice", RELEASE, "VirtualService"),
    ("gateway.networking.istio.io", RELEASE, "Gateway"),
]


@pytest.mark.parametrize(
    ("kind", "name", "said"), DELETED, ids=[f"{one[2]}-{one[1] or ''}" for one in DELETED]
)
def test_an_object_that_is_gone_is_named(
    *,
    releases: Releases,
    subject: Callable[..., Subject],
    kubectl: Kubectl,
    namespace: str,
    kind: str,
    name: str | None,
    said: str,
) -> None:
    """
    F8. Every kind of object; without the routes or the Gateway itself there is nothing to ask, and the error says it.
    """
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])
    where = SYSTEM if name is None else namespace
    name = name or f"{namespace}.{RELEASE}"
    kept = kubectl.get(kind, name, where)

    kubectl("delete", kind, name, namespace=where)
    try:
        finding = live_objects(subject)
    finally:
        kubectl.manager.kubectl(["apply", "-f", kubectl.file(kept)], as_dict=False)

    assert f"{said} {name} is gone" in finding


def live_objects(subject: Callable[..., Subject]) -> str:
    """
    What the check says of the live objects, by a finding that failed or by an error with exit code 1.
    """
    try:
        (row,) = (one for one in subject().findings if one.name == "live objects")
    except DoesNotHoldError as exc:
        return f"{exc.exit_code}: {exc}"
    assert Outcome.FAILED is row.outcome, row.observed
    return row.observed


EDITED: list[tuple[str, str | None, list[dict[str, Any]], str]] = [
    (
        "service",
        RELEASE,
        [{"path": "/spec/selector/track", "value": "stable"}],
        "spec.selector.track: expected None",
    ),
    (
        "configmap",
        f"{RELEASE}-stable",
        [{"path": "/data/more", "value": "x"}],
        "data.more: expected None, got 'x'",
    ),
    (
        "authorizationpolicy",
        RELEASE,
        [{"path": "/spec/rules/0/from", "value": []}],
        "spec.rules[0].from: expected",
    ),
    ("peerauthentication", RELEASE, [{"path": "/spec/mtls/mode", "value": "PERMISSIVE"}], "got 'PERMISSIVE'"),
    ("networkpolicy", RELEASE, [{"path": "/spec/ingress", "value": [{}]}], "spec.ingress[0]"),
    ("envoyfilter", None, [{"path": "/spec/priority", "value": 5}], "spec.priority: expected None, got 5"),
    (
        "gateway.networking.istio.io",
        RELEASE,
        [{"path": "/spec/servers/0/hosts/-", "value": "more.test"}],
        "hosts: expected",
    ),
    (
        "deployment",
        f"{RELEASE}-canary",
        [{"path": "/spec/template/spec/containers/0/env", "value": [{"name": "A", "value": "1"}]}],
        "containers[model-server].env: expected None",
    ),
    (
        "deployment",
        f"{RELEASE}-canary",
        [{"path": "/spec/replicas", "value": 2}],
        "spec.replicas: expected 1, got 2",
    ),
    (
        "serviceaccount",
        f"{RELEASE}-stable",
        [{"path": "/automountServiceAccountToken", "value": True}],
        "automountServiceAccountToken: expected False, got True",
    ),
]


@pytest.mark.parametrize(
    ("kind", "name", "change", "said"),
    EDITED,
    ids=[f"{one[0]}-{number}" for number, one in enumerate(EDITED)],
)
def test_an_object_that_was_edited_is_named(
    *,
    releases: Releases,
    subject: Callable[..., Subject],
    kubectl: Kubectl,
    namespace: str,
    kind: str,
    name: str | None,
    change: list[dict[str, Any]],
    said: str,
) -> None:
    """
    F8. Every kind of object, by the field that differs.
    """
    releases.apply(RELEASE, files=[VALUES / "stable.yaml"])
    where = SYSTEM if name is None else namespace
    name = name or f"{namespace}.{RELEASE}"
    kept = kubectl.get(kind, name, where)

    kubectl.patch(kind, name, *change, namespace=where)
    try:
        finding = live_objects(subject)
    finally:
        kubectl.manager.kubectl(["replace", "-f", kubectl.file(kept)], as_dict=False)

    assert said in finding
    kubectl("rollout", "status", f"deployment/{RELEASE}-canary", "--timeout=180s")


HELM_4 = sorted((Path.home() / ".cache/tfserving-canary/bin").glob("helm4-*/helm"))


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("helm", id="helm-on-path"),
        pytest.param(
            str(HELM_4[0]) if HELM_4 else "",
            id="helm-4",
            marks=pytest.mark.skipif(
                not HELM_4, reason="Helm 4 is not in the cache; nox -s chart fetches it"
            ),
        ),
    ],
)
def test_the_repair_that_the_error_names_works(
    *,
    program: str,
    target: Target,
    environment: Path,
    namespace: str,
    kubectl: Kubectl,
) -> None:
    """
    F10. A route is edited; the command of the error puts it back, and the next upgrade of the same Helm works.
    """
    helm = [program, "--namespace", namespace, f"--kubeconfig={target.kubeconfig}"]

    def upgrade(strategy: str) -> subprocess.CompletedProcess[str]:
        files = [environment, VALUES / "models/resnet.yaml", VALUES / f"{strategy}.yaml"]
        given = [f"--values={file}" for file in files]
        settings = [f"--set=gateway.hosts={{repair.{namespace}.test}}", "--set=routing.requireReady=false"]
        command = [*helm, "upgrade", "--install", "repair", str(CHART), *given, *settings]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        assert 0 == upgrade("stable").returncode
        kubectl.patch("virtualservice", "repair", {"path": "/spec/http/0/timeout", "value": "5s"})
        command = repair("repair", namespace).partition("(")[2].partition(")")[0]
        get, apply = (part.split() for part in command.split(" | "))
        get[0] = program
        manifest = subprocess.run(
            [*get, f"--kubeconfig={target.kubeconfig}"], capture_output=True, text=True, check=True
        ).stdout
        subprocess.run([*apply, f"--kubeconfig={target.kubeconfig}"], input=manifest, text=True, check=True)
        timeout = kubectl.get("virtualservice", "repair")["spec"]["http"][0]["timeout"]
        done = upgrade("canary-10")
    finally:
        subprocess.run([*helm, "uninstall", "repair"], check=True)

    assert "35s" == timeout
    assert 0 == done.returncode, done.stderr
