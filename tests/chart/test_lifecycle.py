"""
What keeps a track's pods there: autoscaling, disruption budgets, ejection, spreading, and where their models come from.
"""

import pytest

SCALED = {"minReplicas": 2, "maxReplicas": 6, "cpuPercent": 70}


def tracks(**settings):
    """
    Values for the tracks.
    """
    return {"tracks": settings}


def test_an_autoscaler_owns_the_number(render):
    """
    With autoscaling there is an HPA and no `replicas`, which an upgrade would set back.
    """
    rendered = render("stable", values=tracks(canary={"autoscaling": SCALED}))
    deployments = rendered.all("Deployment")

    assert "replicas" not in deployments["resnet-canary"]["spec"]
    assert 1 == deployments["resnet-stable"]["spec"]["replicas"]
    (scaler,) = rendered.all("HorizontalPodAutoscaler").values()
    assert {"apiVersion": "apps/v1", "kind": "Deployment", "name": "resnet-canary"} == scaler["spec"][
        "scaleTargetRef"
    ]
    assert (2, 6) == (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"])


@pytest.mark.parametrize(
    ("canary", "expected"),
    [
        pytest.param({"replicas": 0}, set(), id="none"),
        pytest.param({"replicas": 1}, set(), id="one"),
        pytest.param({"replicas": 2}, {"resnet-canary"}, id="two"),
        pytest.param({"autoscaling": SCALED}, {"resnet-canary"}, id="scaled"),
        pytest.param({"autoscaling": {**SCALED, "minReplicas": 1}}, set(), id="scaled-from-one"),
    ],
)
def test_a_budget_where_a_pod_can_be_missed(render, canary, expected):
    """
    With two pods or more one at a time may be taken; a budget over a single pod would stop every drain.
    """
    rendered = render("stable", values=tracks(canary=canary))

    budgets = {name: item for (kind, name), item in rendered.objects.items() if kind == "PodDisruptionBudget"}
    assert expected == set(budgets)
    assert [1] * len(expected) == [item["spec"]["maxUnavailable"] for item in budgets.values()]


@pytest.mark.parametrize("replicas", range(12))
def test_ejection_is_bounded(render, replicas):
    """
    Nothing is ejected of a single pod; else at least one pod may be, and never all.
    """
    rule = render("stable", values=tracks(canary={"replicas": replicas})).one("DestinationRule")
    (canary,) = (subset for subset in rule["spec"]["subsets"] if subset["name"] == "canary")

    percent = canary.get("trafficPolicy", {}).get("outlierDetection", {}).get("maxEjectionPercent")
    ejected = 0 if percent is None else replicas * percent // 100
    assert (percent is None) == (replicas < 2)
    assert percent is None or 1 <= ejected <= replicas - 1


def test_ejection_can_be_turned_off(render):
    """
    Without outlier detection no subset has a policy of its own.
    """
    values = tracks(canary={"replicas": 3}) | {"outlierDetection": {"enabled": False}}

    assert all(
        "trafficPolicy" not in s for s in render(values=values).one("DestinationRule")["spec"]["subsets"]
    )


def test_pods_are_spread(render):
    """
    The pods of one track go to different nodes and zones if there are any, by the track's own selector.
    """
    for item in render("stable").all("Deployment").values():
        spread = item["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert ["kubernetes.io/hostname", "topology.kubernetes.io/zone"] == [
            one["topologyKey"] for one in spread
        ]
        assert [item["spec"]["selector"]] * 2 == [one["labelSelector"] for one in spread]
        assert {"ScheduleAnyway"} == {one["whenUnsatisfiable"] for one in spread}


@pytest.mark.parametrize(("name", "expected"), [("", None), ("models", "models")])
def test_priority(render, name, expected):
    """
    The pods have the priority class that is named, or none.
    """
    rendered = render("stable", values={"priorityClassName": name})

    assert {expected} == {
        item["spec"]["template"]["spec"].get("priorityClassName")
        for item in rendered.all("Deployment").values()
    }


def test_routes_come_after_pods_in_argo_cd(render, strategy):
    """
    Argo CD cannot look pods up: it applies the routes when the pods are Ready.
    """
    services = render(strategy).all("VirtualService").values()

    assert {"1"} == {item["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] for item in services}


REFERENCE = "registry.example.com/models@sha256:" + "0123456789abcdef" * 4


def volumes(rendered):
    """
    The volumes of the stable track's pods by name.
    """
    pod = rendered.all("Deployment")["resnet-stable"]["spec"]["template"]["spec"]
    return {volume["name"]: volume for volume in pod["volumes"]}


def test_models_from_an_image(render):
    """
    An OCI image is mounted as a volume, by digest, in the place of a claim.
    """
    values = {"modelStore": {"persistentVolumeClaim": {"claimName": ""}, "image": {"reference": REFERENCE}}}
    found = volumes(render("stable", values=values))

    assert {"reference": REFERENCE, "pullPolicy": "IfNotPresent"} == found["store"]["image"]
    assert "emptyDir" in found["models"]


def test_models_from_s3(render):
    """
    A server that was built with S3 reads the bucket, and gets its region.
    """
    store = {"basePath": "s3://some-bucket/models", "s3Region": "eu-west-1"}
    image = {"repository": "registry.example.com/serving-with-s3"}
    rendered = render("stable", environment="gke", values={"modelStore": store, "image": image})

    pod = rendered.all("Deployment")["resnet-stable"]["spec"]["template"]["spec"]
    assert [{"name": "AWS_REGION", "value": "eu-west-1"}] == pod["containers"][0]["env"]
    assert "initContainers" not in pod
    assert 'base_path: "s3://some-bucket/models/resnet"' in rendered.text


@pytest.mark.parametrize("path", ["/models", "/models/", "/models/a/models"])
def test_the_copy_lies_where_the_server_looks(render, path):
    """
    The init container reads the store and writes below the base path that the server has.
    """
    rendered = render("stable", values={"modelStore": {"basePath": path}})

    pod = rendered.all("Deployment")["resnet-stable"]["spec"]["template"]["spec"]
    copied = path.rstrip("/")
    assert [f"{copied.replace('/models', '/store', 1)}/resnet/1", f"{copied}/resnet/1"] == pod[
        "initContainers"
    ][0]["args"][:2]
    assert f'base_path: "{copied}/resnet"' in rendered.text


def test_verifying_can_be_turned_off(render):
    """
    Models without a manifest are served straight from the store.
    """
    rendered = render("stable", values={"modelStore": {"verifyManifest": False}})

    assert "initContainers" not in rendered.all("Deployment")["resnet-stable"]["spec"]["template"]["spec"]
    assert "persistentVolumeClaim" in volumes(rendered)["models"]


def test_only_where_drills_are_held(render, environment):
    """
    No environment for production allows faulty models.
    """
    rendered = render("stable", environment=environment)
    said = {
        container["args"][2]
        for item in rendered.all("Deployment").values()
        for container in item["spec"]["template"]["spec"].get("initContainers", [])
    }

    # A bucket's models are read by the server itself, and nothing of them is verified.
    expected = {"local": {"allow-faulty"}, "kind": {"allow-faulty"}, "gke": set()}
    assert expected.get(environment, {"refuse-faulty"}) == said


def test_argo_cd_deletes_tracks_last(render):
    """
    A track that is gone from the values keeps its pods until the routes have left it.
    """
    annotations = [item["metadata"]["annotations"] for item in render("stable").all("Deployment").values()]

    assert [{"argocd.argoproj.io/sync-options": "PruneLast=true"}] * 2 == annotations
