"""
The chart's values: what their schema accepts and says, and what the values files and the generated README hold.
"""

import copy
import json
import os
import re
import subprocess
from importlib.resources import files

import pytest
import yaml

# Maps whose keys the user chooses; the schema says how each of them is bounded instead.
OPEN_MAPS = {
    "commonLabels",
    "enabled",
    "extraObjects[]",
    "extraObjects[].metadata",
    "global",
    "gateway.selector",
    "helmTest.resources.limits",
    "helmTest.resources.requests",
    *(
        f"{where}.{key}"
        for where in ("pods", "tracks.*.pods")
        for key in (
            *("annotations", "labels", "nodeSelector", "volumes[].csi.volumeAttributes"),
            *(
                f"affinity.{kind}.{when}.{which}.matchLabels"
                for kind in ("podAffinity", "podAntiAffinity")
                for when in (
                    "preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm",
                    "requiredDuringSchedulingIgnoredDuringExecution[]",
                )
                for which in ("labelSelector", "namespaceSelector")
            ),
        )
    ),
    "resources.limits",
    "resources.requests",
    "rollout.resources.limits",
    "rollout.resources.requests",
    "routing.routes[].match.claims",
    "routing.routes[].match.headers",
    "routing.routes[].match.sourceLabels",
    "routing.routes[].weights",
    "serviceAccount.annotations",
    "tracks",
    "tracks.*.resources.limits",
    "tracks.*.resources.requests",
}
# What a specification of Kubernetes has, or the server's flags: the keys inside have no default.
FREE = ("pods.affinity.", "pods.extraArgs.", "tracks.*.image", "tracks.*.pods", "tracks.*.resources")
# The row of the README, and the key of the schema, that has the default of a key inside an open map.
ROWS = {
    "gateway.selector": "gateway.selector",
    "helmTest.resources.limits": "helmTest.resources",
    "helmTest.resources.requests": "helmTest.resources",
    "resources.limits": "resources",
    "resources.requests": "resources",
    "rollout.resources.limits": "rollout.resources",
    "rollout.resources.requests": "rollout.resources",
    "tracks.*.replicas": "tracks.stable",
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
    path = re.sub(r"^tracks\.(stable|canary)\b", "tracks.*", path)
    yield path, node
    if path == "rollout.plan":
        # It has a schema of its own, and tests of that.
        return
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
        if isinstance(value, dict) and (inner not in OPEN_MAPS or inner in {"global", "tracks"}):
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
        if path.partition("[]")[0] not in {"routing.routes", "rollout.plan"}
        and "properties" not in resolved(inner, schema)
    }
    given = set(keys(default_values))

    # A track without an autoscaler has no such key.
    free = {"enabled"}
    lists = {key for key in required if "[]" in key or key.startswith(("tracks.*.autoscaling", *FREE))}
    assert free == {key for key, needed in required.items() if not needed and key not in lists}
    assert required.keys() - free - lists - {"tracks"} == given | {"model.name", "tracks.*.version"}


