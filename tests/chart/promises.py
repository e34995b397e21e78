"""
What the chart promises of everything that it renders. One checker serves the strategies in every environment, chains of
upgrades, and the fuzzer.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Object = dict[str, Any]

ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
# The server closes a connection that was unused for so long: libevent's default, which it does not set.
SERVER_IDLE_SECONDS = 50
MOST_BATCHES = 1000
PROBED = ("startupProbe", "readinessProbe")


def violations(pod: Object) -> list[str]:
    """
    What the Pod Security Standard *restricted* forbids and the pod does.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    shared = pod.get("securityContext", {})
    found = [f"spec.{key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    found += [
        f"spec.volumes[{volume['name']}]: {kind}"
        for volume in pod.get("volumes", [])
        for kind in volume.keys() - {"name"} - ALLOWED_VOLUMES
    ]
    found += [
        f"sysctl {item['name']}" for item in shared.get("sysctls", []) if item["name"] not in SAFE_SYSCTLS
    ]
    if "windowsOptions" in shared:
        found.append("windowsOptions")
    return found + [f"{item['name']}: {problem}" for item in _all(pod) for problem in _unsafe(item, shared)]


def _all(pod: Object) -> list[Object]:
    return [
        item for key in ("initContainers", "containers", "ephemeralContainers") for item in pod.get(key, [])
    ]


def _unsafe(container: Object, shared: Object) -> list[str]:
    own = container.get("securityContext", {})
    both = shared | own
    capabilities = own.get("capabilities", {})
    selinux = both.get("seLinuxOptions", {})
    rules = {
        "privileged": own.get("privileged", False),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "capabilities.drop": "ALL" not in capabilities.get("drop", []),
        "capabilities.add": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
        "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
        "procMount": own.get("procMount", "Default") != "Default",
        "runAsNonRoot": both.get("runAsNonRoot") is not True,
        "runAsUser": both.get("runAsUser") == 0,
        "seccompProfile": both.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"},
        "appArmorProfile": both.get("appArmorProfile", {}).get("type") == "Unconfined",
        "seLinuxOptions": selinux.get("type") not in SELINUX_TYPES
        or selinux.get("user")
        or selinux.get("role"),
    }
    return [name for name, broken in rules.items() if broken]


