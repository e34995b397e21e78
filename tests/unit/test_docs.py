"""
The documents say what is there: links, files, tests, options, exit codes and JSON keys.
"""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from tfcanary import errors
from tfcanary.cluster import command, lifecycle, store
from tfcanary.cluster.lifecycle import Line
from tfcanary.commands.rollout import PARTS
from tfcanary.judge import split
from tfcanary.paths import ROOT
from tfcanary.routing.parse import from_values

TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FILE = re.compile(
    r"(?<![\w/.-])((?:values|scripts|charts|images|benchmarks|docs|tests)/[\w./-]+\.(?:yaml|py|json|md))"
)
COMMANDS = (
    "check",
    "explain",
    *(f"rollout {part}" for part in PARTS),
    "judge explain",
    "judge records",
    "judge replay",
    "export",
    "export manifest",
    "export warmup",
    "export inspect",
    "export compare",
    "export bundle",
    "export verify",
    "cluster up",
    "cluster status",
    "cluster logs",
    "cluster publish",
    "cluster models",
    "cluster down",
    "demo",
)


@pytest.fixture(scope="module")
def tfcanary():
    """
    Run the command.
    """

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "tfcanary", *arguments],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_every_link_leads_somewhere(documents):
    """
    Every relative link names a file that exists, and an anchor of that file if it has one.
    """
    broken, followed = [], 0
    for page in documents.pages():
        for link in page.links:
            followed += 1
            path, _, anchor = link.partition("#")
            start = ROOT if path.startswith("/") else page.path.parent
            target = documents.Page((start / path.lstrip("/")).resolve() if path else page.path)
            if not target.path.exists() or (anchor and anchor not in target.anchors):
                broken.append(f"{page.name}: {link}")

    assert followed
    assert [] == broken


def test_no_page_has_two_headings_with_one_anchor(documents):
    """
    A link leads to the first of them only, and tools number the others differently.
    """
    doubles = [
        f"{page.name}: {heading}"
        for page in documents.pages()
        if page.path.is_relative_to(documents.DOCS)
        for heading in page.headings
        if page.headings.count(heading) > 1
    ]

    assert [] == doubles


def test_no_code_block_is_inside_a_list(documents):
    """
    GitHub shows one as code, and the site as a line of text.
    """
    indented = [page.name for page in documents.pages() if re.search(r"^ +```", page.text, re.MULTILINE)]

    assert [] == indented


def test_every_page_is_in_the_navigation(documents):
    """
    mkdocs.yml lists each page of docs/ once.
    """
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def files(entry):
        if isinstance(entry, str):
            return [entry]
        inner = entry.values() if isinstance(entry, dict) else entry
        return [file for part in inner for file in files(part)]

    listed = sorted(files(navigation))
    assert (
        sorted(path.relative_to(documents.DOCS).as_posix() for path in documents.DOCS.rglob("*.md")) == listed
    )


def test_files_are_there(documents):
    """
    Every file of the repository that a page names exists.
    """
    named = {(page.name, path) for page in documents.pages() for path in FILE.findall(page.text)}

    assert named
    assert [] == sorted(f"{page}: {path}" for page, path in named if not (ROOT / path).is_file())


def test_every_guarantee_names_tests_that_exist(documents):
    """
    Each promise has a test, and each test is a function of the file that is named.
    """
    page = documents.page("docs/reference/guarantees.md")
    promised = page.text.partition("\n## Not promised yet")[0]
    sections = re.split(r"^### ", promised, flags=re.MULTILINE)[1:]

    missing = [
        f"{path}::{name}" for path, name in TEST.findall(page.text) if name not in functions(ROOT / path)
    ]
    assert sections
    assert [] == [section.splitlines()[0] for section in sections if not TEST.search(section)]
    assert [] == missing


def functions(path):
    """
    The functions at the top of a module, without importing it.
    """
    if not path.is_file():
        return set()
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_the_tables_name_every_values_file(documents):
    """
    Each values file is in one of the two tables of the strategies, once.
    """
    page = documents.page("docs/reference/strategies.md")
    cells = re.findall(r"^\| (`.+?) \|", page.text.partition("\n## One route")[0], re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]

    values = ROOT / "values"
    there = [file.relative_to(values).with_suffix("").as_posix() for file in values.rglob("*.yaml")]
    assert sorted(there) == sorted(named)


