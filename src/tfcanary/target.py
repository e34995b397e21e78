"""
The cluster, the namespace and the helm program that a command works with.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """
    Where a release is.

    Attributes:
        kubeconfig: None finds it as kubectl does.
        context: the kubeconfig's context; None takes its current one.
        helm: the helm program, by name or path.
    """

    namespace: str = "default"
    kubeconfig: Path | None = None
    context: str | None = None
    helm: str = "helm"
