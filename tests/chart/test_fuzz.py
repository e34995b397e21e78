"""
Any values are either refused with a message, or render to valid objects that keep the chart's promises.

Thousands of helm processes would take an hour. So a copy of the chart gets one template more, which renders all others
for one case after the other; its own schema is applied here, and `fail` writes where it would end the rest.
"""

import copy
import functools
import itertools
import json
import os
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pytest
import yaml

from tfcanary.chart.values import chart_defaults, coalesce, merge
from tfcanary.commands import explain
from tfcanary.errors import UsageError
from tfcanary.routing.buckets import BUCKETS, bucket
from tfcanary.routing.parse import from_values
from tfcanary.routing.route import Request

CASES = int(os.environ.get("FUZZ_CASES", "5000"))
BATCH = 250
BY_HELM = 80
REQUESTS = 10
GRPC = "/tensorflow.serving.PredictionService/Predict"
KEYS = {"userGroups": "userGroup", "users": "user", "regions": "region"}
SEED = os.environ.get("FUZZ_SEED", "5")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Cases share most of what they render: each text is written out once, and the cases have its hash.
EVERYTHING = """{{- $all := list }}
{{- $texts := dict }}
{{- range $case := .Values.global.cases }}
{{- $context := dict "Values" $case "Release" $.Release "Chart" $.Chart "Files" $.Files
  "Capabilities" $.Capabilities "Template" $.Template }}
{{- $hashes := dict }}
{{- range $name := $.Values.global.templates }}
{{- $text := include (printf "%s/%s" $.Template.BasePath $name) $context }}
{{- $_ := set $hashes $name (sha256sum $text) }}
{{- $_ := set $texts (sha256sum $text) $text }}
{{- end }}
{{- $all = append $all $hashes }}
{{- end }}
all: {{ dict "cases" $all "texts" $texts | toJson }}
"""

ODD = [
    None,
    True,
    0,
    -1,
    1,
    2.5,
    10**12,
    "",
    " ",
    "x",
    "a/b",
    "\u00e9\n",
    "x" * 300,
    [],
    {},
    ["a"],
    {"a": 1},
    "{{ .Values }}",
]
TRACKS = ["stable", "canary", "challenger", "wide"]
NAMES = ["everyone", "one", "two", "three", "Bad Name", ""]
HEADERS = ["user-group", "user-id", "x-client-region", "who", "cookie", "x-bucket-resnet", "Who", "x y"]
TEXTS = ["canary", "a|b", "é", "", "b*", "(", "a b", '"', "x'y: z", ".*"]
# By path, values that fit more often than not.
FITTING = yaml.safe_load(Path(__file__).with_name("fuzz_values.yaml").read_text(encoding="utf-8"))


