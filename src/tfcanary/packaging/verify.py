"""
Verify a published chart by its digest: who signed it, what is stated about it, its bytes, and that its values still render.
"""

import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import SchemaError

from tfcanary.errors import CanaryError, DoesNotHoldError, UnreachableError
from tfcanary.packaging import registry, signatures
from tfcanary.packaging.dist import VALUES_KIND, values_problems
from tfcanary.packaging.programs import run
from tfcanary.packaging.registry import CHART_LAYER, PROVENANCE_LAYER, Access, Reference
from tfcanary.packaging.signatures import CYCLONEDX, Trust
from tfcanary.packaging.source import SERVING_CHART

# What a chart asks for beside a strategy: an environment, and models with the tracks of every strategy.
GIVEN = ("env/kind.yaml", "models/resnet-abn.yaml")
VERSION = "org.opencontainers.image.version"
TITLE = "org.opencontainers.image.title"
_NAME, _VERSION = re.compile(r"[a-z0-9][a-z0-9-]*"), re.compile(r"\d[\w.+-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    One thing that was verified.

    Attributes:
        problem: what did not hold; None if it held.
    """

    name: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Published:
    """
    A chart in a registry, and what it is verified with.

    Attributes:
        place: its digest.
        manifest: its OCI manifest, which has that digest.
        folder: where its parts are written.
        values: the folder of the values files that are to be rendered with it.
        keyring: public PGP keys, of which one made the provenance.
    """

    place: Reference
    manifest: Mapping[str, Any]
    folder: Path
    values: Path
    keyring: Path
    trust: Trust
    access: Access

    @property
    def name(self) -> str:
        """
        The chart's name.
        """
        return str(self.manifest["annotations"][TITLE])

    @property
    def version(self) -> str:
        """
        The chart's version.
        """
        return str(self.manifest["annotations"][VERSION])

    @property
    def packed(self) -> Path:
        """
        Where the packed chart is written, under the name that its provenance has.
        """
        return self.folder / f"{self.name}-{self.version}.tgz"


def verify(
    place: Reference, *, values: Path, keyring: Path, trust: Trust, access: Access
) -> Iterator[Outcome]:
    """
    Verify everything about a chart, also after something did not hold.

    Raises:
        NotFoundError: the registry has no such digest.
        UnreachableError: the registry or a program cannot be reached.
    """
    access.require()
    manifest = registry.manifest(place, access)
    _require_names(place, manifest)
    with tempfile.TemporaryDirectory(prefix="tfcanary-verify-") as folder:
        chart = Published(place, manifest, Path(folder), values, keyring, trust, access)
        for name, check in CHECKS.items():
            try:
                check(chart)
            except UnreachableError:
                raise
            except CanaryError as error:
                yield Outcome(name, str(error))
            else:
                yield Outcome(name, None)


def _require_names(place: Reference, manifest: Mapping[str, Any]) -> None:
    """
    Refuse what is no chart. Its name and version become a file's name here, before anything about them is verified.
    """
    annotations = manifest.get("annotations") or {}
    for key, form in ((TITLE, _NAME), (VERSION, _VERSION)):
        if not form.fullmatch(str(annotations.get(key))):
            raise DoesNotHoldError(
                f"{place}: expected a chart with {key} in its annotations, got {annotations.get(key)!r}"
            )


def _signature(chart: Published) -> None:
    signatures.verify(chart.place, chart.trust, chart.access)


def _tag(chart: Published) -> None:
    """
    The version's tag still stands for this digest: who pulls by tag gets what was verified.
    """
    tag = chart.version.replace("+", "_")
    got = registry.digest(Reference(chart.place.repository, tag), chart.access)
    if got != chart.place.digest:
        raise DoesNotHoldError(
            f"expected {tag} to stand for {chart.place.digest}, got {got or 'no such tag'}"
        )


def _chart(chart: Published) -> None:
    _part(chart, CHART_LAYER, chart.packed)


def _provenance(chart: Published) -> None:
    _part(chart, PROVENANCE_LAYER, chart.packed.with_name(f"{chart.packed.name}.prov"))
    run(
        ["helm", "verify", chart.packed, f"--keyring={chart.keyring}"],
        wanted="expected one that a key of the keyring signed, and that names the chart's sha256",
    )


def _part(chart: Published, kind: str, target: Path) -> None:
    """
    Fetch one layer, and hold its bytes against the manifest.
    """
    layer = registry.layers(chart.manifest).get(kind)
    if layer is None:
        raise DoesNotHoldError(f"expected a layer of type {kind} in the manifest, got none")
    registry.fetch(chart.place, layer, target, chart.access)


def _sbom(chart: Published) -> None:
    """
    A bill of materials of this very chart.
    """
    layer = registry.layers(chart.manifest).get(CHART_LAYER)
    wanted = layer.digest.removeprefix("sha256:") if layer else "none"
    got = []
    for bill in signatures.attested(chart.place, CYCLONEDX, chart.trust, chart.access):
        subject = bill.get("metadata", {}).get("component", {})
        got += [each["content"] for each in subject.get("hashes", ()) if each["alg"] == "SHA-256"]
    if wanted not in got:
        raise DoesNotHoldError(
            f"expected one of the chart with sha256 {wanted}, got {', '.join(got) or 'none'}"
        )


def _values(chart: Published) -> None:
    """
    The values files at hand are those that were released with the chart.
    """
    if chart.name != SERVING_CHART:
        return
    lists = [
        found.get("files", {})
        for found in signatures.attested(chart.place, VALUES_KIND, chart.trust, chart.access)
    ]
    problems = [next(values_problems(chart.values, files), None) for files in lists]
    if all(problems):
        raise DoesNotHoldError(str(problems[-1]))


def _schema(chart: Published) -> None:
    """
    The chart has a schema of its values, and it is one.
    """
    name = f"{chart.name}/values.schema.json"
    try:
        with tarfile.open(chart.packed) as archive:
            member = archive.extractfile(name)
            schema: dict[str, Any] = json.loads(member.read() if member else b"")
        Draft7Validator.check_schema(schema)
    except (KeyError, OSError, tarfile.TarError, ValueError) as error:
        raise DoesNotHoldError(f"{name}: expected a JSON schema in the chart, got {error}") from error
    except SchemaError as error:
        raise DoesNotHoldError(f"{name}: expected a JSON schema, got {error.message}") from error


def _strategies(chart: Published) -> None:
    """
    Every strategy renders; of a chart without strategies, its defaults.
    """
    if chart.name != SERVING_CHART:
        _render(chart, ())
        return
    strategies = sorted(chart.values.glob("*.yaml"))
    if not strategies:
        raise DoesNotHoldError(f"{chart.values}: expected strategy files, got none")
    for strategy in strategies:
        _render(chart, (*(chart.values / name for name in GIVEN), strategy))


def _render(chart: Published, files: tuple[Path, ...]) -> None:
    run(
        [
            "helm",
            "template",
            "resnet",
            chart.packed,
            "--kube-version=1.35.0",
            *(f"--values={file}" for file in files),
        ],
        wanted=f"{files[-1].name if files else chart.name}: expected it to render",
    )


CHECKS: Mapping[str, Callable[[Published], None]] = {
    "signature": _signature,
    "tag": _tag,
    "chart": _chart,
    "provenance": _provenance,
    "sbom": _sbom,
    "values": _values,
    "schema": _schema,
    "strategies": _strategies,
}
