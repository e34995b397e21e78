"""
A gateway that speaks TLS: traffic moves, and is checked, as without; and nobody else's certificate will do.
"""

import datetime as dt
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tfcanary import check, evidence, live, mesh, predict, routing
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.release import Releases

VALUES = routing.CHART.parents[1] / "values"
RELEASE = "resnet"
CANARY = VALUES / "canary-30.yaml"


@dataclass(frozen=True, slots=True)
class Issued:
    """
    A certificate that nobody issued but itself, and its key; both as files.
    """

    certificate: Path
    key: Path


def issued(folder: Path, host: str) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Issued(folder / f"{host}.pem", folder / f"{host}.key")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return made


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, host: str) -> Issued:
    return issued(tmp_path_factory.mktemp("ours"), host)


@pytest.fixture(scope="module")
def cluster(  # noqa: PLR0917 - fixtures
    ours: Issued, releases: Releases, kubeconfig: Path, environment: Path, namespace: str, host: str
) -> Iterator[mesh.Mesh]:
    """
    A release whose clients come by TLS, 30 % to the canary.
    """
    kubectl = ["kubectl", f"--kubeconfig={kubeconfig}", "--namespace=istio-system"]
    secret = f"{namespace}-tls"
    subprocess.run(
        [*kubectl, "create", "secret", "tls", secret, f"--cert={ours.certificate}", f"--key={ours.key}"], check=True
    )  # fmt: skip
    try:
        values = {
            "gateway": {"hosts": [host], "tls": {"enabled": True, "credentialName": secret}},
            "helmTest": {"ca": ours.certificate.read_text()},
        }
        releases.apply(
            RELEASE, files=[environment, VALUES / "models/resnet.yaml", VALUES / "stable.yaml"], values=values
        )
        releases.apply(RELEASE, files=[CANARY])
        yield mesh.Mesh(namespace=namespace, kubeconfig=kubeconfig)
        releases.uninstall(RELEASE)
    finally:
        subprocess.run([*kubectl, "delete", "secret", secret], check=True)


@pytest.fixture(scope="module")
def address(cluster: mesh.Mesh) -> Iterator[str]:
    """
    The gateway's port for TLS.
    """
    with cluster.forwarded(cluster.gateway_pods(RELEASE, tls=True)[0]) as found:
        yield found


def test_every_check_holds_over_tls(address: str, ours: Issued, kubeconfig: Path, namespace: str) -> None:
    """
    The split, the rules and the answers, at each gateway pod, over REST and over gRPC, with the certificate verified.
    """
    seen = check.check_gateway(
        live.from_release(
            RELEASE,
            namespace=namespace,
            kubeconfig=kubeconfig,
            files=[CANARY],
            gateway=address,
            tls=predict.Tls(ours.certificate),
        )
    )

    assert seen.held, seen.table()


def test_anothers_certificate_is_not_taken(
    address: str, kubeconfig: Path, namespace: str, host: str, tmp_path: Path
) -> None:
    """
    Of the same name, from another authority: no request is made, and the check says why.
    """
    theirs = issued(tmp_path, host)
    subject = live.from_release(
        RELEASE, namespace=namespace, kubeconfig=kubeconfig, gateway=address, tls=predict.Tls(theirs.certificate)
    )  # fmt: skip

    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        check.check_gateway(subject, evidence.Limits(timeout_seconds=2))


def test_without_tls_clients_are_sent_to_it(
    cluster: mesh.Mesh, kubeconfig: Path, namespace: str, host: str
) -> None:
    """
    The other port only redirects, and the check does not take that for answers.
    """
    tls = cluster.gateway_pods(RELEASE, tls=True)[0]
    port = subprocess.run(
        ["kubectl", f"--kubeconfig={kubeconfig}", f"--namespace={tls.namespace}", "get", "services",
         "--selector=istio=ingressgateway", "-o=jsonpath={.items[0].spec.ports[?(@.port==80)].targetPort}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    with cluster.forwarded(mesh.PodPort(tls.name, tls.namespace, int(port))) as address:
        answer = httpx.get(f"http://{address}/v1/models/resnet", headers={"host": host}, trust_env=False)

    assert (301, f"https://{host}/v1/models/resnet") == (answer.status_code, answer.headers["location"])
    with pytest.raises(UsageError, match="redirections to TLS; add --tls"):
        live.from_release(RELEASE, namespace=namespace, kubeconfig=kubeconfig)


@pytest.mark.usefixtures("cluster")
def test_helm_test_verifies_the_certificate(releases: Releases, kubeconfig: Path, namespace: str) -> None:
    """
    It holds with the authority that the values name, and fails with the system's alone.
    """
    command = ["helm", "test", RELEASE, f"--namespace={namespace}", f"--kubeconfig={kubeconfig}", "--logs"]

    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "REST: serving_preprocess predicted" in said
    assert "gRPC: serving_preprocess predicted" in said
    releases.apply(RELEASE, values={"helmTest": {"ca": ""}})
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 != refused.returncode
    assert "certificate verify failed" in refused.stdout
