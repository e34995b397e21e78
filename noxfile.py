"""
The project's one task runner: `python3 -m nox -s demo`, `python3 -m nox -s tests`.

All sessions share one environment, made from requirements.lock: TensorFlow in six copies helps nobody.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "unit", "chart"]

HERE = Path(__file__).parent
ENVIRONMENT = HERE / ".nox" / "tfcanary"
PYTHON = ENVIRONMENT / "bin" / "python"
TEST_CLUSTER = "tests"
# The locked TensorFlow is published for these.
PYTHONS = ("3.11", "3.12", "3.13")
LOCK_HEADER = "# Written by `nox -s lock`: every dependency, pinned by hash.\n"


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Two ResNets behind one gateway on a cluster of its own; leaves the cluster up. `-- --help` for options."""
    python(session, "-m", "tfcanary", "demo", *session.posargs)


@nox.session(default=False)
def tests(session: nox.Session) -> None:
    """Everything that CI runs: lint, types, and all tests, those on a real cluster last (`-- --keep` keeps it)."""
    for name in ("lint", "types", "unit", "pages", "export", "modelserver", "chart"):
        session.notify(name, [])
    session.notify("cluster", session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    python(session, "-m", "ruff", "check")
    python(session, "-m", "ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    python(session, "-m", "mypy")


@nox.session
def unit(session: nox.Session) -> None:
    """The pure parts and the clients: no helm, no cluster."""
    python(session, "-m", "pytest", "tests/unit", *session.posargs)


@nox.session(default=False)
def pages(session: nox.Session) -> None:
    """The reports in headless Chromium, as a phone and as a desktop; installs it where that is possible."""
    packages = {"chromium": "chromium", "chromedriver": "chromium-driver"}
    python(
        session, "-m", "tfcanary.cluster.preflight", *(f"{tool}={name}" for tool, name in packages.items())
    )
    python(session, "-m", "pytest", "tests/pages", *session.posargs)


@nox.session(default=False)
def export(session: nox.Session) -> None:
    """SavedModels: what is written, and what is refused."""
    python(session, "-m", "pytest", "tests/export", *session.posargs)


@nox.session(default=False)
def modelserver(session: nox.Session) -> None:
    """The model server against TensorFlow Serving's published behaviour."""
    python(session, "-m", "pytest", "tests/modelserver", *session.posargs)


@nox.session
def chart(session: nox.Session) -> None:
    """Every rendering of the chart: no cluster. `-- --goldens` rewrites the goldens."""
    # The first helm is Helm 3; what needs Helm 4 asks for it.
    env = {"PATH": with_programs(session, "tools", "helm4", "helm-docs")}
    posargs = list(session.posargs)
    if "--goldens" in posargs:
        posargs.remove("--goldens")
        env["REWRITE_GOLDENS"] = "1"
    python(session, "-m", "pytest", "tests/chart", *posargs, env=env)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The pages of docs/ as a site: a broken link or a page outside the navigation is an error."""
    with tempfile.TemporaryDirectory() as site:
        python(session, "-m", "mkdocs", "build", "--strict", f"--site-dir={site}", *session.posargs)


@nox.session(default=False)
def cluster(session: nox.Session) -> None:
    """
    What the gateway does, on a cluster of its own name, which is taken down unless `-- --keep`.

    KUBECONFIG naming another cluster with Istio, and `-- --env FILE`, use that one and build none.
    """
    on_a_cluster(session, "tests/cluster")


@nox.session(default=False)
def zero_drop(session: nox.Session) -> None:
    """Load over REST and gRPC through every pair of strategies, killed pods and restarts: about 40 min, reports/zero-drop."""
    on_a_cluster(session, "tests/cluster/test_zero_drop.py", ZERO_DROP="full")


@nox.session(default=False)
def up(session: nox.Session) -> None:
    """Bring the local cluster up, or repair it. `-- --help` for options."""
    python(session, "scripts/local_cluster.py", "up", *session.posargs)


@nox.session(default=False)
def down(session: nox.Session) -> None:
    """Take down every local cluster, or one (`-- --name NAME`)."""
    python(session, "scripts/local_cluster.py", "down", *(session.posargs or ["--all"]))


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Write requirements.lock and the model server's from what they are made of."""
    session.run(sys.executable, "-m", "pip", "install", "--quiet", "uv", external=True)
    compiler = (sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--generate-hashes")
    server = HERE / "images" / "modelserver"
    jobs = {
        HERE / "requirements.lock": (
            "pyproject.toml", "--all-extras", "--group=lint", "--group=types", "--group=test", "--group=docs",
            "--universal", "--python-version=3.11",
        ),
        server / "requirements.lock": (
            str(server.relative_to(HERE) / "requirements.in"), "--constraints=requirements.lock",
            f"--overrides={server.relative_to(HERE) / 'overrides.txt'}",
            "--python-version=3.11", "--python-platform=linux",
        ),
    }  # fmt: skip
    for target, arguments in jobs.items():
        # With its output there already, uv keeps every version that still fits: `-- --upgrade` takes the newest.
        session.run(*compiler, *arguments, f"--output-file={target}", *session.posargs, external=True)
        text = target.read_text().removeprefix(LOCK_HEADER)
        target.write_text(LOCK_HEADER + text)


# Helpers


def on_a_cluster(session: nox.Session, tests: str, **more: str) -> None:
    """
    Run these tests on the cluster that KUBECONFIG names, or on one of their own.
    """
    parser = argparse.ArgumentParser(prog=f"nox -s {session.name} --")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    options, posargs = parser.parse_known_args(session.posargs)
    environment(session)
    given = os.environ.get("KUBECONFIG", "")
    # That of a local cluster of ours is what the demo tells people to export: it is not for the tests to use.
    if given and "tfserving-canary" not in Path(given).parts:
        python(
            session,
            "-m",
            "pytest",
            tests,
            f"--k8s-kubeconfig={given}",
            "--k8s-provider=external",
            *posargs,
            env=more,
        )
        return
    try:
        up_arguments = ("scripts/local_cluster.py", "up", "--name", TEST_CLUSTER)
        python(session, *up_arguments)
        env = {"PATH": with_programs(session, "tools", "kubernetes"), **more}
        kubeconfig = session.run(
            str(PYTHON), "-c", f"from tfcanary.cluster.layout import Layout; print(Layout({TEST_CLUSTER!r}).kubeconfig)",
            external=True, silent=True,
        )  # fmt: skip
        python(
            session, "-m", "pytest", tests, "--k8s-provider=external",
            f"--k8s-kubeconfig={str(kubeconfig).strip()}", *posargs, env=env,
        )  # fmt: skip
    finally:
        if not options.keep:
            python(session, "scripts/local_cluster.py", "down", "--name", TEST_CLUSTER)


def environment(session: nox.Session) -> None:
    """
    Make the environment, or bring it to what requirements.lock says now.
    """
    wanted = hashlib.sha256((HERE / "requirements.lock").read_bytes()).hexdigest()
    stamp = ENVIRONMENT / "installed"
    # A link to a Python that is gone does not exist; pip comes last, so without it virtualenv was interrupted.
    whole = PYTHON.exists() and PYTHON.with_name("pip").exists()
    if whole and stamp.is_file() and stamp.read_text() == wanted:
        return
    if not whole:
        has = f"{sys.version_info.major}.{sys.version_info.minor}"
        if has not in PYTHONS:
            session.error(
                f"Python: expected {' or '.join(PYTHONS)}, got {has}; python{PYTHONS[-1]} -m nox runs nox by one"
            )
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        # virtualenv came with nox; venv is a package of its own on Debian.
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(ENVIRONMENT), external=True)
    session.log("installing requirements.lock (about 90 s, once)")
    pip = (str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    session.run(*pip, "--require-hashes", "--requirement=requirements.lock", external=True)
    session.run(*pip, "--no-deps", "--no-build-isolation", "--editable=.", external=True)
    stamp.write_text(wanted)


def python(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """
    Run the environment's Python.
    """
    environment(session)
    session.run(str(PYTHON), *arguments, env=env, external=True)


def with_programs(session: nox.Session, *trees: str) -> str:
    """
    PATH with the programs of these Go trees in front, built if they never were.
    """
    environment(session)
    command = (str(PYTHON), "-m", "tfcanary.cluster.binaries", *trees)
    folders = session.run(*command, external=True, silent=True, stderr=None)
    return f"{str(folders).strip()}:{os.environ['PATH']}"
