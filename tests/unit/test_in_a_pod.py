"""
Who asks the cluster: a pod's ServiceAccount or a kubeconfig, and what they may do.
"""

import pytest

from tfcanary.kube.objects import LiveObjects
from tfcanary.target import Target

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.mark.parametrize("allowed", [True, False])
def test_rights_are_asked_of_the_cluster(cluster, allowed):
    answers = {REVIEWS: {"spec": {}, "status": {"allowed": allowed}}}
    live = LiveObjects(Target(kubeconfig=cluster(answers)))

    assert allowed is live.may("create", "pods/portforward", "", "models")


@pytest.fixture
def in_a_pod(monkeypatch, tmp_path):
    """
    The files and the environment that a pod with a ServiceAccount has, and no kubeconfig.
    """
    for name, text in (("TOKEN", "secret"), ("CERT", "PEM")):
        (tmp_path / name).write_text(text)
        constant = f"kubernetes.config.incluster_config.SERVICE_{name}_FILENAME"
        monkeypatch.setattr(constant, str(tmp_path / name))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)


@pytest.mark.usefixtures("in_a_pod")
def test_a_pod_uses_its_service_account():
    """
    As Helm in the same pod does, and with the authorities of the cluster.
    """
    found = LiveObjects(Target()).configuration

    assert "https://10.96.0.1:443" == found.host
    assert "bearer secret" == found.api_key["BearerToken"]
    assert found.verify_ssl
    assert found.ssl_ca_cert.endswith("CERT")


@pytest.mark.usefixtures("in_a_pod")
@pytest.mark.parametrize("way", ["argument", "environment", "home"])
def test_a_kubeconfig_in_a_pod_is_used(way, kubeconfig, monkeypatch, tmp_path):
    file = kubeconfig(9)
    if way == "environment":
        monkeypatch.setenv("KUBECONFIG", str(file))
    if way == "home":
        (tmp_path / ".kube").mkdir()
        (tmp_path / ".kube/config").write_text(file.read_text())

    found = LiveObjects(Target(kubeconfig=file if way == "argument" else None)).configuration

    assert "http://127.0.0.1:9" == found.host
