"""
What the chart promises holds for every strategy in every environment, with any models, and after any chain of upgrades.
"""

import copy
import random
import re
from pathlib import Path

import pytest

from tfcanary.chart.values import chart_defaults, coalesce, merge, read_files

CHAINS = 30
LINKS = 10
TWO = {"replicas": 2, "version": 1}
SCALED = {"version": 2, "replicas": 1, "autoscaling": {"minReplicas": 2, "maxReplicas": 4, "cpuPercent": 70}}
SECURE = {
    "tracks": {"stable": TWO, "canary": SCALED},
    "gateway": {"tls": {"enabled": True, "credentialName": "resnet-tls"}},
    "security": {"metricsReaders": [{"namespace": "monitoring", "serviceAccount": "prometheus"}]},
    "image": {"digest": "sha256:" + "0123456789abcdef" * 4},
    "server": {"batching": {"enabled": True}},
}


@pytest.fixture(scope="module")
def values_of(chart, values_folder):
    """
    All values that a rendering comes from, the chart's own included.
    """

    def merged(*names, over=None):
        given = read_files([values_folder / f"{name}.yaml" for name in names])
        return coalesce(chart_defaults(chart), merge(given, over or {}))

    return merged


@pytest.fixture(scope="module")
def problems(render, values_of, problems_with, broken):
    """
    What is wrong with a rendering, by the schemas of its objects and by the promises.
    """

    def found(*strategies, environment="local", models="resnet-abn", values=None):
        rendered = render(*strategies, environment=environment, models=models, values=values)
        objects = list(rendered.objects.values())
        merged = values_of(f"env/{environment}", f"models/{models}", *strategies, over=values)
        invalid = [f"{item['kind']}: {problem}" for item in objects for problem in problems_with(item)]
        return invalid + list(broken(merged, objects))

    return found


def test_promises_are_kept(problems, strategy, environment, models):
    """
    Every object fits the strict schema of its kind, and every promise is kept.
    """
    models = "resnet-abn" if strategy == "ab-test" else models

    assert [] == problems(strategy, environment=environment, models=models)


def test_promises_are_kept_with_all_that_is_optional(problems, strategy):
    """
    The promises hold with several pods, an autoscaler, TLS, readers of metrics and images by digest as well.
    """
    assert [] == problems(strategy, values=SECURE)


@pytest.mark.parametrize("seed", range(CHAINS))
def test_nothing_of_a_chain_survives(render, strategies, problems, seed):
    """
    After any chain of upgrades with `--reset-then-reuse-values` the last strategy holds alone, and the promises with it.
    Helm puts new values over those of the release as it puts one file over another, so a chain of files is a chain of
    upgrades; on a cluster the tests upgrade for real.
    """
    draw = random.Random(seed)  # noqa: S311 - nothing secret
    chain = draw.choices(strategies, k=LINKS)

    assert render(chain[-1], models="resnet-abn").text == render(*chain, models="resnet-abn").text
    assert [] == problems(*chain)


def first(rendered, kind):
    """
    The spec of the first object of a kind.
    """
    return next(item["spec"] for item in rendered if item["kind"] == kind)


def pod(rendered):
    """
    The pod of the first track.
    """
    return first(rendered, "Deployment")["template"]["spec"]


def without(kind):
    """
    Leave out the objects of a kind.
    """

    def change(rendered):
        rendered[:] = [item for item in rendered if item["kind"] != kind]

    return change


def argument(flag, value):
    """
    Give the first track's server another flag.
    """

    def change(rendered):
        arguments = pod(rendered)["containers"][0]["args"]
        (index,) = (index for index, one in enumerate(arguments) if one.startswith(f"--{flag}="))
        arguments[index] = f"--{flag}={value}"

    return change


def route(**changes):
    """
    Change the first route of the gateway.
    """
    return lambda rendered: first(rendered, "VirtualService")["http"][0].update(changes)