def comments(text):
    """
    The comment above each key of values.yaml by the path of the key, and whether it is a row of the README (`--`).
    """
    found, path, above = {}, [], []
    for line in text.splitlines():
        if key := re.match(r"( *)([A-Za-z0-9]+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if above:
                found[".".join(path)] = (" ".join(above).removeprefix("-- "), above[0].startswith("-- "))
        above = [*above, comment[1]] if (comment := re.match(r" *# ?(.*)", line)) else []
    return found


def describe(node, values, explained, path=""):
    """
    Give each key of a part of the schema the comment of values.yaml, and its default where the comment is a row.
    """
    for key in node.get("properties", {}).keys() & values.keys():
        inner = node["properties"][key]
        where = f"{path}.{key}".lstrip(".")
        text, is_row = explained[where]
        facts = {"description": text} | ({"default": values[key]} if is_row else {})
        node["properties"][key] = facts | {name: said for name, said in inner.items() if name not in facts}
        if isinstance(values[key], dict):
            describe(inner, values[key], explained, where)


def test_schema_says_what_the_values_say(chart, schema, default_values):
    """
    The descriptions and defaults of the schema are those of values.yaml. ``REWRITE_GOLDENS=1`` writes them.
    """
    explained = comments((chart / "values.yaml").read_text())
    made = copy.deepcopy(schema)

    describe(made, default_values, explained)
    made["definitions"]["track"]["properties"]["replicas"]["description"] = explained[
        "tracks.stable.replicas"
    ][0]

    if os.environ.get("REWRITE_GOLDENS") == "1":
        (chart / "values.schema.json").write_text(json.dumps(made, indent=2) + "\n")
    assert made == json.loads((chart / "values.schema.json").read_text())


def test_the_plan_of_a_rollout_has_the_schema_of_its_file(chart):
    """
    A plan that no rollout takes is refused by Helm already. ``REWRITE_GOLDENS=1`` writes it.
    """
    text = files("tfcanary.rollout").joinpath("plan.schema.json").read_text()
    plan = json.loads(text.replace("#/definitions/", "#/definitions/rolloutPlan-"))
    # The release is that of the chart, and a chart that makes no Job needs no plan.
    del plan["$schema"], plan["required"]
    parts = {f"rolloutPlan-{name}": part for name, part in plan.pop("definitions").items()}
    # As it is now: the test before may have rewritten it.
    made = json.loads((chart / "values.schema.json").read_text())
    made["definitions"] |= {"rolloutPlan": plan, **parts}

    if os.environ.get("REWRITE_GOLDENS") == "1":
        (chart / "values.schema.json").write_text(json.dumps(made, indent=2) + "\n")
    assert made == json.loads((chart / "values.schema.json").read_text())


def test_every_key_is_described(schema):
    """
    Editors show a sentence for each key, and Artifact Hub does too.
    """
    described = {path: node.get("description", "") for path, node in walk(schema, schema)}
    objects = {path for path in described if path and not path.endswith(("[]", ".*"))} | {"tracks.*"}

    assert "routing.routes[].match.headers" in objects
    assert [] == sorted(
        path for path in objects if not re.fullmatch(r"[A-Z`].*\.", described[path], re.DOTALL)
    )


def test_every_default_is_in_the_schema(schema, default_values):
    """
    Each key of values.yaml that has a value of its own has it in the schema as well.
    """
    with_default = {path for path, node in walk(schema, schema) if "default" in node}

    rows = {ROWS.get(key, key).replace("tracks.stable", "tracks.*") for key in keys(default_values)}
    assert with_default == rows | {"model", "pods.affinity", "pods.extraArgs", "rollout.plan"}


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
    inside = {"istio", "cpu", "memory", "stable", "topologyKey", "whenUnsatisfiable"}
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


def test_templates_fit_a_screen(root):
    """
    Lines of 300 columns hide what a template does.
    """
    folders = ("templates", "files")
    paths = [
        path
        for chart in (root / "charts").iterdir()
        for name in folders
        for path in (chart / name).rglob("*.*")
    ]
    lines = [(path.name, line) for path in paths for line in path.read_text().splitlines()]

    assert len(paths) > 20
    assert [] == [(name, line) for name, line in lines if len(line) > 120]


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
    A kind cluster pulls nothing. The file says how to load every image, including that of `helm test`.
    """
    text = (values_folder / "env" / "kind.yaml").read_text()
    loaded = re.findall(r"^#   kind load docker-image (.+)$", text, re.MULTILINE)

    images = re.findall(r'image: "(.+)"', render("stable", environment="kind").text)
    assert images
    assert set(images) == set(" ".join(loaded).split())


@pytest.mark.parametrize("name", ["tfserving-canary", "tfserving-gateway"])
def test_readme_is_made_of_the_values(helm_docs, root, name):
    """
    The README is what helm-docs makes of README.md.gotmpl and values.yaml. ``REWRITE_GOLDENS=1`` rewrites it.
    """
    chart = root / "charts" / name
    made = subprocess.run(
        [
            helm_docs,
            f"--chart-search-root={chart}",
            "--sort-values-order=file",
            "--log-level=warning",
            "--dry-run",
        ],
        capture_output=True,
        text=True,
        check=False,
    )

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
    names = [ROWS.get(key, key) for key in keys(default_values)]
    assert [] == [name for name in names if f"| {name} |" not in text and f"| {name}." not in text]
