"""
A chart as one file that is the same whoever packs it, wherever and whenever, with Helm's provenance beside it.
"""

import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tfcanary.chart.source import sha256
from tfcanary.errors import DoesNotHoldError
from tfcanary.packaging.programs import run
from tfcanary.packaging.source import SERVING_CHART


@dataclass(frozen=True, slots=True)
class Signer:
    """
    Whose PGP key makes the provenance.

    Attributes:
        keyring: the secret keys, as `gpg --export-secret-keys` writes them.
        name: the key's user ID, or a part of it.
        passphrase: a file with the key's passphrase; None for a key that has none.
    """

    keyring: Path
    name: str
    passphrase: Path | None = None

    @property
    def options(self) -> list[str]:
        """
        What `helm package` is given.
        """
        options = ["--sign", f"--key={self.name}", f"--keyring={self.keyring}"]
        return [*options, f"--passphrase-file={self.passphrase}"] if self.passphrase else options


def pack(chart: Path, epoch: int, target: Path, signer: Signer | None) -> Path:
    """
    Pack a chart, twice and from two places, and keep one if both are the same.

    Args:
        chart: its folder.
        epoch: the time that every file in it gets.
        target: the folder of the packed chart, and of its provenance.
        signer: who makes the provenance; None makes none.

    Raises:
        DoesNotHoldError: Helm refused the chart, or the two differ.
    """
    run(
        ["helm", "lint", "--strict", chart, *_required(chart)],
        wanted=f"helm lint {chart.name}: expected a sound chart",
    )
    packed = _packed(chart, epoch, target, signer)
    # Two builds within one second would be the same with the present time in them too.
    with tarfile.open(packed) as archive:
        times = {int(member.mtime) for member in archive.getmembers()}
    if times != {epoch}:
        raise DoesNotHoldError(
            f"chart {chart.name}: expected every file with the release's time {epoch}, got {max(times)}; "
            "Helm 4 keeps the files' times, Helm 3 does not"
        )
    with tempfile.TemporaryDirectory(prefix="tfcanary-again-") as folder:
        again = _packed(chart, epoch, Path(folder), None)
        wanted, got = sha256(packed), sha256(again)
    if wanted != got:
        raise DoesNotHoldError(
            f"chart {chart.name}: expected one sha256 of two builds, got {wanted[:12]} and {got[:12]}"
        )
    return packed


def _packed(chart: Path, epoch: int, target: Path, signer: Signer | None) -> Path:
    with tempfile.TemporaryDirectory(prefix="tfcanary-chart-") as folder:
        staged = Path(folder) / chart.name
        # Modes and owners are not in a packed chart; times are.
        shutil.copytree(chart, staged, copy_function=shutil.copyfile)
        for path in staged.rglob("*"):
            os.utime(path, (epoch, epoch))
        run(
            ["helm", "package", staged, f"--destination={target}", *(signer.options if signer else ())],
            wanted=f"helm package {chart.name}: expected success",
        )
    (packed,) = target.glob(f"{chart.name}-[0-9]*.tgz")
    # `helm push` takes the file's time into the OCI manifest, whose digest is what people pin.
    os.utime(packed, (epoch, epoch))
    return packed


def _required(chart: Path) -> list[str]:
    """
    Values for the keys that have no default: without them the chart's templates refuse.
    """
    values = chart.parents[1] / "values"
    files = ("env/kind.yaml", "models/resnet.yaml", "stable.yaml")
    return [f"--values={values / file}" for file in files] if chart.name == SERVING_CHART else []
