import json
import re
from pathlib import Path

import pytest
import yaml

SCHEMAS = Path(__file__).parent / "schemas.json"
OF_THE_RELEASE = (
    "AuthorizationPolicy",
    "DestinationRule",
    "Gateway",
    "NetworkPolicy",
    "PeerAuthentication",
    "Service",
    "VirtualService",
)
LABELS = {"app.kubernetes.io/name": "tfserving-canary", "app.kubernetes.io/instance": "resnet"}


def test_inventory(render, strategy, environment):
    """
    What a release has of its own, three objects for each track, and one in the gateway's namespace: nothing else.
    """
    rendered = render(strategy, environment=environment)
    tracks = ("stable", "canary", "challenger") if strategy == "ab-test" else ("stable", "canary")

    expected = (
        {(kind, "resnet") for kind in OF_THE_RELEASE}
        | {("VirtualService", "resnet-mesh"), ("EnvoyFilter", "default.resnet")}
        | {("ConfigMap", "resnet-test"), ("Pod", "resnet-test")}
        | {
            (kind, f"resnet-{track}")
            for kind in ("Deployment", "ServiceAccount", "ConfigMap")
            for track in tracks
        }
    )
    assert expected == set(rendered.objects)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        pytest.param("Deployment", ("spec", "replica"), 1, id="unknown-field"),
        pytest.param("Deployment", ("spec", "replicas"), "1", id="wrong-type"),
        pytest.param("Deployment", ("apiVersion",), "apps/v1beta1", id="wrong-version"),
        pytest.param("VirtualService", ("spec", "http", 0, "retry"), {}, id="unknown-istio-field"),
        pytest.param("VirtualService", ("spec", "http", 1, "route", 0, "weight"), "9", id="wrong-istio-type"),
        pytest.param(
            "VirtualService", ("spec", "http", 0, "match", 0, "uri", "exact"), "/", id="two-matchers"
        ),
        pytest.param("Service", ("metadata", "label"), {}, id="unknown-metadata"),
        pytest.param("AuthorizationPolicy", ("spec", "rule"), [], id="unknown-security-field"),
        pytest.param("NetworkPolicy", ("spec", "ingress", 0, "port"), 1, id="unknown-network-field"),
        pytest.param("EnvoyFilter", ("spec", "configPatches", 0, "applyTo"), "X", id="wrong-enum"),
    ],
)
def test_schemas_refuse(render, problems_with, kind, path, value):
    """
    The vendored schemas are strict, in depth.
    """
    item = next(iter(render("canary-user-group").all(kind).values()))
    inner = item
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value

    assert problems_with(item)


@pytest.mark.parametrize(
    ("tree", "module"),
    [
        ("kubernetes", "k8s.io/kubernetes"),
        ("istio", "istio.io/istio"),
        ("istio", "sigs.k8s.io/gateway-api"),
    ],
)
def test_schemas_are_of_the_local_cluster(root, tree, module):
    """
    The schemas are those of the versions that the local cluster runs; vendor_schemas.py rewrites them.
    """
    go_mod = (root / "src" / "tfcanary" / "cluster" / "go" / tree / "go.mod").read_text()

    assert f"{module} {json.loads(SCHEMAS.read_text())['source'][module]}" in go_mod


def test_same_bytes_each_time(render, strategy):
    """
    Rendering is a function of the values and of the namespace: not of the time, or of being the first release or an upgrade.

    What depends on the namespace is its name and the revision of the routes.
    """
    first = render(strategy)

    again = render(strategy, options=("--is-upgrade", "--namespace", "elsewhere"))
    moved = first.text.replace("default", "elsewhere").replace(first.revision, again.revision)
    assert moved == again.text.replace("default", "elsewhere")


def test_rendered_text_is_clean(render, strategy, environment):
    """
    What an operator reads has no trailing blanks, tabs, blank lines or empty maps; a program keeps its own.
    """
    lines = [
        line
        for (kind, name), document in render(strategy, environment=environment).texts.items()
        if (kind, name) != ("ConfigMap", "resnet-test")
        for line in document.splitlines()
    ]

    assert lines
    assert [] == [line for line in lines if line != line.rstrip() or "\t" in line or not line]
    assert [] == [line for line in lines if line.endswith((": {}", ": []", ": null"))]