def config(rendered):
    """
    Let the first track's server choose its version.
    """
    data = next(item["data"] for item in rendered if "models.config" in item.get("data", {}))
    data["models.config"] = data["models.config"].replace("specific", "latest")


def queue(rendered):
    """
    Let the first track's server keep as many batches as TensorFlow Serving's sample does.
    """
    data = next(item["data"] for item in rendered if "batching.config" in item.get("data", {}))
    data["batching.config"] = data["batching.config"].replace("value: 100 ", "value: 1000000 ")


FAULTS = {
    "queue": (queue, "a queue without a bound"),
    "subset-dropped": (
        lambda r: first(r, "DestinationRule")["subsets"].pop(),
        "the subsets are not the tracks",
    ),
    "subset-misspelt": (
        lambda r: first(r, "VirtualService")["http"][0]["route"][0]["destination"].update(subset="canry"),
        "a route names an unknown subset",
    ),
    "weight": (
        lambda r: first(r, "VirtualService")["http"][0]["route"][0].update(weight=89),
        "weights do not sum to 100",
    ),
    "direct-response": (
        lambda r: first(r, "VirtualService")["http"].insert(0, {"directResponse": {"status": 415}}),
        "a route without a destination: what others merge into every route makes Envoy refuse all",
    ),
    "one-virtual-service": (
        lambda r: r.remove(next(item for item in r if item["kind"] == "VirtualService")),
        "not the routes of the gateway and those of the mesh",
    ),
    "grace": (
        lambda r: pod(r).update(terminationGracePeriodSeconds=30),
        "too little time to stop",
    ),
    "pre-stop": (
        lambda r: pod(r)["containers"][0]["lifecycle"]["preStop"]["sleep"].update(seconds=0),
        "no drain before the server is told to stop",
    ),
    "sidecar": (
        lambda r: first(r, "Deployment")["template"]["metadata"]["annotations"].update(
            {"proxy.istio.io/config": "terminationDrainDuration: 5s"}
        ),
        "the sidecar goes first",
    ),
    "readiness": (
        lambda r: pod(r)["containers"][0]["readinessProbe"]["httpGet"].update(path="/v1/models/resnet"),
        "a pod is ready without its version",
    ),
    "load-retries": (
        argument("max_num_load_retries", 5),
        "a model that cannot be loaded is tried for minutes",
    ),
    "latest-version": (config, "the version is not pinned"),
    "poll": (argument("file_system_poll_wait_seconds", 1), "the server looks for other versions"),
    "idle": (
        lambda r: first(r, "DestinationRule")["trafficPolicy"]["connectionPool"]["http"].update(
            idleTimeout="60s"
        ),
        "the mesh keeps a connection that the server closes",
    ),
    "ejection-by-answers": (
        lambda r: first(r, "DestinationRule")["subsets"][0].update(
            trafficPolicy={"outlierDetection": {"maxEjectionPercent": 50, "consecutive5xxErrors": 5}}
        ),
        "answers, which a client can cause, eject a pod",
    ),
    "ejection": (
        lambda r: first(r, "DestinationRule")["subsets"][0].update(
            trafficPolicy={"outlierDetection": {"maxEjectionPercent": 100}}
        ),
        "of 2 pods none or all may be ejected",
    ),
    "route-timeout": (route(timeout="30s"), "the gateway gives up before the server"),
    "server-timeout": (argument("rest_api_timeout_in_ms", 40000), "the server has another timeout"),
    "replicas-and-hpa": (
        lambda r: first(r, "Deployment").update(replicas=3),
        "replicas and an autoscaler, or neither",
    ),
    "no-budget": (without("PodDisruptionBudget"), "no budget for two pods, or one for a single pod"),
    "max-unavailable": (
        lambda r: first(r, "Deployment")["strategy"]["rollingUpdate"].update(maxUnavailable=1),
        "a pod goes before its successor is there",
    ),
    "root": (lambda r: pod(r)["securityContext"].update(runAsUser=0), "model-server: runAsUser"),
    "writable": (
        lambda r: pod(r)["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
        "a root file system can be written to",
    ),
    "token": (
        lambda r: pod(r).update(automountServiceAccountToken=True),
        "a pod has the token of its ServiceAccount",
    ),
    "latest": (lambda r: pod(r)["containers"][0].update(image="a/b:latest"), "an image that is not fixed"),
    "tag": (lambda r: pod(r)["containers"][0].update(image="a/b:1"), "an image that is not fixed"),
    "anyone": (
        lambda r: first(r, "AuthorizationPolicy")["rules"][0]["from"][0]["source"].update(principals=["*"]),
        "a rule that lets in more than it names",
    ),
    "any-path": (
        lambda r: first(r, "AuthorizationPolicy")["rules"][0]["to"][1]["operation"].update(paths=["/v1/*"]),
        "a rule that lets in more than it names",
    ),
    "deny": (
        lambda r: first(r, "AuthorizationPolicy").update(action="DENY"),
        "not every pod refuses what is not allowed",
    ),
    "permissive": (
        lambda r: first(r, "PeerAuthentication").update(mtls={"mode": "PERMISSIVE"}),
        "connections without the mesh's certificate",
    ),
    "profiler": (argument("enable_profiler", "true"), "the profiler is on"),
    "another-gateway": (
        lambda r: first(r, "VirtualService").update(gateways=["a/b"]),
        "the gateways are not those of the values",
    ),
    "old-tls": (
        lambda r: first(r, "Gateway")["servers"][1]["tls"].update(minProtocolVersion="TLSV1_1"),
        "TLS older than 1.2",
    ),
    "no-redirect": (
        lambda r: first(r, "Gateway")["servers"][0].pop("tls"),
        "the plain port answers beside TLS",
    ),
    "no-certificate": (
        lambda r: first(r, "Gateway")["servers"][1]["tls"].update(credentialName=""),
        "TLS without a certificate",
    ),
    "no-tls": (lambda r: first(r, "Gateway")["servers"].pop(), "TLS is not what the values say"),
    "no-batching": (
        lambda r: pod(r)["containers"][0]["args"].remove("--enable_batching=true"),
        "batching is not what the values say",
    ),
    "no-network-policy": (without("NetworkPolicy"), "no NetworkPolicy, or one too many"),
    "open-in": (
        lambda r: first(r, "NetworkPolicy")["ingress"].append({"ports": [{"port": 22}]}),
        "a rule for everyone, or for every port",
    ),
    "open-out": (
        lambda r: first(r, "NetworkPolicy")["policyTypes"].remove("Egress"),
        "not every pod is limited in both directions",
    ),
    "unbounded": (
        lambda r: pod(r)["containers"][0]["resources"]["limits"].clear(),
        "a container without bounds",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_broken_promise_is_seen(render, values_of, broken, name):
    """
    The checker finds each planted fault by its own name.
    """
    rendered = copy.deepcopy(list(render("canary-10", values=SECURE).objects.values()))
    merged = values_of("env/local", "models/resnet", "canary-10", over=SECURE)
    change, expected = FAULTS[name]
    assert [] == list(broken(merged, rendered))

    change(rendered)

    assert expected in list(broken(merged, rendered))


def test_every_promise_is_broken_once():
    """
    Each sentence of the checker has a planted fault that makes it say so.
    """
    source = Path(__file__).with_name("promises.py").read_text()
    promises = re.findall(r'yield f?"(.+)"', source)
    expected = [message for _, message in FAULTS.values()]

    patterns = [re.sub(r"\\\{.*?\\\}", ".+", re.escape(promise)) for promise in promises]
    assert len(patterns) > 20
    assert [] == [
        pattern for pattern in patterns if not any(re.fullmatch(pattern, message) for message in expected)
    ]
