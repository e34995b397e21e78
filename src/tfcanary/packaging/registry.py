"""
An OCI registry: what is in it by digest and by tag. `crane` asks, and Go's own environment says whom to trust.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcanary.chart.source import sha256
from tfcanary.errors import DoesNotHoldError, NotFoundError, UnreachableError, UsageError
from tfcanary.packaging.programs import run

CHART_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
PROVENANCE_LAYER = "application/vnd.cncf.helm.chart.provenance.v1.prov"

SCHEME = "oci://"
_REFERENCE = re.compile(
    r"oci://(?P<repository>[a-zA-Z0-9][a-zA-Z0-9.-]*(?::\d+)?(?:/[a-z0-9][a-z0-9._-]*)+)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
# A registry's own words for "there is none", as the OCI distribution specification gives them.
_NONE = ("MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND")


@dataclass(frozen=True, slots=True)
class Access:
    """
    How a registry is reached. Nothing of it is ever an argument of a program.

    Attributes:
        ca: authorities to trust beside the system's, as PEM.
        credentials: a `config.json` as `docker login` and `helm registry login` write it; None takes the user's own.
    """

    ca: Path | None = None
    credentials: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """
        What helm, cosign and crane read.
        """
        found = {}
        if self.ca:
            found["SSL_CERT_FILE"] = str(self.ca.resolve())
        if self.credentials:
            found["DOCKER_CONFIG"] = str(self.credentials.resolve().parent)
            found["HELM_REGISTRY_CONFIG"] = str(self.credentials.resolve())
        return found

    def require(self) -> None:
        """
        Refuse files that are not there, or that docker's own programs would not find.
        """
        for option, path in (("--ca-file", self.ca), ("--registry-config", self.credentials)):
            if path is not None and not path.is_file():
                raise UsageError(f"{option} {path}: expected a file, got none")
        if self.credentials and self.credentials.name != "config.json":
            raise UsageError(
                f"--registry-config {self.credentials}: expected a file named config.json, got another name; "
                "`helm registry login --registry-config DIR/config.json --password-stdin` writes one"
            )


@dataclass(frozen=True, slots=True)
class Reference:
    """
    A place in a registry, with or without a tag and a digest.
    """

    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        return SCHEME + self.plain

    @property
    def plain(self) -> str:
        """
        As every program but Helm writes it. A digest says it all, and not every program takes a tag beside it.
        """
        if self.digest:
            return f"{self.repository}@{self.digest}"
        return f"{self.repository}:{self.tag}" if self.tag else self.repository

    def at(self, digest: str) -> "Reference":
        """
        The same place, pinned.
        """
        return Reference(self.repository, None, digest)


@dataclass(frozen=True, slots=True)
class Layer:
    """
    One file of an artifact.
    """

    digest: str
    bytes: int


def reference(text: str) -> Reference:
    """
    Read `oci://REGISTRY/NAME[:TAG][@sha256:DIGEST]`.

    Raises:
        UsageError: it is written in another way.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{text!r}: expected oci://REGISTRY/NAME, with :TAG or @sha256:DIGEST after it or neither"
        )
    return Reference(found["repository"], found["tag"], found["digest"])


def pinned(text: str) -> Reference:
    """
    Read a reference that has a digest.

    Raises:
        UsageError: it has none: what a tag means may change between two looks.
    """
    found = reference(text)
    if found.digest is None:
        raise UsageError(f"{text}: expected a digest (@sha256:...), got none; `crane digest` prints it")
    return found


def digest(place: Reference, access: Access) -> str | None:
    """
    What a tag stands for now; None if the registry has no such tag.
    """
    try:
        return _crane(["digest", "--full-ref=false", place.plain], place, access).strip()
    except NotFoundError:
        return None


def manifest(place: Reference, access: Access) -> dict[str, Any]:
    """
    The manifest of an artifact.

    Raises:
        NotFoundError: the registry has none there.
    """
    found: dict[str, Any] = json.loads(_crane(["manifest", place.plain], place, access))
    return found


def layers(manifest: Mapping[str, Any]) -> dict[str, Layer]:
    """
    The layers of a chart, by media type.
    """
    return {
        str(layer["mediaType"]): Layer(str(layer["digest"]), int(layer["size"]))
        for layer in manifest.get("layers", ())
    }


def fetch(place: Reference, layer: Layer, target: Path, access: Access) -> None:
    """
    Write one layer of an artifact to a file, and hold its bytes against the manifest.

    Raises:
        DoesNotHoldError: the registry has other bytes.
        UnreachableError: it did not give all of them.
    """
    blob = place.at(layer.digest)
    try:
        with target.open("wb") as file:
            _crane(["blob", blob.plain], blob, access, output=file)
    except UnreachableError:
        # crane also fails where all bytes came and are others. Where some did not come, nothing is known of them.
        if target.stat().st_size != layer.bytes:
            raise
    got = f"sha256:{sha256(target)}"
    if got != layer.digest:
        raise DoesNotHoldError(f"expected {layer.digest}, got {got}")


def _crane(arguments: list[str], place: Reference, access: Access, **more: Any) -> str:
    wanted = f"{place}: expected an answer of the registry"
    try:
        return run(
            ["crane", *arguments],
            wanted=wanted,
            environment=access.environment,
            failure=UnreachableError,
            **more,
        )
    except UnreachableError as error:
        if any(word in str(error) for word in _NONE):
            raise NotFoundError(f"{place}: expected it in the registry, got none") from error
        raise
