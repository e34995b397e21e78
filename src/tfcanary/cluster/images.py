"""
The cluster's images: built from `images/*/Containerfile` without a registry, kept by content, imported.
"""

import hashlib
import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tfcanary.cluster import binaries
from tfcanary.cluster.layout import Layout, read_record
from tfcanary.cluster.packages import SOURCES, link_or_copy, metadata, os_release, protos, run, site_packages
from tfcanary.errors import UnreachableError
from tfcanary.locks import exclusive
from tfcanary.paths import ROOT, cache_folder

LOG = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]

# iptables for Istio's CNI agent, Python for the model server.
_BASE_PACKAGES = ("ca-certificates", "iptables", "python3")
_BASE = "localhost/tfcanary/base:local"

ISTIO_HUB, ISTIO_TAG = "localhost/istio", "local"
MODEL_SERVER = "localhost/tfcanary/modelserver:local"
ROLLOUT = "localhost/tfcanary/rollout:local"
# What the model server imports of this package, and nothing else: work on the rest leaves the image as it is.
SERVER_SOURCES = ("__init__.py", "cli.py", "errors.py", "protos.py", "modelserver")

# Published images that `--pull` takes in place of those built here. The model server's is what the chart defaults to.
PUBLISHED_ISTIO_HUB, PUBLISHED_ISTIO_TAG = "docker.io/istio", "1.31.0"
PUBLISHED = (
    f"{PUBLISHED_ISTIO_HUB}/pilot:{PUBLISHED_ISTIO_TAG}",
    f"{PUBLISHED_ISTIO_HUB}/proxyv2:{PUBLISHED_ISTIO_TAG}",
    f"{PUBLISHED_ISTIO_HUB}/install-cni:{PUBLISHED_ISTIO_TAG}",
    "docker.io/tensorflow/serving:2.20.0",
)


@dataclass(frozen=True, slots=True)
class Image:
    """
    One image to build.

    Attributes:
        name: its folder under `images/`.
        reference: the name pods ask for.
        inputs: what its Containerfile copies, by name in the build context.
    """

    name: str
    reference: str
    inputs: Mapping[str, Path]

    @property
    def archive(self) -> Path:
        """
        Where the built image is kept; the name changes whenever anything in the image does.
        """
        digest = hashlib.sha256((SOURCES / self.name / "Containerfile").read_bytes())
        for name, path in sorted(self.inputs.items()):
            digest.update(f"{name}\0{_fingerprint(path)}\n".encode())
        return cache_folder() / "images" / f"{self.name}-{digest.hexdigest()[:12]}.tar"


def _fingerprint(path: Path) -> str:
    """
    A string that changes when the input does.

    What is in the cache has its version in its path and is not read again.
    """
    if path.is_relative_to(cache_folder()):
        return str(path.relative_to(cache_folder()))
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    sources = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
    return "".join(f"{file.relative_to(path.parent)}:{_hash(file)}\n" for file in sources)


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def ensure(*, pulled: bool) -> list[Image]:
    """
    Make and build what is not there of `all_images`, and return all of it.
    """
    # Clusters that come up at the same time share all of these.
    with exclusive(cache_folder() / "images.lock"):
        found = all_images(pulled=pulled)
        ensure_built(found)
    return found


def all_images(*, pulled: bool) -> list[Image]:
    """
    Every image that is built here, with its inputs made; with `pulled` only the one that is not published.
    """
    pause = Image("pause", "localhost/tfcanary/pause:local", {"pause": binaries.program("tools", "pause")})
    if pulled:
        return [pause]
    root_file_system = _root_file_system()
    istio = binaries.ensure("istio")
    base = {"rootfs.tar": root_file_system}
    return [
        pause,
        Image("pilot", f"{ISTIO_HUB}/pilot:{ISTIO_TAG}", {"pilot-discovery": istio / "pilot-discovery"}),
        Image(
            "install-cni",
            f"{ISTIO_HUB}/install-cni:{ISTIO_TAG}",
            base | {name: istio / name for name in ("install-cni", "istio-cni")},
        ),
        Image(
            "proxyv2",
            f"{ISTIO_HUB}/proxyv2:{ISTIO_TAG}",
            base
            | {name: istio / name for name in ("pilot-agent", "envoy_bootstrap.json")}
            | {"envoy": binaries.envoy()},
        ),
        Image(
            "modelserver",
            MODEL_SERVER,
            base
            | {
                "site-packages": site_packages("modelserver"),
                **{f"tfcanary/{name}": PACKAGE / name for name in SERVER_SOURCES},
                **{
                    name: SOURCES / "modelserver" / name
                    for name in ("tensorflow_model_server", "tf_serving_entrypoint.sh")
                },
            },
        ),
    ]


def ensure_rollout() -> Image:
    """
    Build the image that drives rollouts, which no cluster needs to come up.
    """
    with exclusive(cache_folder() / "images.lock"):
        image = Image(
            "rollout",
            ROLLOUT,
            {
                "rootfs.tar": _root_file_system(),
                "site-packages": site_packages("rollout"),
                "protos": protos(site_packages("modelserver")),
                "helm": binaries.program("tools", "helm"),
                "tfcanary": PACKAGE,
                "dist-info/METADATA": metadata(),
                # Where `tfcanary.paths` finds them in a wheel. This may be one, which has them already.
                **{
                    f"tfcanary/data/{name}": ROOT / name
                    for name in ("charts", "values")
                    if ROOT != PACKAGE / "data"
                },
            },
        )
        ensure_built([image])
        return image