class Generator:
    """
    Values by chance, the same ones for the same seed.
    """

    def __init__(self, seed, schema_paths):
        self.draw = random.Random(seed)  # noqa: S311 - nothing secret
        self.paths = schema_paths

    def some(self, choices):
        """
        One of them, or now and then something odd.
        """
        return (
            self.draw.choice(ODD) if self.draw.random() < 0.02 else copy.deepcopy(self.draw.choice(choices))
        )

    def match(self):
        """
        A match with one or two conditions.
        """
        lists = [["canary"], ["a", "b"], ["a.b", "c"], ["x y"], []]
        makers = {
            "headers": lambda: {
                self.draw.choice(HEADERS): {
                    self.draw.choice(["exact", "exact", "prefix", "regex", "suffix"]): self.some(TEXTS)
                }
            },
            "userGroups": lambda: self.some(lists),
            "users": lambda: self.some(lists),
            "regions": lambda: self.some(lists),
            "cookie": lambda: self.some([{"name": "a", "value": "b"}, {"name": "a"}]),
            "claims": lambda: {self.draw.choice(["group", "group", "a.b"]): self.some(lists)},
            "path": lambda: self.some(
                [
                    {"prefix": "/canary"},
                    {"version": "canary"},
                    {"prefix": "/v1/x"},
                    {"prefix": "x"},
                    {"version": "no"},
                ]
            ),
            "sourceLabels": lambda: self.some([{"app": "web"}, {"a b": "c"}, {"app.io/x": "y"}]),
        }
        return {
            key: makers[key]()
            for key in self.draw.sample(sorted(makers), self.draw.choice([1, 1, 1, 2, 2, 3]))
        }

    def weights(self):
        """
        Weights that mostly sum to 100.
        """
        first = self.draw.choice([0, 1, 10, 50, 100])
        tracks = self.draw.sample(TRACKS[:2] if self.draw.random() < 0.8 else TRACKS, 2)
        return dict(zip(tracks, [first, 100 - first if self.draw.random() < 0.95 else 5], strict=True))

    def route(self, name, *, last):
        """
        One entry of routing.routes.
        """
        made = {"name": name, "weights": self.some([self.weights()])}
        if last == (self.draw.random() < 0.03):
            made["match"] = self.match()
        if self.draw.random() < 0.2:
            made["sticky"] = self.some([{"by": "user"}, {"by": "cookie"}, {"by": "x"}])
        if self.draw.random() < 0.2:
            made["mirror"] = self.some(
                [{"track": "canary", "percent": 10}, {"track": "no", "percent": 1}, {"track": "canary"}]
            )
        return made

    def values(self):
        """
        A user's values.
        """
        made = {
            "model": {"name": "resnet"},
            "tracks": {"stable": {"version": 1}, "canary": {"version": 2}},
            "modelStore": {"persistentVolumeClaim": {"claimName": "models"}},
        }
        if self.draw.random() < 0.8:
            names = [*self.draw.sample(NAMES[1:4], self.draw.choice([0, 1, 2, 3])), "everyone"]
            routes = [self.route(name, last=name == "everyone") for name in names]
            made = merge(made, {"routing": {"routes": self.some([routes])}})
        for _ in range(self.draw.choice([0, 0, 1, 1, 2, 3])):
            path = self.draw.choice(sorted(FITTING))
            made = merge(made, nested(path, self.some(FITTING[path])))
        if self.draw.random() < 0.15:
            made = merge(made, nested(self.draw.choice(self.paths), self.draw.choice(ODD)))
        return made

    def request(self, values):
        """
        A request that some route may be meant for: what the routes ask for, and what just misses it.
        """
        names = values["routing"]["headers"]
        headers, claims, paths = {}, {}, [f"/v1/models/{values['model']['name']}:predict"]
        labels = None if self.draw.random() < 0.7 else {}
        for route in values["routing"]["routes"]:
            match = route.get("match", {})
            wanted = {names[one]: match[key] for key, one in KEYS.items() if key in match}
            wanted |= {name: list(matcher.values()) for name, matcher in match.get("headers", {}).items()}
            for name, texts in wanted.items():
                text = self.draw.choice(texts)
                choices = [text, text, text + "x", text.upper(), text.replace(".", "x"), "canary", "b"]
                headers[name] = self.draw.choice([one for one in choices if sendable(one)] or ["x"])
            if "cookie" in match:
                headers["cookie"] = f"z=1; {match['cookie']['name']}={match['cookie']['value']}"
            for claim, texts in match.get("claims", {}).items():
                claims[claim] = self.draw.choice([self.draw.choice(texts), "other", ("x", texts[-1])])
            if labels is not None and "sourceLabels" in match:
                labels.update(match["sourceLabels"])
            path = match.get("path", {})
            paths.append(path.get("prefix", "").rstrip("/") + paths[0])
            if values["tracks"].get(path.get("version")):
                version = values["tracks"][path["version"]]["version"]
                paths.append(f"/v1/models/{values['model']['name']}/versions/{version}/metadata")
        if self.draw.random() < 0.5:
            headers[names["user"]] = self.user(values)
        if self.draw.random() < 0.3:
            kept = self.draw.choice(sorted(values["tracks"]))
            headers["cookie"] = f"{values['routing']['stickyCookie']['name']}={kept}"
        kept = {name: value for name, value in headers.items() if self.draw.random() < 0.8}
        path = self.draw.choice(
            [*paths, *(GRPC for _ in paths), f"/canary{GRPC}", "/v2/x", f"{paths[0]}?a=b"]
        )
        return Request(path, kept, claims if self.draw.random() < 0.8 else {}, labels)

    def user(self, values):
        """
        A user whose bucket is the last of some track, or the first of the next.
        """
        edges = [0, BUCKETS - 1]
        for route in values["routing"]["routes"]:
            edges += [edge for weight in route["weights"].values() for edge in (weight - 1, weight)]
        wanted = self.draw.choice([edge for edge in edges if 0 <= edge < BUCKETS])
        numbers = (self.draw.randrange(10**6) for _ in range(2000))
        users = (f"user-{number}" for number in numbers)
        return next((user for user in users if bucket(values["model"]["name"], user) == wanted), "user-0")

    def disagreements(self, values, objects, istio):
        """
        Requests of which `explain` says one thing, and Istio by the rendered routes does another.
        """
        services = {
            item["spec"]["gateways"] == ["mesh"]: item for item in objects if item["kind"] == "VirtualService"
        }
        try:
            declared = from_values(values)
        except UsageError as exc:
            yield f"explain refuses what the chart takes: {exc}"
            return
        for _ in range(REQUESTS):
            request = self.request(values)
            service = services[request.labels is not None]
            said = explain.explain(declared, request)
            expected = istio(values, service, request) or ({}, None)
            if (said["weights"], said["mirror"]) != expected:
                yield f"explain says {said}, Istio does {expected}, of {request}"


def sendable(text):
    """
    Whether a header can hold it.
    """
    return bool(text.strip()) and text.isascii() and text.isprintable() and text == text.strip()