def test_exit_codes_are_those_of_the_errors(documents):
    """
    The table has 0 and the code of every error.
    """
    rows = documents.page("docs/reference/exit-codes-and-json.md").table("Exit codes")

    codes = {error.exit_code for error in errors.CanaryError.__subclasses__()}
    assert [0, *sorted(codes)] == [int(row[0]) for row in rows]


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_those_of_the_command(tfcanary, documents, name):
    """
    The table of a command has each of its options and no other.
    """
    shown = tfcanary(*name.split(), "--help")
    rows = documents.page("docs/reference/commands.md").table(f"tfcanary {name}")

    assert 0 == shown.returncode, shown.stderr
    real = {word for line in re.findall(r"^  (-.+)$", shown.stdout, re.MULTILINE) for word in options(line)}
    assert real - {"--help"} == {word for row in rows for word in options(row[0])}


def options(text):
    """
    The long options that come before what is said of them.
    """
    return re.findall(r"--[a-z-]+", text.partition("   ")[0])


@pytest.mark.parametrize(
    ("shown", "unseen"),
    [
        (["resnet-stable-… 2/2 Running …"], []),
        (["resnet-stable-… 1/2 Running …"], ["resnet-stable-… 1/2 Running …"]),
        (["all … checks held"], ["all … checks held"]),
    ],
    ids=["as shown", "another number", "not there"],
)
def test_output_is_held_against_what_a_page_shows(documents, shown, unseen):
    """
    The tutorial's test on a cluster rests on this.
    """
    output = "NAME             READY   STATUS    AGE\nresnet-stable-x  2/2     Running   4s\n"

    assert unseen == documents.unseen(shown, output)


def test_the_figures_of_a_plan_are_those_of_the_code(documents):
    """
    How many requests a split takes follows from the error rates, and the pages have the computed numbers.
    """
    texts = [
        documents.page(f"docs/explanation/{name}.md").text
        for name in ("the-statistics", "what-a-check-proves")
    ]

    tenth = split.sequential({"stable": 90, "canary": 10}).n
    single = split.sequential({"stable": 100}).n
    assert f"`canary-10` takes at most {tenth} requests" in texts[0]
    assert f"gets {single} requests" in texts[0]
    assert f"a single track, {single} requests decide" in texts[1]


def test_the_keys_of_explain(tfcanary, documents):
    """
    A request that is taken, one that is mirrored, and one of no route have the documented keys between them.
    """
    asked = (["composed"], ["shadow"], ["stable", "--path", "/other"])
    seen = [
        tfcanary("explain", "-f", f"values/{strategy}.yaml", *more, "--json") for strategy, *more in asked
    ]

    assert (set(), set()) == documents.differences(
        "tfcanary explain", *(json.loads(one.stdout) for one in seen)
    )


def test_the_keys_of_judge(tfcanary, documents, tmp_path):
    """
    A forecast, and a verdict on a file of requests.
    """
    file = tmp_path / "requests.csv"
    file.write_text("time,track,weight,status,latency\n1,canary,50,200,0.1\n1,stable,50,200,0.1\n")

    explained = tfcanary("judge", "explain", "--per-second", "20", "--weight", "50", "--json")
    judged = tfcanary("judge", "records", str(file), "--json")

    assert (0, 4) == (explained.returncode, judged.returncode)
    assert (set(), set()) == documents.differences("tfcanary judge explain", json.loads(explained.stdout))
    assert (set(), set()) == documents.differences("tfcanary judge records", json.loads(judged.stdout))


def test_the_keys_of_check(tfcanary, documents, gateway, values):
    """
    A check of a gateway that splits its traffic has the documented keys.
    """
    file = "values/canary-10.yaml"
    double = gateway(from_values(values()))

    done = tfcanary(
        *("check", "--values", "values/models/resnet.yaml", "--values", file, "--gateway", double.address),
        *("--alpha", "1e-4", "--power", "0.99", "--detect", "40", "--json"),
    )

    assert 0 == done.returncode, done.stderr
    assert (set(), set()) == documents.differences("tfcanary check", json.loads(done.stdout))


def test_the_keys_of_cluster(documents, monkeypatch, capsys):
    """
    What `up`, `status` and `models` print has the documented keys; the cluster itself is a double.
    """
    monkeypatch.setattr(lifecycle, "up", lambda *_, **__: lifecycle.Ports(api=1, gateway=2))
    monkeypatch.setattr(lifecycle, "status", lambda _: [Line("kubelet", "running", 7, "")])

    monkeypatch.setattr(store, "published", lambda _: [store.Published("a", "b", 1, 2, manifest=True)])
    printed = {}
    for name in ("up", "status", "models"):
        assert 0 == command.main([name, "--json"])
        printed[name] = json.loads(capsys.readouterr().out)

    for name, said in printed.items():
        assert (set(), set()) == documents.differences(f"tfcanary cluster {name}", said)
