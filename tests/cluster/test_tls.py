"""
A gateway that speaks TLS: traffic moves and is checked as without TLS, and another authority's certificate is refused.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tfcanary.check.run import check_gateway
from tfcanary.check.sources import from_release
from tfcanary.check.subject import Options
from tfcanary.client.endpoint import Tls
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.helm.releases import Releases, Revision
from tfcanary.kube.gateway import gateway_pods
from tfcanary.kube.objects import LiveObjects
from tfcanary.kube.portforward import PodPort, forwarded
from tfcanary.paths import VALUES
from tfcanary.report.table import findings_table
from tfcanary.target import Target

RELEASE = "resnet"
CANARY = VALUES / "canary-30.yaml"


@pytest.fixture(scope="module")
def ours(identity: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, host: str) -> Path:
    """
    A folder with the gateway's `tls.key` and `tls.crt`, which is its own authority.
    """
    folder = tmp_path_factory.mktemp("ours")
    for name, pem in zip(("tls.key", "tls.crt"), identity(host).pems, strict=True):
        (folder / name).write_text(pem)
    return folder


@pytest.fixture(scope="module")
def more_values(ours: Path, kubeconfig: Path, namespace: str) -> Iterator[dict[str, Any]]:
    """
    Clients come by TLS, with a certificate that lies in the gateway's namespace.
    """
    kubectl = ["kubectl", f"--kubeconfig={kubeconfig}", "--namespace=istio-system"]
    secret = f"{namespace}-tls"
    pair = (f"--cert={ours}/tls.crt", f"--key={ours}/tls.key")
    subprocess.run([*kubectl, "create", "secret", "tls", secret, *pair], check=True)
    yield {
        "gateway": {"tls": {"enabled": True, "credentialName": secret}},
        "helmTest": {"ca": (ours / "tls.crt").read_text()},
    }
    subprocess.run([*kubectl, "delete", "secret", secret], check=True)


@pytest.fixture(scope="module")
def cluster(installed: Revision, releases: Releases, target: Target) -> LiveObjects:
    """
    The release, with 30 % to the canary.
    """
    assert installed.status == "deployed"
    releases.apply(RELEASE, files=[CANARY])
    return LiveObjects(target)


@pytest.fixture(scope="module")
def address(cluster: LiveObjects) -> Iterator[str]:
    """
    The gateway's port for TLS.
    """
    with forwarded(cluster, gateway_pods(cluster, RELEASE, tls=True)[0]) as found:
        yield found


def test_every_check_holds_over_tls(address: str, ours: Path, target: Target) -> None:
    """
    The split, the rules and the answers, at each gateway pod, over REST and over gRPC, with the certificate verified.
    """
    seen = check_gateway(
        from_release(RELEASE, target, files=[CANARY], gateway=address, tls=Tls(ours / "tls.crt"))
    )

    assert seen.held, str(findings_table(seen))


def test_anothers_certificate_is_refused(
    address: str, identity: Callable[..., Any], target: Target, host: str, tmp_path: Path
) -> None:
    """
    With a certificate of the same name from another authority no request is made, and the check says why.
    """
    theirs = tmp_path / "theirs.pem"
    theirs.write_text(identity(host).pems[1])
    subject = from_release(RELEASE, target, gateway=address, tls=Tls(theirs))

    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        check_gateway(subject, Options(timeout_seconds=2))


def test_without_tls_clients_are_sent_to_it(
    cluster: LiveObjects, kubeconfig: Path, target: Target, host: str
) -> None:
    """
    The other port only redirects, and the check does not take a redirection for an answer.
    """
    tls = gateway_pods(cluster, RELEASE, tls=True)[0]
    port = subprocess.run(
        [
            "kubectl",
            f"--kubeconfig={kubeconfig}",
            f"--namespace={tls.namespace}",
            "get",
            "services",
            "--selector=istio=ingressgateway",
            "-o=jsonpath={.items[0].spec.ports[?(@.port==80)].targetPort}",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    with forwarded(cluster, PodPort(tls.name, tls.namespace, int(port))) as address:
        answer = httpx.get(f"http://{address}/v1/models/resnet", headers={"host": host}, trust_env=False)

    assert (301, f"https://{host}/v1/models/resnet") == (answer.status_code, answer.headers["location"])
    with pytest.raises(UsageError, match="redirections to TLS; add --tls"):
        from_release(RELEASE, target)


@pytest.mark.usefixtures("cluster")
def test_helm_test_verifies_the_certificate(releases: Releases, kubeconfig: Path, namespace: str) -> None:
    """
    `helm test` holds with the authority that the values name, and fails with the system's authorities alone.
    """
    command = ["helm", "test", RELEASE, f"--namespace={namespace}", f"--kubeconfig={kubeconfig}", "--logs"]

    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "REST: serving_default predicted" in said
    assert "gRPC: serving_default predicted" in said
    releases.apply(RELEASE, values={"helmTest": {"ca": ""}})
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 != refused.returncode
    assert "certificate verify failed" in refused.stdout
