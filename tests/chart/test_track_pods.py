"""
What the values say of pods: for all tracks, and for one of them.
"""

import pytest
import yaml

DIGEST = "sha256:" + "0123456789abcdef" * 4
ALL = {
    "labels": {"team": "vision", "tier": "batch"},
    "annotations": {"example.com/owner": "a b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1000000}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                ]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 1,
                    "podAffinityTerm": {
                        "topologyKey": "kubernetes.io/hostname",
                        "labelSelector": {"matchLabels": {"team": "vision"}},
                    },
                }
            ]
        },
    },
    "runtimeClassName": "gvisor",
    "env": [
        {"name": "A", "value": "1"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ],
    "extraArgs": {
        "tensorflow_intra_op_parallelism": 4,
        "per_process_gpu_memory_fraction": 0.5,
        "flush_filesystem_caches": False,
        "saved_model_tags": "serve,gpu",
    },
    "volumes": [
        {"name": "vocabulary", "mountPath": "/data/words", "configMap": {"name": "words"}},
        {"name": "keys", "mountPath": "/data/keys", "subPath": "a", "secret": {"secretName": "keys"}},
        {"name": "claim", "mountPath": "/data/claim", "persistentVolumeClaim": {"claimName": "claim"}},
        {"name": "driver", "mountPath": "/data/driver", "csi": {"driver": "d.example"}},
        {"name": "layer", "mountPath": "/data/layer", "image": {"reference": f"r.example/a@{DIGEST}"}},
    ],
    "imagePullSecrets": ["registry"],
    "serviceAccountName": "given",
    "terminationGracePeriodSeconds": 600,
}
# The keys of a pod that are there under the same name and value.
SAME = ("nodeSelector", "tolerations", "affinity", "runtimeClassName", "terminationGracePeriodSeconds")


def templates(rendered):
    """
    The pod template of each track.
    """
    return {
        name.removeprefix("resnet-"): item["spec"]["template"]
        for name, item in rendered.all("Deployment").items()
    }


def server(template):
    """
    The server of a pod.
    """
    (container,) = template["spec"]["containers"]
    return container


def canary(**settings):
    """
    Values of the canary alone.
    """
    return {"tracks": {"canary": settings}}


def as_said(template):
    """
    What a pod has of each key of `pods`.
    """
    spec, container = template["spec"], server(template)
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in container["args"])
    return {
        **{key: spec.get(key) for key in SAME},
        "labels": {name: template["metadata"]["labels"].get(name) for name in ALL["labels"]},
        "annotations": {name: template["metadata"]["annotations"].get(name) for name in ALL["annotations"]},
        "env": container.get("env"),
        "extraArgs": {name: flags.get(name) for name in ALL["extraArgs"]},
        "volumes": [
            (volume["name"], mounts[volume["name"]]["mountPath"], mounts[volume["name"]].get("readOnly"))
            for volume in spec["volumes"]
            if volume["name"] not in {"config", "tmp", "models", "store"}
        ],
        "imagePullSecrets": [one["name"] for one in spec.get("imagePullSecrets", [])],
        "serviceAccountName": spec["serviceAccountName"],
    }


EXPECTED = ALL | {
    "extraArgs": {
        "tensorflow_intra_op_parallelism": "4",
        "per_process_gpu_memory_fraction": "0.5",
        "flush_filesystem_caches": "false",
        "saved_model_tags": "serve,gpu",
    },
    "volumes": [(volume["name"], volume["mountPath"], True) for volume in ALL["volumes"]],
}


def test_every_key_is_said_here(chart):
    """
    The table above has every key of `pods`; how pods are spread has tests of its own.
    """
    values = yaml.safe_load((chart / "values.yaml").read_text())

    assert ALL.keys() | {"topologySpreadConstraints"} == values["pods"].keys()


@pytest.mark.parametrize("key", sorted(ALL))
@pytest.mark.parametrize("where", ["all", "canary"])
def test_pods_are_as_the_values_say(render, problems_with, violations, key, where):
    """
    Each key reaches the pods of all tracks, or of one, and no other. The pods are valid, and still *restricted*.
    """
    pods = {key: ALL[key]}
    values = {"pods": pods} if where == "all" else canary(pods=pods)
    before, after = templates(render("stable")), render("stable", values=values)

    expected = {
        track: {**as_said(before[track]), **({key: EXPECTED[key]} if where in {"all", track} else {})}
        for track in before
    }
    assert expected == {track: as_said(template) for track, template in templates(after).items()}
    for item in after.objects.values():
        assert () == problems_with(item)
    for template in templates(after).values():
        assert [] == violations(template["spec"])


