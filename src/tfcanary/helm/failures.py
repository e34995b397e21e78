"""
What Helm's messages mean: the one place that reads them.

Helm's exit code is 1 for every failure, and only the message distinguishes them. The message repeats the user's own
words (the name of a route, a track, a host or a model), and any of these may be `unauthorized` or `certificate`.
"""

import re
from typing import Protocol

from tfcanary.errors import CanaryError, DoesNotHoldError, NotFoundError, UnreachableError, UsageError


class HelmError(DoesNotHoldError):
    """
    Helm accepted the command, and the command failed.
    """


class PendingError(HelmError):
    """
    Another operation holds the release: its newest revision is pending.
    """


class ConflictError(HelmError):
    """
    Another program owns fields of live objects that Helm 4 would set.
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


# Helm asks for the apiserver's version before all else, and begins with these words where that fails. Only words of
# Helm's own come before them.
_NO_CLUSTER = re.compile(
    r"\AError: ([A-Z ]+: )?(kubernetes cluster unreachable|invalid configuration): ", re.IGNORECASE
)
# What Helm says of values or of a chart that it refuses, in the order of its work: find, read, render, apply. Any words
# of the user's may follow these, and therefore they are looked for before the words of a lost connection.
_REFUSED = re.compile(
    r"path \"[^\"]*\" not found|\AError: repo \S+ not found|failed to download|chart\.yaml file is missing"
    r"|\A[^;]*\bopen [^;:]*: no such file or directory|missing in charts/ directory"
    r"|release name is invalid|invalid release name|don't meet the specifications of the schema"
    r"|failed to render chart|parse error (at|on)|execution error at|executing \"[^\"]*\" at <"
    # The Kubernetes API's `Deployment.apps "resnet-stable" is invalid`, and what a webhook of Istio's says.
    r"|\" is invalid|denied the request|cannot be imported into the current release|already exists",
    re.IGNORECASE,
)
# What Helm says where the cluster goes away in the middle of its work. Each has a space or a colon, which no name has.
_UNREACHABLE = re.compile(
    r"connection refused|no such host|i/o timeout|etcdserver: |x509: |\btls: |: unauthorized\b"
    r"|must be logged in to the server",
    re.IGNORECASE,
)
# What the Kubernetes API says to Helm 4, which applies server-side: `Apply failed with 2 conflicts: conflicts with "x"`.
_CONFLICT = re.compile(r"Apply failed with [0-9]+ conflicts?: conflicts? with ")
_PENDING = "another operation (install/upgrade/rollback) is in progress"
# The end of a message that quotes nothing: a refused value may be these very words.
_NOT_FOUND = re.compile(r"\AError: [^\"']*\brelease: not found\Z", re.IGNORECASE)


def classified(what: str, failure: Failure) -> CanaryError:
    """
    Classify a failed Helm command by who must fix it, and keep Helm's whole message.

    Args:
        what: the command, as the subject of the message.
        failure: Helm's stderr and exit code.
    """
    said = _message(failure)
    if not _NO_CLUSTER.match(said):
        if _REFUSED.search(said):
            return ValuesRefusedError(f"{what}: {said}")
        if _PENDING in said.lower():
            return PendingError(f"{what}: {said} (exit code {failure.returncode})")
        if _CONFLICT.search(said):
            return ConflictError(f"{what}: {said} (exit code {failure.returncode})")
        if not _UNREACHABLE.search(said):
            return HelmError(f"{what}: {said} (exit code {failure.returncode})")
    return UnreachableError(
        f"{what}: {said}; is the cluster up, and is it the one of --kubeconfig and --context?"
    )


def is_not_found(failure: Failure) -> bool:
    """
    Whether the release does not exist.

    pyhelm3 answers this by a substring, which the refusal of a value may contain.
    """
    return _NOT_FOUND.match(_message(failure)) is not None


def _message(failure: Failure) -> str:
    """
    Helm's message on one line, without the log lines of Helm and its Kubernetes client that come before it.
    """
    lines = [line for line in failure.stderr.decode(errors="replace").splitlines() if line.strip()]
    first = next((index for index, line in enumerate(lines) if line.startswith("Error: ")), 0)
    return "; ".join(lines[first:]) or "no message"


def not_found(name: str, namespace: str) -> NotFoundError:
    """
    The error for a release that does not exist.
    """
    return NotFoundError(
        f"release {name!r}: not found in namespace {namespace!r}; "
        f"see `helm list --namespace {namespace}`, or install it first"
    )
