"""
Releases made of copies of this checkout, by the programs that `nox -s packaging` puts on PATH.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bundling import export, saved
from kits import IMAGES, Made, push_image
from registries import running
from releasing import KEY_PASSWORD, Checkout, Keyrings, made_key, made_keyrings

from tfcanary.paths import ROOT


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkout]:
    """
    Copy the files that git has or would take, as of now, to a folder of this name.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith("tests/")]

    def copied(name: str) -> Checkout:
        root = tmp_path_factory.mktemp("checkouts") / name
        for file in names:
            if (ROOT / file).is_file():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, root / file)
        return Checkout(root)

    return copied


@pytest.fixture(scope="session")
def keyrings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Keyrings]:
    """
    Make a PGP key.
    """
    return lambda: made_keyrings(tmp_path_factory.mktemp("pgp"))


@pytest.fixture(scope="session")
def made(
    checkout: Callable[[str], Checkout],
    keyrings: Callable[[], Keyrings],
    identity: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Made]:
    """
    A kit of a release of this checkout, of two versions of a model, and of images with one small layer each.
    """
    source, keyring = checkout("kit"), keyrings()
    source.release()
    said = source.run("package", *keyring.options)
    assert 0 == said.code, said.error
    folder = tmp_path_factory.mktemp("kit")
    key, model = made_key(folder / "key"), saved(folder / "models")
    with running(folder, identity) as registry:
        to = f"--to=oci://{registry.address}/models/resnet:1-2"
        said = export("bundle", model / "1", model / "2", to, f"--key={key.private}", *registry.options)
        assert 0 == said.code, said.error
        images = (f"{option}={push_image(registry, folder, name)}" for option, name in IMAGES.items())
        signer = (f"--models={said.out.strip()}", f"--key={key.public}", *registry.options)
        made = Made(source, keyring, key, registry, folder / "kit.tar", (*images, *signer))
        said = made.again(made.archive, f"--signing-key={key.private}", COSIGN_PASSWORD=KEY_PASSWORD)
        assert 0 == said.code, said.error
        yield made
