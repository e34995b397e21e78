"""
Argo Rollouts on the test cluster: its controller, and a Rollout as its documentation has it.

The documented examples: docs/features/traffic-management/istio.md and docs/features/analysis.md ("Inline Analysis").
"""

import copy
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planting import Kubectl, istio
from rolling import RELEASE

from tfcanary.cluster import binaries
from tfcanary.wait import NotYet, wait_until

NAME = "argo"
APP = {"app": NAME}
PORTS = {"grpc": 8500, "http": 8501}


@contextmanager
def controller(kubeconfig: Path, namespace: str, folder: Path, kubectl: Kubectl) -> Iterator[None]:
    """
    Run the controller of Argo Rollouts beside the tests, for one namespace.
    """
    programs = binaries.ensure("argo-rollouts")
    kubectl("apply", "--server-side", "-f", f"{programs}/crds/rollout-crd.yaml")
    for name in ("analysis-run", "analysis-template", "cluster-analysis-template", "experiment"):
        kubectl("apply", "--server-side", "-f", f"{programs}/crds/{name}-crd.yaml")
    command = [
        f"{programs}/rollouts-controller",
        f"--kubeconfig={kubeconfig}",
        f"--namespace={namespace}",
        "--namespaced",
        "--leader-elect=false",
        "--metricsport=0",
        "--healthzPort=0",
    ]
    with (
        (folder / "argo.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


def deployment(kubectl: Kubectl, track: str) -> dict[str, Any]:
    """
    The pods of one of the release's tracks, under labels that nothing else selects.
    """
    template: dict[str, Any] = kubectl.get("deployment", f"{RELEASE}-{track}")["spec"]["template"]
    template["metadata"]["labels"] = dict(APP)
    return template


def objects(namespace: str, prometheus: str, template: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    The documented inline example, over this template: 20 % for 5 minutes, then one sample of the success rate.

    The query is the documented one, over Envoy's own statistics: Istio's are not on this cluster.
    """
    series = (
        'envoy_cluster_upstream_rq{cluster_name=~"outbound[|]850[01][|][|]argo-(stable|canary)[.]'
        + namespace
        + '[.]svc[.].*"%s}'
    )
    good, all_of_it = series % ',response_code!~"5.*"', series % ""
    query = f"sum(irate({good}[5m])) / sum(irate({all_of_it}[5m]))"
    traffic = {"istio": {"virtualService": {"name": NAME, "routes": list(PORTS)}}}
    steps = [
        {"setWeight": 20},
        {"pause": {"duration": "5m"}},
        {"analysis": {"templates": [{"templateName": "success-rate"}]}},
    ]
    rollout = {
        "replicas": 1,
        "selector": {"matchLabels": APP},
        "template": template,
        "strategy": {
            "canary": {
                "canaryService": "argo-canary",
                "stableService": "argo-stable",
                # The fault is planted by this label.
                "canaryMetadata": {"labels": {"track": "canary"}},
                "trafficRouting": traffic,
                "steps": steps,
            }
        },
    }
    metric = {
        "name": "success-rate",
        "successCondition": "result[0] >= 0.95",
        "provider": {"prometheus": {"address": prometheus, "query": query}},
    }
    return [
        *(service(namespace, role) for role in ("stable", "canary")),
        istio("Gateway", NAME, namespace, entrance(namespace)),
        istio("VirtualService", NAME, namespace, routes(namespace)),
        argo("AnalysisTemplate", "success-rate", namespace, {"metrics": [metric]}),
        argo("Rollout", NAME, namespace, rollout),
    ]


def argo(kind: str, name: str, namespace: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """
    An object of Argo Rollouts.
    """
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": dict(spec),
    }


def service(namespace: str, role: str) -> dict[str, Any]:
    """
    The Service of the canary's or of stable's pods, whose selector the controller narrows.
    """
    ports = [{"name": name, "port": port, "targetPort": port} for name, port in PORTS.items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"argo-{role}", "namespace": namespace},
        "spec": {"selector": APP, "ports": ports},
    }


def entrance(namespace: str) -> dict[str, Any]:
    """
    The Gateway's spec.
    """
    port = {"name": "http", "number": 80, "protocol": "HTTP"}
    return {
        "selector": {"istio": "ingressgateway"},
        "servers": [{"port": port, "hosts": [host(namespace)]}],
    }


def routes(namespace: str) -> dict[str, Any]:
    """
    The VirtualService's spec: a route for each API, whose weights the controller sets.
    """
    prefixes = {"grpc": "/tensorflow.serving.", "http": "/v1/"}
    return {
        "hosts": [host(namespace)],
        "gateways": [NAME],
        "http": [
            {
                "name": name,
                "match": [{"uri": {"prefix": prefixes[name]}}],
                "route": [
                    {"destination": {"host": f"argo-{role}", "port": {"number": port}}, "weight": weight}
                    for role, weight in (("stable", 100), ("canary", 0))
                ],
                "retries": {"attempts": 0},
            }
            for name, port in PORTS.items()
        ],
    }


def host(namespace: str) -> str:
    """
    The host name to ask for.
    """
    return f"argo.{namespace}.test"


def phase(kubectl: Kubectl, wanted: str, *, timeout_seconds: float) -> dict[str, Any]:
    """
    Wait until the Rollout is in a phase, and say how it is.
    """

    def there() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(kubectl("get", "rollouts.argoproj.io", NAME, "-o", "json"))
        status = found.get("status") or {}
        observed = str(status.get("observedGeneration")) == str(found["metadata"]["generation"])
        if not observed or status.get("phase") != wanted:
            raise NotYet(f"{status.get('phase')}: {status.get('message', '')}")
        return found

    return wait_until(
        f"Argo Rollouts: {wanted}", there, timeout_seconds=timeout_seconds, interval_seconds=0.5
    )


def update(kubectl: Kubectl, template: Mapping[str, Any]) -> None:
    """
    Give the Rollout another template, which begins a canary.
    """
    changed = copy.deepcopy(dict(template))
    kubectl.patch("rollouts.argoproj.io", NAME, {"op": "replace", "path": "/spec/template", "value": changed})
