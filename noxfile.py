"""
The project's one task runner: `python3 -m nox -s demo`, `python3 -m nox -s tests`.

All sessions share one environment, made from requirements.lock: one copy of TensorFlow is enough.
"""

import argparse
import atexit
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
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
# The locked TensorFlow is published for these.
PYTHONS = nox.project.python_versions(nox.project.load_toml(HERE / "pyproject.toml"))
LOCK_HEADER = "# Written by `nox -s lock`: every dependency, pinned by hash.\n"

# One process for each core. The tests of one file stay together, for they share what they build.
PARALLEL = ("--numprocesses=auto", "--dist=loadfile")
# Where each process has a TensorFlow of its own, or a namespace with pods that have one.
TWO = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")

# What makes a release: Helm 3 would put the present time into a packed chart. What signs and verifies one.
PACKS, SIGNS = ("helm4", "helm-docs"), ("release",)

# By the name that check-jsonschema gives their schema.
CI_FILES = {
    "github-workflows": (".github/workflows/checks.yaml", ".github/workflows/release.yaml"),
    "gitlab-ci": (".gitlab-ci.yml",),
}

# The cluster of the tests, and what comes up in the background while other sessions run.
CLUSTER = "tests"
UP = ("scripts/local_cluster.py", "up", "--name", CLUSTER)
DOWN = ("scripts/local_cluster.py", "down", "--name", CLUSTER)
UP_LOG = HERE / ".nox" / "up.log"
BACKGROUND: list[subprocess.Popen[bytes]] = []


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Two ResNets behind one gateway on a cluster of its own; leaves the cluster up. `-- --help` for options."""
    python(session, "-m", "tfcanary", "demo", *session.posargs)


@nox.session(default=False)
def tests(session: nox.Session) -> None:
    """Everything that CI runs: lint, types, and all tests, those on a real cluster last (`-- --keep` keeps it)."""
    begin_up(session)
    for name in ("lint", "types", "docs", "unit", "pages", "export", "modelserver", "chart", "packaging"):
        session.notify(name, [])
    session.notify("cluster", session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, which package may import which, and the CI files by their published schemas."""
    python(session, "-m", "ruff", "check")
    python(session, "-m", "ruff", "format", "--check")
    session.run(str(PYTHON.with_name("lint-imports")))
    for schema, files in CI_FILES.items():
        session.run(str(PYTHON.with_name("check-jsonschema")), f"--builtin-schema=vendor.{schema}", *files)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    python(session, "-m", "mypy")


@nox.session
def unit(session: nox.Session) -> None:
    """The pure parts and the clients: no helm, no cluster. `-- --cov` counts the lines that run, in three times the time."""
    pytest(session, "tests/unit", *PARALLEL)


@nox.session(default=False)
def pages(session: nox.Session) -> None:
    """The reports in headless Chromium, as a phone and as a desktop; installs it where that is possible."""
    packages = {"chromium": "chromium", "chromedriver": "chromium-driver"}
    wanted = (f"{program}={package}" for program, package in packages.items())
    python(session, "-m", "tfcanary.cluster.preflight", *wanted)
    pytest(session, "tests/pages")


@nox.session(default=False)
def export(session: nox.Session) -> None:
    """SavedModels: what is written, and what is refused."""
    pytest(session, "tests/export", *TWO)


@nox.session(default=False)
def modelserver(session: nox.Session) -> None:
    """The model server against TensorFlow Serving's published behaviour."""
    pytest(session, "tests/modelserver", *TWO)


@nox.session
def chart(session: nox.Session) -> None:
    """Every rendering of the chart: no cluster. `-- --goldens` rewrites the goldens."""
    # The first helm is Helm 3; what needs Helm 4 asks for it.
    env = {"PATH": with_programs(session, "tools", "helm4", "helm-docs")}
    posargs = list(session.posargs)
    if "--goldens" in posargs:
        posargs.remove("--goldens")
        env["REWRITE_GOLDENS"] = "1"
    pytest(session, "tests/chart", *PARALLEL, posargs=posargs, env=env)


