"""
What Helm's messages mean: the one place that reads them.

Helm's exit code is 1 for every failure, and its text is all that tells them apart. The text repeats the user's own
words (a route's, a track's, a host's or a model's name), and any of these may be `unauthorized` or `certificate`.
"""

import re
from typing import Protocol

from tfcanary.errors import CanaryError, DoesNotHoldError, NotFoundError, UnreachableError, UsageError


class HelmError(DoesNotHoldError):
    """
    Helm did what it was asked to do, and that did not work out.
    """


class PendingError(HelmError):
    """
    Another operation holds the release: its newest revision is pending.
    """


class ValuesRefusedError(UsageError):
    """
    The chart, its schema or the Kubernetes API refuses the values.
    """


class Failure(Protocol):
    """
    What pyhelm3 raises for a failed command.
    """

    stderr: bytes
    returncode: int


# What begins with this is about the cluster: only Helm's own words come before it.
_NO_CLUSTER = re.compile(
    r"\AError: ([A-Z ]+: )?(kubernetes cluster unreachable|invalid configuration): ", re.IGNORECASE
)
# What Helm says of values or of a chart that it refuses, in the order of its work: read, render, apply. Behind these
# any words of the user's may follow, so they are asked first.
_REFUSED = re.compile(
    r"execution error at|don't meet the specifications of the schema|failed to render chart|parse error at"
    # The Kubernetes API's `Deployment.apps "resnet-stable" is invalid`.
    r"|\" is invalid|cannot be imported into the current release|already exists|failed to download"
    r"|chart\.yaml file is missing|path \"[^\"]*\" not found|\A[^;]*\bopen [^;:]*: no such file or directory",
    re.IGNORECASE,
)
# Each has a blank or a colon, which no name has.
_UNREACHABLE = re.compile(
    r"cluster unreachable|connection refused|no such host|i/o timeout|etcdserver: |x509: |\btls: "
    r"|unable to read (client-cert|client-key|certificate-authority)|: unauthorized\b|must be logged in to the server"
    r"|invalid configuration: ",
    re.IGNORECASE,
)
_PENDING = "another operation (install/upgrade/rollback) is in progress"
# Lines that are no part of the failure.
_NOISE = ("WARNING:", "walk.go:", "level=WARN")


def classified(what: str, failure: Failure) -> CanaryError:
    """
    The error that says who must mend a failed Helm command; it keeps Helm's whole message.

    Args:
        what: the command, as the subject of the message.
        failure: Helm's stderr and exit code.
    """
    said = [line for line in failure.stderr.decode(errors="replace").splitlines() if line.strip()]
    text = "; ".join(line for line in said if not line.startswith(_NOISE)) or "no message"
    no_cluster = _NO_CLUSTER.match(text)
    if not no_cluster and _REFUSED.search(text):
        return ValuesRefusedError(f"{what}: {text}")
    if not no_cluster and _PENDING in text.lower():
        return PendingError(f"{what}: {text} (exit code {failure.returncode})")
    if no_cluster or _UNREACHABLE.search(text):
        return UnreachableError(
            f"{what}: {text}; is the cluster up, and is it the one of --kubeconfig and --context?"
        )
    return HelmError(f"{what}: {text} (exit code {failure.returncode})")


def not_found(name: str, namespace: str) -> NotFoundError:
    """
    The error for a release that does not exist.
    """
    return NotFoundError(
        f"release {name!r}: not found in namespace {namespace!r}; "
        f"see `helm list --namespace {namespace}`, or install it first"
    )
