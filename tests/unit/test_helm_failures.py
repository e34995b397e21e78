"""
What a failed helm command means: whose it is to mend, whatever words the user's own names add to the message.
"""

from dataclasses import dataclass

import pytest

from tfcanary.errors import UnreachableError
from tfcanary.helm.failures import HelmError, PendingError, ValuesRefusedError, classified

# Words that Helm says of a cluster that cannot be reached, and of values that it refuses. All of them but the spaced
# ones can be the name of a route, a track, a model or a release.
WORDS = (
    "unauthorized",
    "certificate",
    "x509",
    "tls",
    "etcdserver",
    "unreachable",
    "connection-refused",
    "no-such-host",
    "timeout",
    "invalid",
    "invalid-configuration",
    "already-exists",
    "failed-to-download",
)


@dataclass(frozen=True)
class Failed:
    """
    What helm left.
    """

    stderr: bytes
    returncode: int = 1


def kind(message: str) -> type[Exception]:
    return type(classified("helm upgrade resnet", Failed(message.encode())))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    "refusal",
    [
        (
            "Error: execution error at (tfserving-canary/templates/validate.yaml:60:4): routing.routes[0] ({}-users): "
            "weights must sum to 100, got 90 (stable=80, canary=10)"
        ),
        (
            "Error: UPGRADE FAILED: values don't meet the specifications of the schema(s) in the following chart(s):\n"
            "tfserving-canary:\n- at '/routing/routes/0/name': '{}_' does not match pattern"
        ),
        (
            'Error: UPGRADE FAILED: cannot patch "{0}-stable" with kind Deployment: Deployment.apps "{0}-stable" is invalid: '
            "spec.replicas: Invalid value: -1"
        ),
        (
            'Error: INSTALLATION FAILED: Unable to continue with install: Service "{}" in namespace "models" exists and '
            "cannot be imported into the current release: invalid ownership metadata"
        ),
    ],
    ids=["validate", "schema", "apiserver", "ownership"],
)
def test_a_refusal_that_quotes_a_users_word_is_a_refusal(word: str, refusal: str) -> None:
    assert ValuesRefusedError is kind(refusal.format(word))


@pytest.mark.parametrize("word", WORDS)
def test_a_release_may_have_any_name(word: str) -> None:
    """
    An upgrade that was rolled back is no unreachable cluster, whatever the release is called.
    """
    said = f"Error: UPGRADE FAILED: release {word} failed, and has been rolled back due to atomic being set: timed out"

    assert HelmError is kind(said)


@pytest.mark.parametrize(
    "said",
    [
        (
            'Error: Kubernetes cluster unreachable: Get "https://127.0.0.1:9/version": dial tcp 127.0.0.1:9: connect: '
            "connection refused"
        ),
        'Error: UPGRADE FAILED: Get "https://k8s.invalid/version": dial tcp: lookup k8s.invalid: no such host',
        'Error: query: failed to query with labels: Get "https://10.0.0.1/api": dial tcp 10.0.0.1:443: i/o timeout',
        "Error: etcdserver: request timed out",
        'Error: Get "https://127.0.0.1/": tls: failed to verify certificate: x509: certificate signed by unknown authority',
        "Error: query: failed to query with labels: Unauthorized",
        "Error: Kubernetes cluster unreachable: the server has asked for the client to provide credentials",
        "Error: Kubernetes cluster unreachable: invalid configuration: no configuration has been provided",
        (
            "Error: invalid configuration: [unable to read certificate-authority /nowhere for x due to open /nowhere: no such "
            "file or directory]"
        ),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_said_so(said: str) -> None:
    assert UnreachableError is kind(said)


def test_another_operation_is_pending() -> None:
    assert PendingError is kind(
        "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress"
    )
    assert PendingError is kind(
        "Error: another operation (install/upgrade/rollback) is in progress for release certificate"
    )


@pytest.mark.parametrize(
    "said",
    [
        'Error: INSTALLATION FAILED: path "nowhere" not found',
        "Error: open /nowhere/Chart.yaml: no such file or directory",
        'Error: failed to download "oci://registry.example/chart"',
        "Error: parse error at (tfserving-canary/templates/x.yaml:1): unclosed action",
    ],
)
def test_a_chart_that_is_not_there_is_wrong_use(said: str) -> None:
    assert ValuesRefusedError is kind(said)
