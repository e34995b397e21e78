"""
An offline kit that is made of a release of this checkout, and what a person does with it.
"""

import io
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from registries import Registry
from releasing import Checkout, Key, Keyrings, Said

# Which option names an image, and where it is in its registry.
IMAGES = {
    "--server-image": "tensorflow/serving",
    "--test-image": "tensorflow/tensorflow",
    "--rollout-image": "tfcanary/rollout",
    "--more-image": "istio/pilot",
}


@dataclass(frozen=True, slots=True)
class Kit:
    """
    A kit that was unpacked.
    """

    folder: Path

    @property
    def contents(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """
        What it has: by kind and name, the path in the registry, the digest and what else is said.
        """
        lines = (self.folder / "contents.tsv").read_text().splitlines()
        return {(kind, name): tuple(more) for kind, name, *more in (line.split("\t") for line in lines)}

    def install(self, *arguments: str | Path, prefix: tuple[str, ...] = (), **variables: str) -> Said:
        """
        Run its script, somewhere else than in its folder, with PATH, HOME and these variables alone.
        """
        kept = {name: os.environ[name] for name in ("PATH", "HOME")}
        done = subprocess.run(
            [*prefix, self.folder / "install.sh", *map(str, arguments)],
            cwd=self.folder.parent,
            env={**kept, **variables},
            check=False,
            capture_output=True,
            text=True,
        )
        return Said(done.returncode, done.stdout, done.stderr)


def unpacked(archive: Path, folder: Path) -> Kit:
    """
    Unpack a kit as a person does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    with tarfile.open(archive) as packed:
        return Kit(folder / packed.getnames()[0])


def write_layer(folder: Path, name: str) -> Path:
    """
    Write a layer of an image that no other image has.
    """
    layer = folder / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        content = name.encode() * 1000
        header = tarfile.TarInfo("name")
        header.size = len(content)
        archive.addfile(header, io.BytesIO(content))
    return layer


def push_image(registry: Registry, folder: Path, name: str) -> str:
    """
    Push an image with one layer of its own, and say its place and digest.
    """
    place = f"{registry.address}/{name}"
    registry.run("crane", "append", f"--new_layer={write_layer(folder, name)}", f"--new_tag={place}:1")
    return f"{place}@{registry.run('crane', 'digest', f'{place}:1').strip()}"


@dataclass(frozen=True, slots=True)
class Made:
    """
    A kit, and what it was made with.

    Attributes:
        options: what `kit` was given, but for the output.
    """

    source: Checkout
    keyring: Keyrings
    key: Key
    registry: Registry
    archive: Path
    options: tuple[str, ...]

    def again(self, output: Path, *more: str, **variables: str) -> Said:
        """
        Make it once more, or another with more options: of two the later one holds.
        """
        return self.source.run("kit", f"--output={output}", *self.options, *more, **variables)


def flip(path: Path) -> None:
    """
    Change one byte in the middle of a file.
    """
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
