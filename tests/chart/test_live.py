"""
An upgrade that gives traffic to pods that do not exist, or removes pods that have traffic, is refused.

Helm looks the live objects up; here it asks a server that answers as the Kubernetes API would, with objects that the
chart itself rendered. `helm template --dry-run=server` looks things up as `helm upgrade` does.
"""

import json

import pytest
from lookups import serving

HALF = {"stable": 50, "canary": 50}
CHALLENGER = {"tracks": {"challenger": {"version": 3, "replicas": 1}}}


@pytest.fixture(scope="module")
def cluster():
    """
    One server for all cases, whose objects each case sets.
    """
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def filters(gateway_chart):
    """
    What the gateway's own chart puts into the gateway's namespace.
    """
    return gateway_chart()


@pytest.fixture
def release(cluster, render, filters):
    """
    Make the cluster have a release as it is after a strategy, all pods Ready, and the gateway's filters.
    """

    def installed(strategy, **options):
        cluster.objects.clear()
        cluster.asked.clear()
        account = {"apiVersion": "v1", "kind": "ServiceAccount"}
        cluster.put({**account, "metadata": {"name": "default", "namespace": "default"}})
        cluster.put(filters)
        for (kind, _), item in render(strategy, **options).objects.items() if strategy else ():
            if kind in {"Deployment", "VirtualService"}:
                cluster.put(item)
            if kind == "Deployment":
                pods = item["spec"]["replicas"]
                live = cluster.deployment(item["metadata"]["labels"]["track"])
                live["metadata"]["generation"] = 1
                counts = {"replicas": pods, "readyReplicas": pods, "updatedReplicas": pods} if pods else {}
                live["status"] = {"observedGeneration": 1, **counts}
        return cluster

    return installed


@pytest.fixture(params=["helm", "helm4"])
def upgrade(request, cluster, tmp_path, complaint, values_folder):
    """
    What `helm upgrade` says of values on this cluster, under Helm 3 and Helm 4: its problems, or none.
    """
    program = "helm" if request.param == "helm" else request.getfixturevalue("helm_4")

    def attempt(*files, values=None, install=False, namespace="default"):
        models = "resnet-abn" if "ab-test" in files else "resnet"
        given = [
            argument
            for name in ("env/local", f"models/{models}", *files)
            for argument in ("-f", str(values_folder / f"{name}.yaml"))
        ]
        command = [
            "template",
            "resnet",
            "charts/tfserving-canary",
            "--dry-run=server",
            "--disable-openapi-validation",
            "--kube-version=1.34.4",
            f"--kubeconfig={cluster.kubeconfig(tmp_path)}",
            f"--namespace={namespace}",
            *given,
            "-f",
            "-",
        ]
        if not install:
            command.append("--is-upgrade")
        said = complaint(*command, stdin=json.dumps(values or {}), program=program)
        if said is None:
            return None
        assert "execution error at (tfserving-canary/templates/validate.yaml" in said, said
        return said.partition("): ")[2].partition("\n\nUse --debug")[0].strip()

    return attempt


def cannot_take(track, reason):
    """
    The message for a track that gets its first traffic too early.
    """
    return (
        f"routing.routes: track {track} has no traffic yet and cannot take it: {reason}; first upgrade without weight for "
        "it (-f values/stable.yaml) and --wait, then move the traffic; routing.requireReady=false overrides this"
    )


def everyone(weights):
    """
    Values with a single route.
    """
    return {"routing": {"routes": [{"name": "everyone", "weights": weights}]}}


NOT_READY = {
    "no-pods-yet": (lambda c: c.remove("canary"), {}, "it has no pods yet"),
    "none-ready": (
        lambda c: c.deployment("canary")["status"].pop("readyReplicas"),
        {},
        "0 of its 1 pods are Ready",
    ),
    "no-status": (lambda c: c.deployment("canary").pop("status"), {}, "0 of its 0 pods are Ready"),
    "version": (
        lambda _: None,
        {"tracks": {"canary": {"version": 3}}},
        "it serves version 2 and this upgrade would change it to 3",
    ),
    "image": (
        lambda _: None,
        {"image": {"tag": "2"}},
        "it runs image localhost/tfcanary/modelserver:local and this upgrade would change it to localhost/tfcanary/modelserver:2",
    ),
    "store": (
        lambda _: None,
        {"modelStore": {"basePath": "/models/other"}},
        "this upgrade would change the name of its model or the place that it is read from",
    ),
    "claim": (
        lambda _: None,
        {"modelStore": {"persistentVolumeClaim": {"claimName": "other"}}},
        "this upgrade would change the name of its model or the place that it is read from",
    ),
    "model-image": (
        lambda _: None,
        {
            "modelStore": {
                "persistentVolumeClaim": {"claimName": ""},
                "image": {"reference": f"a/b@sha256:{'0' * 64}"},
            }
        },
        "this upgrade would change the name of its model or the place that it is read from",
    ),
    "rolling": (
        lambda c: c.deployment("canary")["status"].update(replicas=2),
        {},
        "its pods are being replaced",
    ),
    "not-seen-yet": (
        lambda c: c.deployment("canary")["metadata"].update(generation=2),
        {},
        "its pods are being replaced",
    ),
}


@pytest.mark.parametrize("name", NOT_READY)
@pytest.mark.parametrize("applied", ["canary-1", "canary-caller"])
def test_traffic_waits_for_ready_pods(release, upgrade, name, applied):
    """
    The first traffic of a track, however little, is refused until its pods are there, Ready, and those that are wanted.
    """
    change, values, reason = NOT_READY[name]
    change(release("stable"))

    assert cannot_take("canary", reason) == upgrade(applied, values=values)


