"""
The chart as a dependency, as docs/how-to/umbrella.md shows it: what its objects are called, and which images they have.
"""

import json
import re

import pytest
import yaml

RELEASE = "plat"
NAMED = ("--kube-version", "1.35.0")


@pytest.fixture(scope="module")
def written(documents):
    """
    The files of the umbrella chart that the page has its reader write, by their paths.
    """
    (page,) = (page for page in documents.pages() if page.name == "docs/how-to/umbrella.md")
    return dict(re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", page.text, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def umbrella(written, helm, chart, tmp_path_factory):
    """
    Build an umbrella chart by `helm dependency build` from a file:// repository, with other aliases than the page's if asked.
    """

    def build(*aliases):
        folder = tmp_path_factory.mktemp("umbrella")
        for name, body in written.items():
            file = folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(body)
        (folder / "charts").mkdir()
        (folder / "charts" / "tfserving-canary").symlink_to(chart)
        declared = folder / "platform" / "Chart.yaml"
        if aliases:
            facts = yaml.safe_load(declared.read_text())
            one = facts["dependencies"][0]
            facts["dependencies"] = [one | {"alias": name} if name else without(one) for name in aliases]
            declared.write_text(yaml.safe_dump(facts))
        helm("dependency", "build", str(declared.parent))
        return declared.parent

    def without(one):
        return {key: one[key] for key in one if key != "alias"}

    return build


@pytest.fixture(scope="module")
def platform(umbrella):
    """
    The page's own chart.
    """
    return umbrella()


@pytest.fixture(scope="module")
def objects(helm):
    """
    The objects of a release of a chart, given as JSON on stdin over the page's values.
    """

    def rendered(chart, values=None, *options):
        text = helm(
            "template", RELEASE, str(chart), *NAMED, *options, "-f", "-", stdin=json.dumps(values or {})
        )
        return [one for one in yaml.safe_load_all(text) if one]

    return rendered


def of_kind(found, kind):
    """
    The objects of a kind by name.
    """
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def test_no_object_is_there_twice(platform, objects):
    """
    Two copies in one release share no name, not even in the gateway's namespace.
    """
    found = objects(platform)
    names = [(one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]) for one in found]

    assert len(set(names)) == len(names) == 34
    assert {"plat-resnet", "plat-digits"} == set(of_kind(found, "Service"))


@pytest.mark.parametrize("alias", ["resnet", "digits"])
def test_routes_lead_to_pods_of_the_same_copy(platform, objects, alias):
    """
    Each VirtualService, by its Service and its subsets, reaches the Deployments of its own model and no other.
    """
    found = objects(platform)
    name = f"plat-{alias}"
    hosts = {
        part["destination"]["host"]
        for kind in (name, f"{name}-mesh")
        for entry in of_kind(found, "VirtualService")[kind]["spec"]["http"]
        for part in entry.get("route", ())
    }
    selector = of_kind(found, "Service")[name]["spec"]["selector"]
    reached = {
        deployment
        for deployment, one in of_kind(found, "Deployment").items()
        if selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    }

    assert [f"{alias}.example"] == of_kind(found, "VirtualService")[name]["spec"]["hosts"]
    assert {name} == hosts == {of_kind(found, "DestinationRule")[name]["spec"]["host"]}
    assert {f"{name}-stable", f"{name}-canary"} == reached
    for deployment in reached:
        assert f'name: "{alias}"' in of_kind(found, "ConfigMap")[deployment]["data"]["models.config"]


