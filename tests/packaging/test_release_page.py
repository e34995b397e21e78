"""
The release process page: each of its commands, as a person types them, against a registry of the tests.
"""

import functools
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bundling import saved
from kits import push_image
from registries import PASSWORD, USER, running
from releasing import KEY_PASSWORD, Checkout

from tfcanary.paths import ROOT

# What answers in the place of a person, or of what other tests run. Everything else is what it is.
SHIMS = {
    # It would ask for a passphrase in a window.
    "gpg": 'exec {gpg} --batch --yes --pinentry-mode=loopback --passphrase-file="$KEYS/passphrase" "$@"',
    # Nox would make an environment of its own. Its sessions are one command each, but for the one that writes goldens.
    "python3": """case "$*" in
"-m nox -s chart -- --goldens")
  for chart in charts/*; do helm-docs --chart-search-root="$chart" --sort-values-order=file --log-level=warning; done ;;
*) session=$4; shift 5; exec {python} -m tfcanary.packaging "$session" "$@" ;;
esac""",
    "tfcanary": 'exec {python} -m tfcanary "$@"',
    # There is no cluster here: tests/cluster/test_published.py installs one.
    "helm": 'if [ "$1" = install ]; then shift; exec {helm} template "$@"; fi; exec {helm} "$@"',
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    found = {
        name: subprocess.run(["which", name], check=True, capture_output=True, text=True)
        for name in ("gpg", "helm")
    }
    real = {name: shlex.quote(done.stdout.strip()) for name, done in found.items()} | {
        "python": sys.executable
    }
    for name, script in SHIMS.items():
        typed = functools.reduce(lambda text, word: text.replace(f"{{{word}}}", real[word]), real, script)
        (folder / name).write_text(f"#!/bin/sh\n{typed}\n")
        (folder / name).chmod(0o755)
    return folder


def test_every_command_of_the_page_works(
    documents: ModuleType,
    checkout: Callable[[str], Checkout],
    identity: Callable[..., Any],
    programs: Path,
    tmp_path: Path,
) -> None:
    """
    From new keys and a new version to a chart that is rendered by its digest, and to a kit that is brought to a registry.
    """
    commands = documents.Page(ROOT / "docs/how-to/release.md").commands
    source = checkout("page")
    source.git("init", "--quiet")
    source.git("add", ".")
    source.git("commit", "--quiet", "--message=Before")
    (source.root / "my-env.yaml").write_text((source.root / "values/env/gke.yaml").read_text())
    saved(source.root / "models")
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (keys / "passphrase").write_text("of the PGP key")
    (tmp_path / "registry").mkdir()
    with running(tmp_path / "registry", identity) as registry:
        variables = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(source.root / "src"),
            "GNUPGHOME": str(keys),
            "KEYS": str(keys),
            "COSIGN_PASSWORD": KEY_PASSWORD,
            "REGISTRY": registry.address,
            "REGISTRY_USER": USER,
            "REGISTRY_PASSWORD": PASSWORD,
            "SERVER_IMAGE": push_image(registry, tmp_path, "tensorflow/serving"),
            "TEST_IMAGE": push_image(registry, tmp_path, "tensorflow/tensorflow"),
            "SSL_CERT_FILE": str(registry.ca),
            **{
                f"GIT_{who}_{what}": "test@example.com"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
        }
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", "\n".join(commands)],
            cwd=source.root,
            env={**os.environ, **variables},
            check=False,
            capture_output=True,
            text=True,
        )
    subprocess.run(["gpgconf", f"--homedir={keys}", "--kill", "all"], check=True)

    assert 0 == done.returncode, done.stderr[-3000:]
    assert "tfserving-canary-0.2.0.tgz: OK" in done.stdout
    assert "held    strategies" in done.stdout
    assert 'helm.sh/chart: "tfserving-canary-0.2.0"' in done.stdout
    assert "kit.tar: OK" in done.stdout
    assert (
        f"helm upgrade --install RELEASE oci://{registry.address}/site/charts/tfserving-canary@sha256:"
        in done.stdout
    )
