"""
What the README tells people to type: every helm line renders, every file is there, every strategy is in its table.
"""

import itertools
import re
import shlex
import subprocess
import sys

import pytest

GIVEN = {"my-env.yaml": "values/env/gke.yaml", "my-models.yaml": "values/models/resnet.yaml"}


def commands(text):
    """
    The lines of all shell blocks, with continued lines put together.
    """
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced if language in {"", "sh"}]
    assert blocks
    return [
        line.partition("  #")[0].strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
    ]


@pytest.fixture(scope="module", params=["README.md", "charts/tfserving-canary/README.md"])
def readme(request, root):
    """
    A README.
    """
    return (root / request.param).read_text()


def test_helm_lines_render(readme, helm):
    """
    Each `helm install` and `helm upgrade` that the reader types in a row is taken, with the files of those before it.
    """
    files, rendered = [], 0
    typed = [shlex.split(line) for line in commands(readme) if re.match("helm (install|upgrade) ", line)]
    for words in typed:
        assert ["resnet", "charts/tfserving-canary"] == words[2:4]
        assert ("--reset-then-reuse-values" in words) == (words[1] == "upgrade")
        given = [word for flag, word in itertools.pairwise(words) if flag == "-f"]
        files = [*files, *given] if words[1] == "upgrade" else given
        arguments = [argument for file in files for argument in ("-f", GIVEN.get(file, file))]
        assert "kind: VirtualService" in helm("template", *words[2:4], "--kube-version=1.34.4", *arguments)
        rendered += 1

    assert rendered >= 2


def test_explain_lines_hold(root):
    """
    Each `explain` that the README shows finds a route.
    """
    typed = commands((root / "README.md").read_text())
    shown = [shlex.split(line) for line in typed if "check_gateway.py explain" in line]

    done = [
        subprocess.run([sys.executable, *words[1:]], cwd=root, capture_output=True, text=True, check=False)
        for words in shown
    ]
    assert shown
    assert [(0, True)] * len(shown) == [(one.returncode, "takes it" in one.stdout) for one in done]


def test_files_are_there(readme, root):
    """
    Every file of the repository that is named exists.
    """
    named = set(
        re.findall(r"(?<![\w/.-])((?:values|scripts|charts|images)/[\w./-]+\.(?:yaml|py|json))", readme)
    )

    assert named
    assert [] == sorted(path for path in named if not (root / path).is_file())


def test_every_strategy_is_in_the_table(root, strategies):
    """
    The table of values files has each strategy once.
    """
    text = (root / "README.md").read_text().partition("| values file |")[2].partition("\n\n")[0]
    first = [line.split("|")[1] for line in text.splitlines()[2:]]

    named = [name for cell in first for name in re.findall(r"`([a-z0-9-]+)`", cell)]
    assert sorted(strategies) == sorted(named)