def nested(path, value):
    """
    A value at a path.
    """
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def leaves(values, path=""):
    """
    The path of every key of the defaults.
    """
    for key, value in values.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")


@pytest.fixture(scope="module")
def everything(chart, tmp_path_factory):
    """
    The copy of the chart that renders many cases at once.
    """
    made = tmp_path_factory.mktemp("fuzz") / "chart"
    shutil.copytree(chart, made)
    (made / "values.schema.json").unlink()
    templates = made / "templates"
    validate = templates / "validate.yaml"
    text = validate.read_text()
    assert "{{- fail (join" in text
    validate.write_text(text.replace('{{- fail (join "\\n" $problems) }}', "REFUSED: {{ toJson $problems }}"))
    names = sorted(str(path.relative_to(templates)) for path in templates.rglob("*.yaml"))
    names = ["NOTES.txt", *names]
    for name in names:
        path = templates / name
        path.write_text("{{- if not .Values.global.cases }}\n" + path.read_text() + "\n{{- end }}\n")
    (templates / "everything.yaml").write_text(EVERYTHING)
    return made, names


def rendered(everything, cases):
    """
    What each case renders, by template, of one helm process.
    """
    folder, names = everything
    given = [merge({"global": {"cases": []}}, case) for case in cases]
    values = {"global": {"cases": given, "templates": names}}
    done = subprocess.run(
        [
            "helm",
            "template",
            "resnet",
            str(folder),
            "--kube-version",
            "1.34.4",
            "-f",
            "-",
            "--show-only",
            "templates/everything.yaml",
        ],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if len(cases) == 1:
            pytest.fail(f"the templates crash on {json.dumps(cases[0])}: {done.stderr}")
        half = len(cases) // 2
        return rendered(everything, cases[:half]) + rendered(everything, cases[half:])
    made = json.loads(done.stdout.partition("\nall: ")[2])
    return [{name: made["texts"][key] for name, key in case.items()} for case in made["cases"]]


@functools.cache
def parsed(text):
    """
    The objects of a rendered template. Cases share most of them, and parsing takes longer than rendering.
    """
    return [
        yaml.load(document, Loader=LOADER)  # noqa: S506 - a safe loader
        for document in text.split("---\n")
        if "kind:" in document
    ]


def test_any_values_are_refused_or_valid(chart, everything, problems_with, broken, istio):
    """
    No case crashes a template. What is not refused is valid, keeps the promises, and does with requests
    what `explain` says.
    """
    defaults = chart_defaults(chart)
    schema = json.loads((chart / "values.schema.json").read_text())
    accepts = jsonschema.Draft7Validator(schema).is_valid
    generator = Generator(SEED, sorted(leaves(defaults)))
    made = [coalesce(defaults, generator.values()) for _ in range(CASES)]
    fitting = [values for values in made if accepts(values)]

    wrong, refused, valid = [], 0, 0
    batches = [fitting[start : start + BATCH] for start in range(0, len(fitting), BATCH)]
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(functools.partial(rendered, everything), batches)
        for values, texts in itertools.chain.from_iterable(
            map(functools.partial(zip, strict=True), batches, done)
        ):
            if "REFUSED" in texts["validate.yaml"]:
                refused += 1
                continue
            valid += 1
            objects = [
                item for name, text in texts.items() if name.endswith(".yaml") for item in parsed(text)
            ]
            found = [problem for item in objects for problem in problems_with(item)]
            found += broken(values, objects)
            found += generator.disagreements(values, objects, istio)
            if found:
                wrong.append((found, values))
    assert [] == wrong[:3]
    assert len(made) == CASES
    # Neither side is empty: the cases are neither all nonsense nor all alike.
    assert min(len(made) - len(fitting), refused, valid) > CASES / 20


def test_helm_itself_says_the_same(chart, complaint):
    """
    Of cases drawn from the same generator, helm takes and refuses those that the schema and the templates do here: nothing
    hangs on the copy that renders many at once, or on another program's reading of the schema.
    """
    defaults = chart_defaults(chart)
    accepts = jsonschema.Draft7Validator(json.loads((chart / "values.schema.json").read_text())).is_valid
    generator = Generator(f"{SEED} by helm", sorted(leaves(defaults)))
    cases = [generator.values() for _ in range(BY_HELM)]

    said = [
        complaint(
            "template", "resnet", str(chart), "--kube-version=1.34.4", "-f", "-", stdin=json.dumps(case)
        )
        or ""
        for case in cases
    ]
    schema = ["values don't meet the specifications of the schema" in one for one in said]
    assert [not accepts(coalesce(defaults, case)) for case in cases] == schema
    others = [one for one, by_schema in zip(said, schema, strict=True) if one and not by_schema]
    assert [] == [
        one for one in others if "execution error at (tfserving-canary/templates/validate.yaml" not in one
    ]
    assert min(schema.count(True), len(others), said.count("")) > BY_HELM / 20
