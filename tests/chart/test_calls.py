"""
Which calls are open, and to which web pages.
"""

import itertools
import re

import pytest

METHODS = {
    "classify": ("PredictionService/Classify", "classify"),
    "regress": ("PredictionService/Regress", "regress"),
    "multiInference": ("PredictionService/MultiInference", None),
    "modelStatus": ("ModelService/GetModelStatus", None),
}
OPEN = {"PredictionService/GetModelMetadata", "PredictionService/Predict"}
PLACES = ("/v1/models/resnet", "/v1/models/resnet/versions/1", "/v1/models/resnet/versions/2")
ORIGIN = "https://shop.example"


def opened(rendered, *more):
    """
    The methods of gRPC and the verbs of REST that the policy lets through, for the model, both versions and more alike.
    """
    grpc, _, rest = (
        one["operation"] for one in rendered.one("AuthorizationPolicy")["spec"]["rules"][0]["to"]
    )
    verbs = {}
    for path in rest["paths"]:
        model, _, verb = path.partition(":")
        verbs.setdefault(model, set()).add(verb)
    (said,) = {frozenset(one) for one in verbs.values()}
    assert {*PLACES, *more} == verbs.keys()
    return {path.removeprefix("/tensorflow.serving.") for path in grpc["paths"]}, said


@pytest.mark.parametrize(
    "names", [some for count in range(5) for some in itertools.combinations(METHODS, count)], ids="+".join
)
def test_a_call_is_open_where_the_values_say(render, names):
    """
    F14. Each by itself, over both APIs where both have it; predictions and metadata always.
    """
    methods, verbs = opened(render("stable", values={"security": {"calls": dict.fromkeys(names, True)}}))

    assert OPEN | {METHODS[name][0] for name in names} == methods
    assert {"predict"} | {METHODS[name][1] for name in names} - {None} == verbs


def test_labels_are_open_where_the_values_say(render):
    """
    F14. A label that the values name is another name of each track's version, for every call that is open, and no other is.
    """
    label = "/v1/models/resnet/labels/production"
    values = {"model": {"labels": ["production"]}, "security": {"calls": {"classify": True}}}

    rendered = render("stable", values=values)

    assert {"predict", "classify"} == opened(rendered, label)[1]
    _, read, _ = (one["operation"] for one in rendered.one("AuthorizationPolicy")["spec"]["rules"][0]["to"])
    places = (*PLACES, label)
    assert {*places, *(f"{place}/metadata" for place in places)} == set(read["paths"])
    assert "/labels/" not in render("stable").text


def test_every_track_gives_a_label_to_its_version(render):
    """
    F14. The server takes a label before it has loaded the version, with a flag that it does not have otherwise.
    """
    flag = "--allow_version_labels_for_unavailable_models=true"
    rendered = render("stable", values={"model": {"labels": ["production", "2nd.try"]}})

    def arguments(one, track):
        pod = one.all("Deployment")[f"resnet-{track}"]["spec"]["template"]["spec"]
        return pod["containers"][0]["args"]

    for track, version in (("stable", 1), ("canary", 2)):
        config = rendered.all("ConfigMap")[f"resnet-{track}"]["data"]["models.config"]
        found = re.findall(r'version_labels {\s+key: "([^"]+)"\s+value: (\d+)\s+}', config)
        assert [("production", str(version)), ("2nd.try", str(version))] == found
        assert flag in arguments(rendered, track)
        assert flag not in arguments(render("stable"), track)


def test_pages_of_other_origins(render, problems_with):
    """
    F14. The named origins may call over REST, through every route of the gateway, and read whose answer it is.
    """
    cors = {"allowOrigins": [ORIGIN], "allowHeaders": ["content-type", "user-id"], "allowCredentials": True}
    rendered = render("canary-cookie", "canary-users", values={"gateway": {"cors": cors}})

    policies = {entry["name"].rpartition("-")[2]: entry.get("corsPolicy") for entry in rendered.routes}
    assert {
        "grpc": None,
        "rest": {
            "allowOrigins": [{"exact": ORIGIN}],
            "allowMethods": ["GET", "POST"],
            "allowHeaders": ["content-type", "user-id"],
            "exposeHeaders": ["x-model-track", "x-route-revision"],
            "maxAge": "600s",
            "allowCredentials": True,
        },
    } == policies
    assert {policies["rest"] == entry.get("corsPolicy") for entry in rendered.routes[1::2]} == {True}
    assert all("corsPolicy" not in entry for entry in rendered.mesh_routes)
    for item in rendered.objects.values():
        assert () == problems_with(item)


def test_without_origins_there_is_no_cors(render):
    """
    The default: no page of another origin reads an answer.
    """
    assert "corsPolicy" not in render("canary-cookie").text