def test_all_keys_at_once(render, problems_with):
    """
    They do not get into each other's way, and selectors have none of them.
    """
    rendered = render("stable", values={"pods": ALL, "commonLabels": {"cost": "centre-1"}})

    for template in templates(rendered).values():
        assert as_said(template) == EXPECTED
    for item in rendered.objects.values():
        assert () == problems_with(item)
    for deployment in rendered.all("Deployment").values():
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance", "track"} == deployment["spec"][
            "selector"
        ]["matchLabels"].keys()


def test_maps_of_a_track_are_merged(render):
    """
    A key of the track wins, `null` takes one away, and the others stay.
    """
    own = {"labels": {"tier": "live", "team": None, "new": "x"}}

    found = templates(render("stable", values={"pods": {"labels": ALL["labels"]}, **canary(pods=own)}))

    both = ALL["labels"].keys() | own["labels"].keys()
    assert {"stable": ALL["labels"], "canary": {"tier": "live", "new": "x"}} == {
        track: {name: value for name, value in template["metadata"]["labels"].items() if name in both}
        for track, template in found.items()
    }


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("tolerations", []),
        ("env", [{"name": "B", "value": "2"}]),
        ("imagePullSecrets", []),
        ("runtimeClassName", ""),
        ("terminationGracePeriodSeconds", 0),
    ],
)
def test_what_is_no_map_is_replaced(render, key, own):
    """
    A list, a text or a number of the track is all that the track has; an empty one too.
    """
    found = templates(render("stable", values={"pods": {key: ALL[key]}, **canary(pods={key: own})}))
    plain = as_said(templates(render("stable"))["canary"])

    assert ALL[key] == as_said(found["stable"])[key]
    assert (own or plain[key]) == as_said(found["canary"])[key]


@pytest.mark.parametrize(
    ("everyone", "own", "expected"),
    [
        pytest.param({"tag": "1"}, {"tag": "2"}, "r.example/a:2", id="tag"),
        pytest.param(
            {"tag": "1", "digest": DIGEST}, {"tag": "2"}, "r.example/a:2", id="tag-and-not-the-digest"
        ),
        pytest.param({"tag": "1"}, {"digest": DIGEST}, f"r.example/a@{DIGEST}", id="digest"),
        pytest.param(
            {"tag": "1", "digest": DIGEST}, {"repository": "r.example/b"}, "r.example/b:1", id="repository"
        ),
        pytest.param(
            {"tag": "1", "digest": DIGEST}, {"pullPolicy": "Always"}, f"r.example/a@{DIGEST}", id="policy"
        ),
    ],
)
def test_a_track_has_an_image_of_its_own(render, everyone, own, expected):
    """
    The server and the init container of that track run it. A digest belongs to its repository and tag.
    """
    values = {"image": {"repository": "r.example/a", **everyone}, **canary(image=own)}

    found = templates(render("stable", values=values))

    images = {
        track: {one["image"] for key in ("containers", "initContainers") for one in template["spec"][key]}
        for track, template in found.items()
    }
    digest = everyone.get("digest")
    assert {
        "canary": {expected},
        "stable": {f"r.example/a@{digest}" if digest else "r.example/a:1"},
    } == images
    assert own.get("pullPolicy", "IfNotPresent") == server(found["canary"])["imagePullPolicy"]


