"""
What this machine must have before anything is built or started. One message names all that is missing.
"""

import argparse
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfcanary import cli
from tfcanary.errors import UnreachableError, UsageError
from tfcanary.locks import exclusive
from tfcanary.paths import cache_folder
from tfcanary.wait import NotYet, wait_until

LOG = logging.getLogger(__name__)

# Program -> Debian/Ubuntu package, and why the cluster needs it.
TOOLS = {
    "etcd": ("etcd-server", "the apiserver's store"),
    "containerd": ("containerd", "runs the pods"),
    "ctr": ("containerd", "imports the images"),
    "runc": ("runc", "starts the containers"),
    "nft": ("nftables", "kube-proxy's rules"),
    "iptables": ("iptables", "Istio CNI's redirection"),
    "mount": ("mount", "the node's mount namespace"),
    "ip": ("iproute2", "the node's network"),
    "unshare": ("util-linux", "namespaces of their own for the node and for buildah"),
    "buildah": ("buildah", "builds the images from their Containerfiles"),
    "mmdebstrap": ("mmdebstrap", "the images' root file system"),
}
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("ptp", "host-local", "loopback")

# Measured: Go's module and compiler caches while building, then images and one cluster's layers.
COLD_DISK_GIB = 20
WARM_DISK_GIB = 8
MEMORY_GIB = 6

