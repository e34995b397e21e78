"""
Which calls are open, and to which web pages.
"""

import itertools

import pytest

METHODS = {
    "classify": ("PredictionService/Classify", "classify"),
    "regress": ("PredictionService/Regress", "regress"),
    "multiInference": ("PredictionService/MultiInference", None),
    "modelStatus": ("ModelService/GetModelStatus", None),
}
OPEN = {"PredictionService/GetModelMetadata", "PredictionService/Predict"}
ORIGIN = "https://shop.example"


def opened(rendered):
    """
    The methods of gRPC and the verbs of REST that the policy lets through, for the model and both versions alike.
    """
    grpc, _, rest = (
        one["operation"] for one in rendered.one("AuthorizationPolicy")["spec"]["rules"][0]["to"]
    )
    verbs = {}
    for path in rest["paths"]:
        model, _, verb = path.partition(":")
        verbs.setdefault(model, set()).add(verb)
    (said,) = {frozenset(one) for one in verbs.values()}
    assert 3 == len(verbs)
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
