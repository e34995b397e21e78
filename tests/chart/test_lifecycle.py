"""
What keeps a track's pods there: autoscaling, disruption budgets, ejection, spreading, and models that are what they say.
"""

import hashlib
import json
import subprocess

import pytest

SCALED = {"minReplicas": 2, "maxReplicas": 6, "cpuPercent": 70}


def tracks(**settings):
    """
    Values for the tracks.
    """
    return {"tracks": settings}


def test_an_autoscaler_owns_the_number(render):
    """
    A21: with autoscaling there is an HPA and no `replicas`, which an upgrade would set back.
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
    A21: with two pods or more one at a time may be taken; a budget over a single pod would stop every drain.
    """
    rendered = render("stable", values=tracks(canary=canary))

    budgets = {name: item for (kind, name), item in rendered.objects.items() if kind == "PodDisruptionBudget"}
    assert expected == set(budgets)
    assert [1] * len(expected) == [item["spec"]["maxUnavailable"] for item in budgets.values()]


@pytest.mark.parametrize("replicas", range(12))
def test_ejection_is_bounded(render, replicas):
    """
    A14: nothing is ejected of a single pod; else at least one pod may be, and never all.
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
    Where nobody can look pods up, the routes are applied when the pods are Ready.
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
    An S3 bucket is read by a server that was built for it, which is told the region.
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


def write(model):
    """
    A small model with its manifest.
    """
    (model / "variables").mkdir(parents=True)
    contents = {"saved_model.pb": b"graph", "variables/variables.index": b"index", "a b.txt": b""}
    files = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
    }
    for path, data in contents.items():
        (model / path).write_bytes(data)
    manifest = {
        "arch": "resnet50",
        "fault": None,
        "files": files,
        "interface": {"sha256": "x", "fault": "y"},
        "zoo": {"a": {"sha256": "0" * 64}},
    }
    (model / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


@pytest.fixture
def verify(render, tmp_path):
    """
    Run the init container's script on a small model that was changed, and give its exit code and what it said.
    """
    pod = render("stable").all("Deployment")["resnet-stable"]["spec"]["template"]["spec"]
    shell, options, script, name = pod["initContainers"][0]["command"]

    def run(change, faulty="refuse-faulty"):
        model = tmp_path / "store" / "1"
        if not model.exists():
            write(model)
        change(model)
        target = tmp_path / "models"
        target.mkdir(exist_ok=True)
        local = script.replace("/models/.sha256sums", str(target / ".sha256sums"))
        done = subprocess.run(
            [shell, options, local, name, str(model), str(target / "resnet" / "1"), faulty],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_container_that_starts_again_begins_anew(verify):
    """
    A model that is still being written is refused; when it is complete, nothing of the first copy stands in the way.
    """
    part = "variables/variables.tempstate"

    refused, _ = verify(lambda model: (model / part).write_text("x"))
    code, said = verify(lambda model: (model / part).unlink())

    assert refused != 0
    assert 0 == code, said


def flipped(model):
    """
    Flip one bit of the graph.
    """
    data = bytearray((model / "saved_model.pb").read_bytes())
    data[0] ^= 1
    (model / "saved_model.pb").write_bytes(data)


def test_a_model_that_is_whole_is_taken(verify):
    """
    Every file is there with its hash.
    """
    code, said = verify(lambda _: None)

    assert 0 == code, said
    assert "3 files verified" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(flipped, "the files are not those of manifest.json", id="one-bit"),
        pytest.param(
            lambda m: (m / "saved_model.pb").unlink(), "expected the files of manifest.json", id="missing"
        ),
        pytest.param(
            lambda m: (m / "saved_model.pbtxt").write_text("x"),
            "expected the files of manifest.json",
            id="more",
        ),
        pytest.param(lambda m: (m / "manifest.json").unlink(), "expected manifest.json", id="no-manifest"),
        pytest.param(lambda m: (m / "manifest.json").write_text("{}"), "lists no files", id="empty-manifest"),
        pytest.param(
            lambda m: (m / "variables" / "link").symlink_to("/etc/passwd"),
            "links and devices are not files",
            id="link",
        ),
        pytest.param(
            lambda m: (m / "manifest.json").write_text(
                (m / "manifest.json").read_text().replace('"saved_model.pb"', '"../saved_model.pb"')
            ),
            "expected the files of manifest.json",
            id="outside",
        ),
    ],
)
def test_a_model_that_was_changed_is_refused(verify, change, message):
    """
    One flipped bit, a file too few or too many, and the container fails: the pod is never Ready.
    """
    code, said = verify(change)

    assert code != 0
    assert message in said


def faulty(model):
    """
    Mark the model as one that was made faulty on purpose, as export_resnet.py --fault does.
    """
    path = model / "manifest.json"
    manifest = json.loads(path.read_text()) | {"fault": "slow=20"}
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def test_a_model_that_is_faulty_on_purpose_is_refused(verify):
    """
    A model for drills never starts where it is not allowed: its manifest says which fault it has.
    """
    code, said = verify(faulty)

    assert code != 0
    assert 'made faulty on purpose, "slow=20"; for a drill set modelStore.allowFaulty' in said


def test_a_drill_may_have_a_faulty_model(verify):
    """
    Where it is allowed, a faulty model is verified like any other.
    """
    code, said = verify(faulty, "allow-faulty")

    assert 0 == code, said
    assert "3 files verified" in said


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