def tracks_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    The tracks that there are: one that is null was taken away.
    """
    return {name: settings for name, settings in values["tracks"].items() if settings is not None}


def broken(values: Mapping[str, Any], objects: list[Object]) -> Iterator[str]:
    """
    Each promise that a rendering breaks.

    Args:
        values: all of them, the chart's defaults included.
        objects: all that was rendered from them.
    """
    kinds: dict[str, dict[str, Object]] = {}
    for item in objects:
        kinds.setdefault(item["kind"], {})[item["metadata"]["name"]] = item
    yield from _routes(values, kinds)
    yield from _destinations(values, kinds)
    yield from _gateway(values, kinds)
    yield from _guards(values, kinds)
    (release,) = kinds["Service"]
    for track, settings in tracks_of(values).items():
        yield from _deployment(values, settings, f"{release}-{track}", kinds)
    for pod in _pods(kinds):
        yield from _pod(values, pod)


def _pods(kinds: dict[str, dict[str, Object]]) -> list[Object]:
    deployed = [item["spec"]["template"]["spec"] for item in kinds["Deployment"].values()]
    return [*deployed, *(item["spec"] for item in kinds["Pod"].values())]


def _routes(values: Mapping[str, Any], kinds: dict[str, dict[str, Object]]) -> Iterator[str]:
    (rule,) = kinds["DestinationRule"].values()
    declared = {subset["name"] for subset in rule["spec"]["subsets"]}
    if declared != set(tracks_of(values)):
        yield "the subsets are not the tracks"
    if len(kinds["VirtualService"]) != 2:
        yield "not the routes of the gateway and those of the mesh"
    for service in kinds["VirtualService"].values():
        for entry in service["spec"]["http"]:
            if not entry.get("route"):
                yield "a route without a destination: what others merge into every route makes Envoy refuse all"
                continue
            mirrored = [entry["mirror"]] if "mirror" in entry else []
            named = [*(part["destination"] for part in entry["route"]), *mirrored]
            if {one["subset"] for one in named} - declared:
                yield "a route names an unknown subset"
            if sum(part["weight"] for part in entry["route"]) != 100:
                yield "weights do not sum to 100"
            if int(entry["timeout"].removesuffix("s")) <= values["server"]["timeoutSeconds"]:
                yield "the gateway gives up before the server"


def _destinations(values: Mapping[str, Any], kinds: dict[str, dict[str, Object]]) -> Iterator[str]:
    (rule,) = kinds["DestinationRule"].values()
    idle = rule["spec"]["trafficPolicy"]["connectionPool"]["http"]["idleTimeout"]
    if int(idle.removesuffix("s")) >= SERVER_IDLE_SECONDS:
        yield "the mesh keeps a connection that the server closes"
    for subset in rule["spec"]["subsets"]:
        detection = subset.get("trafficPolicy", {}).get("outlierDetection", {})
        percent = detection.get("maxEjectionPercent")
        if detection and not (
            detection.get("splitExternalLocalOriginErrors")
            and detection.get("consecutiveLocalOriginFailures")
            and detection.get("consecutive5xxErrors") == 0
            and not detection.get("consecutiveGatewayErrors")
        ):
            yield "answers, which a client can cause, eject a pod"
        pods = _least(tracks_of(values).get(subset["name"], {"replicas": 0}))
        if percent is not None and not 1 <= pods * percent // 100 <= pods - 1:
            yield f"of {pods} pods none or all may be ejected"


def _least(settings: Mapping[str, Any]) -> int:
    scaled = settings.get("autoscaling")
    return int(scaled["minReplicas"] if scaled else settings["replicas"])


def _gateway(values: Mapping[str, Any], kinds: dict[str, dict[str, Object]]) -> Iterator[str]:
    own, existing = kinds.get("Gateway", {}), values["gateway"]["existing"]
    named = [one["spec"]["gateways"] for one in kinds["VirtualService"].values()]
    if [one for one in named if one != ["mesh"]] != [existing or list(own)] or (own and existing):
        yield "the gateways are not those of the values"
    if existing:
        return
    (gateway,) = own.values()
    plain, *secure = gateway["spec"]["servers"]
    if values["gateway"]["tls"]["enabled"]:
        if plain.get("tls") != {"httpsRedirect": True}:
            yield "the plain port answers beside TLS"
        for server in secure:
            if server["tls"].get("minProtocolVersion") not in {"TLSV1_2", "TLSV1_3"}:
                yield "TLS older than 1.2"
            if not server["tls"].get("credentialName"):
                yield "TLS without a certificate"
    if bool(secure) != values["gateway"]["tls"]["enabled"]:
        yield "TLS is not what the values say"


def _guards(values: Mapping[str, Any], kinds: dict[str, dict[str, Object]]) -> Iterator[str]:
    (service,) = kinds["Service"].values()
    (policy,) = kinds["AuthorizationPolicy"].values()
    (peers,) = kinds["PeerAuthentication"].values()
    selector = {"matchLabels": service["spec"]["selector"]}
    if policy["spec"]["selector"] != selector or policy["spec"]["action"] != "ALLOW":
        yield "not every pod refuses what is not allowed"
    for rule in policy["spec"]["rules"]:
        named = [one for source in rule["from"] for one in source["source"]["principals"]]
        paths = [one for to in rule["to"] for one in to["operation"]["paths"]]
        said = all({"ports", "methods", "paths"} == to["operation"].keys() for to in rule["to"])
        if not named or not paths or not said or any("*" in one for one in [*named, *paths]):
            yield "a rule that lets in more than it names"
    if peers["spec"] != {"selector": selector, "mtls": {"mode": "STRICT"}}:
        yield "connections without the mesh's certificate"
    yield from _network(values, kinds, selector)


def _network(
    values: Mapping[str, Any], kinds: dict[str, dict[str, Object]], selector: Object
) -> Iterator[str]:
    policies = list(kinds.get("NetworkPolicy", {}).values())
    if len(policies) != int(values["networkPolicy"]["enabled"]):
        yield "no NetworkPolicy, or one too many"
    for policy in policies:
        if policy["spec"]["podSelector"] != selector or set(policy["spec"]["policyTypes"]) != {
            "Ingress",
            "Egress",
        }:
            yield "not every pod is limited in both directions"
        rules = [
            *((rule.get("from"), rule) for rule in policy["spec"]["ingress"]),
            *((rule.get("to"), rule) for rule in policy["spec"]["egress"]),
        ]
        if any(not peers or not rule.get("ports") for peers, rule in rules):
            yield "a rule for everyone, or for every port"


def _deployment(
    values: Mapping[str, Any], settings: Mapping[str, Any], name: str, kinds: dict[str, dict[str, Object]]
) -> Iterator[str]:
    spec = kinds["Deployment"][name]["spec"]
    if ("replicas" in spec) == bool(settings.get("autoscaling")):
        yield "replicas and an autoscaler, or neither"
    if (_least(settings) >= 2) != (name in kinds.get("PodDisruptionBudget", {})):
        yield "no budget for two pods, or one for a single pod"
    if spec["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0:
        yield "a pod goes before its successor is there"
    yield from _life(values, spec["template"])
    yield from _server(values, settings, name, kinds)


def _server(
    values: Mapping[str, Any], settings: Mapping[str, Any], name: str, kinds: dict[str, dict[str, Object]]
) -> Iterator[str]:
    spec = kinds["Deployment"][name]["spec"]
    (server,) = spec["template"]["spec"]["containers"]
    version = int(settings["version"])
    config = kinds["ConfigMap"][name]["data"]["models.config"]
    if not re.search(rf"specific \{{\s*versions: {version}\s*\}}", config):
        yield "the version is not pinned"
    if ("--enable_batching=true" in server["args"]) != values["server"]["batching"]["enabled"]:
        yield "batching is not what the values say"
    if values["server"]["batching"]["enabled"]:
        bound = re.search(
            r"max_enqueued_batches \{ value: (\d+) \}", kinds["ConfigMap"][name]["data"]["batching.config"]
        )
        if bound is None or int(bound[1]) > MOST_BATCHES:
            yield "a queue without a bound"
    if "--file_system_poll_wait_seconds=0" not in server["args"]:
        yield "the server looks for other versions"
    path = f"/v1/models/{values['model']['name']}/versions/{version}/metadata"
    if {path} != {server[probe]["httpGet"]["path"] for probe in PROBED}:
        yield "a pod is ready without its version"
    if "--max_num_load_retries=0" not in server["args"]:
        yield "a model that cannot be loaded is tried for minutes"
    if "--enable_profiler=false" not in server["args"]:
        yield "the profiler is on"
    if f"--rest_api_timeout_in_ms={values['server']['timeoutSeconds'] * 1000}" not in server["args"]:
        yield "the server has another timeout"


def _life(values: Mapping[str, Any], template: Object) -> Iterator[str]:
    drain, timeout = values["server"]["drainSeconds"], values["routing"]["timeoutSeconds"]
    (server,) = template["spec"]["containers"]
    if template["spec"]["terminationGracePeriodSeconds"] < drain + timeout + 5:
        yield "too little time to stop"
    if server["lifecycle"]["preStop"] != {"sleep": {"seconds": drain}}:
        yield "no drain before the server is told to stop"
    sidecar = re.search(
        r"terminationDrainDuration: (\d+)s", template["metadata"]["annotations"]["proxy.istio.io/config"]
    )
    if sidecar is None or int(sidecar[1]) < drain:
        yield "the sidecar goes first"


def _pod(values: Mapping[str, Any], pod: Object) -> Iterator[str]:
    yield from violations(pod)
    if pod.get("automountServiceAccountToken") is not False:
        yield "a pod has the token of its ServiceAccount"
    for container in _all(pod):
        if container["securityContext"].get("readOnlyRootFilesystem") is not True:
            yield "a root file system can be written to"
        resources = container.get("resources", {})
        if not all("memory" in resources.get(kind, {}) for kind in ("requests", "limits")):
            yield "a container without bounds"
        image = container["image"]
        test = container["name"] == "predict"
        # A track may have an image of its own.
        digests = [(values["helmTest"]["image"] if test else values["image"])["digest"]]
        digests += (
            [] if test else [one.get("image", {}).get("digest", "") for one in tracks_of(values).values()]
        )
        own = not test and any("image" in one for one in tracks_of(values).values())
        if image.endswith(":latest") or not (
            own or digests[0] == "" or any(image.endswith(f"@{one}") for one in digests if one)
        ):
            yield "an image that is not fixed"