def test_labels(render, strategy):
    """
    Every object carries the labels by which the release, and its track, are found.
    """
    objects = render(strategy).objects

    for (kind, name), item in objects.items():
        labels = item["metadata"]["labels"]
        # The pod of the test must not be taken for one of the model's.
        own_name = {"app.kubernetes.io/name": "tfserving-canary-test"} if kind == "Pod" else {}
        assert LABELS | own_name | {"app.kubernetes.io/managed-by": "Helm"} == {
            key: value
            for key, value in labels.items()
            if key not in {"helm.sh/chart", "track", "app.kubernetes.io/version", "sidecar.istio.io/inject"}
        }
        own = "-".join(filter(None, ("resnet", labels.get("track"))))
        assert name in {own, "default.resnet", "resnet-mesh", "resnet-test"}


def test_selectors(render):
    """
    A Deployment selects its own track's pods and never by version; the Service selects the pods of all tracks.
    """
    rendered = render("stable")
    deployments = rendered.all("Deployment")

    assert LABELS == rendered.one("Service")["spec"]["selector"]
    assert {name: LABELS | {"track": name.removeprefix("resnet-")} for name in deployments} == {
        name: item["spec"]["selector"]["matchLabels"] for name, item in deployments.items()
    }
    for item in deployments.values():
        labels = item["spec"]["template"]["metadata"]["labels"]
        # Nothing of the chart's version: upgrading the chart leaves the pods alone.
        assert {"app.kubernetes.io/version"} == labels.keys() - item["spec"]["selector"]["matchLabels"].keys()
        assert item["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_service_ports(render):
    """
    Both APIs have a port, named and typed so that the mesh knows the protocol.
    """
    ports = {
        port["name"]: (port["port"], port["appProtocol"])
        for port in render("stable").one("Service")["spec"]["ports"]
    }

    assert {"grpc-predict": (8500, "grpc"), "http-rest": (8501, "http")} == ports


def test_service_ports_lead_to_the_container(render):
    """
    The Service's target ports are ports of the container, under the same numbers.
    """
    rendered = render("stable")
    targets = {port["targetPort"]: port["port"] for port in rendered.one("Service")["spec"]["ports"]}

    for deployment in rendered.all("Deployment").values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert targets == {port["name"]: port["containerPort"] for port in container["ports"]}


def test_subsets_are_always_all_tracks(render, strategy, environment):
    """
    The DestinationRule declares every track's subset with every values file, independent of the routes.
    """
    rule = render(strategy, environment=environment, models="resnet-abn").one("DestinationRule")

    assert [
        {"name": "canary", "labels": {"track": "canary"}},
        {"name": "challenger", "labels": {"track": "challenger"}},
        {"name": "stable", "labels": {"track": "stable"}},
    ] == rule["spec"]["subsets"]


def test_routes_name_only_declared_subsets(render, strategy):
    """
    Every subset that a route names is declared.
    """
    rendered = render(strategy)
    declared = {subset["name"] for subset in rendered.one("DestinationRule")["spec"]["subsets"]}
    named = {part["destination"]["subset"] for entry in rendered.routes for part in entry["route"]}

    assert named
    assert named <= declared


def test_subset_selects_pods(render):
    """
    A subset's labels are labels of exactly one track's pods.
    """
    rendered = render("stable")
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in rendered.all("Deployment").values()]

    for subset in rendered.one("DestinationRule")["spec"]["subsets"]:
        selected = [labels for labels in pods if subset["labels"].items() <= labels.items()]
        assert [subset["name"]] == [labels["track"] for labels in selected]


def test_idle_connections_end_before_the_server_ends_them(render):
    """
    The mesh lets go of an unused connection before the server does, after 50 seconds.
    """
    rule = render("stable").one("DestinationRule")

    assert {"http": {"idleTimeout": "30s"}} == rule["spec"]["trafficPolicy"]["connectionPool"]


def test_gateway(render):
    """
    One port for REST and gRPC alike, on the chosen gateway pods and hosts.
    """
    values = {
        "gateway": {"selector": {"istio": None, "app": "edge"}, "hosts": ["models.example.com"], "port": 8080}
    }
    rendered = render("stable", values=values)

    assert {
        "selector": {"app": "edge"},
        "servers": [
            {"port": {"name": "http", "number": 8080, "protocol": "HTTP"}, "hosts": ["models.example.com"]}
        ],
    } == rendered.one("Gateway")["spec"]
    assert ["models.example.com"] == rendered.virtual_service["spec"]["hosts"]


