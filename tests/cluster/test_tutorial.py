"""
The first tutorial, typed on a cluster: each command succeeds, and its output has the lines that the page shows.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tfcanary.kube.gateway import gateway_address
from tfcanary.kube.objects import LiveObjects
from tfcanary.paths import ROOT
from tfcanary.target import Target

PAGE = "docs/tutorial/first-canary.md"
RELEASE = "resnet"
# What brings the cluster up and down, and what names it to a shell: the session has done both.
SET_UP = ("python3 -m", "export ")


@pytest.mark.usefixtures("installed")
def test_the_tutorial(documents: ModuleType, namespace: str, kubeconfig: Path, host: str) -> None:
    """
    From all traffic on stable to 10 % on the canary, checked, and back; in the session's own namespace and host.
    """
    cluster = LiveObjects(Target(namespace=namespace, kubeconfig=kubeconfig))
    elsewhere = {
        "-n resnet": f"-n {namespace}",
        "--namespace resnet": f"--namespace {namespace}",
        "127.0.0.1:18080": gateway_address(cluster, RELEASE),
        "curl -si": f"curl -si -H 'Host: {host}'",
    }
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": programs, "KUBECONFIG": str(kubeconfig), "NO_PROXY": "*"}
    typed = [step for step in documents.page(PAGE).steps if not step[0].startswith(SET_UP)]

    wrong = []
    for commands, shown in typed:
        script = commands
        for there, here in elsewhere.items():
            script = script.replace(there, here)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        lacking = documents.unseen(shown, done.stdout)
        if done.returncode or lacking:
            wrong.append(
                f"{script}: exit code {done.returncode}, lacks {lacking}\n{done.stdout}{done.stderr}"
            )

    assert any("values/canary-10.yaml" in commands for commands, _ in typed)
    assert [] == wrong, "\n".join(wrong)
