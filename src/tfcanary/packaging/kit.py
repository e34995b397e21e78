"""
The offline kit: one archive with the charts, values files, images and models of a release, and a script that brings them to a
registry and installs the chart from there.

The files of all images and models are in one folder, each once and named by its digest. The same inputs give the same archive.
"""

import json
import logging
import platform
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfcanary.chart.source import sha256
from tfcanary.errors import DoesNotHoldError, UnreachableError
from tfcanary.packaging import bundle, dist, publish, registry
from tfcanary.packaging.programs import SOURCES, run
from tfcanary.packaging.registry import Access, Reference
from tfcanary.packaging.signatures import Signing, Trust, sign_file
from tfcanary.packaging.source import SERVING_CHART

LOG = logging.getLogger(__name__)

CONTENTS = "contents.tsv"
# What is in every kit as it is here: the script and what a person reads first.
_OFFLINE = Path(__file__).with_name("offline")
_PROGRAMS = ("bin", "install.sh")
# A model's name becomes a file's name where the kit is unpacked.
_MODEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Image:
    """
    One image of a kit.

    Attributes:
        place: its digest.
        key: the key of the chart's values that names it, `helmTest.image` for example; None for an image of others, Istio's for
            example.
    """

    place: Reference
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """
    What a kit is made of.

    Attributes:
        release: the folder that `dist.build` made.
        values: the values files that were released with it.
        images: where they are.
        models: images of models, by digest.
        trust: who signed the models.
    """

    release: Path
    values: Path
    images: Sequence[Image]
    models: Sequence[Reference]
    trust: Trust


