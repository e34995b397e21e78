"""
`nox -s kit`: made of real registries, the same for the same inputs, and refused where they are not what was released.
"""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from kits import Made, flip
from releasing import VERSION, made_key

TOP = f"tfserving-canary-kit-{VERSION}"


def test_two_kits_of_the_same_are_the_same(made: Made, tmp_path: Path) -> None:
    """
    In another folder, with another mask of rights, in another time zone.
    """
    before = os.umask(0o077)
    try:
        said = made.again(tmp_path / "elsewhere" / "kit.tar", TZ="Asia/Tokyo")
    finally:
        os.umask(before)

    assert 0 == said.code, said.error
    assert made.archive.with_name("kit.tar.sha256").read_text() == said.out
    assert made.archive.read_bytes() == (tmp_path / "elsewhere" / "kit.tar").read_bytes()


def test_what_is_in_a_kit(made: Made) -> None:
    with tarfile.open(made.archive) as archive:
        members = {member.name.removeprefix(f"{TOP}/"): member for member in archive.getmembers()}

    named = {
        f"charts/tfserving-{chart}-{VERSION}.tgz{end}"
        for chart in ("canary", "gateway")
        for end in ("", ".prov")
    }
    wanted = {"SHA256SUMS", "README.md", "install.sh", "contents.tsv", "values/env/air-gapped.yaml", *named}
    assert wanted <= members.keys()
    assert {1769817600} == {int(member.mtime) for member in members.values()}
    assert {(0, 0)} == {(member.uid, member.gid) for member in members.values()}
    assert 0o755 == members["install.sh"].mode


def test_the_sum_of_a_kit_is_signed(made: Made) -> None:
    sums = made.archive.with_name("kit.tar.sha256")
    verify = ("cosign", "verify-blob", f"--key={made.key.public}", "--insecure-ignore-tlog")
    signature = f"--bundle={sums}.sigstore.json"

    made.registry.run(*verify, signature, sums)
    done = subprocess.run(
        ["sha256sum", "--check", sums.name], cwd=sums.parent, check=False, capture_output=True
    )

    assert b"kit.tar: OK\n" == done.stdout


def test_a_release_that_changed_since_it_was_packaged_gets_no_kit(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.source.root / "dist", tmp_path / "dist")
    flip(tmp_path / "dist" / f"tfserving-gateway-{VERSION}.tgz")

    said = made.again(tmp_path / "kit.tar", f"--dist={tmp_path}/dist")

    assert 1 == said.code
    assert f"error: {tmp_path}/dist: tfserving-gateway-{VERSION}.tgz: expected sha256 " in said.error
    assert not (tmp_path / "kit.tar").exists()


def test_other_values_files_than_those_of_the_release_get_no_kit(made: Made, tmp_path: Path) -> None:
    made.source.edit("values/stable.yaml", "stable: 100", "stable: 99")
    try:
        said = made.again(tmp_path / "kit.tar")
    finally:
        made.source.edit("values/stable.yaml", "stable: 99", "stable: 100")

    assert 1 == said.code
    assert "error: values: values/stable.yaml: expected sha256 " in said.error
    assert not (tmp_path / "kit.tar").exists()


def test_a_model_of_another_signer_gets_no_kit(made: Made, tmp_path: Path) -> None:
    said = made.again(tmp_path / "kit.tar", f"--key={made_key(tmp_path / 'other').public}")

    assert 1 == said.code
    assert "/models/resnet@sha256:" in said.error
    assert ": signature: expected one that the given key verifies, got" in said.error
    assert not (tmp_path / "kit.tar").exists()


def test_an_image_that_is_not_there_is_said(made: Made, tmp_path: Path) -> None:
    place = f"{made.registry.address}/tensorflow/serving@sha256:{'0' * 64}"

    said = made.again(tmp_path / "kit.tar", f"--server-image={place}")

    assert 3 == said.code
    assert f"error: oci://{place}: expected to pull it, got" in said.error


def test_an_image_without_a_digest_is_wrong_use(made: Made, tmp_path: Path) -> None:
    said = made.again(tmp_path / "kit.tar", "--server-image=docker.io/tensorflow/serving:2.20.0")

    assert 2 == said.code
    assert "expected a digest (@sha256:...), got none" in said.error