INSTEAD = (
    "instead, any cluster with Istio will do: give --context or KUBECONFIG "
    "(README, “With Docker”, shows kind + Istio)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that is missing, and the way to get it.
    """

    missing: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.missing} ({self.remedy})"


def cni_folder() -> Path | None:
    """
    Where the machine keeps the CNI plugins.
    """
    return next(
        (folder for folder in CNI_FOLDERS if all((folder / plugin).is_file() for plugin in CNI_PLUGINS)), None
    )


def prepare(*, install: bool, built: bool) -> None:
    """
    Install missing distribution packages if allowed, then refuse if anything is still missing.

    Args:
        install: whether packages may be installed; only ever done as root on Debian or Ubuntu.
        built: whether the programs were built before; less disk is then needed.

    Raises:
        UnreachableError: with everything that is missing and the way to get each.
    """
    findings = _platform_findings()
    if not findings:
        packages = missing_packages()
        if packages and install and shutil.which("apt-get"):
            _install(packages)
        findings = [*_package_findings(), *_kernel_findings(), *_size_findings(built=built)]
    if findings:
        listed = "; ".join(map(str, findings))
        raise UnreachableError(
            f"local cluster: expected a machine that can run it, missing: {listed}; {INSTEAD}"
        )


def _platform_findings() -> list[Finding]:
    if platform.system() != "Linux":
        return [Finding("Linux", f"this is {platform.system()}")]
    findings = []
    if os.geteuid() != 0:
        findings.append(Finding("root", f"this is user {os.geteuid()}; namespaces and mounts need sudo"))
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if release < (5, 8):
        findings.append(Finding("Linux 5.8 or newer", f"this is {platform.release()}"))
    if platform.machine() != "x86_64":
        findings.append(
            Finding("an x86-64 processor", f"this is {platform.machine()}; Envoy is built for no other")
        )
    return findings


def missing_packages() -> list[str]:
    """
    Debian packages whose programs are not here.
    """
    packages = {package for tool, (package, _) in TOOLS.items() if shutil.which(tool) is None}
    if cni_folder() is None:
        packages.add("containernetworking-plugins")
    return sorted(packages)


def install_missing(packages: Mapping[str, str]) -> None:
    """
    Install the packages of missing programs, as root on Debian or Ubuntu; elsewhere only name them.

    Args:
        packages: by program, its distribution package.
    """
    missing = sorted({package for tool, package in packages.items() if shutil.which(tool) is None})
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(missing)
    elif missing:
        LOG.warning(
            "missing, and only root on Debian or Ubuntu can install them from here: %s", " ".join(missing)
        )


def _install(packages: list[str]) -> None:
    LOG.info("installing distribution packages: %s", " ".join(packages))
    # No installed package may be removed for it: Docker's containerd.io conflicts with containerd.
    command = ["install", "--yes", "--no-install-recommends", "--no-remove", *packages]
    # One at a time: the file that keeps services from starting is removed by the first to end.
    with exclusive(cache_folder() / "packages.lock"):
        done = _apt_get(["update"])
        if done.returncode == 0:
            done = _apt_get(command)
    if done.returncode != 0:
        tail = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise UnreachableError(
            f"{' '.join(done.args[:2])}: expected success, got {tail}; install by hand: {' '.join(packages)}"
        )


def _apt_get(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """
    Run apt-get when no other does: a new machine upgrades itself right after its first boot.
    """
    command = ["apt-get", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    told = set()

    def attempt() -> subprocess.CompletedProcess[str]:
        with _no_services_started():
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        busy = [line for line in done.stderr.splitlines() if "Could not get lock" in line]
        if done.returncode != 0 and busy:
            if busy[0] not in told:
                LOG.info("waiting: %s", busy[0])
                told.add(busy[0])
            raise NotYet(busy[0])
        return done

    return wait_until("apt-get", attempt, timeout_seconds=600, interval_seconds=1)


class _no_services_started:  # noqa: N801 - reads as the phrase it is
    """
    Keep apt from starting the machine's own etcd and containerd: the cluster starts its own.

    https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
    """

    _policy = Path("/usr/sbin/policy-rc.d")
    _text = "#!/bin/sh\n# While tfserving-canary installs packages.\nexit 101\n"

    def __enter__(self) -> None:
        # A run that was killed may have left this very file.
        self._ours = not self._policy.exists() or self._policy.read_text() == self._text
        if self._ours:
            self._policy.write_text(self._text)
            self._policy.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._policy.unlink(missing_ok=True)


def _package_findings() -> list[Finding]:
    findings = [
        Finding(f"{tool}: {why}", f"apt-get install {package}, or your distribution's package of it")
        for tool, (package, why) in TOOLS.items()
        if shutil.which(tool) is None
    ]
    if cni_folder() is None:
        folders = " or ".join(map(str, CNI_FOLDERS))
        findings.append(
            Finding(
                f"CNI plugins in {folders}", "apt-get install containernetworking-plugins, or their release"
            )
        )
    return findings


def _kernel_findings() -> list[Finding]:
    """
    Try each kernel feature in namespaces that are gone when the attempt ends.
    """
    if shutil.which("unshare") is None or shutil.which("ip") is None or shutil.which("nft") is None:
        return []
    attempts = {
        "mount and PID namespaces": (
            "mount -t tmpfs tmpfs /mnt",
            "run on the machine itself or in a privileged container",
        ),
        "bridge links": ("ip link add probe type bridge", "modprobe bridge"),
        "veth links": ("ip link add probe0 type veth peer name probe1", "modprobe veth"),
        "nf_tables": ("nft add table ip probe", "modprobe nf_tables"),
        "overlayfs": (
            "mount -t tmpfs o /mnt; cd /mnt; mkdir l u w m; mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m",
            "modprobe overlay",
        ),
    }
    findings = []
    for feature, (attempt, remedy) in attempts.items():
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-ec", attempt],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            findings.append(Finding(feature, f"{done.stderr.strip().splitlines()[-1:]}; {remedy}"))
    return findings


def _size_findings(*, built: bool) -> list[Finding]:
    findings = []
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    free, wanted = shutil.disk_usage(folder).free / 2**30, WARM_DISK_GIB if built else COLD_DISK_GIB
    if free < wanted:
        findings.append(
            Finding(f"{wanted} GiB of disk for {folder}", f"{free:.1f} GiB free; set XDG_CACHE_HOME")
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    # The kernel keeps some of it to itself before it counts.
    if memory < MEMORY_GIB * 0.9:
        findings.append(Finding(f"{MEMORY_GIB} GiB of memory", f"this machine has {memory:.1f}"))
    return findings


def require_program(name: str) -> Path:
    """
    A machine's program by name.
    """
    found = shutil.which(name)
    if found is None:
        raise UsageError(f"{name}: expected it on PATH, got nothing; {INSTEAD}")
    return Path(found)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Install the distribution packages of programs, as the task runner asks.
    """
    parser = cli.Parser(prog="python -m tfcanary.cluster.preflight", description=main.__doc__)
    parser.add_argument(
        "package",
        nargs="+",
        metavar="PROGRAM=PACKAGE",
        help="a program, and the distribution package that has it",
    )

    def install(arguments: argparse.Namespace) -> int:
        install_missing(dict(pair.split("=", 1) for pair in arguments.package))
        return 0

    return cli.run(parser, install, argv)


if __name__ == "__main__":
    raise SystemExit(main())
