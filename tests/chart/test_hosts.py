"""
Hosts and gateways: certificates, Gateways of others, two models at one host, and hosts that are taken.
"""

import json

import pytest
import yaml
from lookups import serving

from tfcanary.routing.route import Request

ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount"}
BY_MODEL = {"gateway": {"byModel": {"enabled": True}, "filters": {"enabled": False}}}


def test_each_certificate_has_a_server(render):
    """
    A host has the certificate that is for it, and the others share one; every server has a name of its own.
    """
    tls = {
        "enabled": True,
        "credentialName": "others",
        "certificates": [{"hosts": ["b.example"], "credentialName": "b"}],
    }
    values = {"gateway": {"hosts": ["a.example", "b.example", "c.example"], "tls": tls}}
    servers = render(values=values).one("Gateway")["spec"]["servers"]

    assert ["http", "https", "https-0"] == [one["port"]["name"] for one in servers]
    assert {"others": ["a.example", "c.example"], "b": ["b.example"]} == {
        one["tls"]["credentialName"]: one["hosts"] for one in servers[1:]
    }
    everyone = tls | {"credentialName": "", "certificates": [{"hosts": ["*"], "credentialName": "b"}]}
    alone = render(values={"gateway": {"tls": everyone}}).one("Gateway")["spec"]["servers"]
    assert ["http", "https-0"] == [one["port"]["name"] for one in alone]


def test_gateways_that_exist(render):
    """
    The routes go to all Gateways that are named, and the release has none of its own. Callers inside the mesh go on as ever.
    """
    rendered = render(values={"gateway": {"existing": ["istio-system/external", "models/internal"]}})

    assert "Gateway" not in {kind for kind, _ in rendered.objects}
    assert ["istio-system/external", "models/internal"] == rendered.virtual_service["spec"]["gateways"]
    assert ["mesh"] == rendered.all("VirtualService")["resnet-mesh"]["spec"]["gateways"]
    without = render(values={"gateway": {"existing": ["a/b"], "tls": {"enabled": True}}})
    assert ["a/b"] == without.virtual_service["spec"]["gateways"]


@pytest.fixture(scope="module")
def at_one_host(render, chart, istio):
    """
    What Istio does with a request where resnet (all to stable) and digits (all to canary) have one host, in either order.
    """
    values = yaml.safe_load((chart / "values.yaml").read_text())
    values["gateway"]["filters"]["enabled"] = False
    values["model"]["name"] = "resnet"
    services = [
        render("stable", values=BY_MODEL).virtual_service,
        render("promoted", models="digits", release="digits", values=BY_MODEL).virtual_service,
    ]

    def asked(path, **headers):
        given = Request(path, {name.replace("_", "-"): value for name, value in headers.items()})
        merged = [
            {"spec": {"http": [e for one in order for e in one["spec"]["http"]]}}
            for order in (services, services[::-1])
        ]
        first, second = (istio(values, one, given) for one in merged)
        assert first == second
        return None if first is None else next(iter(first[0]))

    return asked


PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.mark.parametrize(
    ("path", "headers", "track"),
    [
        ("/v1/models/resnet", {}, "stable"),
        ("/v1/models/resnet:predict", {}, "stable"),
        ("/v1/models/resnet/versions/1/metadata", {}, "stable"),
        ("/v1/models/digits:predict", {}, "canary"),
        ("/v1/models/digits/metadata", {}, "canary"),
        ("/v1/models/digits-large:predict", {}, None),
        ("/v1/models/Resnet", {}, None),
        ("/v1/models", {}, None),
        (PREDICT, {"x_model": "resnet"}, "stable"),
        (PREDICT, {"x_model": "digits"}, "canary"),
        (PREDICT, {"x_model": "digits-large"}, None),
        (PREDICT, {}, None),
    ],
)
def test_two_models_at_one_host(at_one_host, path, headers, track):
    """
    A request goes to the model that it names, whichever release is the older one, and to none if it names none.
    """
    assert track == at_one_host(path, **headers)


def test_callers_inside_the_mesh_name_no_model(render):
    """
    Inside the mesh a release is called by its own Service: its routes there are those of any release.
    """
    assert (
        render("composed").mesh_routes[0]["match"]
        == render("composed", values=BY_MODEL).mesh_routes[0]["match"]
    )


@pytest.fixture(scope="module")
def cluster():
    """
    One server for all cases, whose objects each case sets.
    """
    with serving() as made:
        yield made


@pytest.fixture
def upgrade(cluster, tmp_path, complaint, values_folder):
    """
    What `helm upgrade` says of a release: its problems, or none.
    """

    def attempt(values=None, *, release="second", install=True):
        files = [str(values_folder / f"{name}.yaml") for name in ("env/local", "models/resnet", "stable")]
        said = complaint(
            *("template", release, "charts/tfserving-canary", "--dry-run=server"),
            *("--disable-openapi-validation", "--kube-version=1.34.4", "--namespace=default"),
            f"--kubeconfig={cluster.kubeconfig(tmp_path)}",
            *(word for file in files for word in ("-f", file)),
            *("-f", "-"),
            *(() if install else ("--is-upgrade",)),
            stdin=json.dumps({"gateway": {"filters": {"enabled": False}}} if values is None else values),
        )
        return said and said.partition("): ")[2].partition("\n\nUse --debug")[0].strip()

    return attempt


