import json
import os
import re
import subprocess

import pytest
import yaml

# Maps whose keys the user chooses; the schema says how each of them is bounded instead.
OPEN_MAPS = {
    "enabled",
    "global",
    "gateway.selector",
    "resources.limits",
    "resources.requests",
    "routing.routes[].match.claims",
    "routing.routes[].match.headers",
    "routing.routes[].match.sourceLabels",
    "routing.routes[].weights",
    "serviceAccount.annotations",
    "tracks",
}


@pytest.fixture(scope="module")
def schema(chart):
    """
    The chart's schema.
    """
    return json.loads((chart / "values.schema.json").read_text())


@pytest.fixture(scope="module")
def default_values(chart):
    """
    The chart's defaults.
    """
    return yaml.safe_load((chart / "values.yaml").read_text())


def resolved(node, schema):
    """
    A part of the schema, with what it refers to.
    """
    for part in [*node.get("allOf", []), node]:
        if "$ref" in part:
            node = schema["definitions"][part["$ref"].rpartition("/")[2]] | node
    return node


def walk(node, schema, path=""):
    """
    Every part of the schema by the path of its values.
    """
    node = resolved(node, schema)
    yield path, node
    for key, inner in node.get("properties", {}).items():
        yield from walk(inner, schema, f"{path}.{key}".lstrip("."))
    if "items" in node:
        yield from walk(node["items"], schema, f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from walk(node["additionalProperties"], schema, f"{path}.*")


def keys(values, path=""):
    """
    The paths of all values, where lists and open maps count as one value.
    """
    for key, value in values.items():
        inner = f"{path}.{key}".lstrip(".")
        if inner in {"tracks.stable", "tracks.canary"}:
            inner = "tracks.*"
        if isinstance(value, dict) and (inner not in OPEN_MAPS or inner == "tracks"):
            yield from keys(value, inner)
        else:
            yield inner


def test_schema_is_strict(schema):
    """
    At every level an unknown key is an error, save in the maps whose keys are the user's.
    """
    maps = {path: node for path, node in walk(schema, schema) if node.get("type") == "object"}

    assert OPEN_MAPS - {"enabled"} == {
        path for path, node in maps.items() if node.get("additionalProperties") is not False
    }
    assert {"global"} == {path for path, node in maps.items() if "additionalProperties" not in node}


def test_every_key_has_a_default_or_is_required(schema, default_values):
    """
    What templates read is there: leaving a key out is an error, and all but the unavoidable choices have a default.
    """
    required = {
        f"{path}.{key}".lstrip("."): key in node.get("required", [])
        for path, node in walk(schema, schema)
        for key, inner in node.get("properties", {}).items()
        if path.partition("[]")[0] != "routing.routes" and "properties" not in resolved(inner, schema)
    }
    given = set(keys(default_values))

    # A track without an autoscaler has no such key.
    free = {"enabled", "global"}
    lists = {key for key in required if "[]" in key or key.startswith("tracks.*.autoscaling")}
    assert free == {key for key, needed in required.items() if not needed and key not in lists}
    assert required.keys() - free - lists - {"tracks"} == given | {"model.name", "tracks.*.version"}


def test_schema_has_no_prose(schema):
    """
    What a key means is said in values.yaml, once.
    """
    assert [] == [
        path for path, node in walk(schema, schema) if node.keys() & {"description", "title", "default"}
    ]


def test_every_value_is_explained(chart):
    """
    Each key of values.yaml has a sentence above it.
    """
    lines = (chart / "values.yaml").read_text().splitlines()
    leaves = [
        number
        for number, line in enumerate(lines)
        if re.fullmatch(r" *[a-zA-Z]+: .+", line) and not line.lstrip().startswith("#")
    ]
    inside = {"istio", "cpu", "memory", "stable"}
    unexplained = [
        lines[number]
        for number in leaves
        if lines[number].split(":")[0].strip() not in inside
        and not lines[number - 1].lstrip().startswith("#")
    ]

    assert len(leaves) > 15
    assert [] == unexplained


def test_every_value_is_read(chart, default_values):
    """
    Each key of values.yaml is read by a template.
    """
    templates = "\n".join(path.read_text() for path in (chart / "templates").rglob("*.*"))

    names = {path.rpartition(".")[2] for path in keys(default_values)} - {"limits", "requests"}
    assert [] == sorted(name for name in names if not re.search(rf"\.{name}\b", templates))


def test_strategies_set_routes_only(values_folder, strategy):
    """
    A strategy composes with any environment and any models, since it sets nothing but the routes.
    """
    values = yaml.safe_load((values_folder / f"{strategy}.yaml").read_text())

    assert {"routing"} == values.keys()
    assert {"routes"} == values["routing"].keys()


def test_strategies_say_how_they_are_used(values_folder, strategy):
    """
    Three to five comment lines: what a client sees, when to use it, and the exact line that applies the file.
    """
    text = (values_folder / f"{strategy}.yaml").read_text()
    comment = [line for line in text.splitlines() if line.startswith("#")]

    assert 3 <= len(comment) <= 5
    assert text.startswith("\n".join(comment))
    assert (
        f"#   helm upgrade resnet charts/tfserving-canary --reset-then-reuse-values -f values/{strategy}.yaml"
        == comment[-1]
    )


def test_environments_say_where(values_folder, environment):
    """
    An environment file says nothing of what is served or how it is routed.
    """
    values = yaml.safe_load((values_folder / "env" / f"{environment}.yaml").read_text())

    assert values.keys().isdisjoint({"model", "tracks", "routing", "global", "enabled"})


def test_models_say_what(values_folder, models):
    """
    A models file says the name and the tracks, and all that has no default.
    """
    values = yaml.safe_load((values_folder / "models" / f"{models}.yaml").read_text())

    assert {"model", "tracks"} == values.keys()
    assert all("version" in track for track in values["tracks"].values())


def test_local_environment(values_folder):
    """
    The local cluster's image and claim have the names under which it makes them.
    """
    values = yaml.safe_load((values_folder / "env" / "local.yaml").read_text())

    assert {
        "repository": "localhost/tfcanary/modelserver",
        "tag": "local",
        "pullPolicy": "IfNotPresent",
    } == values["image"]
    assert "tfcanary-models" == values["modelStore"]["persistentVolumeClaim"]["claimName"]


def test_kind_environment(values_folder, render):
    """
    A kind cluster pulls nothing, so the file says how every image comes there, that of `helm test` too.
    """
    text = (values_folder / "env" / "kind.yaml").read_text()
    loaded = re.findall(r"^#   kind load docker-image (.+)$", text, re.MULTILINE)

    images = re.findall(r'image: "(.+)"', render("stable", environment="kind").text)
    assert images
    assert set(images) == set(" ".join(loaded).split())


def test_readme_is_made_of_the_values(helm_docs, chart):
    """
    The README is what helm-docs makes of README.md.gotmpl and values.yaml. ``REWRITE_GOLDENS=1`` writes it anew.
    """
    made = subprocess.run(
        [helm_docs, f"--chart-search-root={chart}", "--sort-values-order=file", "--log-level=warning", "--dry-run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ("", 0) == (made.stderr, made.returncode)
    text = made.stdout.strip() + "\n"
    if os.environ.get("REWRITE_GOLDENS") == "1":
        (chart / "README.md").write_text(text)
    assert text == (chart / "README.md").read_text()
    assert [] == [line for line in text.splitlines() if line.startswith("| ") and line.endswith(" |  |")]


def test_readme_has_every_value(chart, default_values):
    """
    No key is missing from the table.
    """
    text = (chart / "README.md").read_text()
    maps = {
        "gateway.selector": "gateway.selector",
        "resources.limits": "resources",
        "resources.requests": "resources",
    }
    tracks = {"tracks.*.replicas": "tracks.stable"}

    names = [(maps | tracks).get(key, key) for key in keys(default_values)]
    assert [] == [name for name in names if f"| {name} |" not in text and f"| {name}." not in text]