def test_a_track_has_resources_of_its_own(render):
    """
    What it does not say is that of all tracks, and `null` leaves a request out.
    """
    own = {"requests": {"cpu": None, "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 1}}
    values = {"resources": {"requests": {"cpu": "2", "memory": "3Gi"}, "limits": {"memory": "4Gi"}}}

    found = templates(render("stable", values=values | canary(resources=own)))

    assert values["resources"] == server(found["stable"])["resources"]
    assert {
        "requests": {"memory": "1Gi"},
        "limits": {"memory": "4Gi", "nvidia.com/gpu": 1},
    } == server(found["canary"])["resources"]


def test_the_request_for_cpu_may_be_left_out(render):
    """
    For all tracks as well.
    """
    values = {"resources": {"requests": {"cpu": None}}}

    for template in templates(render("stable", environment="gke", values=values)).values():
        assert {"memory"} == server(template)["resources"]["requests"].keys()


def test_pods_are_spread_as_the_values_say(render):
    """
    The labels are those of the track, whoever wrote the rule; without rules there are none.
    """
    rule = {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 3}
    values = {"pods": {"topologySpreadConstraints": [rule]}, **canary(pods={"topologySpreadConstraints": []})}

    rendered = render("stable", values=values)
    found = templates(rendered)

    selector = rendered.all("Deployment")["resnet-stable"]["spec"]["selector"]
    assert [{**rule, "labelSelector": selector}] == found["stable"]["spec"]["topologySpreadConstraints"]
    assert "topologySpreadConstraints" not in found["canary"]["spec"]


def test_a_service_account_that_is_given_is_not_made(render):
    """
    The track runs under it, and the chart makes none for that track.
    """
    rendered = render("stable", values=canary(pods={"serviceAccountName": "given"}))

    assert {"resnet-stable"} == set(rendered.all("ServiceAccount"))


def test_every_pod_pulls_with_the_secrets(render):
    """
    Those of `helm test` and of a rollout's Job too.
    """
    values = {
        "pods": {"imagePullSecrets": ["registry"]},
        "rollout": {"enabled": True, "plan": {"to": 2}, "image": {"repository": "r.example/rollout"}},
    }

    rendered = render("stable", values=values)

    specs = [template["spec"] for template in templates(rendered).values()]
    specs += [rendered.one("Pod")["spec"], rendered.one("Job")["spec"]["template"]["spec"]]
    assert [[{"name": "registry"}]] * 4 == [spec["imagePullSecrets"] for spec in specs]


def test_common_labels_are_on_all_objects_and_in_no_selector(render):
    """
    Each object and each pod has them. What selects pods is as without them, so an upgrade may bring them.
    """
    rollout = {"enabled": True, "plan": {"to": 2}, "image": {"repository": "r.example/rollout"}}
    plain = render("stable", values={"rollout": rollout})
    rendered = render(
        "stable", values={"rollout": rollout, "commonLabels": {"cost": "a", "example.com/b": ""}}
    )

    for item in rendered.objects.values():
        places = [item["metadata"]]
        if item["kind"] in {"Deployment", "Job"}:
            places.append(item["spec"]["template"]["metadata"])
        for place in places:
            assert {"cost": "a", "example.com/b": ""}.items() <= place["labels"].items()

    assert [] == [
        (key, item["spec"][name])
        for key, item in rendered.objects.items()
        for name in ("selector", "podSelector", "workloadSelector")
        if name in item.get("spec", {}) and item["spec"][name] != plain.objects[key]["spec"][name]
    ]


def test_further_objects_are_as_they_are(render):
    """
    They come with the release, and nothing in them is a template.
    """
    item = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "resnet-models", "labels": {"a": "{{ .Release.Name }}"}},
        "spec": {"podMetricsEndpoints": [{"port": "http-rest"}]},
    }

    assert item == render("stable", values={"extraObjects": [item]}).objects["PodMonitor", "resnet-models"]


@pytest.mark.parametrize("program", ["helm", "helm_4"])
def test_a_canary_on_a_gpu(render, problems_with, program, request, environment):
    """
    The values file gives the canary a GPU, a node that has one and a server for it, in every environment. Stable is as it was.
    """
    helm = "helm" if program == "helm" else request.getfixturevalue(program)
    before = templates(render("stable", environment=environment))
    rendered = render("stable", "pods/gpu-canary", environment=environment, program=helm)
    after = templates(rendered)

    assert before["stable"] == after["stable"]
    assert server(after["canary"])["image"].endswith("/serving:2.20.0-gpu") or environment in {
        "local",
        "kind",
    }
    resources = server(after["canary"])["resources"]
    assert ({"memory"}, 1) == (resources["requests"].keys(), resources["limits"]["nvidia.com/gpu"])
    assert "nvidia" == after["canary"]["spec"]["runtimeClassName"]
    for item in rendered.objects.values():
        assert () == problems_with(item)


def test_a_canary_of_the_server(render):
    """
    The values file changes the image of the canary and nothing else.
    """
    before = render("canary-10", environment="gke").text
    after = render("canary-10", "pods/server-canary", environment="gke").text

    assert before.count("tensorflow/serving:2.20.0") == 2
    assert before == after.replace("tensorflow/serving:2.19.1", "tensorflow/serving:2.20.0")
    assert 1 == after.count("tensorflow/serving:2.19.1")


def test_an_environment_names_the_secret_of_its_registry(render):
    """
    Without internet access the images come from a registry that wants a password.
    """
    for template in templates(render("stable", environment="air-gapped")).values():
        assert [{"name": "registry-credentials"}] == template["spec"]["imagePullSecrets"]
