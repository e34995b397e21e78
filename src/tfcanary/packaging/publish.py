"""
Bring a release to an OCI registry: each chart with its provenance, signed, and with its bill of materials attached.

What is published stays: the same again changes nothing, and other content under the same version is refused.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from tfcanary.chart.source import sha256
from tfcanary.errors import DoesNotHoldError, UnreachableError, UsageError
from tfcanary.packaging import registry, signatures
from tfcanary.packaging.dist import VALUES_KIND, require
from tfcanary.packaging.programs import run
from tfcanary.packaging.registry import CHART_LAYER, Access, Reference
from tfcanary.packaging.signatures import CYCLONEDX, Signing

LOG = logging.getLogger(__name__)


def publish(folder: Path, target: Reference, signing: Signing, access: Access) -> list[Reference]:
    """
    Publish every chart of a release.

    Args:
        folder: what `dist.build` made.
        target: the registry and the path that the charts' names are added to.
        signing: who signs.
        access: how the registry is reached.

    Returns:
        The charts by digest, in order of name.

    Raises:
        DoesNotHoldError: a file is not what was packaged, or a version exists with other content.
    """
    require(folder)
    access.require()
    charts = sorted(folder.glob("*.tgz"))
    # All are looked at before the first is pushed: half a release helps nobody.
    found = [(chart, _published(chart, target, access)) for chart in charts]
    return [_one(chart, place, there, signing, access) for chart, (place, there) in found]


def attachments(chart: Path) -> Iterator[tuple[str, Path]]:
    """
    What is stated about a chart: the type of each statement, and the file that has it.
    """
    yield CYCLONEDX, chart.with_name(f"{chart.stem}.cdx.json")
    values = chart.with_name(f"{chart.stem}.values.json")
    if values.is_file():
        yield VALUES_KIND, values


def _published(chart: Path, target: Reference, access: Access) -> tuple[Reference, str | None]:
    """
    Where a chart goes, and the digest that it has there already.
    """
    require_provenance(chart)
    name, version = identity(chart)
    # An OCI tag has no plus sign; Helm writes an underscore for it.
    place = Reference(f"{target.repository}/{name}", version.replace("+", "_"))
    there = registry.digest(place, access)
    if there is not None:
        layer = registry.layers(registry.manifest(place.at(there), access)).get(CHART_LAYER)
        got, wanted = layer.digest if layer else "no chart", f"sha256:{sha256(chart)}"
        if got != wanted:
            raise DoesNotHoldError(
                f"version: {place}: expected no other content under a published version, got {got} there and {wanted} "
                "here; give the release a version of its own"
            )
    return place, there


def require_provenance(chart: Path) -> None:
    """
    Refuse a packed chart that has no provenance beside it.
    """
    if not chart.with_name(f"{chart.name}.prov").is_file():
        raise UsageError(
            f"{chart}: expected its provenance ({chart.name}.prov), got none; `nox -s package -- --keyring FILE "
            "--key-name NAME` makes it"
        )


def identity(chart: Path) -> tuple[str, str]:
    """
    The name and the version of a packed chart, as its bill of materials has them.
    """
    subject = json.loads(chart.with_name(f"{chart.stem}.cdx.json").read_text(encoding="utf-8"))["metadata"][
        "component"
    ]
    return str(subject["name"]), str(subject["version"])


def _one(chart: Path, place: Reference, there: str | None, signing: Signing, access: Access) -> Reference:
    """
    Push one chart unless it is there, and add what it lacks: an earlier run may have ended in between.
    """
    pinned = place.at(there or _push(chart, place, access))
    signatures.complete(pinned, attachments(chart), signing, access)
    return pinned


def _push(chart: Path, place: Reference, access: Access) -> str:
    LOG.info("pushing %s", place)
    run(
        ["helm", "push", chart, f"{registry.SCHEME}{place.repository.rpartition('/')[0]}"],
        wanted=f"{place}: expected the registry to take it",
        environment=access.environment,
        failure=UnreachableError,
    )
    there = registry.digest(place, access)
    if there is None:
        raise UnreachableError(f"{place}: expected it in the registry after the push, got none")
    return there
