"""
What a failed helm command means: whose it is to mend, whatever words the user's own names add to the message.
"""

from dataclasses import dataclass

import pytest

from tfcanary.errors import UnreachableError
from tfcanary.helm.failures import HelmError, PendingError, ValuesRefusedError, classified, is_not_found

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
    "not-found",
    "denied",
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
        (
            'Error: UPGRADE FAILED: cannot patch "{0}" with kind VirtualService: admission webhook '
            '"validation.istio.io" denied the request: configuration is invalid: {0}: Unauthorized'
        ),
        'Error: UPGRADE FAILED: template: chart/x.yaml:1:13: executing "x.yaml" at <.Values.{0}>: nil pointer',
        "Error: UPGRADE FAILED: YAML parse error on chart/templates/{0}.yaml: error converting YAML to JSON",
        'Error: INSTALLATION FAILED: release name "{0}.": invalid release name, must match regex ^[a-z0-9]',
        "Error: release name is invalid: {0}.",
    ],
    ids=[
        "validate",
        "schema",
        "apiserver",
        "ownership",
        "webhook",
        "nil-pointer",
        "yaml",
        "release-name",
        "release-name-of-upgrade",
    ],
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


def test_log_lines_before_the_error_are_no_part_of_it() -> None:
    """
    The Kubernetes client logs that it tries again; what counts is what Helm says at the end.
    """
    log = 'E1126 00:02:14.4 1 memcache.go:381] "Unhandled" err="Get \\"https://10.0.0.1/api\\": connection refused"'
    error = "Error: execution error at (chart/templates/validate.yaml:60:4): weights must sum to 100"

    found = classified("helm upgrade resnet", Failed(f"{log}\n{error}\n".encode()))

    assert ValuesRefusedError is type(found)
    assert f"helm upgrade resnet: {error}" == str(found)
    unreachable = (
        "Error: kubernetes cluster unreachable: invalid configuration: open /x: no such file or directory"
    )
    assert UnreachableError is kind(f"{log}\n{unreachable}")


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        pytest.param("Error: release: not found\n", True, id="status"),
        pytest.param(
            "Error: uninstall: Release not loaded: resnet: release: not found", True, id="uninstall"
        ),
        pytest.param("WARNING: readable\nError: release: not found", True, id="behind-a-warning"),
        pytest.param(
            "Error: values don't meet the specifications of the schema(s) in the following chart(s):\n"
            "- at '/routing/routes/0/match/userGroups/0': 'release: not found' does not match pattern",
            False,
            id="a-value",
        ),
        pytest.param('Error: x: got "release: not found', False, id="quoted-at-the-end"),
        pytest.param('Error: path "nowhere" not found', False, id="chart"),
    ],
)
def test_a_release_is_missing_only_where_helm_says_so_itself(*, said: str, missing: bool) -> None:
    assert missing is is_not_found(Failed(said.encode()))
