"""
`tfcanary export bundle` and `verify`: versions of a model in a real registry, signed.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bundling import export, saved
from registries import Registry, running
from releasing import Key, Said, made_key

PLACE = "models/resnet"


@dataclass(frozen=True, slots=True)
class Bundled:
    """
    A model in a registry, and who signed it.
    """

    registry: Registry
    key: Key
    model: Path
    image: str

    def again(self, *versions: str) -> Said:
        """
        Bundle under the same tag.
        """
        folders = (self.model / version for version in versions)
        to = f"--to=oci://{self.registry.address}/{PLACE}:1-2"
        return export("bundle", *folders, to, f"--key={self.key.private}", *self.registry.options)

    def verified(self, *options: str | Path) -> Said:
        """
        Verify what was bundled.
        """
        return export("verify", self.image, f"--key={self.key.public}", *self.registry.options, *options)


@pytest.fixture
def bundled(identity: Callable[..., Any], tmp_path: Path) -> Iterator[Bundled]:
    key, model = made_key(tmp_path / "key"), saved(tmp_path / "models")
    (tmp_path / "registry").mkdir()
    with running(tmp_path / "registry", identity) as registry:
        first = Bundled(registry, key, model, "")
        said = first.again("1", "2")
        assert 0 == said.code, said.error
        yield Bundled(registry, key, model, said.out.strip())


def test_what_was_bundled_is_verified_and_the_same(bundled: Bundled, tmp_path: Path) -> None:
    said = bundled.verified("--output", tmp_path / "fetched")

    assert 0 == said.code, said.error
    assert "held    resnet/1: 2 files\nheld    resnet/2: 2 files\n" == said.out
    for path in bundled.model.rglob("*"):
        there = tmp_path / "fetched/resnet" / path.relative_to(bundled.model)
        assert path.is_dir() or path.read_bytes() == there.read_bytes()


def test_the_image_is_for_every_architecture_and_has_models_at_its_top(bundled: Bundled) -> None:
    place = bundled.image.removeprefix("oci://")
    for architecture in ("amd64", "arm64"):
        config = json.loads(
            bundled.registry.run("crane", "config", f"--platform=linux/{architecture}", place)
        )
        assert architecture == config["architecture"]
        listed = subprocess.run(
            ["sh", "-c", f"crane export --platform=linux/{architecture} {place} - | tar --list"],
            env=bundled.registry.environment,
            check=True,
            capture_output=True,
            text=True,
        )
        assert "resnet/1/variables/variables.index" in listed.stdout.splitlines()


def test_the_same_again_changes_nothing(bundled: Bundled) -> None:
    before = bundled.registry.files()
    for path in bundled.model.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))

    said = bundled.again("2", "1")

    assert (0, bundled.image) == (said.code, said.out.strip()), said.error
    assert before == bundled.registry.files()


def test_a_tag_with_other_versions_is_refused(bundled: Bundled) -> None:
    said = bundled.again("1")

    assert 1 == said.code, said.out
    assert (
        f"error: version: oci://{bundled.registry.address}/{PLACE}:1-2: expected no other content"
        in said.error
    )


def test_a_model_that_is_not_what_its_manifest_says_is_not_bundled(bundled: Bundled) -> None:
    (bundled.model / "1" / "saved_model.pb").write_bytes(b"another")

    said = bundled.again("1")

    assert 1 == said.code, said.out
    assert f"error: model {bundled.model / '1'}: saved_model.pb: expected sha256" in said.error


def test_a_changed_byte_is_refused(bundled: Bundled) -> None:
    """
    In the layer, where a model's files are.
    """
    layer = max(bundled.registry.storage.rglob("data"), key=lambda path: path.stat().st_size)
    content = bytearray(layer.read_bytes())
    content[len(content) // 2] ^= 1
    layer.write_bytes(content)

    said = bundled.verified()

    assert 1 == said.code, said.out
    assert f"error: {bundled.image}: content: expected sha256:" in said.error


def test_another_key_is_refused(bundled: Bundled, tmp_path: Path) -> None:
    said = bundled.verified(f"--key={made_key(tmp_path / 'other').public}")

    assert 1 == said.code, said.out
    assert f"error: {bundled.image}: signature: expected one that the given key verifies, got" in said.error


def test_an_image_without_its_statement_is_refused(bundled: Bundled) -> None:
    place = f"{bundled.registry.address}/{PLACE}"
    (index,) = (
        tag for tag in bundled.registry.run("crane", "ls", place).split() if tag.startswith("sha256-")
    )
    for each in json.loads(bundled.registry.run("crane", "manifest", f"{place}:{index}"))["manifests"]:
        if "urn:tfserving-canary:model" in json.dumps(each):
            bundled.registry.run("crane", "delete", f"{place}@{each['digest']}")

    said = bundled.verified()

    assert 1 == said.code, said.out
    assert f"error: {bundled.image}: statement: expected an attestation" in said.error


def test_a_folder_that_is_there_is_not_written_to(bundled: Bundled, tmp_path: Path) -> None:
    said = bundled.verified("--output", tmp_path)

    assert 2 == said.code
    assert "expected a folder that is not there yet, got one" in said.error


@pytest.mark.parametrize("names", [("1", "one"), ("1", "1")])
def test_only_numbered_versions_are_bundled(tmp_path: Path, names: tuple[str, ...]) -> None:
    model = saved(tmp_path)
    shutil.copytree(model / "1", model / "one")

    said = export("bundle", *(model / name for name in names), "--to=oci://localhost:1/m:1", "--key=none")

    assert 2 == said.code
    assert (
        f"error: version {names[1]}: expected a folder that is named by a number from 1, once each"
        in said.error
    )