@nox.session(default=False)
def packaging(session: nox.Session) -> None:
    """Releases: made, published to a registry of the tests, verified, and refused where something was tampered with."""
    python(session, "-m", "tfcanary.cluster.preflight", "gpg=gnupg")
    pytest(session, "tests/packaging", *TWO, env={"PATH": with_programs(session, *PACKS, *SIGNS)})


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
    # Two modules at a time, each process with a namespace and a release of its own: most of the time is waiting.
    python(session, "-m", "tfcanary.cluster.preflight", "prometheus=prometheus", "gpg=gnupg")
    on_a_cluster(session, "tests/cluster", *TWO)


@nox.session(default=False)
def zero_drop(session: nox.Session) -> None:
    """Load over REST and gRPC through every pair of strategies, killed pods and restarts: about 60 min, reports/zero-drop."""
    on_a_cluster(session, "tests/cluster/test_zero_drop.py", "tests/cluster/test_pairs.py", ZERO_DROP="full")


@nox.session(default=False)
def drill(session: nox.Session) -> None:
    """Rollouts of bad versions, each of which must go back, and drivers, API servers and metrics that go away: about 30 min, reports/rollout."""
    on_a_cluster(session, "tests/cluster", "-k=rollout or old_chart", "--log-cli-level=INFO", DRILL="full")


@nox.session(default=False)
def package(session: nox.Session) -> None:
    """A release in dist/, with provenance, bills of materials and checksums. `-- --help` for options."""
    lint(session)
    release(session, "package", *PACKS)


@nox.session(default=False)
def publish(session: nox.Session) -> None:
    """Push what is in dist/ to `-- oci://REGISTRY/PATH`, sign it, and attach what is stated about it."""
    release(session, "publish", *PACKS, *SIGNS)


@nox.session(default=False)
def verify(session: nox.Session) -> None:
    """Signature, provenance, bill of materials, values and renderings of `-- oci://REGISTRY/NAME@sha256:DIGEST`."""
    release(session, "verify", *PACKS, *SIGNS)


@nox.session(default=False)
def kit(session: nox.Session) -> None:
    """One archive of what is in dist/, with images and models, that installs without internet access. `-- --help` for options."""
    release(session, "kit", *SIGNS)


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
    """Write requirements.lock and those of the images from what they are made of."""
    compiler = (*uv(session), "compile", "--no-header", "--generate-hashes")
    server, rollout = HERE / "images" / "modelserver", HERE / "images" / "rollout"
    in_image = (
        "--constraints=requirements.lock",
        f"--overrides={server.relative_to(HERE) / 'overrides.txt'}",
        "--python-version=3.11",
        "--python-platform=linux",
    )
    jobs = {
        HERE / "requirements.lock": (
            "pyproject.toml",
            "--all-extras",
            "--group=lint",
            "--group=types",
            "--group=test",
            "--group=docs",
            "--group=build",
            "--universal",
            "--python-version=3.11",
        ),
        server / "requirements.lock": (str(server.relative_to(HERE) / "requirements.in"), *in_image),
        rollout / "requirements.lock": ("pyproject.toml", *in_image),
    }
    for target, arguments in jobs.items():
        # With its output there already, uv keeps every version that still fits: `-- --upgrade` takes the newest.
        session.run(*compiler, *arguments, f"--output-file={target}", *session.posargs)
        text = target.read_text().removeprefix(LOCK_HEADER)
        target.write_text(LOCK_HEADER + text)


# Helpers


def on_a_cluster(session: nox.Session, tests: str, *given: str, **more: str) -> None:
    """
    Run these tests on the cluster that KUBECONFIG names, or on one of their own.
    """
    parser = argparse.ArgumentParser(prog=f"nox -s {session.name} --")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    options, posargs = parser.parse_known_args(session.posargs)
    provider = "--k8s-provider=external"
    other = other_cluster()
    if other:
        pytest(session, tests, *given, posargs=[provider, f"--k8s-kubeconfig={other}", *posargs], env=more)
        return
    try:
        end_up(session)
        env = {"PATH": with_programs(session, "tools", "kubernetes"), **more}
        script = f"from tfcanary.cluster.layout import Layout; print(Layout({CLUSTER!r}).kubeconfig)"
        kubeconfig = str(session.run(str(PYTHON), "-c", script, silent=True)).strip()
        pytest(
            session, tests, *given, posargs=[provider, f"--k8s-kubeconfig={kubeconfig}", *posargs], env=env
        )
    finally:
        if not options.keep:
            python(session, *DOWN)