def ensure_built(images: Iterable[Image]) -> None:
    """
    Build the images whose archive is not there, all in one storage, where they share the base.

    Raises:
        UnreachableError: buildah failed, with the end of what it said.
    """
    missing = [image for image in images if not image.archive.exists()]
    if not missing:
        return
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".buildah-") as storage:
        if any("rootfs.tar" in image.inputs for image in missing):
            rootfs = next(image.inputs["rootfs.tar"] for image in missing if "rootfs.tar" in image.inputs)
            _build(Path(storage), Image("base", _BASE, {"rootfs.tar": rootfs}))
        for image in missing:
            LOG.info("building image %s", image.reference)
            _build(Path(storage), image)
            draft = image.archive.with_suffix(".draft")
            draft.unlink(missing_ok=True)
            _buildah(Path(storage), ["push", image.reference, f"docker-archive:{draft}:{image.reference}"])
            draft.replace(image.archive)
            _forget_older(image)


def _forget_older(image: Image) -> None:
    """
    Keep one archive an image: the model server's changes with every line of its code.
    """
    for archive in image.archive.parent.glob(f"{image.name}-*.tar"):
        if archive != image.archive:
            archive.unlink()


def _build(storage: Path, image: Image) -> None:
    with tempfile.TemporaryDirectory(dir=storage) as context:
        for name, path in image.inputs.items():
            if name == "rootfs.tar" and image.name != "base":
                continue
            target = Path(context) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(
                    path,
                    target,
                    copy_function=link_or_copy,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("__pycache__"),
                    dirs_exist_ok=True,
                )
            else:
                link_or_copy(path, target)
        containerfile = SOURCES / image.name / "Containerfile"
        _buildah(
            storage,
            ["build", "--layers=false", "--tag", image.reference, "--file", f"{containerfile}", context],
        )


def _buildah(storage: Path, arguments: Sequence[str]) -> None:
    # In a mount namespace of its own: buildah leaves its storage mounted.
    command = [
        "unshare",
        "--mount",
        "buildah",
        "--root",
        f"{storage}/root",
        "--runroot",
        f"{storage}/run",
        "--storage-driver",
        "overlay",
        *arguments,
    ]
    run(f"buildah {arguments[0]}: expected success", command)


def _root_file_system() -> Path:
    """
    A minimal root file system from this machine's own distribution.
    """
    release = os_release()
    name = "-".join([release.get("ID", "linux"), release.get("VERSION_CODENAME", "unknown"), *_BASE_PACKAGES])
    archive = cache_folder() / "rootfs" / f"{name}.tar"
    if archive.exists():
        return archive
    LOG.info("building the images' root file system (about 60 s, once)")
    archive.parent.mkdir(parents=True, exist_ok=True)
    draft = archive.with_name(f".draft-{archive.name}")
    command = [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(_BASE_PACKAGES)}",
        # Documentation and translations are half of the files, and of no use in a container.
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        release["VERSION_CODENAME"],
        str(draft),
    ]
    run("mmdebstrap: expected a root file system", command)
    draft.replace(archive)
    return archive


def import_into(layout: Layout, images: Iterable[Image]) -> None:
    """
    Import the images that containerd has not in their present form, and wait for the end.
    """
    with importing(layout, images):
        pass


@contextmanager
def importing(layout: Layout, images: Iterable[Image]) -> Iterator[None]:
    """
    Import images while the body runs; on leaving, all are there.

    Raises:
        UnreachableError: containerd refused, with what it said.
    """
    record = layout.state / "images.json"
    imported = read_record(record)
    missing = [image for image in images if imported.get(image.reference) != image.archive.name]
    started = []
    for image in missing:
        LOG.info("importing %s", image.reference)
        command = _ctr(layout, ["images", "import", "--digests", str(image.archive)])
        started.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    yield
    for image, process in zip(missing, started, strict=True):
        _, said = process.communicate()
        if process.returncode != 0:
            raise UnreachableError(f"import of {image.reference}: expected success, got {said.strip()}")
        imported[image.reference] = image.archive.name
        record.write_text(json.dumps(imported, indent=2))


def pull_into(layout: Layout) -> None:
    """
    Pull the published images, over the host's network.

    Raises:
        UnreachableError: a registry cannot be reached.
    """
    for reference in PUBLISHED:
        LOG.info("pulling %s", reference)
        try:
            ctr(layout, ["images", "pull", reference])
        except UnreachableError as error:
            raise UnreachableError(f"{error}; without --pull the images are built here") from error


def ctr(layout: Layout, arguments: Sequence[str]) -> str:
    """
    Ask containerd, in the namespace that kubelet uses.
    """
    done = subprocess.run(_ctr(layout, arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = " | ".join(done.stderr.strip().splitlines()[-2:])
        raise UnreachableError(f"ctr {' '.join(arguments[:2])}: expected success, got {tail}")
    return done.stdout


def _ctr(layout: Layout, arguments: Sequence[str]) -> list[str]:
    return ["ctr", "--address", str(layout.containerd_socket), "--namespace", "k8s.io", *arguments]
