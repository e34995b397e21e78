"""
What the documents tell people to type: every helm line renders, and every `explain` finds a route and prints what is shown.
"""

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

GIVEN = {"my-env.yaml": "values/env/gke.yaml", "my-models.yaml": "values/models/resnet.yaml"}
WITH_VALUES = ("-f", "--set", "--set-file")


@pytest.fixture(scope="module")
def explained(root):
    """
    What an `explain` that a reader types comes to, wherever the command lies for the reader.
    """

    def run(line):
        words = shlex.split(line.partition(">")[0])
        command = [sys.executable, "-m", "tfcanary", *words[1:]]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    return run


def helm_lines(page):
    """
    The words of each line that renders the chart, in the order in which a reader types them.
    """
    return [
        shlex.split(line.partition(">")[0])
        for line in page.commands
        if re.match("helm (install|upgrade|template) ", line)
    ]


def test_helm_lines_render(documents, helm, tmp_path):
    """
    Each helm line that a reader types is taken, with the files of those before it on the page.

    A page that only upgrades goes on from an installation on kind. A file of the reader's own is the YAML of the page.
    """
    rendered = set()
    for page in documents.pages():
        written = files_of(page, tmp_path / page.name)
        kept = ["-f", "values/env/kind.yaml", "-f", "values/models/resnet.yaml", "-f", "values/stable.yaml"]
        for words in helm_lines(page):
            if words[3] == "$chart":
                # One from a registry, which the tests of packaging install.
                continue
            if words[3] == "charts/tfserving-gateway":
                assert "kind: EnvoyFilter" in helm("template", *words[2:])
                continue
            if f"{words[3]}/Chart.yaml" in page.text:
                # A chart of the page's own, which test_umbrella.py renders.
                continue
            assert "charts/tfserving-canary" == words[3], page.name
            assert ("--reset-then-reuse-values" in words) == (words[1] == "upgrade"), page.name
            given = [
                word
                for flag, value in itertools.pairwise(words)
                if flag in WITH_VALUES
                for word in (flag, here(value, written))
            ]
            kept = [*kept, *given] if words[1] == "upgrade" else given
            assert "kind: VirtualService" in helm("template", *words[2:4], "--kube-version=1.35.0", *kept), (
                page.name
            )
            rendered.add(page.name)

    assert {"README.md", "charts/tfserving-canary/README.md", "docs/tutorial/your-own-model.md"} <= rendered


def files_of(page, folder):
    """
    The files that a reader of the page has: those that are copies, and those that the page shows or has typed.
    """
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    shown = next((body for language, body in page.blocks if language == "yaml"), "")
    (folder / "my-tokens.yaml").write_text(shown)
    typed = "".join(body for body, _ in page.steps)
    made = {}
    for name, body in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", typed, re.MULTILINE | re.DOTALL):
        made[name] = str(folder / Path(name).name)
        Path(made[name]).write_text(body)
    return {
        **GIVEN,
        **made,
        "ca.crt": str(folder / "ca.crt"),
        "my-tokens.yaml": str(folder / "my-tokens.yaml"),
    }


def here(value, written):
    """
    A helm argument with the path of each of those files.
    """
    key, equals, file = value.rpartition("=")
    return f"{key}{equals}{written.get(file, file)}"


def test_explain_lines_hold(documents, explained):
    """
    Each `explain` that a page shows finds a route.
    """
    typed = [
        (page.name, line)
        for page in documents.pages()
        for line in page.commands
        if " explain -f " in f" {line}"
    ]

    failed = [f"{name}: {line}" for name, line in typed if explained(line).returncode]
    assert typed
    assert [] == failed


def test_explain_prints_what_is_shown(documents, explained):
    """
    The output below an `explain` in a console block is the command's own, to the letter.
    """
    shown = [session for page in documents.pages() for session in page.sessions if " explain " in session[0]]

    assert shown
    assert [output for _, output in shown] == [explained(command).stdout for command, _ in shown]