def test_without_an_alias_names_are_those_of_a_release(umbrella, objects, written, chart):
    """
    A dependency without an alias renders what a release of the chart itself renders.
    """
    values = yaml.safe_load(written["platform/values.yaml"])["resnet"]

    assert objects(chart, values) == objects(umbrella(""), {"tfserving-canary": values})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"nameOverride": "r50"}, "plat-r50"),
        ({"fullnameOverride": "mine"}, "mine"),
        ({"nameOverride": "r50", "fullnameOverride": "mine"}, "mine"),
    ],
)
def test_names_of_ones_own(chart, objects, written, values, name):
    """
    Every object has the name that was chosen, and none has the release's.
    """
    given = yaml.safe_load(written["platform/values.yaml"])["resnet"]
    found = objects(chart, given | values)
    alone = {one["metadata"]["name"] for one in objects(chart, given)}

    assert {re.sub(r"^(default\.)?plat\b", rf"\g<1>{name}", one) for one in alone} == {
        one["metadata"]["name"] for one in found
    }


def images(found):
    """
    Every image of the pods, and of the volumes that are images.
    """
    for one in found:
        spec = one.get("spec", {})
        pod = spec.get("template", {}).get("spec", spec)
        for container in (*pod.get("containers", ()), *pod.get("initContainers", ())):
            yield container["image"]
        for volume in pod.get("volumes", ()):
            if "image" in volume:
                yield volume["image"]["reference"]


def test_one_registry_for_all_images(platform, objects):
    """
    The registry takes the place of that of each image, whichever way it is written, and no image is left out.
    """
    digest = f"sha256:{'0' * 64}"
    own = {
        "modelStore": {
            "image": {"reference": f"europe-docker.pkg.dev/p/models@{digest}"},
            "persistentVolumeClaim": {"claimName": ""},
        },
        "tracks": {"canary": {"image": {"repository": "localhost/tfcanary/modelserver"}}},
        "helmTest": {"image": {"repository": "mirror:5000/python"}},
    }
    found = objects(platform, {"global": {"imageRegistry": "registry.example/mirror"}, "resnet": own})

    assert {
        "registry.example/mirror/tensorflow/serving:2.20.0",
        "registry.example/mirror/tfcanary/modelserver:2.20.0",
        "registry.example/mirror/tensorflow/tensorflow:2.20.0",
        "registry.example/mirror/python:2.20.0",
        f"registry.example/mirror/p/models@{digest}",
    } == set(images(found))


def test_registry_of_the_rollout(chart, objects, written):
    """
    The image of a rollout's Job comes from the same registry.
    """
    rollout = {"enabled": True, "plan": {"to": 3}, "image": {"repository": "ghcr.io/us/rollout"}}
    values = yaml.safe_load(written["platform/values.yaml"])["resnet"] | {"rollout": rollout}
    found = objects(chart, values | {"global": {"imageRegistry": "registry.example"}})

    (image,) = images(of_kind(found, "Job").values())
    assert image.startswith("registry.example/us/rollout:")


@pytest.mark.parametrize(
    "case",
    [
        ("a-mesh", {}, 'alias: expected another name than "a-mesh", because a VirtualService of another copy may have'),
        ("mesh", {}, 'alias: expected another name than "mesh"'),
        ("Res_net", {}, "alias: expected lower-case letters, digits and hyphens, because Services are called after it"),
        (
            "a",
            {"tracks": {"b-stable": {"version": 1, "replicas": 1}}},
            "tracks.b-stable: expected a name without a hyphen in a copy with an alias",
        ),
        (
            "a",
            {"rollout": {"enabled": True, "plan": {"to": 3}, "image": {"repository": "x/y"}}},
            "rollout.enabled: expected a release of this chart itself",
        ),
    ],
)  # fmt: skip
def test_refused_in_an_umbrella_chart(umbrella, complaint, written, case):
    """
    What could give two copies one name, or upgrade the umbrella chart's release with this chart, is refused.
    """
    alias, values, message = case
    given = yaml.safe_load(written["platform/values.yaml"])["resnet"]
    tracks = given["tracks"] | values.get("tracks", {})
    own = json.dumps({alias: given | values | {"tracks": tracks}})

    assert message in (
        complaint("template", RELEASE, str(umbrella(alias)), *NAMED, "-f", "-", stdin=own) or ""
    )
