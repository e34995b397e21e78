"""
Versions of a model as one OCI image, the same for the same files: Kubernetes mounts it as a volume.

Models are at the top of the image, as `resnet/1`. One layer has the files; the image exists for each architecture, since a node
takes only images of its own.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfcanary.chart.source import sha256
from tfcanary.errors import DoesNotHoldError, UnreachableError
from tfcanary.packaging import registry, signatures
from tfcanary.packaging.programs import run
from tfcanary.packaging.registry import Access, Layer, Reference
from tfcanary.packaging.signatures import Signing, Trust

# The type of the statement that has the manifest of each version.
KIND = "urn:tfserving-canary:model:1"
ARCHITECTURES = ("amd64", "arm64")

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def write(versions: Sequence[Path], model: str, layout: Path) -> str:
    """
    Write an image of a model's versions as an OCI layout, which is what `crane push` and other tools take.

    Args:
        versions: their folders, each named by its number.
        model: the folder that they get in the image.
        layout: a folder that is not there yet.

    Returns:
        The image's digest.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer = _layer(versions, model, blobs)
    images = [_image(layer, architecture, blobs) for architecture in ARCHITECTURES]
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": images}
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}), encoding="utf-8")
    (layout / "index.json").write_text(_text(index), encoding="utf-8")
    return f"sha256:{hashlib.sha256(_text(index).encode()).hexdigest()}"


def publish(layout: Path, digest: str, place: Reference, access: Access) -> Reference:
    """
    Bring an image to a registry under a tag. The same again changes nothing.

    Raises:
        DoesNotHoldError: the tag exists with other content.
    """
    access.require()
    there = registry.digest(place, access)
    if there not in (None, digest):
        raise DoesNotHoldError(
            f"version: {place}: expected no other content under a published tag, got {there} there and {digest} here; "
            "give the model a version of its own"
        )
    if there is None:
        run(
            ["crane", "push", "--index", layout, place.plain],
            wanted=f"{place}: expected the registry to take it",
            environment=access.environment,
            failure=UnreachableError,
        )
    return place.at(digest)


def state(place: Reference, statement: Mapping[str, Any], signing: Signing, access: Access) -> None:
    """
    Sign an image, and state what is in it, unless that was done before.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.json"
        file.write_text(json.dumps(statement), encoding="utf-8")
        signatures.complete(place, [(KIND, file)], signing, access)


@contextmanager
def fetched(place: Reference, trust: Trust, access: Access) -> Iterator[tuple[Path, dict[str, Any]]]:
    """
    Fetch an image that is signed by whom is trusted, and what is stated about it.

    Yields:
        The folder that its models are in, for as long as the body runs; and the statement.

    Raises:
        DoesNotHoldError: signature, statement or content do not hold; the message begins with which.
    """
    access.require()
    with tempfile.TemporaryDirectory(prefix="tfcanary-bundle-") as folder:
        packed, target = Path(folder) / "layer.tar", Path(folder) / "models"
        statement = require_signed(place, trust, access)
        with _named(place, "content"):
            registry.fetch(place, only_layer(place, access), packed, access)
            try:
                with tarfile.open(packed) as archive:
                    archive.extractall(target, filter="data")
            except tarfile.TarError as error:
                raise DoesNotHoldError(f"expected a tar archive, got {error}") from error
        yield target, statement


def require_signed(place: Reference, trust: Trust, access: Access) -> dict[str, Any]:
    """
    Require an image that is signed by whom is trusted.

    Returns:
        What is stated about it.

    Raises:
        DoesNotHoldError: signature or statement do not hold; the message begins with which.
    """
    with _named(place, "signature"):
        signatures.verify(place, trust, access)
    with _named(place, "statement"):
        return signatures.attested(place, KIND, trust, access)[-1]


@contextmanager
def _named(place: Reference, name: str) -> Iterator[None]:
    try:
        yield
    except DoesNotHoldError as error:
        raise DoesNotHoldError(f"{place}: {name}: {error}") from error


def only_layer(place: Reference, access: Access) -> Layer:
    """
    The layer that the images of all architectures share.

    Raises:
        DoesNotHoldError: there is another number of layers.
    """
    images = registry.manifest(place, access).get("manifests", ())
    found = {
        layer
        for image in images
        for layer in registry.layers(registry.manifest(place.at(str(image["digest"])), access)).values()
    }
    if len(found) != 1:
        raise DoesNotHoldError(f"expected one layer for all architectures, got {len(found)}")
    return found.pop()


def _layer(versions: Sequence[Path], model: str, blobs: Path) -> dict[str, Any]:
    """
    The versions' files in one archive: by name, and without times, owners and rights of this machine.
    """
    draft = blobs / "draft"
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as archive:
        _add_folder(archive, model)
        for version in sorted(versions, key=lambda version: int(version.name)):
            _add_folder(archive, f"{model}/{version.name}")
            for path in sorted(version.rglob("*")):
                name = f"{model}/{version.name}/{path.relative_to(version).as_posix()}"
                if path.is_dir():
                    _add_folder(archive, name)
                    continue
                header = tarfile.TarInfo(name)
                header.size, header.mode = path.stat().st_size, 0o644
                with path.open("rb") as content:
                    archive.addfile(header, content)
    digest = sha256(draft)
    draft.rename(blobs / digest)
    return {"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": (blobs / digest).stat().st_size}


def _add_folder(archive: tarfile.TarFile, name: str) -> None:
    header = tarfile.TarInfo(name)
    header.type, header.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(header, io.BytesIO())


def _image(layer: Mapping[str, Any], architecture: str, blobs: Path) -> dict[str, Any]:
    platform = {"architecture": architecture, "os": "linux"}
    # The layer is not compressed: its digest is also that of its content.
    config = {**platform, "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _kept(config, _CONFIG, blobs),
        "layers": [layer],
    }
    return {**_kept(manifest, _MANIFEST, blobs), "platform": platform}


def _kept(document: Mapping[str, Any], kind: str, blobs: Path) -> dict[str, Any]:
    content = _text(document).encode()
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))
