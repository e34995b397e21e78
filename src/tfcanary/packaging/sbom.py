"""
What is in a release, as CycloneDX bills of materials: a chart's files and images, and the Python packages of the wheel.
"""

import re
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256 as digest_of
from pathlib import Path
from typing import Any

import yaml
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from tfcanary.chart.source import sha256
from tfcanary.errors import DoesNotHoldError
from tfcanary.packaging.source import Source, facts

# A locked package: its name and version, its marker if it has one, and the hashes of its files on the lines below.
_LOCKED = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\\n]+?))? ?\\\n(?P<hashes>(?: +--hash=.*\n)+)",
    re.MULTILINE,
)


def of_chart(packed: Path, source: Source) -> str:
    """
    Describe a packed chart: every file in it by its hash, and every image that its values name.
    """
    chart = source.root / "charts" / facts_name(packed)
    subject = Component(
        name=chart.name,
        version=source.version,
        type=ComponentType.APPLICATION,
        bom_ref=f"chart:{chart.name}@{source.version}",
        description=str(facts(chart)["description"]),
        hashes=_sha256(sha256(packed)),
        licenses=[DisjunctiveLicense(id="Apache-2.0")],
    )
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8")) or {}
    return _document(subject, [*_files(packed), *_images(values)], source)


def of_wheel(wheel: Path, source: Source) -> str:
    """
    Describe the wheel: every locked package by the hashes of its files.

    Those that it needs at run time are required; the others build, test and document it, or belong to an extra.
    """
    subject = Component(
        name="tfserving-canary",
        version=source.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"wheel:tfserving-canary@{source.version}",
        purl=PackageURL("pypi", name="tfserving-canary", version=source.version),
        hashes=_sha256(sha256(wheel)),
        licenses=[DisjunctiveLicense(id="Apache-2.0")],
    )
    lock = (source.root / "requirements.lock").read_text(encoding="utf-8")
    needed = (source.root / "images/rollout/requirements.lock").read_text(encoding="utf-8")
    return _document(
        subject, list(packages(lock, {match["name"] for match in _LOCKED.finditer(needed)})), source
    )


def packages(lock: str, needed: Iterable[str]) -> Iterator[Component]:
    """
    The packages of a lock that uv wrote.

    Raises:
        DoesNotHoldError: a line pins a package in a form that is not understood: it would be missing without a word.
    """
    required = set(needed)
    found = list(_LOCKED.finditer(lock))
    pinned = re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)
    if [match["name"] for match in found] != pinned or not found:
        lost = next((name for name in pinned if name not in {match["name"] for match in found}), "none")
        raise DoesNotHoldError(
            f"requirements.lock: expected a version and hashes of every package, got {lost} without"
        )
    # One package may be locked at two versions, each for its own Python.
    for match in found:
        purl = PackageURL("pypi", name=match["name"], version=match["version"])
        hashes = sorted(re.findall(r"sha256:([0-9a-f]{64})", match["hashes"]))
        yield Component(
            name=match["name"],
            version=match["version"],
            type=ComponentType.LIBRARY,
            bom_ref=purl.to_string(),
            purl=purl,
            scope=ComponentScope.REQUIRED if match["name"] in required else ComponentScope.OPTIONAL,
            # Each file of a package has a hash of its own, and a component has one of each algorithm.
            properties=[
                *(Property(name="requirements.lock:sha256", value=value) for value in hashes),
                *(
                    [Property(name="requirements.lock:marker", value=match["marker"])]
                    if match["marker"]
                    else []
                ),
            ],
        )


def facts_name(packed: Path) -> str:
    """
    The name of the chart in a packed file: that of its top folder.
    """
    with tarfile.open(packed) as archive:
        return archive.getnames()[0].partition("/")[0]


def _files(packed: Path) -> Iterator[Component]:
    with tarfile.open(packed) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            if content is not None:
                yield Component(
                    name=member.name,
                    type=ComponentType.FILE,
                    bom_ref=f"file:{member.name}",
                    hashes=_sha256(digest_of(content.read()).hexdigest()),
                )


def _images(values: Mapping[str, Any], path: str = "") -> Iterator[Component]:
    """
    The images that a chart's values name: every map with a repository.
    """
    repository = values.get("repository")
    if repository:
        yield _image(str(repository), str(values.get("tag") or ""), str(values.get("digest") or ""), path)
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _images(value, f"{path}.{key}".lstrip("."))


def _image(repository: str, tag: str, digest: str, path: str) -> Component:
    # Docker Hub's short names have no registry in them.
    first, _, rest = repository.partition("/")
    located = repository if rest and ("." in first or ":" in first) else f"docker.io/{repository}"
    qualifiers = {"repository_url": located, **({"tag": tag} if tag else {})}
    purl = PackageURL(
        "oci", name=repository.rpartition("/")[2], version=digest or None, qualifiers=qualifiers
    )
    return Component(
        name=repository,
        version=tag or digest,
        type=ComponentType.CONTAINER,
        bom_ref=f"image:{path}",
        purl=purl,
        properties=[Property(name="values", value=path)],
    )


def _sha256(value: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=value)]


def _document(subject: Component, parts: list[Component], source: Source) -> str:
    """
    The bill as JSON, the same for the same release, and valid by the schema of its version.
    """
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{subject.bom_ref}#{next(iter(subject.hashes)).content}")
    bom = Bom(
        serial_number=serial, metadata=BomMetaData(component=subject, timestamp=source.time), components=parts
    )
    bom.register_dependency(subject, parts)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        raise DoesNotHoldError(
            f"SBOM of {subject.name}: expected a valid CycloneDX 1.6 document, got {wrong}"
        )
    return text + "\n"