def test_more_tracks(render):
    """
    An additional track gets objects, a subset and traffic like the two tracks that always exist.
    """
    rendered = render(
        "stable",
        values={
            "tracks": {"wide": {"version": 3, "replicas": 2}},
            "routing": {
                "routes": [{"name": "everyone", "weights": {"stable": 60, "canary": 30, "wide": 10}}]
            },
        },
    )

    assert {"resnet-stable", "resnet-canary", "resnet-wide"} == set(rendered.all("Deployment"))
    assert "wide" in {subset["name"] for subset in rendered.one("DestinationRule")["spec"]["subsets"]}
    assert [{"canary": 30, "stable": 60, "wide": 10}] * 2 == [
        {part["destination"]["subset"]: part["weight"] for part in entry["route"]}
        for entry in rendered.routes
    ]


def test_release_name_is_the_prefix(render):
    """
    Two releases in one namespace share no object, and a release's routes lead to its own Service.
    """
    first, second = render("stable"), render("stable", release="other")

    assert set() == first.objects.keys() & second.objects.keys()
    assert {"other"} == {part["destination"]["host"] for entry in second.routes for part in entry["route"]}
    assert ["other"] == second.virtual_service["spec"]["gateways"]
    assert "other" == second.one("DestinationRule")["spec"]["host"]
    assert "resnet-canary" not in yaml.safe_dump(list(second.objects.values()))


EVERYTHING = {
    "gateway": {"hosts": ["a.example"]},
    "security": {"jwt": {"issuer": "i", "jwksUri": "https://i.example/keys"}},
    "rollout": {"enabled": True, "plan": {"to": 2}, "image": {"repository": "r.example/rollout"}},
}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(("ml-prod", "resnet"), ("ml", "prod-resnet"), id="hyphens"),
        pytest.param(("ml", "resnet"), ("ml", "resnet-rollout"), id="rollout"),
    ],
)
def test_releases_share_no_name_in_the_gateways_namespace(render, first, second):
    """
    F7. Whatever the names of two releases and of their namespaces are: neither overwrites what guards the other.
    """

    def shared(namespace, release):
        objects = render(
            "stable", values=EVERYTHING, release=release, options=("--namespace", namespace)
        ).objects
        return {key for key, item in objects.items() if item["metadata"]["namespace"] == "istio-system"}

    assert {"EnvoyFilter", "RequestAuthentication", "Role", "RoleBinding"} == {
        kind for kind, _ in shared(*first)
    }
    assert set() == shared(*first) & shared(*second)


def test_names_fit_the_api(render):
    """
    F7. The longest name that Helm takes for a release, in a namespace with the longest: every name is one of its kind's.
    """
    objects = render("stable", values=EVERYTHING, release="r" * 53, options=("--namespace", "n" * 63)).objects

    # A label, for Services and what a label names as well; the others may be a subdomain.
    assert [] == [
        (kind, name)
        for kind, name in objects
        if len(name)
        > (
            253
            if kind in {"EnvoyFilter", "RequestAuthentication", "Role", "RoleBinding", "ConfigMap"}
            else 63
        )
        or not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name)
    ]
    labels = [value for item in objects.values() for value in item["metadata"]["labels"].values()]
    assert [] == [value for value in labels if len(value) > 63]


def test_chart_lints(helm, chart, values_folder):
    """
    `helm lint --strict` finds no problem.
    """
    files = [
        argument
        for name in ("env/local", "models/resnet")
        for argument in ("-f", str(values_folder / f"{name}.yaml"))
    ]

    assert "0 chart(s) failed" in helm("lint", str(chart), "--strict", "--kube-version", "1.34.4", *files)
    assert "0 chart(s) failed" in helm(
        "lint", "charts/tfserving-gateway", "--strict", "--kube-version=1.34.4"
    )


def test_same_bytes_under_helm_4(render, helm_4, strategy, environment):
    """
    Helm 3 and Helm 4 render the same bytes, but for the empty line that Helm 4 leaves between two objects.
    """
    of_3 = render(strategy, environment=environment, models="resnet-abn").text
    of_4 = render(strategy, environment=environment, models="resnet-abn", program=helm_4).text

    assert of_3.rstrip("\n") == of_4.replace("\n\n---\n", "\n---\n").rstrip("\n")


def test_each_helm_is_itself(helm, helm_4):
    """
    The two programs are different.
    """
    versions = [helm("version", "--short"), helm("version", "--short", program=helm_4)]

    assert ["v3", "v4"] == [version[:2] for version in versions]