def other_cluster() -> str:
    """
    KUBECONFIG, unless it names a local cluster: the demo tells people to export that, and it is not for the tests.
    """
    given = os.environ.get("KUBECONFIG", "")
    return "" if "tfserving-canary" in Path(given).parts else given


def begin_up(session: nox.Session) -> None:
    """
    Bring the tests' cluster up while the sessions run that need none.
    """
    environment(session)
    if other_cluster():
        return
    session.log(f"cluster {CLUSTER} comes up in the background; its output goes to {UP_LOG}")
    with UP_LOG.open("wb") as log:
        command = [str(PYTHON), *UP]
        # In a process group of its own, which can be ended with all that it builds.
        process = subprocess.Popen(command, cwd=HERE, stdout=log, stderr=log, start_new_session=True)
    BACKGROUND.append(process)
    atexit.register(abandon_up)


def end_up(session: nox.Session) -> None:
    """
    Wait for the cluster that comes up in the background, or bring it up now if none does.
    """
    if not BACKGROUND:
        python(session, *UP)
        return
    session.log(f"waiting for cluster {CLUSTER}, which began to come up with the first session")
    try:
        code = BACKGROUND[0].wait()
    except BaseException:
        end(BACKGROUND.pop())
        raise
    BACKGROUND.clear()
    sys.stdout.write(UP_LOG.read_text())
    if code:
        session.error(f"cluster {CLUSTER}: expected it to come up, got exit code {code}; its output is above")


def abandon_up() -> None:
    """
    Take down the cluster that no session waited for, because one before was interrupted or failed under --stop-on-first-error.
    """
    if BACKGROUND:
        end(BACKGROUND.pop())
        subprocess.run([str(PYTHON), *DOWN], cwd=HERE, check=False)


def end(process: subprocess.Popen[bytes]) -> None:
    """
    End a process group and wait for its leader.
    """
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def environment(session: nox.Session) -> None:
    """
    Make the environment, or bring it to what requirements.lock and pyproject.toml, which has the version, say now.
    """
    made_of = (HERE / name for name in ("requirements.lock", "pyproject.toml"))
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in made_of)).hexdigest()
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
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(ENVIRONMENT))
    session.log("installing requirements.lock (30 to 90 s, once)")
    install = (*uv(session), "install", f"--python={PYTHON}")
    session.run(*install, "--require-hashes", "--requirement=requirements.lock")
    session.run(*install, "--no-deps", "--no-build-isolation", "--editable=.")
    stamp.write_text(wanted)


def uv(session: nox.Session) -> tuple[str, ...]:
    """
    The program that resolves and installs: pip takes four times as long for the same lock.
    """
    if importlib.util.find_spec("uv") is None:
        session.run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv")
    return (sys.executable, "-m", "uv", "pip", "--quiet")


def python(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """
    Run the environment's Python.
    """
    environment(session)
    session.run(str(PYTHON), *arguments, env=env)


def pytest(
    session: nox.Session,
    tests: str,
    *options: str,
    posargs: list[str] | None = None,
    env: dict[str, str] | None = None,
) -> None:
    """
    Run tests, and say which ten were the slowest.
    """
    given = session.posargs if posargs is None else posargs
    python(session, "-m", "pytest", tests, "--durations=10", *options, *given, env=env)


def release(session: nox.Session, command: str, *trees: str) -> None:
    """
    Run a command of `tfcanary.packaging`.
    """
    env = {"PATH": with_programs(session, *trees)}
    python(session, "-m", "tfcanary.packaging", command, *session.posargs, env=env)


def with_programs(session: nox.Session, *trees: str) -> str:
    """
    PATH with the programs of these Go trees in front, built if they never were.
    """
    environment(session)
    folders = session.run(str(PYTHON), "-m", "tfcanary.cluster.binaries", *trees, silent=True, stderr=None)
    return f"{str(folders).strip()}:{os.environ['PATH']}"
