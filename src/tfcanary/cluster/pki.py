"""
The cluster's own certificate authority, and the certificate of each component.

By their certificates the Node and RBAC authorizers tell the components apart
(https://kubernetes.io/docs/setup/best-practices/certificates/).
"""

import base64
import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tfcanary.cluster.layout import API_PORT, API_SERVICE_ADDRESS, NODE_ADDRESS, Layout

_LIFETIME = dt.timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Identity:
    """
    The holder of a certificate.

    Attributes:
        user: common name, to Kubernetes the user's name.
        group: organisation, to Kubernetes the user's group.
        hosts: names and addresses under which it serves; none for a client.
    """

    user: str
    group: str = ""
    hosts: tuple[str, ...] = ()


def identities(layout: Layout) -> dict[str, Identity]:
    """
    Every certificate of the cluster by its file name.
    """
    local = ("localhost", "127.0.0.1")
    service = "kubernetes.default.svc"
    names = ("kubernetes", "kubernetes.default", service, f"{service}.cluster.local")
    return {
        "etcd": Identity("etcd", hosts=local),
        "kube-apiserver": Identity(
            "kube-apiserver", hosts=(*local, NODE_ADDRESS, API_SERVICE_ADDRESS, *names)
        ),
        "kube-apiserver-kubelet-client": Identity("kube-apiserver-kubelet-client"),
        "front-proxy-client": Identity("front-proxy-client"),
        "kube-controller-manager": Identity("system:kube-controller-manager", hosts=local),
        "kube-scheduler": Identity("system:kube-scheduler", hosts=local),
        "kubelet": Identity(
            f"system:node:{layout.name}", "system:nodes", hosts=(*local, NODE_ADDRESS, layout.name)
        ),
        "kube-proxy": Identity("system:kube-proxy"),
        "coredns": Identity("system:coredns"),
        "admin": Identity("kubernetes-admin", "system:masters"),
    }


def ensure(layout: Layout, api_port: int) -> None:
    """
    Make the keys, certificates and kubeconfigs that are not there yet.
    """
    layout.pki.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (layout.pki / "ca.crt").exists():
        _make_authority(layout.pki)
    for name, identity in identities(layout).items():
        if not (layout.pki / f"{name}.crt").exists():
            _make_certificate(layout.pki, name, identity)
    if not (layout.pki / "service-account.key").exists():
        write_private(layout.pki / "service-account.key", _pem(ec.generate_private_key(ec.SECP256R1())))
    inside = f"https://{NODE_ADDRESS}:{API_PORT}"
    for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"):
        _write_kubeconfig(layout.pki / f"{name}.kubeconfig", layout, name, inside)
    _write_kubeconfig(layout.kubeconfig, layout, "admin", f"https://127.0.0.1:{api_port}")


def write_private(path: Path, content: bytes) -> None:
    """
    Write a file that only its owner reads, whole or not at all.
    """
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # The apiserver reads service account keys in SEC 1 form only, and the rest in either.
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks that were set back a little must not make a new certificate invalid.
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
    )


def _make_authority(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tfserving-canary local cluster")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(folder / "ca.key", _pem(key))
    write_private(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _make_certificate(folder: Path, name: str, identity: Identity) -> None:
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101 - it is what _make_authority wrote
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, identity.user)]
    if identity.group:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.group))
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(x509.Name(attributes), authority.subject, key)
    if identity.hosts:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in identity.hosts]), critical=False
        )
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    write_private(folder / f"{name}.key", _pem(key))
    write_private(folder / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_kubeconfig(path: Path, layout: Layout, identity: str, server: str) -> None:
    def embedded(file: str) -> str:
        return base64.b64encode((layout.pki / file).read_bytes()).decode()

    name = f"tfcanary-{layout.name}"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": embedded("ca.crt")}}
        ],
        "users": [
            {
                "name": identity,
                "user": {
                    "client-certificate-data": embedded(f"{identity}.crt"),
                    "client-key-data": embedded(f"{identity}.key"),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": identity}}],
    }
    text = yaml.safe_dump(content).encode()
    if not path.exists() or path.read_bytes() != text:
        write_private(path, text)