def test_replicas_and_weight_in_one_upgrade(release, upgrade):
    """
    Traffic does not start a track that has no pods.
    """
    release("stable", values={"tracks": {"canary": {"replicas": 0}}})

    assert cannot_take("canary", "0 of its 0 pods are Ready") == upgrade("canary-10")


def test_a_new_track_and_its_weight_in_one_upgrade(release, upgrade):
    """
    A track that is created and gets traffic at once is refused; created without, it may have it in the next upgrade.
    """
    release("stable")
    half = everyone({"stable": 50, "challenger": 50})

    assert cannot_take("challenger", "it has no pods yet") == upgrade(values={**CHALLENGER, **half})
    assert upgrade("stable", values=CHALLENGER) is None

    release("stable", values=CHALLENGER)
    assert upgrade(values={**CHALLENGER, **half}) is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"labels": {"app.kubernetes.io/name": "another"}}}, id="none"),
        pytest.param({"spec": {"workloadSelector": {"labels": {"istio": "another"}}}}, id="another-gateway"),
    ],
)
def test_filters_that_the_gateway_lacks_are_named(release, upgrade, filters, change):
    """
    Hosts are bound to filters that are there, before anything is applied.
    """
    release("stable").put(
        {**filters, **change, "metadata": {**filters["metadata"], **change.get("metadata", {})}}
    )

    assert (
        "gateway.filters.shared: namespace istio-system has no filters for the gateway's pods; first `helm install "
        "tfserving-gateway charts/tfserving-gateway --namespace istio-system` with their labels as selector, or set "
        "gateway.filters.shared=false"
    ) == upgrade("stable")
    for without in ({"shared": False}, {"enabled": False}):
        assert upgrade("stable", values={"gateway": {"filters": without}}) is None


@pytest.mark.parametrize("applied", ["stable", "canary-10", "shadow"])
def test_the_first_release(release, upgrade, applied):
    """
    On the first release stable may have its traffic at once, because no client loses any. Another track may not.
    """
    release(None)

    refused = cannot_take("canary", "it has no pods yet") if applied == "canary-10" else None
    assert refused == upgrade(applied, install=True)


def test_any_strategy_may_follow_any(release, upgrade, strategies):
    """
    With all pods Ready nothing is refused: each strategy is left for another one, and come to from another one.
    """
    said = {}
    for before, after in zip(strategies, [*strategies[1:], strategies[0]], strict=True):
        release(before, models="resnet-abn")
        said[before, after] = upgrade("ab-test", after)

    assert dict.fromkeys(said) == said


@pytest.mark.parametrize("applied", ["canary-10", "canary-cookie", "canary-caller", "canary-sticky-users"])
def test_a_track_with_traffic_keeps_its_pods(release, upgrade, applied):
    """
    Pods go one upgrade after the traffic, for callers inside the mesh too: those have routes of their own.
    """
    release(applied)
    none = {"tracks": {"canary": {"replicas": 0}}}

    said = upgrade("stable", values=none)

    assert said == (
        "tracks.canary.replicas: the track has traffic now and would lose its pods under it; first upgrade without weight "
        "for it, then set 0"
    )
    release("stable")
    assert upgrade("stable", values=none) is None


def test_a_track_with_traffic_is_not_deleted(release, upgrade):
    """
    A track leaves the values one upgrade after its traffic.
    """
    release("ab-test")

    said = upgrade("stable")

    assert said == (
        "tracks: track challenger has traffic now and would be deleted under it; first upgrade without weight for it, then "
        "without the track"
    )
    release("stable", models="resnet-abn")
    assert upgrade("stable") is None


@pytest.mark.parametrize(
    ("before", "then", "more"),
    [
        ("canary-10", "canary-50", (50, 10)),
        ("canary-sticky-users", "canary-50", (50, 10)),
        ("canary-cookie", "promoted", (100, 10)),
        ("canary-user-group", "canary-50", (50, 0)),
        ("canary-caller", "canary-10", (10, 0)),
        ("canary-region", "canary-1", (1, 0)),
        ("blue-green", "canary-user-group", None),
        ("canary-10", "canary-10", None),
        ("canary-50", "canary-10", None),
        ("canary-50", "stable", None),
    ],
)
def test_a_dead_track_gets_no_more(release, upgrade, before, then, more):
    """
    A track without a Ready pod is given no more than it has, of those that a route matches and of everyone else; going back
    is always open.
    """
    release(before).deployment("canary")["status"].pop("readyReplicas")

    said = upgrade(then)

    assert (said is None) == (more is None)
    if more:
        assert (
            f"track canary has no Ready pod and would get more traffic, {more[0]} % instead of {more[1]} %;"
            in said
        )


def test_the_name_of_a_route_is_no_sticky_track(release, upgrade):
    """
    The name of a route does not tell which clients are kept. An upgrade that changes no route gives a dead track no more.
    """
    routes = [
        {"name": "well-kept-pets", "match": {"users": ["alice"]}, "weights": {"stable": 50, "canary": 50}},
        {"name": "everyone", "weights": {"stable": 100}},
    ]
    values = {"routing": {"routes": routes}}
    release("stable", values=values).deployment("canary")["status"].pop("readyReplicas")

    assert upgrade(values=values) is None


def test_it_can_be_overridden(release, upgrade):
    """
    A user who knows better can override the refusal.
    """
    release("stable").remove("canary")

    assert upgrade("canary-10", values={"routing": {"requireReady": False}}) is None


def test_other_releases_are_no_matter(release, upgrade):
    """
    Only the release's own namespace is read.
    """
    cluster = release("stable")

    assert upgrade("stable", namespace="elsewhere") is None
    assert cluster.asked
    assert [] == [path for path in cluster.asked if "/namespaces/default/" in path]
