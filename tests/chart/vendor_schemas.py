"""
Vendor the schemas that rendered objects are validated against: ``python tests/chart/vendor_schemas.py``.

They come from the Go modules that the local cluster is built of, in the versions of its go.mod files: the published
OpenAPI document of Kubernetes and Istio's CustomResourceDefinitions. Written are only the kinds that the chart
renders, without prose, and strict: a field that the API does not know is an error here, where the API server would
drop it in silence.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
MODULES = HERE.parents[1] / "src" / "tfcanary" / "cluster" / "go"
KUBERNETES_KINDS = {
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "Service": "io.k8s.api.core.v1.Service",
    "ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "Pod": "io.k8s.api.core.v1.Pod",
    "HorizontalPodAutoscaler": "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "Job": "io.k8s.api.batch.v1.Job",
    "Role": "io.k8s.api.rbac.v1.Role",
    "RoleBinding": "io.k8s.api.rbac.v1.RoleBinding",
}
ISTIO_KINDS = {
    "DestinationRule": "networking.istio.io/v1",
    "Gateway": "networking.istio.io/v1",
    "VirtualService": "networking.istio.io/v1",
    "EnvoyFilter": "networking.istio.io/v1alpha3",
    "AuthorizationPolicy": "security.istio.io/v1",
    "PeerAuthentication": "security.istio.io/v1",
    "RequestAuthentication": "security.istio.io/v1",
}
# Istio has a Gateway too: these kinds are written with their group.
GATEWAY_API_KINDS = {
    "Gateway": "gateway.networking.k8s.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
}
# The OpenAPI document says string where the API takes numbers as well.
EITHER_TYPE = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["integer", "string"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["number", "string"]},
}
KEPT = ("$ref", "type", "required", "enum", "items", "additionalProperties", "properties")
KEPT_OF_ISTIO = (*KEPT, "oneOf", "anyOf", "not", "minimum", "maximum", "maxItems", "minItems", "pattern")


def required_version(tree: str, module: str) -> str:
    """
    The version of a module that one of the local cluster's go.mod files requires.
    """
    text = (MODULES / tree / "go.mod").read_text()
    found = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"error: {tree}/go.mod requires no {module}")
    return found[1]


def module_folder(module: str, version: str) -> Path:
    """
    The folder of a module's source, downloaded where the module cache lacks it.
    """
    command = ["go", "mod", "download", "-json", f"{module}@{version}"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return Path(json.loads(answer.stdout)["Dir"])


def strict(node: Any, kept: tuple[str, ...]) -> Any:
    """
    A schema without what does not validate, that refuses the properties it does not name.
    """
    if not isinstance(node, dict):
        return node
    result = {key: _part(key, node[key], kept) for key in kept if key in node}
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    open_ended = node.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in result and "additionalProperties" not in result and "type" in node and not open_ended:
        result["additionalProperties"] = False
    return result


def _part(key: str, value: Any, kept: tuple[str, ...]) -> Any:
    if key == "properties":
        return {name: strict(schema, kept) for name, schema in value.items()}
    if isinstance(value, list):
        return [strict(part, kept) for part in value]
    return strict(value, kept)


def kubernetes_definitions(document: dict[str, Any]) -> dict[str, Any]:
    """
    The wanted kinds and all that they refer to, the kinds under their short names.
    """
    definitions: dict[str, Any] = {}
    wanted = list(KUBERNETES_KINDS.values())
    while wanted:
        name = wanted.pop()
        if name not in definitions:
            definitions[name] = EITHER_TYPE.get(name, strict(document["definitions"][name], KEPT))
            wanted += re.findall(r'"#/definitions/([^"]+)"', json.dumps(definitions[name]))
    for kind, name in KUBERNETES_KINDS.items():
        (identity,) = document["definitions"][name]["x-kubernetes-group-version-kind"]
        group_version = "/".join(filter(None, (identity["group"], identity["version"])))
        definitions[kind] = _identified(definitions.pop(name), group_version, kind)
    return definitions


def _identified(schema: dict[str, Any], group_version: str, kind: str) -> dict[str, Any]:
    fixed = {"apiVersion": {"enum": [group_version]}, "kind": {"enum": [kind]}}
    return schema | {
        "properties": schema["properties"] | fixed,
        "required": ["apiVersion", "kind", "metadata", *schema.get("required", [])],
    }


def custom_definitions(manifests: str, kinds: dict[str, str], metadata: dict[str, Any]) -> dict[str, Any]:
    """
    The wanted kinds of CustomResourceDefinitions; metadata is the reference to Kubernetes' own.
    """
    definitions = {}
    for crd in filter(None, yaml.safe_load_all(manifests)):
        kind = crd["spec"]["names"]["kind"]
        group, _, wanted = kinds.get(kind, "").partition("/")
        if crd["spec"]["group"] == group:
            (version,) = (version for version in crd["spec"]["versions"] if version["name"] == wanted)
            schema = strict(version["schema"]["openAPIV3Schema"], KEPT_OF_ISTIO)
            schema["properties"] = {"metadata": metadata, "spec": schema["properties"]["spec"]}
            schema["required"] = ["spec"]
            definitions[kind] = _identified(schema, kinds[kind], kind)
    return definitions


def main() -> int:
    """
    Write schemas.json, one definition a line.
    """
    kubernetes = required_version("kubernetes", "k8s.io/kubernetes")
    istio = required_version("istio", "istio.io/istio")
    openapi = module_folder("k8s.io/kubernetes", kubernetes) / "api/openapi-spec/swagger.json"
    crds = module_folder("istio.io/istio", istio) / "manifests/charts/base/files/crd-all.gen.yaml"
    metadata = {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    definitions = kubernetes_definitions(json.loads(openapi.read_text()))
    definitions |= custom_definitions(crds.read_text(), ISTIO_KINDS, metadata)
    gateway_api = required_version("istio", "sigs.k8s.io/gateway-api")
    folder = module_folder("sigs.k8s.io/gateway-api", gateway_api) / "config/crd/standard"
    for kind, version in GATEWAY_API_KINDS.items():
        group = version.partition("/")[0]
        manifest = (folder / f"{group}_{kind.lower()}s.yaml").read_text()
        definitions[f"{group}.{kind}"] = custom_definitions(manifest, {kind: version}, metadata)[kind]
    lines = [
        f"{json.dumps(name)}: {json.dumps(definitions[name], sort_keys=True, separators=(',', ':'))}"
        for name in sorted(definitions)
    ]
    source = json.dumps(
        {"k8s.io/kubernetes": kubernetes, "istio.io/istio": istio, "sigs.k8s.io/gateway-api": gateway_api}
    )
    text = f'{{"source": {source},\n"definitions": {{\n' + ",\n".join(lines) + "\n}}\n"
    (HERE / "schemas.json").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