def build(parts: Parts, output: Path, access: Access) -> str:
    """
    Make a kit, whole or not at all, and beside it a file with its sha256.

    Args:
        parts: what is in it.
        output: the archive; one that is there is replaced.
        access: how the registries of the images and of the models are reached.

    Returns:
        The line of the file with its sha256.

    Raises:
        DoesNotHoldError: the release, a values file or an image is not what was released, or a model is not signed.
        NotFoundError: a registry has no such digest.
        UnreachableError: a registry or a program cannot be reached.
    """
    dist.require(parts.release)
    access.require()
    charts = sorted(parts.release.glob("*.tgz"))
    for chart in charts:
        publish.require_provenance(chart)
    _require_values(parts)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
        draft = Path(folder) / "kit"
        shutil.copytree(_OFFLINE, draft)
        shutil.copytree(parts.values, draft / "values")
        _add_crane(draft)
        lines = [
            *_charts(charts, draft),
            *_images(parts.images, draft, access),
            *_models(parts, draft, access),
        ]
        (draft / CONTENTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _write_sums(draft)
        packed = Path(folder) / "kit.tar"
        version = publish.identity(_serving(charts))[1]
        _pack(draft, f"{SERVING_CHART}-kit-{version}", packed, _epoch(_serving(charts)))
        line = f"{sha256(packed)}  {output.name}\n"
        packed.replace(output)
    sums_file(output).write_text(line, encoding="utf-8")
    return line


def sums_file(output: Path) -> Path:
    """
    Where the sha256 of a kit is written.
    """
    return output.with_name(f"{output.name}.sha256")


def sign(output: Path, signing: Signing) -> Path:
    """
    Sign the file with a kit's sha256: a kit has gigabytes, and cosign reads what it signs into memory.

    Returns:
        The signature, which `cosign verify-blob --bundle` takes.
    """
    signature = output.with_name(f"{output.name}.sha256.sigstore.json")
    sign_file(sums_file(output), signature, signing)
    return signature


def _serving(charts: Sequence[Path]) -> Path:
    return next(chart for chart in charts if publish.identity(chart)[0] == SERVING_CHART)


def _epoch(chart: Path) -> int:
    """
    The release's time, which every file of a packed chart has.
    """
    with tarfile.open(chart) as archive:
        return int(archive.getmembers()[0].mtime)


def _require_values(parts: Parts) -> None:
    """
    Refuse values files that are not those of the release.
    """
    (released,) = parts.release.glob("*.values.json")
    files: Mapping[str, str] = json.loads(released.read_text(encoding="utf-8"))["files"]
    found = next(dist.values_problems(parts.values, files), None)
    if found:
        raise DoesNotHoldError(f"values: {found}; `nox -s package` makes a release of these files")


def _add_crane(draft: Path) -> None:
    """
    Add the program that pushes images: it is linked statically, and runs on every system of this kind.
    """
    crane = shutil.which("crane")
    if crane is None:
        raise UnreachableError(f"crane: expected it on PATH, got none; {SOURCES['crane']}")
    target = draft / "bin" / f"crane-{platform.system().lower()}-{platform.machine()}"
    target.parent.mkdir()
    shutil.copyfile(crane, target)


def _charts(charts: Sequence[Path], draft: Path) -> Iterator[str]:
    folder = draft / "charts"
    folder.mkdir()
    for chart in charts:
        for path in (chart, chart.with_name(f"{chart.name}.prov")):
            shutil.copyfile(path, folder / path.name)
        name, version = publish.identity(chart)
        yield f"chart\t{name}\t{version}\tsha256:{sha256(chart)}"


def _images(images: Sequence[Image], draft: Path, access: Access) -> Iterator[str]:
    for image in images:
        _pull(image.place, str(image.place.digest), draft, access)
        yield f"image\t{image.key or '-'}\t{path_in_registry(image.place)}\t{image.place.digest}"


def _models(parts: Parts, draft: Path, access: Access) -> Iterator[str]:
    """
    Models, each with the signatures that are beside it in its registry: who has the kit can verify them there too.
    """
    for place in parts.models:
        statement = bundle.require_signed(place, parts.trust, access)
        name, path = str(statement.get("model")), path_in_registry(place)
        if not _MODEL.fullmatch(name):
            raise DoesNotHoldError(f"{place}: expected the name of a model in its statement, got {name!r}")
        _pull(place, str(place.digest), draft, access)
        yield f"model\t{name}\t{path}\t{place.digest}\t{bundle.only_layer(place, access).digest}"
        tag = str(place.digest).replace(":", "-")
        beside = registry.digest(Reference(place.repository, tag), access)
        if beside:
            _pull(place.at(beside), beside, draft, access)
            yield f"signatures\t{tag}\t{path}\t{beside}"


def path_in_registry(place: Reference) -> str:
    """
    The path of a repository, without its registry. The first part is a registry if it has a dot or a port, or is localhost.
    """
    first, _, rest = place.repository.partition("/")
    return rest if "." in first or ":" in first or first == "localhost" else place.repository


def _pull(place: Reference, digest: str, draft: Path, access: Access) -> None:
    """
    Write an image as an OCI layout, whose files are in the folder that all layouts share.
    """
    layout = draft / "layouts" / digest.removeprefix("sha256:")
    if layout.exists():
        return
    LOG.info("pulling %s", place)
    layout.mkdir(parents=True)
    (draft / "blobs").mkdir(exist_ok=True)
    (layout / "blobs").symlink_to(Path("../../blobs"))
    run(
        ["crane", "pull", "--format=oci", place.plain, layout],
        wanted=f"{place}: expected to pull it",
        environment=access.environment,
        failure=UnreachableError,
    )


def _write_sums(draft: Path) -> None:
    """
    Write the sha256 of every file, and hold those of images against their digests.
    """
    lines = []
    for path in _files(draft):
        got, name = sha256(path), path.relative_to(draft).as_posix()
        if name.startswith("blobs/") and path.name != got:
            raise DoesNotHoldError(f"sha256:{path.name}: expected it of its registry, got sha256:{got}")
        lines.append(f"{got}  {name}\n")
    (draft / dist.SUMS).write_text("".join(lines), encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]


def _pack(draft: Path, top: str, target: Path, epoch: int) -> None:
    """
    Put a folder into an archive: by name, with the release's time, and without owners and rights of this machine.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in (draft, *sorted(draft.rglob("*"))):
            inside = path.relative_to(draft)
            header = tarfile.TarInfo((Path(top) / inside).as_posix())
            header.mtime = epoch
            if path.is_symlink():
                header.type, header.linkname, header.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
                archive.addfile(header)
            elif path.is_dir():
                header.type, header.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(header)
            else:
                header.size = path.stat().st_size
                header.mode = 0o755 if inside.parts[0] in _PROGRAMS else 0o644
                with path.open("rb") as content:
                    archive.addfile(header, content)
