"""
Why answers are not the release's own: who refuses them, or whose routes took them.
"""

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfcanary.check.mesh import Owner
from tfcanary.check.surroundings import in_words
from tfcanary.client.answer import Answer
from tfcanary.contract import REVISION_HEADER
from tfcanary.errors import CanaryError, ForbiddenError
from tfcanary.kube.httproute import http_entries
from tfcanary.kube.objects import LiveObjects

_DENIED = "RBAC: access denied"


@dataclass(frozen=True, slots=True)
class Reasons:
    """
    Where to look for a reason.

    Attributes:
        name: that of the release's objects.
        accounts: reads the identities of the gateway's pods, namespace and service account of each.
    """

    cluster: LiveObjects
    name: str
    accounts: Callable[[], Sequence[tuple[str, str]]]

    def of(self, answer: Answer, revision: str | None) -> str:
        """
        Why an answer is not one of the release's routes with this revision; empty if it is not known.
        """
        try:
            if not answer.ok:
                return self._refused() if _DENIED in answer.error else ""
            if answer.revision is not None and answer.revision != revision:
                return self._whose(answer.revision)
        except CanaryError as exc:
            return f"the reason cannot be looked up: {exc}"
        return ""

    def _refused(self) -> str:
        wanted = {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": self.name},
        }
        policy = self.cluster.read(wanted)
        if policy is None:
            return f"a policy of the mesh refuses it, and AuthorizationPolicy {self.name}, which lets it in, is gone"
        return identity_problem(self.name, list(principals(policy)), self.accounts())

    def _whose(self, revision: str) -> str:
        own = self.cluster.virtual_service(self.name)
        for one in self._virtual_services():
            namespace, name = owner = one["metadata"]["namespace"], one["metadata"]["name"]
            if revision in revisions(one) and owner != (self.cluster.namespace, self.name):
                hosts = ", ".join((one.get("spec") or {}).get("hosts") or ())
                return (
                    f"revision {revision} is that of {in_words(one, (namespace, name), own)} with the hosts {hosts}: "
                    "of two VirtualServices with one host the older one wins"
                )
        return ""

    def _virtual_services(self) -> Sequence[Mapping[str, Any]]:
        try:
            return self.cluster.istio_objects("VirtualService")
        except ForbiddenError:
            return self.cluster.istio_objects("VirtualService", self.cluster.namespace)


def principals(policy: Mapping[str, Any]) -> Iterator[str]:
    """
    The identities that an AuthorizationPolicy names.
    """
    for rule in (policy.get("spec") or {}).get("rules") or ():
        for entry in rule.get("from") or ():
            yield from (entry.get("source") or {}).get("principals") or ()


def identity_problem(name: str, allowed: Sequence[str], accounts: Sequence[Owner]) -> str:
    """
    Which identity of the gateway a policy does not let in, and the value to set.

    Args:
        name: the policy.
        allowed: the identities that it names.
        accounts: namespace and service account of each gateway pod.
    """
    for namespace, account in accounts:
        identity = f"/ns/{namespace}/sa/{account}"
        if any(fnmatch.fnmatchcase(f"x{identity}", _pattern(one)) for one in allowed):
            continue
        here = any(f"/ns/{namespace}/" in one for one in allowed)
        more = "" if here else f" and gateway.namespace={namespace}"
        return (
            f"AuthorizationPolicy {name} lets in {', '.join(allowed) or 'no one'}, and the gateway's pods are "
            f"{identity.removeprefix('/')}: set gateway.serviceAccount={account}{more}"
        )
    return f"AuthorizationPolicy {name} lets the gateway in: another policy of the mesh refuses it"


def _pattern(principal: str) -> str:
    """
    A principal without its trust domain, which pods do not tell.
    """
    domain, found, rest = principal.partition("/ns/")
    return f"*/ns/{rest}" if found else domain


def revisions(virtual_service: Mapping[str, Any]) -> set[str]:
    """
    The revisions that the answers under a VirtualService carry.
    """
    http = http_entries(virtual_service)
    found = (
        ((entry.get("headers") or {}).get("response") or {}).get("set", {}).get(REVISION_HEADER)
        for entry in http
    )
    return {str(one) for one in found if one}