@pytest.fixture
def live(cluster, render):
    """
    Let the cluster have the routes of a release, as Helm labels them, older than those of any release that comes.
    """

    def have(release="resnet", values=None, namespace="default", made="2026-01-01T00:00:00Z", *, first=True):
        if first:
            cluster.objects.clear()
            cluster.put({**ACCOUNT, "metadata": {"name": "default", "namespace": "default"}})
        for one in render(values=values, release=release).objects.values():
            if one["kind"] in {"VirtualService", "Gateway"}:
                one["metadata"] |= {"namespace": namespace, "creationTimestamp": made}
                one["metadata"].setdefault("annotations", {})["meta.helm.sh/release-name"] = release
                cluster.put(one)

    return have


def taken(where):
    """
    The message for a host that is taken.
    """
    return (
        f"gateway.hosts: * is taken at the same gateway by VirtualService {where}, whose routes come first; choose another "
        "host, or gateway.byModel.enabled for every model of the host; gateway.freeHosts=unchecked overrides this"
    )


def gateway(**values):
    """
    Values of the gateway without filters.
    """
    return {"gateway": {"filters": {"enabled": False}, **values}}


def test_a_host_that_another_release_has(live, upgrade):
    """
    Requests for the second release's host would go to the first: it is refused and the first one named.
    """
    live()

    assert taken("default/resnet of release resnet") == upgrade()
    assert upgrade(gateway(hosts=["another.example"])) is None
    assert upgrade(gateway(freeHosts="unchecked")) is None
    assert upgrade(release="resnet", install=False) is None


def test_a_host_at_another_gateway(live, upgrade):
    """
    A host is free at the pods of another gateway, whether they are named by labels or by a Gateway that exists.
    """
    live(values={"gateway": {"selector": {"istio": "internal"}}})
    assert upgrade() is None

    live(values=gateway(existing=["istio-system/shared"]))
    assert upgrade(gateway(existing=["istio-system/other"])) is None
    assert taken("default/resnet of release resnet") == upgrade(gateway(existing=["istio-system/shared"]))


def test_hosts_of_other_namespaces(live, upgrade):
    """
    Other namespaces are looked at only if the values say so, because not everyone may list their objects.
    """
    live(namespace="models")

    assert upgrade() is None
    assert taken("models/resnet of release resnet") == upgrade(gateway(freeHosts="cluster"))


def test_other_models_may_have_the_host(live, upgrade):
    """
    Two releases by model share a host, if their models differ.
    """
    live(values=BY_MODEL)
    digits = {**BY_MODEL, "model": {"name": "digits"}}

    assert upgrade(digits) is None
    assert taken("default/resnet of release resnet") == upgrade(BY_MODEL)
    live()
    assert taken("default/resnet of release resnet") == upgrade(digits)


def test_the_older_release_may_be_upgraded(live, upgrade):
    """
    A release whose routes are the older ones has its requests: one that came later is not in the way of its upgrades.
    """
    live()
    live("second", made="2026-01-02T00:00:00Z", first=False)

    assert upgrade(release="resnet", install=False) is None
    assert taken("default/resnet of release resnet") == upgrade(install=False)


def test_gateways_that_are_not_there(live, cluster, upgrade):
    """
    A Gateway that exists must exist, and have a server for the hosts on the port, where it can be looked up.
    """
    live(values={"gateway": {"hosts": ["a.example"]}})
    given = {"hosts": ["b.example"], "existing": ["default/shared"]}
    assert upgrade(gateway(**given)) == (
        "gateway.existing: Gateway default/shared is not there; apply it first; gateway.freeHosts=unchecked overrides this"
    )
    assert upgrade(gateway(**given, freeHosts="unchecked")) is None

    server = {"port": {"number": 80, "protocol": "HTTP"}, "hosts": ["other/b.example", "./*.test"]}
    shared = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "shared", "namespace": "default"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [server]},
    }
    cluster.put(shared)
    missing = (
        "gateway.existing: Gateway default/shared has no server for host b.example of namespace default on port 80; add one, "
        "or change gateway.hosts, gateway.port or gateway.tls; gateway.freeHosts=unchecked overrides this"
    )
    assert upgrade(gateway(**given)) == missing
    assert upgrade(gateway(**given | {"hosts": ["b.test"]})) is None
    assert missing.replace("port 80", "port 443") == upgrade(gateway(**given, tls={"enabled": True}))
    server["hosts"] = ["*/*.example"]
    cluster.put(shared)
    assert upgrade(gateway(**given)) is None
